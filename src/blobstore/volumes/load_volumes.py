"""From a blobstore to a volume store: making one, and loading one (FORMAT 9).

A new store's super blob is durable, with name and uuid, before the super block is
written: so a crash leaves no store, or a whole volume store.
"""

import errno
from collections.abc import Mapping
from uuid import UUID

from blobstore.errors import NotFoundError
from blobstore.format.super_block import NO_BLOB
from blobstore.metadata.load_store import known_ids
from blobstore.metadata.store_state import StoreState
from blobstore.store.blobs import BlobOptions, create_blob_locked
from blobstore.store.names import stored_xattrs_locked
from blobstore.store.open_blobs import close_clean
from blobstore.units import BlobId
from blobstore.volumes.identity import (
    UUID_NAME,
    decode_store_identity,
    decode_uuid,
    decode_volume_name,
    store_xattrs,
)
from blobstore.volumes.volume_store import VolumeRecord, VolumeStoreState


async def create_super_blob(store: StoreState, *, name: str, uuid: UUID) -> BlobId:
    """Create the blob that makes a blobstore a volume store; the caller makes it the super blob.

    Durability: on return.

    Raises:
        InvalidArgumentError: A name that cannot be.
        NoSpaceError: No metadata page (ENOMEM).
    """
    blob = await create_blob_locked(store, BlobOptions(xattrs=store_xattrs(name, uuid)))
    close_clean(store, blob)
    return blob.blob_id


async def load_volume_store(store: StoreState) -> VolumeStoreState:
    """Find out which volumes a loaded blobstore has.

    A blob that cannot be read is no volume; it is among the store's errors.

    Raises:
        NotFoundError: There is no super blob, or it cannot be opened (ENODEV).
        CorruptError: The store's name or uuid is damaged (EINVAL).
    """
    async with store.mutex:
        super_blob = store.super_block.super_blob
        xattrs = await _super_blob_xattrs(store, super_blob)
        name, uuid = decode_store_identity(xattrs, place=f"blob {super_blob:#x}")
        volumes = VolumeStoreState(store, name, uuid, super_blob)
        for blob_id, xattrs in await stored_xattrs_locked(store, known_ids(store)):
            if blob_id != super_blob:
                record = VolumeRecord(
                    blob_id, decode_volume_name(xattrs), decode_uuid(xattrs.get(UUID_NAME))
                )
                volumes.records[blob_id] = record
        return volumes


async def _super_blob_xattrs(store: StoreState, super_blob: BlobId) -> Mapping[str, bytes]:
    if super_blob == NO_BLOB:
        raise NotFoundError("no super blob, expected a volume store's", errno=errno.ENODEV)
    found = await stored_xattrs_locked(store, [super_blob])
    if not found:
        raise NotFoundError(
            f"blob {super_blob:#x}: the super blob cannot be read", errno=errno.ENODEV
        )
    return found[0][1]
