"""From what a caller passes to the coroutine of the core that does it, the same in both colours.

Arguments are checked when a function is called, before anything begins. What comes back has not
begun either: the caller has its driver run it.
"""

import uuid as uuids
from collections.abc import Callable, Mapping
from uuid import UUID

from blobstore.api.arguments import (
    blob_name_of,
    check_callback,
    check_flags,
    id_of,
    integer_of,
    member_of,
    named_xattrs_of,
    optional,
    size_of,
    text_of,
    value_of,
    wrong_type,
    xattr_changes_of,
    xattrs_of,
)
from blobstore.blob import attributes
from blobstore.blob import resize as blob_resize
from blobstore.blob import write as blob_write
from blobstore.device.base import Device
from blobstore.errors import InvalidArgumentError
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.store_state import StoreState
from blobstore.operations import Buffer, Core
from blobstore.store import lifecycle
from blobstore.store.blobs import BlobOptions, ClearMethod, create_open_blob
from blobstore.store.delete import delete_blob as delete
from blobstore.store.names import open_named_blob
from blobstore.store.open_blobs import open_blob as open_by_id
from blobstore.store.relations import set_external_parent as set_external
from blobstore.store.relations import set_parent as set_blob_parent
from blobstore.store.rollback import roll_back
from blobstore.store.shallow_copy import shallow_copy as copy_shallowly
from blobstore.store.snapshots import create_open_clone, create_open_snapshot
from blobstore.units import BlobId, ceil_div
from blobstore.volumes import change
from blobstore.volumes.identity import encode_uuid
from blobstore.volumes.volume_store import VolumeRecord, VolumeStoreState

# Of a blob: data


def write_zeroes(store: StoreState, blob: BlobState, offset: int, length: int) -> Core[None]:
    """Make a range read as zeroes."""
    start, count = integer_of(offset, "offset"), integer_of(length, "length")
    return blob_write.write_zeroes(store, blob, start, count)


def unmap(store: StoreState, blob: BlobState, offset: int, length: int) -> Core[None]:
    """Deallocate a range."""
    start, count = integer_of(offset, "offset"), integer_of(length, "length")
    return blob_write.unmap(store, blob, start, count)


# Of a blob: metadata


def resize(store: StoreState, blob: BlobState, size: int | str) -> Core[None]:
    """Give a blob another size in bytes."""
    return blob_resize.resize(store, blob, ceil_div(size_of(size), store.geometry.cluster_size))


def set_xattr(store: StoreState, blob: BlobState, name: str, value: Buffer) -> Core[None]:
    """Set an attribute."""
    return attributes.set_xattr(store, blob, text_of(name, "name"), value_of(value))


def remove_xattr(store: StoreState, blob: BlobState, name: str) -> Core[None]:
    """Remove an attribute."""
    return attributes.remove_xattr(store, blob, text_of(name, "name"))


def set_attributes(
    store: StoreState,
    blob: BlobState,
    xattrs: Mapping[str, Buffer | None] | None,
    name: str | None,
    read_only: bool,
) -> Core[None]:
    """Change attributes by one write."""
    check_flags(read_only=read_only)
    changes = xattr_changes_of(name, xattrs)
    return attributes.set_attributes(store, blob, changes, read_only=read_only)


# Of a blob: relations


def snapshot(
    store: StoreState, blob: BlobState, name: str | None, xattrs: Mapping[str, bytes] | None
) -> Core[BlobState]:
    """Make a snapshot, and open it."""
    return create_open_snapshot(store, blob, named_xattrs_of(name, xattrs))


def clone(
    store: StoreState, blob: BlobState, name: str | None, xattrs: Mapping[str, bytes] | None
) -> Core[BlobState]:
    """Make a clone, and open it."""
    return create_open_clone(store, blob.blob_id, named_xattrs_of(name, xattrs))


def set_parent(store: StoreState, blob: BlobState, parent_id: int) -> Core[None]:
    """Make a blob a clone of a snapshot."""
    return set_blob_parent(store, blob, id_of(parent_id, "parent_id"))


def rollback(store: StoreState, blob: BlobState, snapshot_id: int) -> Core[None]:
    """Let a blob read as one of its snapshots again."""
    return roll_back(store, blob, id_of(snapshot_id, "snapshot_id"))


def set_external_parent(store: StoreState, blob: BlobState, external_id: bytes) -> Core[None]:
    """Make a blob a clone of an external snapshot."""
    return set_external(store, blob, value_of(external_id, "external_id"))


def shallow_copy(
    store: StoreState,
    blob: BlobState,
    target: Device,
    progress: Callable[[int, int], None] | None,
) -> Core[int]:
    """Copy a blob's own clusters to another device."""
    if not isinstance(target, Device):
        raise wrong_type("target", target, expected="a Device")
    check_callback("progress", progress)
    return copy_shallowly(store, blob, target, progress)


# Of a store


