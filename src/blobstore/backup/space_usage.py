"""How much of a store each blob uses, shares, and would free.

Sharing is what makes this hard. A snapshot's cluster is shared as long as a clone shows it: the
clone has no cluster of its own at that place, and reaches that far. A clone of that clone sees it
only through the first, so the direct clones decide. Whole maps are compared as bits, one a place.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bitarray import bitarray

from blobstore.api.open_store import OpenStore
from blobstore.store.describe import BlobInfo
from blobstore.units import BlobId


@dataclass(frozen=True, slots=True)
class SpaceUsage:
    """What one blob takes; sizes are bytes, in whole clusters.

    `refer` is what the blob shows of the store, its own and its ancestors' clusters; `own` what
    its own map names; `shared` what of `refer` other blobs show as well. `freed` is what comes
    free when the blob is deleted; None where that is refused, because it has several clones or
    one that cannot be opened. It is negative where a longer clone gets zeroes of its own in
    exchange. `by_snapshots` is what comes free when all ancestors are deleted that only this
    blob needs, the newest first; None of a blob that has clones itself.
    """

    blob_id: BlobId
    size: int
    refer: int
    own: int
    shared: int
    freed: int | None
    by_snapshots: int | None


def space_usage(store: OpenStore) -> list[SpaceUsage]:
    """Return what each blob that can be opened uses, in the order of their ids.

    Raises:
        ClosedError: The store was closed.
        DeviceError: The device failed.
    """
    blobs = {info.blob_id: info for info in store.list_blobs() if info.error is None}
    usages = (_usage(info, shown, blobs, store.cluster_size) for info, shown in _walk(blobs))
    return sorted(usages, key=lambda usage: usage.blob_id)


def _walk(blobs: Mapping[BlobId, BlobInfo]) -> Iterator[tuple[BlobInfo, bitarray]]:
    """Yield every blob after its parent, and which of its places show a cluster.

    What a parent shows is kept only until its last clone was visited.
    """
    waiting = [(info, bitarray()) for info in blobs.values() if info.parent is None]
    while waiting:
        info, below = waiting.pop()
        shown = _own_places(info) | _fitted(below, info.cluster_count)
        waiting += [(blobs[clone], shown) for clone in info.clones if clone in blobs]
        yield info, shown


def _usage(
    info: BlobInfo, shown: bitarray, blobs: Mapping[BlobId, BlobInfo], cluster_size: int
) -> SpaceUsage:
    clones = [blobs[clone] for clone in info.clones if clone in blobs]
    alone = _own_places(info) & ~_seen_by(clones, info.cluster_count)
    freed: int | None = None
    if not info.clones:
        freed = alone.count()
    elif len(info.clones) == len(clones) == 1:
        freed = alone.count() - _newly_owned(info, _own_places(clones[0]), blobs).count()
    by_snapshots = None if info.clones else _freed_by_snapshots(info, blobs)
    return SpaceUsage(
        blob_id=info.blob_id,
        size=info.size,
        refer=shown.count() * cluster_size,
        own=info.allocated_clusters * cluster_size,
        shared=(shown.count() - alone.count()) * cluster_size,
        freed=None if freed is None else freed * cluster_size,
        by_snapshots=None if by_snapshots is None else by_snapshots * cluster_size,
    )


def _own_places(info: BlobInfo) -> bitarray:
    """Return which places of a blob have a cluster of its own."""
    places = bitarray(info.cluster_count)
    at = 0
    for first, count in info.extents:
        if first:
            places[at : at + count] = True
        at += count
    return places


def _fitted(places: bitarray, count: int) -> bitarray:
    """Return the first `count` places; missing places show nothing."""
    fitted = places[:count]
    fitted.extend(bitarray(count - len(fitted)))
    return fitted


def _seen_by(clones: list[BlobInfo], count: int) -> bitarray:
    """Return the places of a snapshot that at least one of its clones shows."""
    seen = bitarray(count)
    for clone in clones:
        seen |= _fitted(~_own_places(clone), count)
    return seen


def _newly_owned(snapshot: BlobInfo, own: bitarray, blobs: Mapping[BlobId, BlobInfo]) -> bitarray:
    """Return the places where a clone gets zeroes of its own when its snapshot is deleted.

    There the end of the snapshot hides what is below it. The clone must go on reading zeroes.
    """
    end = 0
    if snapshot.external_snapshot is not None:
        end = len(own)
    elif snapshot.parent is not None:
        end = min(len(own), blobs[snapshot.parent].cluster_count)
    places = bitarray(len(own))
    places[snapshot.cluster_count : max(end, snapshot.cluster_count)] = True
    return _fitted(places, len(own)) & ~own


def _freed_by_snapshots(info: BlobInfo, blobs: Mapping[BlobId, BlobInfo]) -> int:
    """Return how many clusters come free with the ancestors that only this blob needs."""
    own = _own_places(info)
    before, parent = own.count(), info.parent
    while parent is not None and len(blobs[parent].clones) == 1:
        snapshot = blobs[parent]
        before += snapshot.allocated_clusters
        own |= _newly_owned(snapshot, own, blobs)
        own |= _fitted(_own_places(snapshot), len(own))
        parent = snapshot.parent
    return before - own.count()
