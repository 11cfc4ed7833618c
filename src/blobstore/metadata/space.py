"""Space for metadata and data: reserving, claiming and releasing it (CRASH-SAFETY 1, 2).

Three invariants hold here.

**A flush never fails for space.** Whoever claims a cluster first reserves the metadata pages that
making it durable can take. `spare_pages` counts the pages without a reservation. Only a claim with
a reservation may take more pages than that. An operation that takes pages after an await keeps
them from its check on (`kept_pages`), because writers reserve meanwhile.

**Free after commit.** Until a flush follows a commit, a crash can restore the state before the
commit. In that state the pages and clusters that the commit released still have an owner. So they
are *pending free*: no map names them, but they cannot be claimed. The next flush that happens for
any reason makes them free. A claim that finds only pending ones causes that flush.

**A claimed page has a durably zero first and last sector.** A free page can hold anything, for
instance a root that was deleted. If another page were written over that root and torn, the
mixture could look like a root that was lost, or like the old root. If both ends are zero, no
mixture does. Released pages are zeroed by a write that is deferred to the next flush. The content
of other free pages is unknown after loading. So these pages are read, and erased if necessary,
some at a time.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from blobstore.alloc.reservation import Need
from blobstore.alloc.runs import merged_runs
from blobstore.errors import DeviceError
from blobstore.format.checksum import SECTOR_SIZE
from blobstore.format.geometry import blob_id_of
from blobstore.format.page import HEAD, PAGE_SIZE
from blobstore.format.pairs import PackedPairs
from blobstore.format.root import TAIL_OFFSET, Layout
from blobstore.format.super_block import NO_BLOB
from blobstore.metadata.blob_state import NO_COST, BlobState, Cost
from blobstore.metadata.host_space import (
    HostSpaceNeededError,
    give_space,
    give_space_below,
    has_space,
)
from blobstore.metadata.store_state import StoreState
from blobstore.operations import Batch, Operation, Read, Unmap, Write, WriteZeroes
from blobstore.units import ClusterIndex, PageIndex

_ZERO_SECTOR: Final = bytes(SECTOR_SIZE)
_PREPARE_AHEAD: Final = 32
_CLEARED_AT_ONCE: Final = 1 << 12
_CLEARED_BYTES: Final = 64 << 20
"""The caller may stop each time this many runs or bytes were cleared."""
_CLEAR_NONE: Final = 1
_CLEAR_ZEROES: Final = 3
_FIRST_CHAIN_PAGE: Final = 1
"""Page 0 is left to roots: in an extent table, 0 means absent."""


def spare_pages(store: StoreState) -> int:
    """Return how many claimable pages are not reserved."""
    return _claimable_pages(store) - store.reservations.total


def _claimable_pages(store: StoreState) -> int:
    page_zero = 0 if store.used_ids[0] else 1
    return store.pages.available - page_zero - len(store.withheld_roots)


def reserve(
    store: StoreState,
    blob: BlobState,
    cost: Cost = NO_COST,
    *,
    places: Sequence[int] = (),
    is_asked: bool = True,
) -> None:
    """Promise the blob the pages that persisting it can take, for writes in flight as well.

    `places` are those that `cost` is for. An operation that has not asked the host for their
    space yet (`require_pages`) says so.

    Raises:
        NoSpaceError: There are not as many; nothing changed.
        HostSpaceNeededError: The host must be asked first; nothing changed.
    """
    whole = _with_flights(store, blob, cost, places)
    need = blob.need(store.layout, whole)
    total = store.reservations.total_with(blob.blob_id, need)
    if total > _claimable_pages(store) and blob.attribute_pages is not None:
        blob.measure_exactly()
        need = blob.need(store.layout, whole)
        total = store.reservations.total_with(blob.blob_id, need)
    if total > _claimable_pages(store):
        raise store.pages.exhausted(total)
    if not is_asked and not has_space(store, total):
        raise HostSpaceNeededError(total)
    store.reservations.set(blob.blob_id, need)
    blob.pair_bound += cost.pairs


def _with_flights(
    store: StoreState, blob: BlobState, cost: Cost, places: Sequence[int] = ()
) -> Cost:
    """Add the extent pages of the blob's writes in flight; their pairs are counted already.

    A page that several places need is counted once.
    """
    if blob.extent_pages is None or not store.allocating:
        return cost
    in_flight = store.places_in_flight(blob)
    if not in_flight:
        return cost
    return blob.allocation_cost([*places, *in_flight])._replace(pairs=cost.pairs)


async def require_pages(store: StoreState, wanted: int) -> None:
    """Refuse an operation for which too few pages are left; the host gives them their space.

    Raises:
        NoSpaceError: Too few are left (ENOMEM), or the host is full; nothing changed.
    """
    if wanted <= spare_pages(store):
        await give_space(store, store.reservations.total + wanted)
    if wanted > spare_pages(store):
        raise store.pages.exhausted(wanted)


@contextmanager
def kept_pages(store: StoreState, count: int) -> Iterator[None]:
    """Keep pages, found to be there just now, for the operation that holds the mutex."""
    store.reservations.set(NO_BLOB, Need(count, 0))
    try:
        yield
    finally:
        store.reservations.clear(NO_BLOB)


async def require_room_for_root(
    store: StoreState, blob: BlobState, *, pair_count: int | None = None
) -> None:
    """Refuse a change of the root if the chain could not be written again, beside the old one.

    `pair_count` is how many runs or table entries there will be; without it they stay as many.

    Raises:
        NoSpaceError: As `require_pages`.
    """
    await require_pages(store, room_for_root(store, blob, pair_count=pair_count))


def room_for_root(store: StoreState, blob: BlobState, *, pair_count: int | None = None) -> int:
    """Return how many pages a root and its chain can take that are written beside the old ones."""
    pairs = blob.pair_bound if pair_count is None else pair_count
    return 2 + max(blob.chain_pages_bound(store.layout, pairs), 1 + len(blob.chain))


def rereserve(store: StoreState, blob: BlobState) -> None:
    """Replace the blob's promise by what it still needs, for writes in flight as well."""
    if not (blob.is_dirty or store.places_in_flight(blob)):
        store.reservations.clear(blob.blob_id)
        return
    cost = _with_flights(store, blob, NO_COST)
    store.reservations.set(blob.blob_id, blob.need(store.layout, cost))