def create_blob(
    store: StoreState,
    size: int | str,
    *,
    thin: bool,
    extent_table: bool,
    clear_method: ClearMethod | int,
    name: str | None,
    xattrs: Mapping[str, bytes] | None,
    external_snapshot: bytes | None,
) -> Core[BlobState]:
    """Create a blob, and open it."""
    check_flags(thin=thin, extent_table=extent_table)
    options = BlobOptions(
        cluster_count=ceil_div(size_of(size), store.geometry.cluster_size),
        thin=thin or external_snapshot is not None,
        extent_table=extent_table,
        clear_method=member_of(ClearMethod, clear_method, argument="clear_method"),
        xattrs=named_xattrs_of(name, xattrs),
        external_id=optional(value_of, external_snapshot, "external_snapshot"),
    )
    return create_open_blob(store, options)


def open_blob(store: StoreState, blob_id: int | None, name: str | None) -> Core[BlobState]:
    """Open a blob by its id or by its name."""
    if name is None:
        return open_by_id(store, id_of(blob_id))
    if blob_id is None:
        return open_named_blob(store, blob_name_of(name))
    raise TypeError("open_blob: expected a blob's id or its name, got both")


def delete_blob(store: StoreState, blob_id: int) -> Core[None]:
    """Delete a blob."""
    return delete(store, id_of(blob_id))


def set_super_blob(store: StoreState, blob_id: int | None) -> Core[None]:
    """Set the application's entry blob, or clear it."""
    return lifecycle.set_super_blob(store, optional(id_of, blob_id, "blob_id"))


def set_type(store: StoreState, bstype: bytes) -> Core[None]:
    """Change the store's type."""
    return lifecycle.set_type(store, value_of(bstype, "bstype"))


# Of a store of volumes. Uuids are made here: nothing in the core is random.


def create_volume(
    volumes: VolumeStoreState,
    name: str,
    size: int | str,
    *,
    thin: bool,
    clear_method: ClearMethod | int,
    xattrs: Mapping[str, bytes] | None,
    external_snapshot: bytes | UUID | None,
) -> Core[BlobState]:
    """Create a volume, and open it."""
    check_flags(thin=thin)
    options = BlobOptions(
        cluster_count=ceil_div(size_of(size), volumes.core.geometry.cluster_size),
        thin=thin or external_snapshot is not None,
        clear_method=member_of(ClearMethod, clear_method, argument="clear_method"),
        xattrs=xattrs_of(xattrs),
        external_id=optional(external_id_of, external_snapshot, "external_snapshot"),
    )
    return change.create_volume(volumes, options, name=text_of(name, "name"), uuid=uuids.uuid4())


def snapshot_volume(
    volumes: VolumeStoreState,
    blob: BlobState,
    name: str | None,
    xattrs: Mapping[str, bytes] | None,
) -> Core[BlobState]:
    """Make a snapshot of a volume, and open it."""
    wanted, more = _name_of_new(name), xattrs_of(xattrs)
    return change.snapshot_volume(volumes, blob, name=wanted, uuid=uuids.uuid4(), xattrs=more)


def clone_volume(
    volumes: VolumeStoreState,
    blob_id: BlobId,
    name: str | None,
    xattrs: Mapping[str, bytes] | None,
) -> Core[BlobState]:
    """Make a clone of a volume, and open it."""
    wanted, more = _name_of_new(name), xattrs_of(xattrs)
    return change.clone_volume(volumes, blob_id, name=wanted, uuid=uuids.uuid4(), xattrs=more)


def rename_volume(volumes: VolumeStoreState, record: VolumeRecord, name: str) -> Core[None]:
    """Give a volume another name."""
    return change.rename_volume(volumes, record, text_of(name, "name"))


def set_volume_attributes(
    volumes: VolumeStoreState,
    record: VolumeRecord,
    blob: BlobState,
    xattrs: Mapping[str, Buffer | None] | None,
    name: str | None,
    read_only: bool,
) -> Core[None]:
    """Change attributes of a volume by one write, and its name if one is given."""
    check_flags(read_only=read_only)
    changes = xattr_changes_of(None, xattrs)
    wanted = None if name is None else text_of(name, "name")
    return change.set_volume_attributes(
        volumes, record, blob, changes, name=wanted, read_only=read_only
    )


def rename_store(volumes: VolumeStoreState, name: str) -> Core[None]:
    """Give the store another name."""
    return change.rename_store(volumes, text_of(name, "name"))


def reid(volumes: VolumeStoreState, name: str | None) -> Core[None]:
    """Give the store and all its volumes uuids of their own."""
    wanted = optional(text_of, name, "name")
    fresh = {record.blob_id: uuids.uuid4() for record in volumes}
    return change.set_identity(volumes, uuid=uuids.uuid4(), name=wanted, uuids=fresh)


def external_id_of(value: object, argument: str) -> bytes:
    """Return an external snapshot's id, which may be given as a uuid.

    Raises:
        TypeError: It is neither bytes nor a uuid.
    """
    return encode_uuid(value) if isinstance(value, UUID) else value_of(value, argument)


def _name_of_new(name: str | None) -> str:
    if name is None:
        raise InvalidArgumentError("name: expected 1 to 63 bytes, got none: every volume has one")
    return text_of(name, "name")
