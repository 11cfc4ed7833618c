"""Changes of a volume store: each is one step from one set of names to the next.

Every function holds the store's mutex from its lookup of the names to its last flush.
Uuids are passed in: the core generates no random values.
"""

from collections.abc import Mapping
from dataclasses import replace
from uuid import UUID

from blobstore.blob.attributes import (
    check_metadata_writable,
    overwrite_xattr_locked,
    set_attributes_locked,
)
from blobstore.errors import InvalidArgumentError
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.persist import persist
from blobstore.metadata.recovery_plan import begin_change
from blobstore.store.blobs import BlobOptions, create_blob_locked
from blobstore.store.delete import delete_blob
from blobstore.store.open_blobs import close_clean, open_blob_locked
from blobstore.store.snapshots import create_clone_locked, create_snapshot_locked
from blobstore.units import BlobId
from blobstore.volumes.identity import (
    NAME,
    NAME_SIZE,
    RESERVED,
    UUID_NAME,
    check_name,
    encode_uuid,
    volume_xattrs,
)
from blobstore.volumes.volume_store import VolumeRecord, VolumeStoreState


def _xattrs_of(name: str, uuid: UUID, more: Mapping[str, bytes]) -> dict[str, bytes]:
    _refuse_reserved(more)
    return {**volume_xattrs(name, uuid), **more}


def _refuse_reserved(xattrs: Mapping[str, bytes | None]) -> None:
    for reserved in RESERVED & xattrs.keys():
        raise InvalidArgumentError(f"xattr {reserved!r}: belongs to the volume itself")


async def create_volume(
    volumes: VolumeStoreState, options: BlobOptions, *, name: str, uuid: UUID
) -> BlobState:
    """Create a volume, and leave it open; `options` say all but its name and uuid.

    Durability: on return.

    Raises:
        InvalidArgumentError: A name that cannot be.
        ExistsError: The name is taken.
        NoSpaceError: No metadata page (ENOMEM), or not enough clusters (ENOSPC).
    """
    xattrs = _xattrs_of(name, uuid, options.xattrs)
    async with volumes.core.mutex:
        volumes.check_free(name)
        blob = await create_blob_locked(volumes.core, replace(options, xattrs=xattrs))
        volumes.add(blob.blob_id, name, uuid)
        return blob


async def snapshot_volume(
    volumes: VolumeStoreState,
    blob: BlobState,
    *,
    name: str,
    uuid: UUID,
    xattrs: Mapping[str, bytes],
) -> BlobState:
    """Make a snapshot of an open volume, and leave it open.

    Durability: on return.

    Raises:
        InvalidArgumentError: A name that cannot be, or the volume is read-only.
        ExistsError: The name is taken.
        NoSpaceError, BusyError: As `create_snapshot`.
    """
    wanted = _xattrs_of(name, uuid, xattrs)
    async with volumes.core.mutex:
        volumes.check_free(name)
        snapshot = await create_snapshot_locked(volumes.core, blob, wanted)
        volumes.add(snapshot.blob_id, name, uuid)
        return snapshot


async def clone_volume(
    volumes: VolumeStoreState,
    parent_id: BlobId,
    *,
    name: str,
    uuid: UUID,
    xattrs: Mapping[str, bytes],
) -> BlobState:
    """Make a clone of a snapshot or read-only volume, and leave it open.

    Durability: on return.

    Raises:
        InvalidArgumentError: A name that cannot be, or the parent can be written to.
        ExistsError: The name is taken.
        NoSpaceError, BusyError: As `create_clone`.
    """
    wanted = _xattrs_of(name, uuid, xattrs)
    async with volumes.core.mutex:
        volumes.check_free(name)
        clone = await create_clone_locked(volumes.core, parent_id, wanted)
        volumes.add(clone.blob_id, name, uuid)
        return clone


