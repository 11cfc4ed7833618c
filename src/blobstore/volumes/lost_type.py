"""A volume store whose super block is lost: its type and its super blob (FORMAT 9).

Both are in the super block alone, and no mask or root tells them. But every blob of a volume store
has a name and a uuid. The super blob differs from volumes: it has no cluster, its uuid comes before
its name, and its name is not padded. SPDK makes it so, too, and new values keep their places.

If one blob alone is so, a repair that has lost the super block sets both again. If several are, or
none, a check names the blobs that it can be, and a person decides.
"""

from typing import Final
from uuid import UUID

from blobstore.errors import BlobstoreError, DeviceError
from blobstore.format.super_block import NO_BLOB, SIGNATURE, SUPER_BLOCK_SIZE, SuperBlock
from blobstore.fsck.examine import Examination, examine
from blobstore.fsck.finding import Severity
from blobstore.fsck.repair import RepairMode, repair_store
from blobstore.metadata.load_store import load
from blobstore.metadata.store_state import DeviceTraits
from blobstore.operations import Read
from blobstore.store.lifecycle import set_super_blob, set_type, unload
from blobstore.volumes.identity import (
    VOLUME_STORE_TYPE,
)
from blobstore.volumes.lost_super_blob import (
    check_super_blob,
    restore_super_blob,
    super_blob_candidates,
)

_TYPE: Final = 9


async def examine_any_store(traits: DeviceTraits) -> Examination:
    """Check as `examine`; what a volume store has lost is told: type or super blob."""
    seen = await examine(traits)
    await check_super_blob(seen)
    if seen.super_block is None or not _has_no_type(seen.super_block) or seen.findings.error_count:
        return seen
    found = await super_blob_candidates(seen)
    if found:
        which = " or ".join(f"{blob_id:#x}" for blob_id in found)
        seen.findings.add(
            _TYPE,
            "every blob has a name and a uuid, as in a volume store, but the store has no type and "
            f"no super blob: `super set STORE BLOB --volumes` makes it one; BLOB can be {which}",
            severity=Severity.NOTE,
        )
    return seen


async def repair_any_store(
    traits: DeviceTraits, mode: RepairMode, *, uuid: UUID
) -> tuple[str, ...]:
    """Repair as `repair_store`; a volume store without super block or super blob is one again.

    `uuid` is what the store gets if its own is lost.

    Raises:
        DeviceError: The device failed while something was repaired.
    """
    is_lost = await _is_super_block_lost(traits)
    done = await repair_store(traits, mode)
    if is_lost and done and mode is RepairMode.ALL:
        done += await _restore_type(traits)
    if mode is RepairMode.ALL:
        done += await restore_super_blob(traits, uuid)
    return done


async def _is_super_block_lost(traits: DeviceTraits) -> bool:
    """Tell whether page 0 says nothing: then what is rebuilt has no type, or a wrong one."""
    if traits.size_bytes < SUPER_BLOCK_SIZE:
        return False
    try:
        return not (await Read(0, SUPER_BLOCK_SIZE)).startswith(SIGNATURE)
    except DeviceError:
        return True


def _has_no_type(super_block: SuperBlock) -> bool:
    return not any(super_block.bstype) and super_block.super_blob == NO_BLOB


async def _restore_type(traits: DeviceTraits) -> tuple[str, ...]:
    candidates = await super_blob_candidates(await examine(traits))
    if len(candidates) != 1:
        return ()
    (super_blob,) = candidates
    try:
        store = await load(traits)
    except BlobstoreError:
        return ()
    is_right = (store.bstype, store.super_block.super_blob) == (VOLUME_STORE_TYPE, super_blob)
    if is_right or not store.is_writable:
        return ()
    await set_type(store, VOLUME_STORE_TYPE)
    await set_super_blob(store, super_blob)
    await unload(store)
    why = "every blob has a name and a uuid, and this one alone is as super blobs are"
    return (f"super block: a volume store again, blob {super_blob:#x} is its super blob: {why}",)
