"""Changing the number of a blob's clusters."""

from collections.abc import Sequence

from blobstore.alloc.leaves import LEAF_SHIFT, LEAF_SIZE
from blobstore.blob.attributes import check_metadata_writable
from blobstore.blob.exclusive import refuse_busy
from blobstore.errors import InvalidArgumentError
from blobstore.metadata.blob_reader import MAX_CLUSTERS
from blobstore.metadata.blob_state import ABSENT_PAGE, BlobState, Cost, extent_table_of
from blobstore.metadata.host_space import with_space
from blobstore.metadata.persist import free_clusters_for
from blobstore.metadata.recovery_plan import begin_change
from blobstore.metadata.space import claim_zeroed_clusters, rereserve, reserve
from blobstore.metadata.store_state import StoreState
from blobstore.units import ceil_div


async def resize(store: StoreState, blob: BlobState, cluster_count: int) -> None:
    """Give the blob `cluster_count` clusters.

    What is added reads as zeroes (or as the parent, for a clone). Clusters
    that are cut off come free with the blob's next sync.

    Durability: with the blob's next sync.

    Raises:
        ReadOnlyError: The blob's metadata is read-only.
        NoSpaceError: Not enough clusters or metadata pages; nothing changed.
        BusyError: The blob is under an operation that counts on its size, such as inflate.
    """
    async with store.mutex:
        await resize_locked(store, blob, cluster_count)


async def resize_locked(store: StoreState, blob: BlobState, cluster_count: int) -> None:
    """Give the blob `cluster_count` clusters as `resize` does; the caller holds the mutex."""
    check_metadata_writable(store, blob)
    refuse_busy(store, blob.blob_id)
    check_cluster_count(cluster_count)
    if cluster_count == blob.clusters.count:
        return
    if cluster_count < blob.clusters.count:
        await with_space(store, lambda: _shrink(store, blob, cluster_count))
    elif blob.is_thin:
        await with_space(store, lambda: _reserve_resize(store, blob, cluster_count))
        _change_count(blob, cluster_count)
    else:
        await _grow_thick(store, blob, cluster_count)


def check_cluster_count(cluster_count: int) -> None:
    """Refuse a size that no blob can have.

    Raises:
        InvalidArgumentError: A negative number of clusters, or far too many.
    """
    if not 0 <= cluster_count <= MAX_CLUSTERS:
        raise InvalidArgumentError(
            f"size of {cluster_count} clusters: expected 0 to {MAX_CLUSTERS}"
        )


async def _grow_thick(store: StoreState, blob: BlobState, cluster_count: int) -> None:
    first, added = blob.clusters.count, cluster_count - blob.clusters.count
    if added > store.free_clusters:
        raise store.clusters.exhausted(added)
    await begin_change(store)
    await free_clusters_for(store, added)
    pairs = await with_space(store, lambda: _reserve_resize(store, blob, cluster_count))
    try:
        clusters = await claim_zeroed_clusters(store, added)
    except BaseException:
        blob.pair_bound -= pairs
        rereserve(store, blob)
        raise
    _change_count(blob, cluster_count)
    for step, cluster in enumerate(clusters):
        blob.clusters.set(first + step, cluster)


def _reserve_resize(store: StoreState, blob: BlobState, cluster_count: int) -> int:
    """Promise the pages that the resized blob can take; return the pairs that it can add.

    The leaves at the old and the new end become dirty even where they stay
    empty, and a later write to a dirty leaf counts nothing: it is counted here.
    """
    count, dirty = blob.clusters.count, blob.clusters.dirty_leaves
    leaves: set[int] = set()
    pairs = 2 if blob.is_thin else 2 * max(0, cluster_count - count) + 2
    if blob.extent_pages is not None:
        leaves = {(end - 1) >> LEAF_SHIFT for end in (count, cluster_count) if end}
        if not blob.is_thin:
            leaves.update(range(count >> LEAF_SHIFT, ceil_div(cluster_count, LEAF_SIZE)))
        pairs = 2 + 2 * sum(not _has_page(blob, leaf) for leaf in leaves - dirty)
    blob.clusters.dirty_leaves = dirty | leaves
    try:
        reserve(store, blob, Cost(pairs=pairs), is_asked=False)
    finally:
        blob.clusters.dirty_leaves = dirty
    return pairs


def _has_page(blob: BlobState, leaf: int) -> bool:
    pages = blob.extent_pages or []
    return leaf < len(pages) and pages[leaf] != ABSENT_PAGE


def _shrink(store: StoreState, blob: BlobState, cluster_count: int) -> None:
    _reserve_resize(store, blob, cluster_count)
    store.forget_inherited()
    blob.cut_runs = [*blob.cut_runs, *_change_count(blob, cluster_count)]


def _change_count(blob: BlobState, cluster_count: int) -> Sequence[tuple[int, int]]:
    """Resize the map, and the extent table with it; return the runs that were cut off."""
    cut = blob.clusters.resize(cluster_count)
    if blob.extent_pages is not None:
        leaves = ceil_div(cluster_count, LEAF_SIZE)
        present = blob.present_pages
        cut_pages = [page for number, page in present.items() if number >= leaves]
        kept_pages = {number: page for number, page in present.items() if number < leaves}
        blob.cut_extent_pages = [*blob.cut_extent_pages, *cut_pages]
        blob.extent_pages = extent_table_of(leaves, kept_pages)
    blob.is_root_dirty = True
    return cut