async def delete_volume(volumes: VolumeStoreState, blob_id: BlobId) -> None:
    """Delete a volume that is not open; its name is free afterwards.

    Durability: on return.

    Raises:
        NotFoundError, BusyError: As `delete_blob`.
    """
    await delete_blob(volumes.core, blob_id)
    volumes.records.pop(blob_id, None)


async def rename_volume(volumes: VolumeStoreState, record: VolumeRecord, name: str) -> None:
    """Give a volume another name; its own is no change.

    Durability: on return. A crash leaves the old name or the new one.

    Raises:
        InvalidArgumentError: A name that cannot be.
        ExistsError: Another volume has it.
        ReadOnlyError: The volume is a snapshot or read-only.
    """
    encoded = check_name(name) + b"\0"
    async with volumes.core.mutex:
        if name == record.name:
            return
        volumes.check_free(name)
        await _set_durably(volumes, record.blob_id, {NAME: encoded})
        record.name = name


async def set_volume_attributes(
    volumes: VolumeStoreState,
    record: VolumeRecord,
    blob: BlobState,
    changes: Mapping[str, bytes | None],
    *,
    name: str | None,
    read_only: bool,
) -> None:
    """Change attributes of an open volume, and its name if one is given, by one write of its root.

    The name is written as that of a new volume, because this completes new volumes.

    Durability: on return. A crash leaves all as they were, or all changed.

    Raises:
        InvalidArgumentError: A name that cannot be, or an attribute of the volume itself.
        ExistsError: Another volume has the name.
        ReadOnlyError, NoSpaceError: As `set_attributes`.
    """
    _refuse_reserved(changes)
    named = {} if name is None else {NAME: check_name(name).ljust(NAME_SIZE, b"\0")}
    async with volumes.core.mutex:
        if name is not None and name != record.name:
            volumes.check_free(name)
        await set_attributes_locked(volumes.core, blob, {**changes, **named}, read_only=read_only)
        record.name = record.name if name is None else name


async def rename_store(volumes: VolumeStoreState, name: str) -> None:
    """Give the store another name.

    Durability: on return. A crash leaves the old name or the new one.

    Raises:
        InvalidArgumentError: A name that cannot be.
    """
    encoded = check_name(name) + b"\0"
    async with volumes.core.mutex:
        if name != volumes.name:
            await _set_durably(volumes, volumes.super_blob, {NAME: encoded})
            volumes.name = name


async def set_identity(
    volumes: VolumeStoreState, *, uuid: UUID, name: str | None, uuids: Mapping[BlobId, UUID]
) -> None:
    """Give a copied store, and all of its volumes, uuids of their own.

    Snapshots get theirs too, though they are read-only. The store's own uuid is
    the last to change: after a crash it tells that the call has to be made again.

    Durability: on return.

    Raises:
        InvalidArgumentError: A name that cannot be.
    """
    encoded = None if name is None else check_name(name) + b"\0"
    async with volumes.core.mutex:
        for record in volumes:
            changed = uuids[record.blob_id]
            await _set_durably(
                volumes, record.blob_id, {UUID_NAME: encode_uuid(changed)}, force=True
            )
            record.uuid = changed
        changes = {UUID_NAME: encode_uuid(uuid)} | ({NAME: encoded} if encoded else {})
        await _set_durably(volumes, volumes.super_blob, changes)
        volumes.uuid, volumes.name = uuid, volumes.name if name is None else name


async def _set_durably(
    volumes: VolumeStoreState, blob_id: BlobId, changes: Mapping[str, bytes], *, force: bool = False
) -> None:
    """Set attributes in one write of the blob's root; `force` does so on a read-only blob too."""
    core = volumes.core
    blob = await open_blob_locked(core, blob_id)
    try:
        if not force:
            check_metadata_writable(core, blob)
        await begin_change(core)
        for key, value in changes.items():
            await overwrite_xattr_locked(core, blob, key, value)
        await persist(core, blob)
    finally:
        close_clean(core, blob)
