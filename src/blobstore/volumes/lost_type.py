"""Repair of a volume store whose super block is lost: its type and its super blob (FORMAT 9).

Both are in the super block alone, and no mask or root tells them. But every blob of a volume
store has a name and a uuid, and the super blob alone owns no cluster.
"""

from blobstore.errors import BlobstoreError, DeviceError
from blobstore.format.super_block import SIGNATURE, SUPER_BLOCK_SIZE
from blobstore.fsck.repair import RepairMode, repair_store
from blobstore.metadata.load_store import known_ids, load
from blobstore.metadata.store_state import DeviceTraits, StoreState
from blobstore.operations import Read
from blobstore.store.lifecycle import set_super_blob, set_type, unload
from blobstore.store.open_blobs import close_blob, open_blob
from blobstore.units import BlobId
from blobstore.volumes.identity import NAME, UUID_NAME, VOLUME_STORE_TYPE, decode_uuid


async def repair_any_store(traits: DeviceTraits, mode: RepairMode) -> tuple[str, ...]:
    """Repair as `repair_store`; a volume store that has lost its super block is one again.

    Raises:
        DeviceError: The device failed while something was repaired.
    """
    is_lost = await _is_super_block_lost(traits)
    done = await repair_store(traits, mode)
    if is_lost and done and mode is RepairMode.ALL:
        done += await _restore_type(traits)
    return done


async def _is_super_block_lost(traits: DeviceTraits) -> bool:
    """Tell whether page 0 says nothing: then what is rebuilt has no type, or a wrong one."""
    if traits.size_bytes < SUPER_BLOCK_SIZE:
        return False
    try:
        return not (await Read(0, SUPER_BLOCK_SIZE)).startswith(SIGNATURE)
    except DeviceError:
        return True


async def _restore_type(traits: DeviceTraits) -> tuple[str, ...]:
    try:
        store = await load(traits)
        super_blob = await _find_super_blob(store)
    except BlobstoreError:
        return ()
    if super_blob is None or not store.is_writable:
        return ()
    if (store.bstype, store.super_block.super_blob) == (VOLUME_STORE_TYPE, super_blob):
        return ()
    await set_super_blob(store, super_blob)
    await set_type(store, VOLUME_STORE_TYPE)
    await unload(store)
    why = "every blob has a name and a uuid, and this one alone no cluster"
    return (f"super block: a volume store again, blob {super_blob:#x} is its super blob: {why}",)


async def _find_super_blob(store: StoreState) -> BlobId | None:
    """Return the one blob that can be the super blob of a volume store, or None."""
    found: list[BlobId] = []
    for blob_id in known_ids(store):
        blob = await open_blob(store, blob_id)
        is_volume = NAME in blob.xattrs and decode_uuid(blob.xattrs.get(UUID_NAME)) is not None
        cluster_count = blob.clusters.count
        await close_blob(store, blob)
        if not is_volume:
            return None
        if not cluster_count:
            found.append(blob_id)
    return found[0] if len(found) == 1 else None
