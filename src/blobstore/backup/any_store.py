"""What the tools of this package do alike with stores of blobs and of volumes."""

import errno
from typing import TypeAlias

from blobstore.api.blobstore import Blobstore
from blobstore.api.volumes import VolumeStore
from blobstore.errors import ExistsError, InvalidArgumentError, NotFoundError
from blobstore.store.describe import BlobInfo
from blobstore.units import BlobId
from blobstore.volumes.identity import check_name

AnyStore: TypeAlias = Blobstore | VolumeStore


def delete_any(store: AnyStore, blob_id: int) -> None:
    """Delete a blob or a volume.

    Raises:
        BusyError, NotFoundError: As `Blobstore.delete_blob` and `VolumeStore.delete_volume`.
    """
    if isinstance(store, Blobstore):
        store.delete_blob(blob_id)
    else:
        store.delete_volume(blob_id)


def check_new_name(store: AnyStore, name: str | None, *, of: BlobId | None = None) -> None:
    """Refuse a name that a new blob, or the blob `of`, cannot get.

    Raises:
        InvalidArgumentError: It is none, or a volume would have none.
        ExistsError: Another blob or volume has it.
    """
    if isinstance(store, VolumeStore):
        wanted = volume_name(name)
        check_name(wanted)
        if wanted in store:
            raise ExistsError(f"volume {wanted!r}: exists").at(store=store.device_name)
    elif name is not None:
        _check_free(store, name, of)


def _check_free(store: Blobstore, name: str, of: BlobId | None) -> None:
    try:
        found = store.find(name)
    except NotFoundError:
        return
    except InvalidArgumentError as error:
        if error.errno != errno.ENOTUNIQ:
            raise
        raise ExistsError(error.message).at(store=store.device_name) from error
    if found != of:
        raise ExistsError(f"blob {name!r}: exists, id {found:#x}").at(store=store.device_name)


def volume_name(name: str | None) -> str:
    """Return the name that a volume is to have.

    Raises:
        InvalidArgumentError: None was given.
    """
    if not name:
        raise InvalidArgumentError("a volume needs a NAME of 1 to 63 bytes")
    return name


def ancestors(store: AnyStore, blob_id: int) -> list[BlobInfo]:
    """Return the snapshots that a blob reads, from its parent down.

    Raises:
        NotFoundError, CorruptError: As `Blobstore.open_blob`.
    """
    found: list[BlobInfo] = []
    with store.open_blob(blob_id) as blob:
        parent = blob.info.parent
    while parent is not None:
        with store.open_blob(parent) as snapshot:
            found.append(snapshot.info)
        parent = found[-1].parent
    return found
