"""What the tools of this package do alike with stores of blobs and of volumes."""

from typing import TypeAlias

from blobstore.api.blobstore import Blobstore
from blobstore.api.volumes import VolumeStore
from blobstore.store.describe import BlobInfo

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