async def claim_chain_pages(store: StoreState, count: int) -> list[PageIndex]:
    """Claim pages for chains, extent pages and copies; the caller holds the mutex.

    Raises:
        NoSpaceError: There are not as many, not even after a flush.
    """
    return await _claim(store, count, start=_FIRST_CHAIN_PAGE)


async def claim_root(store: StoreState) -> PageIndex:
    """Claim the page of a new root; the caller holds the mutex.

    Raises:
        NoSpaceError: There is none, not even after a flush.
    """
    passed_over: list[PageIndex] = []
    try:
        while True:
            (root,) = await _claim(store, 1, start=0)
            if root not in store.withheld_roots:
                return root
            passed_over.append(root)
    finally:
        store.pages.free(passed_over)


async def _claim(store: StoreState, count: int, *, start: int) -> list[PageIndex]:
    if count == 0:
        return []
    while len(store.pages.lowest_free(count, start=start)) < count and store.pages.pending_count:
        await store.flush_device()
    wanted = store.pages.lowest_free(count, start=start)
    if wanted:
        await give_space_below(store, PageIndex(wanted[-1] + 1))
    if store.layout is Layout.SECTOR:
        await _prepare(store, wanted)
    return [PageIndex(page) for page in store.pages.claim_many(count, start=start)]


async def settle_clusters(store: StoreState, count: int) -> None:
    """Flush until `count` clusters are free, or none is on its way back any more."""
    while store.clusters.free_count < count and store.clusters.pending_count:
        await store.flush_device()


async def _prepare(store: StoreState, pages: Sequence[int]) -> None:
    """Make sure that first and last sector of these free pages are durably zero.

    What a free page holds is not known after loading: the original leaves
    half-made roots and deleted ones there. The last sector goes first where
    the page still looks like a root.
    """
    if all(store.prepared_pages[page] for page in pages):
        return
    ahead = store.pages.lowest_free(_PREPARE_AHEAD, start=pages[0])
    unknown = [PageIndex(p) for p in sorted({*pages, *ahead}) if not store.prepared_pages[p]]
    heads: list[PageIndex] = []
    writes: list[Operation[Any]] = []
    for page in unknown:
        data = await Read(store.geometry.page_offset(page), PAGE_SIZE)
        if data[TAIL_OFFSET:] != _ZERO_SECTOR:
            writes.append(_zero_last_sector(store, page))
        if _looks_like_root(data, page):
            heads.append(page)
        elif data[:SECTOR_SIZE] != _ZERO_SECTOR:
            writes.append(_zero_first_sector(store, page))
    # The last sector first: a root without it was never completed, one without the first is lost.
    await _write_and_flush(store, writes)
    await _write_and_flush(store, [_zero_first_sector(store, page) for page in heads])
    for page in unknown:
        store.prepared_pages[page] = True


async def _write_and_flush(store: StoreState, writes: Sequence[Operation[Any]]) -> None:
    if writes:
        await Batch(writes)
        await store.flush_device()


def _looks_like_root(data: bytes, page: PageIndex) -> bool:
    blob_id, sequence, _reserved = HEAD.unpack_from(data)
    return bool(blob_id == blob_id_of(page) and sequence == 0)


def _zero_first_sector(store: StoreState, page: PageIndex) -> Write:
    return Write(store.geometry.page_offset(page), _ZERO_SECTOR)


def _zero_last_sector(store: StoreState, page: PageIndex) -> Write:
    return Write(store.geometry.page_offset(page) + TAIL_OFFSET, _ZERO_SECTOR)


def zero_page(store: StoreState, page: PageIndex) -> WriteZeroes:
    """Return the operation that erases a page that is no root."""
    return WriteZeroes(store.geometry.page_offset(page), PAGE_SIZE)


