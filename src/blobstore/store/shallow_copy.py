"""Shallow copy: a read-only blob's own clusters, written to another device."""

from collections.abc import Callable

from blobstore.blob.exclusive import exclusive
from blobstore.errors import InvalidArgumentError, ReadOnlyError
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.store_state import StoreState
from blobstore.operations import ExternalTarget, FlushExternal, Read, WriteExternal
from blobstore.units import ClusterIndex


async def shallow_copy(
    store: StoreState,
    blob: BlobState,
    target: ExternalTarget,
    progress: Callable[[int, int], None] | None,
) -> int:
    """Copy the clusters that the blob itself owns to their places on the target.

    Durability: on return.

    Returns:
        How many clusters were copied.

    Raises:
        ReadOnlyError: The blob can be written to (EPERM).
        InvalidArgumentError: The target is smaller, or its block does not fit.
        DeviceError: One of the two devices failed; the target holds a part.
    """
    store.check_open()
    _check(store, blob, target)
    with exclusive(store, blob.blob_id, what="shallow copy"):
        own = [index for index, _cluster in blob.clusters.places()]
        for done, index in enumerate(own, start=1):
            if done > 1:
                await store.checkpoint()
            await _copy_cluster(store, blob, target, index)
            if progress is not None:
                progress(done, len(own))
        await FlushExternal(target)
        return len(own)


def _check(store: StoreState, blob: BlobState, target: ExternalTarget) -> None:
    if not blob.data_read_only:
        raise ReadOnlyError(f"blob {blob.blob_id:#x}: not read-only; it could change meanwhile")
    size = blob.clusters.count * store.geometry.cluster_size
    if target.size_bytes < size:
        raise InvalidArgumentError(f"target: {target.size_bytes} bytes, expected at least {size}")
    if store.geometry.io_unit_size % target.block_size:
        raise InvalidArgumentError(
            f"target: blocks of {target.block_size} bytes, "
            f"expected a divisor of {store.geometry.io_unit_size}"
        )


async def _copy_cluster(
    store: StoreState, blob: BlobState, target: ExternalTarget, index: int
) -> None:
    size = store.geometry.cluster_size
    token = store.epochs.enter()
    try:
        cluster = ClusterIndex(blob.clusters.get(index))
        data = await Read(store.geometry.cluster_offset(cluster), size)
        await WriteExternal(target, index * size, data)
    finally:
        store.epochs.leave(token)
