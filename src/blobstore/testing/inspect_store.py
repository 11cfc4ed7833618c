"""Reading a whole store back from an image: what is there, and whether it adds up."""

from bitarray import bitarray

from blobstore.blob.read import read_into
from blobstore.errors import BlobstoreError, CorruptError
from blobstore.format.super_block import NO_BLOB
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.load_store import known_ids, load
from blobstore.metadata.store_state import StoreState
from blobstore.store.open_blobs import close_blob, open_blob
from blobstore.testing.alone import run_alone
from blobstore.testing.expectation import FoundBlob, FoundStore, Meta
from blobstore.testing.simulated_disk import SimulatedDisk


class BrokenStoreError(Exception):
    """A store that loads, but does not add up."""


def load_checked(disk: SimulatedDisk) -> tuple[StoreState, FoundStore] | None:
    """Load, read everything, and compare the masks with the chains.

    All blobs are opened before one is closed: closing one that loading decided about
    writes it, and what it owned is elsewhere then.

    Returns:
        The store and what is in it, or None where there is no store.

    Raises:
        BrokenStoreError: Something contradicts an invariant.
    """
    try:
        store = run_alone(load(disk.traits), disk)
    except CorruptError:
        return None
    if store.errors:
        raise BrokenStoreError(f"in quarantine: {next(iter(store.errors.values()))}")
    used_pages = bitarray(len(store.pages.used), endian="little")
    used_clusters = bitarray(len(store.clusters.used), endian="little")
    used_clusters[: store.geometry.md_clusters] = True
    opened: list[BlobState] = []
    for blob_id in known_ids(store):
        try:
            blob = run_alone(open_blob(store, blob_id), disk)
        except BlobstoreError as error:
            raise BrokenStoreError(f"blob {blob_id:#x} does not open: {error}") from error
        _mark(used_pages, [blob.root, *blob.metadata_pages], "page", blob)
        _mark(used_clusters, blob.clusters.allocated(), "cluster", blob)
        opened.append(blob)
    if used_pages != store.pages.used or used_clusters != store.clusters.used:
        raise BrokenStoreError("the masks differ from what the chains say")
    blobs: dict[int, FoundBlob] = {}
    for blob in opened:
        blobs[blob.blob_id] = FoundBlob(_meta_of(blob), _content_of(store, blob, disk))
        run_alone(close_blob(store, blob), disk)
    super_blob = store.super_block.super_blob
    found = None if super_blob == NO_BLOB else super_blob
    return store, FoundStore(blobs, found, store.geometry.size_bytes)


def _mark(used: bitarray, indices: list[int], what: str, blob: BlobState) -> None:
    for index in indices:
        if used[index]:
            raise BrokenStoreError(f"blob {blob.blob_id:#x}: {what} {index} is owned twice")
        used[index] = True


def _meta_of(blob: BlobState) -> Meta:
    return Meta(
        blob.clusters.count, tuple(blob.xattrs.items()), blob.data_read_only, blob.parent_id
    )


def _content_of(store: StoreState, blob: BlobState, disk: SimulatedDisk) -> bytes:
    content = bytearray(blob.clusters.count * store.geometry.cluster_size)
    run_alone(read_into(store, blob, memoryview(content), 0), disk)
    return bytes(content)
