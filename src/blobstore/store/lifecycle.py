"""The store as a whole: flush, unload, super blob, type, destroy."""

from typing import Any

from bitarray.util import intervals

from blobstore.errors import BusyError, InvalidArgumentError, NotFoundError
from blobstore.format.mask import MASK_BLOB_IDS, MASK_CLUSTERS, MASK_PAGES
from blobstore.format.super_block import NO_BLOB, SUPER_BLOCK_SIZE
from blobstore.metadata.dirty_flag import poisoning, write_super_block
from blobstore.metadata.masks import mask_writes
from blobstore.metadata.persist import persist
from blobstore.metadata.recovery_plan import begin_change
from blobstore.metadata.store_state import StoreState
from blobstore.operations import Flush, Operation, WriteZeroes
from blobstore.store.init import padded_type
from blobstore.units import BlobId


async def flush_store(store: StoreState) -> None:
    """Make all that was written to any open blob durable, data and metadata.

    Metadata that another task is making durable are waited for, as in `flush_blob`.

    Raises:
        DeviceError: The device failed; the store is poisoned.
    """
    store.check_open()
    if store.read_only:
        return
    if not all(blob.is_durable for blob in store.open_blobs.values()):
        async with store.mutex:
            dirty = [blob for blob in store.open_blobs.values() if blob.is_dirty]
            if dirty:
                await begin_change(store)
                for number, blob in enumerate(dirty):
                    if number:
                        await store.checkpoint()
                    await persist(store, blob)
                return
    await store.flush_device()


async def unload(store: StoreState) -> None:
    """Leave the store clean on the device, and end it.

    A store that was only looked at, or clean and not changed, is not written to.

    Raises:
        BusyError: A blob is open.
        DeviceError: The device failed; the store stays dirty, and is ended all the same.
    """
    async with store.mutex:
        _check_unused(store)
        try:
            await _end(store)
        finally:
            store.is_closed = True


async def close_store(store: StoreState) -> None:
    """Close every blob, whoever has it open, make durable what is dirty, and unload.

    Raises:
        DeviceError: The device failed; the store stays dirty, and is ended all the same.
        PoisonedError: The store had become unusable; it is ended as it is.
    """
    async with store.mutex:
        store.check_open()
        open_blobs = list(store.open_blobs.values())
        for blob in open_blobs:
            blob.open_count = 0  # no request begins any more
        try:
            await store.epochs.grace_period()
            store.check_usable()
            for blob in open_blobs:
                if blob.is_dirty and not store.read_only:
                    await begin_change(store)
                    await persist(store, blob)
            await _end(store)
        finally:
            store.is_closed = True
            store.open_blobs.clear()


def _check_unused(store: StoreState) -> None:
    store.check_open()
    count = sum(blob.open_count > 0 for blob in store.open_blobs.values())
    if count:
        raise BusyError(f"store: {count} blobs are open")


async def _end(store: StoreState) -> None:
    """Wait for reads of handles that were closed, then leave the store clean if it can be."""
    await store.epochs.grace_period()
    if store.poison is None and not store.read_only:
        await _write_clean(store)


async def _write_clean(store: StoreState) -> None:
    if not (store.is_marked_dirty or store.recovery_plan or _has_news(store)):
        await store.flush_device()  # clusters may have been written to all the same
        return
    await begin_change(store)
    with poisoning(store):
        while store.deferred:
            await store.flush_device()
        for write in _mask_writes(store):
            await write
        await store.flush_device()
        await write_super_block(store, store.super_block.with_changes(clean=True))


def _has_news(store: StoreState) -> bool:
    """Tell whether a clean store on the device lacks something: its new type, or right masks.

    A recovery that was asked for may have found other masks. A store without a
    mask of blob ids is recovered every time, and needs none.
    """
    is_rebuilt = store.was_recovered and bool(store.geometry.used_blob_ids.length)
    return is_rebuilt or store.bstype != store.super_block.bstype


def _mask_writes(store: StoreState) -> list[Operation[Any]]:
    """Return the writes of all masks; nothing is on its way back any more."""
    geometry = store.geometry
    masks = [
        (geometry.used_pages, MASK_PAGES, store.pages.used),
        (geometry.used_blob_ids, MASK_BLOB_IDS, store.used_ids),
        (geometry.used_clusters, MASK_CLUSTERS, store.clusters.used),
    ]
    return [
        write
        for region, kind, bits in masks
        if region.length
        for write in mask_writes(geometry, region, kind=kind, bits=bits)
    ]


def used_clusters(store: StoreState) -> list[tuple[int, int]]:
    """Return the clusters that are marked used, as runs of (first, count), ascending."""
    used = store.clusters.used
    return [(start, end - start) for value, start, end in intervals(used) if value]


def get_super_blob(store: StoreState) -> BlobId:
    """Return the id of the application's entry blob.

    Raises:
        NotFoundError: None was set.
    """
    store.check_open()
    if store.super_block.super_blob == NO_BLOB:
        raise NotFoundError("store: no super blob is set")
    return store.super_block.super_blob


async def set_super_blob(store: StoreState, blob_id: BlobId | None) -> None:
    """Set or clear the application's entry blob; whether it exists is not checked.

    Durability: on return.

    Raises:
        InvalidArgumentError: The id does not fit into 64 bits.
    """
    if blob_id is not None and not 0 <= blob_id <= NO_BLOB:
        raise InvalidArgumentError(f"super blob {blob_id:#x}: expected an id of 64 bits")
    async with store.mutex:
        store.check_writable()
        wanted = NO_BLOB if blob_id is None else blob_id
        with poisoning(store):
            await write_super_block(store, store.super_block.with_changes(super_blob=wanted))


async def set_type(store: StoreState, bstype: bytes) -> None:
    """Change the store's type in memory; it reaches the device with the next super block."""
    async with store.mutex:
        store.check_writable()
        store.bstype = padded_type(bstype)


async def destroy(store: StoreState) -> None:
    """Make the device hold no store any more, and end this one.

    Durability: on return.

    Raises:
        BusyError: A blob is open.
    """
    async with store.mutex:
        _check_unused(store)
        store.check_writable()
        await store.epochs.grace_period()
        with poisoning(store):
            await WriteZeroes(0, SUPER_BLOCK_SIZE)
            await Flush()
        store.is_closed = True