def release_pages(store: StoreState, pages: Sequence[PageIndex]) -> None:
    """Release chain and extent pages after the commit that stopped naming them."""
    if pages:
        store.pages.mark_pending(len(pages))
        store.defer([zero_page(store, page) for page in pages], lambda: _free_pages(store, pages))


def release_root(store: StoreState, root: PageIndex) -> None:
    """Release the page of a root whose tombstone is durable.

    Its last sector is zeroed first, the rest after a further flush: in
    between, no torn write looks like a root that was lost.
    """
    store.pages.mark_pending(1)
    if store.layout is Layout.COMPACT:
        store.defer([zero_page(store, root)], lambda: _free_pages(store, [root]))
        return

    def erase_rest() -> None:
        store.defer([zero_page(store, root)], lambda: _free_pages(store, [root]))

    store.defer([_zero_last_sector(store, root)], erase_rest)


def _free_pages(store: StoreState, pages: Sequence[PageIndex]) -> None:
    store.pages.free_pending(pages)
    for page in pages:
        store.prepared_pages[page] = True


async def release_clusters(
    store: StoreState, released: Iterable[tuple[int, int]], *, clear_method: int
) -> None:
    """Release (first, count) of clusters after the commit that took them out of the map.

    The caller holds the mutex, and may stop while they are cleared.
    """
    await clear_and_free(store, mark_clusters_pending(store, released), clear_method=clear_method)


def mark_clusters_pending(store: StoreState, released: Iterable[tuple[int, int]]) -> PackedPairs:
    """Note that no blob owns these clusters any more, and return them as merged runs.

    The clusters count as free, but stay unclaimable until `clear_and_free` and a flush.
    """
    runs = merged_runs(released)
    store.clusters.mark_pending(sum(count for _first, count in runs))
    for first, count in runs:
        store.owned_clusters[first : first + count] = False
    return runs


async def clear_and_free(
    store: StoreState, runs: Sequence[tuple[int, int]], *, clear_method: int
) -> None:
    """Free pending clusters, with the next flush.

    Waits for every request that could still touch them, and clears them as the blob asks.
    """
    if not runs:
        return
    is_zeroed = False

    def free() -> None:
        store.clusters.free_pending_runs(runs)
        if is_zeroed:
            for first, count in runs:
                store.zeroed_clusters[first : first + count] = True

    await store.epochs.grace_period()
    try:
        is_zeroed = await _clear(store, runs, clear_method)
    finally:  # also when the caller stops: what is not cleared is free all the same
        store.defer([], free)


async def _clear(store: StoreState, runs: Sequence[tuple[int, int]], clear_method: int) -> bool:
    """Clear clusters that no blob owns; return whether they are sure to be zero.

    That the clusters are free is durable already. Nothing is lost if the device
    cannot clear them: the clusters are zeroed when they are claimed.
    """
    if clear_method == _CLEAR_NONE:
        return False
    kind = WriteZeroes if clear_method == _CLEAR_ZEROES else Unmap
    try:
        for number, batch in enumerate(_batches(_byte_runs(store, runs))):
            if number:
                await store.checkpoint()
            await Batch([kind(offset, length) for offset, length in batch])
    except DeviceError:
        return False
    return kind is WriteZeroes or store.traits.unmap_zeroes


def _byte_runs(store: StoreState, runs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return (offset, length) in bytes of runs of clusters."""
    size = store.geometry.cluster_size
    return [(store.geometry.cluster_offset(ClusterIndex(at)), size * n) for at, n in runs]


def _batches(runs: Iterable[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Cut runs of bytes into batches that a device clears in a moment."""
    batch: list[tuple[int, int]] = []
    size = 0
    for offset, length in runs:
        for at in range(offset, offset + length, _CLEARED_BYTES):
            part = min(_CLEARED_BYTES, offset + length - at)
            if batch and (size + part > _CLEARED_BYTES or len(batch) == _CLEARED_AT_ONCE):
                yield batch
                batch, size = [], 0
            batch.append((at, part))
            size += part
    if batch:
        yield batch


async def claim_zeroed_clusters(store: StoreState, count: int) -> list[int]:
    """Claim clusters that read as zeroes, for a thick blob; the caller holds the mutex.

    Raises:
        NoSpaceError: There are not as many, not even after a flush.
    """
    await settle_clusters(store, count)
    clusters = store.clusters.claim_many(count)
    unknown = [cluster for cluster in clusters if not store.zeroed_clusters[cluster]]
    try:
        if unknown:
            runs = merged_runs((cluster, 1) for cluster in unknown)
            for number, batch in enumerate(_batches(_byte_runs(store, runs))):
                if number:
                    await store.checkpoint()
                await Batch([WriteZeroes(*run) for run in batch])
    except BaseException:
        store.clusters.free(clusters)
        raise
    mark_owned(store, clusters)
    return clusters


def mark_owned(store: StoreState, clusters: Sequence[int]) -> None:
    """Note that an open blob owns the clusters; what they hold is its business now."""
    numbers = list(clusters)
    store.owned_clusters[numbers] = True
    store.zeroed_clusters[numbers] = False
