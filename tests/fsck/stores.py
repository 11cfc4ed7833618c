"""Stores for the tests of checking and repairing, as bytes, and what must work on them."""

from collections.abc import Mapping, Sequence
from functools import cache
from io import BytesIO

from blobstore import BlobId, Blobstore, repair
from blobstore.api.check import RepairReport
from blobstore.fsck.undo_file import UndoDecoder, UndoRecord
from blobstore.operations import Buffer
from tests.proof.corruptions.catalogue import Corruption, Place
from tests.proof.corruptions.sample import (
    CLUSTER,
    EXTERNAL_ID,
    Fingerprint,
    ImageDevice,
    external,
    fingerprints,
    pattern,
    sample,
)


def device_of(image: bytes, layout: int) -> ImageDevice:
    """Return a device that holds the bytes; `layout` is its atomic write size."""
    return ImageDevice(image, atomic_write_size=layout)


def broken(corruption: Corruption, layout: int) -> tuple[bytes, Place]:
    """Return a sample store with one thing broken, and where a check must see it."""
    return corruption.break_store(sample(layout))


def broken_at_once(corruptions: Sequence[Corruption], layout: int, *, dirty: bool) -> bytes:
    """Return a sample store with several things broken, one after the other."""
    image = sample(layout).image(dirty=dirty)
    for corruption in corruptions:
        corruption.apply(image)
    return bytes(image.data)


def contents(image: bytes, layout: int) -> dict[BlobId, Fingerprint]:
    """Return what every blob that opens holds."""
    return fingerprints(image, atomic_write_size=layout)


@cache
def sound_contents(layout: int) -> dict[BlobId, Fingerprint]:
    """Return what the sample's blobs hold."""
    return contents(sample(layout).clean, layout)


def repaired(image: bytes, layout: int, mode: str) -> tuple[bytes, RepairReport]:
    """Repair a copy of a store."""
    device = device_of(image, layout)
    report = repair(device, mode)
    return device.image, report


def undo_records(data: Buffer) -> tuple[UndoDecoder, list[UndoRecord]]:
    """Decode a whole undo file."""
    decoder = UndoDecoder(BytesIO(data).read)
    return decoder, list(decoder.records())


def assert_usable(image: bytes, layout: int, kept: Mapping[BlobId, Fingerprint]) -> None:
    """Open the store, make a blob, and write to every blob that could be written to."""
    with Blobstore.open(device_of(image, layout)) as store:
        store.register_external(EXTERNAL_ID, external())
        assert not store.errors
        assert not store.read_only
        with store.create_blob(2 * CLUSTER) as blob:
            blob.write(pattern(99, 2))
            blob.flush()
            assert blob.read(2 * CLUSTER) == pattern(99, 2)
        for blob_id, before in kept.items():
            with store.open_blob(blob_id) as blob:
                assert blob.info.read_only == before.read_only
                if not before.read_only:
                    blob.write(blob.read(512))
                    blob.set_xattr("written", b"again")
