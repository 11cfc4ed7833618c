"""Names and uuids on the command line: where stores of blobs and of volumes differ.

In a store of blobs a name is the attribute `name`. The format lets several blobs have the same
one, and no command can tell these by name. So the commands make no second blob of a name. A volume
store keeps names and uuids itself. This module and `blob_lookup` alone know the difference.
"""

from collections.abc import Mapping
from typing import TypeAlias
from uuid import UUID

from blobstore import Blob, Blobstore, ClearMethod, Volume, VolumeStore
from blobstore.backup.any_store import check_new_name, volume_name
from blobstore.backup.snapshot_identity import take_snapshot
from blobstore.cli.output import unicode_text
from blobstore.cli.values import name_xattrs
from blobstore.errors import InvalidArgumentError, WrongTypeError
from blobstore.format.descriptors import decode_name
from blobstore.volumes.identity import encode_uuid

AnyStore: TypeAlias = Blobstore | VolumeStore


def volume_store(store: AnyStore) -> VolumeStore:
    """Return the store, which has to be one of volumes.

    Raises:
        WrongTypeError: It is a store of blobs.
    """
    if isinstance(store, VolumeStore):
        return store
    raise WrongTypeError("a store of blobs, expected a volume store").at(store=store.device_name)


def blob_store(store: AnyStore, refused: str) -> Blobstore:
    """Return the store, which has to be one of blobs; `refused` says what a volume store refuses.

    Raises:
        InvalidArgumentError: It is a volume store.
    """
    if isinstance(store, Blobstore):
        return store
    raise InvalidArgumentError(refused).at(store=store.device_name)


def create_blob(
    store: AnyStore,
    name: str | None,
    size_bytes: int,
    *,
    thin: bool,
    extent_table: bool = True,
    clear_method: ClearMethod = ClearMethod.DEFAULT,
    xattrs: Mapping[str, bytes] | None = None,
    external_snapshot: bytes | None = None,
) -> Blob:
    """Create a blob or a volume.

    Raises:
        InvalidArgumentError: A volume without a name, or with extents as runs.
        ExistsError: Another one has the name.
        BlobstoreError: As `Blobstore.create_blob` and `VolumeStore.create_volume`.
    """
    if isinstance(store, Blobstore):
        named = {**name_xattrs(name), **(xattrs or {})}
        if "name" in named:
            check_new_name(store, decode_name(named["name"].rstrip(b"\0")))
        return store.create_blob(
            size_bytes,
            thin=thin,
            extent_table=extent_table,
            clear_method=clear_method,
            xattrs=named,
            external_snapshot=external_snapshot,
        )
    if not extent_table:
        raise InvalidArgumentError("a volume has an extent table, not runs")
    return store.create_volume(
        volume_name(name),
        size_bytes,
        thin=thin,
        clear_method=clear_method,
        xattrs=xattrs,
        external_snapshot=None
        if external_snapshot is None
        else external_id(store, external_snapshot),
    )


def snapshot(store: AnyStore, blob: Blob, name: str | None) -> Blob:
    """Make a snapshot of a blob or a volume, with an identity and a time.

    Raises:
        InvalidArgumentError: A volume's would have no name.
        ExistsError: Another one has the name.
        BlobstoreError: As `Blob.snapshot` and `Volume.snapshot`.
    """
    check_new_name(store, name)
    return take_snapshot(blob, name)


def clone(store: AnyStore, blob: Blob, name: str | None) -> Blob:
    """Make a clone of a snapshot, or of a read-only blob or volume.

    Raises:
        InvalidArgumentError: A volume's would have no name.
        ExistsError: Another one has the name.
        BlobstoreError: As `Blob.clone` and `Volume.clone`.
    """
    check_new_name(store, name)
    if isinstance(blob, Volume):
        return blob.clone(volume_name(name))
    return blob.clone(xattrs=name_xattrs(name))


def external_id(store: AnyStore, identity: bytes) -> bytes:
    """Return the id of an external snapshot; in a volume store a uuid ends with a NUL."""
    if isinstance(store, Blobstore):
        return identity
    try:
        return encode_uuid(UUID(identity.rstrip(b"\0").decode("ascii")))
    except ValueError:
        return identity


def register_external(store: AnyStore, identity: bytes, path: str) -> None:
    """Say what an external snapshot is.

    Raises:
        BlobstoreError: As `Blobstore.register_external`.
    """
    store.register_external(external_id(store, identity), path)


def rename(store: AnyStore, blob: Blob, name: str) -> None:
    """Give a blob or a volume another name.

    Raises:
        ExistsError: Another one has it.
        BlobstoreError: As `Volume.rename` and `Blob.set_xattr`.
    """
    if isinstance(blob, Volume):
        blob.rename(name)
    else:
        check_new_name(store, name, of=blob.id)
        blob.xattrs.update(name_xattrs(name))


def made_fields(blob: Blob) -> dict[str, object]:
    """Return what a command says of the blob that it made, or filled."""
    if isinstance(blob, Volume):
        uuid = None if blob.uuid is None else str(blob.uuid)
        return {"id": blob.id, "name": unicode_text(blob.name), "uuid": uuid}
    return {"id": blob.id}


def made_text(blob: Blob) -> str:
    """Return the same as text: the id, and of a volume the uuid."""
    return f"{blob.id:#x} {blob.unique_id}" if isinstance(blob, Volume) else f"{blob.id:#x}"
