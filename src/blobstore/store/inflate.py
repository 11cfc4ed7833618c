"""Inflate and decouple: a clone gets clusters of its own (CRASH-SAFETY 3).

The clusters are allocated like any others, beside the blob's readers and
writers; each step is a valid state. The root with the new flags and parent
comes last.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from blobstore.alloc.leaves import UNALLOCATED
from blobstore.blob.exclusive import exclusive, frozen
from blobstore.blob.write import allocate_clusters
from blobstore.errors import InvalidArgumentError
from blobstore.format.descriptors import THIN_PROV, Flags
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.persist import persist
from blobstore.metadata.recovery_plan import begin_change
from blobstore.metadata.space import require_pages, require_room_for_root, reserve
from blobstore.metadata.store_state import StoreState
from blobstore.store.relations import change_parent
from blobstore.store.salvaged_mark import ancestors_of, mark_from, marked

_AT_ONCE_BYTES: Final = 4 << 20


async def inflate(store: StoreState, blob: BlobState) -> None:
    """Allocate every cluster of the blob, with what it reads as now; it is thick then.

    Durability: on return.

    Raises:
        NoSpaceError: There are not as many clusters; nothing changed.
        BusyError: The blob is under another such operation.
    """
    store.check_writable()
    with exclusive(store, blob.blob_id, what="inflate"):
        missing = blob.clusters.count - blob.clusters.allocated_count
        if missing > store.free_clusters:
            raise store.clusters.exhausted(missing)
        mark = mark_from(blob, ancestors_of(blob))
        await _allocate_all(store, blob, lambda: range(blob.clusters.count))
        async with store.mutex:
            await begin_change(store)
            async with frozen(store, blob):
                with marked(store, blob, mark):
                    await require_room_for_root(store, blob)
                await _finish(store, blob, parent=None, external_id=None, thin=False)


async def decouple(store: StoreState, blob: BlobState) -> None:
    """Copy what the blob reads from its parent, and make it its grandparent's clone, if any.

    A clone of an external snapshot is inflated, as in the original.

    Durability: on return.

    Raises:
        InvalidArgumentError: The blob has no parent.
        NoSpaceError: There are not enough clusters; nothing changed.
        BusyError: The blob is under another such operation.
    """
    store.check_writable()
    if blob.has_external_parent:
        await inflate(store, blob)
        return
    parent = blob.parent
    if parent is None:
        raise InvalidArgumentError(f"blob {blob.blob_id:#x}: has no parent")
    with exclusive(store, blob.blob_id, what="decouple"):
        mark = mark_from(blob, [parent])
        await _allocate_all(store, blob, lambda: _places_below(parent, blob))
        async with store.mutex:
            await begin_change(store)
            async with frozen(store, blob):
                with marked(store, blob, mark):
                    await require_room_for_root(store, blob)
                await _finish(
                    store, blob, parent=parent.parent, external_id=parent.external_id, thin=True
                )


async def keep_what_is_hidden(store: StoreState, clone: BlobState, parent: BlobState) -> None:
    """Give a clone zeroes of its own where only its parent's end hides the grandparent.

    Done before the parent goes: what the clone reads must not change.

    Raises:
        NoSpaceError: There are not as many clusters; nothing changed.
    """
    await _allocate_all(store, clone, lambda: _hidden_places(parent, clone))


def _hidden_places(parent: BlobState, clone: BlobState) -> range:
    """Return the places that read as zeroes only because this parent ends before them."""
    end = 0
    if parent.has_external_parent:
        end = clone.clusters.count
    elif parent.parent is not None:
        end = min(clone.clusters.count, parent.parent.clusters.count)
    return range(parent.clusters.count, end)


def _places_below(parent: BlobState, clone: BlobState) -> Iterator[int]:
    """Yield the places that read as they do because of this parent, in order."""
    for index, _cluster in parent.clusters.places():
        if index < clone.clusters.count:
            yield index
    yield from _hidden_places(parent, clone)


async def _allocate_all(
    store: StoreState, blob: BlobState, wanted: Callable[[], Iterable[int]]
) -> None:
    """Allocate the wanted clusters in groups, as a writer does, until none is missing."""
    missing = _missing(blob, wanted())
    if len(missing) > store.free_clusters:
        raise store.clusters.exhausted(len(missing))
    await _require_pages(store, blob, missing)
    group = max(1, _AT_ONCE_BYTES // store.geometry.cluster_size)
    while missing:
        for first in range(0, len(missing), group):
            if first:
                await store.checkpoint()
            await allocate_clusters(store, blob, missing[first : first + group])
        missing = _missing(blob, wanted())


async def _require_pages(store: StoreState, blob: BlobState, missing: Sequence[int]) -> None:
    """Refuse before anything is allocated: extent pages, and a longer chain that is copied."""
    cost = blob.allocation_cost(missing)
    chain = blob.chain_pages_bound(store.layout, blob.pair_bound + cost.pairs)
    mark = 1  # of a salvaged ancestor; it can begin a page
    wanted = mark + chain + 2 + cost.new_leaves + max(0, chain - 1 - len(blob.chain))
    await require_pages(store, wanted)


def _missing(blob: BlobState, wanted: Iterable[int]) -> list[int]:
    return [index for index in wanted if blob.clusters.get(index) == UNALLOCATED]


async def _finish(
    store: StoreState,
    blob: BlobState,
    *,
    parent: BlobState | None,
    external_id: bytes | None,
    thin: bool,
) -> None:
    change_parent(store, blob, parent, external_id)
    if not thin:
        flags = blob.flags
        blob.flags = Flags(flags.invalid & ~THIN_PROV, flags.data_ro, flags.md_ro)
    blob.touch_attributes()
    reserve(store, blob)
    await persist(store, blob)
