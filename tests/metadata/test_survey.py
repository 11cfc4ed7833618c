"""Plain blobs are recovered all at once, and exactly as `read_blob` would read them."""

import random
from collections.abc import Sequence
from typing import Final

import pytest

from blobstore.drivers.blocking import BlockingDriver
from blobstore.errors import BlobstoreError
from blobstore.format.descriptors import (
    EXTENT_TABLE,
    THIN_PROV,
    XATTR,
    Descriptor,
    ExtentPage,
    ExtentTable,
    Flags,
    Unknown,
    Xattr,
    encode_descriptors,
)
from blobstore.format.geometry import Geometry, blob_id_of
from blobstore.format.page import NO_PAGE, PAGE_SIZE, MetadataPage
from blobstore.metadata.read import fetch_from_device, read_blob
from blobstore.metadata.recovery import recover, scan_region
from blobstore.units import PageIndex
from tests.metadata.media import ImageMedium

PAGES: Final = 16
GEOMETRY: Final = Geometry.compute(
    size_bytes=128 * 4096, cluster_size=4096, page_size=4096, io_unit_size=512, md_pages=PAGES
)
ROOT: Final = PageIndex(3)
EXTENTS: Final = PageIndex(4)
CLUSTERS: Final = (60).to_bytes(4, "little") + (61).to_bytes(4, "little")
TABLE: Final = ExtentTable(2, ((EXTENTS, 1),))
FLAGS: Final = Flags(THIN_PROV)


def image_of(*descriptors: Descriptor) -> bytearray:
    """Return a device whose region holds one blob with these descriptors in its root."""
    image = bytearray(128 * 4096)
    root = MetadataPage(blob_id_of(ROOT), 0, encode_descriptors(descriptors), NO_PAGE)
    extents = encode_descriptors([ExtentPage(0, CLUSTERS)])
    page = MetadataPage(blob_id_of(ROOT), 0, extents, NO_PAGE)
    for at, content in ((ROOT, root), (EXTENTS, page)):
        offset = GEOMETRY.page_offset(at)
        image[offset : offset + PAGE_SIZE] = content.encode()
    return image


def is_taken_as_plain(image: bytearray) -> bool:
    driver = BlockingDriver(ImageMedium(image))
    plain = driver.run(scan_region(GEOMETRY)).survey.plain_blobs(GEOMETRY)
    return plain is not None and plain.roots.tolist() == [ROOT]


ATTRIBUTES: Final[dict[str, Sequence[Xattr]]] = {
    "none": [],
    "one": [Xattr("name", b"vol0")],
    "an empty value": [Xattr("name", b"")],
    "several": [Xattr(f"k{n}", bytes(n)) for n in range(8)],
    "long ones": [Xattr("a", bytes(2000)), Xattr("b", bytes(1900))],
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_blob_with_a_few_attributes_is_plain(name: str) -> None:
    image = image_of(FLAGS, *ATTRIBUTES[name], TABLE)
    assert is_taken_as_plain(image)
    found = BlockingDriver(ImageMedium(image)).run(recover(GEOMETRY))
    assert not found.errors
    assert list(found.used_pages.search(True)) == [ROOT, EXTENTS]
    assert set(found.used_clusters.search(True)) >= {60, 61}


LEFT_OVER: Final[dict[str, Sequence[Descriptor]]] = {
    "more attributes than are looked at": [
        FLAGS, *[Xattr(f"k{n}", b"") for n in range(9)], TABLE
    ],
    "a name that is there twice": [FLAGS, Xattr("a", b"1"), Xattr("a", b"2"), TABLE],
    "a name with a NUL": [FLAGS, Xattr("a\0b", b"1"), TABLE],
    "an empty name": [FLAGS, Unknown(XATTR, bytes(4)), TABLE],
    "lengths that do not add up": [FLAGS, Unknown(XATTR, b"\1\0\7\0x"), TABLE],
    "an attribute shorter than its head": [FLAGS, Unknown(XATTR, b"\1"), TABLE],
    "an internal attribute": [FLAGS, Xattr("SNAP", bytes(8), internal=True), TABLE],
    "an attribute behind the table": [FLAGS, TABLE, Xattr("a", b"1")],
    "a table that ends with the page": [FLAGS, Xattr("a", bytes(4012)), TABLE],
    "two tables": [FLAGS, TABLE, TABLE],
    "unknown flags": [Flags(1 << 40), TABLE],
    "no flags": [Unknown(EXTENT_TABLE, bytes(8))],
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT_OVER)
def test_what_is_not_exactly_plain_is_left_to_be_read(name: str) -> None:
    assert not is_taken_as_plain(image_of(*LEFT_OVER[name]))


def read_outcome(image: bytearray) -> tuple[bool, list[int]]:
    """Tell whether `read_blob` takes the blob, and its clusters."""
    medium = ImageMedium(image)
    fetch = fetch_from_device(GEOMETRY)
    try:
        blob = BlockingDriver(medium).run(read_blob(GEOMETRY, blob_id_of(ROOT), fetch))
    except BlobstoreError:
        return False, []
    return True, blob.clusters.allocated()


def _flip(image: bytearray, rng: random.Random) -> None:
    """Change a byte of the root's descriptors, and put its checksum right."""
    offset = GEOMETRY.page_offset(ROOT)
    page = bytearray(image[offset : offset + PAGE_SIZE])
    page[rng.randrange(16, 120)] ^= 1 << rng.randrange(8)
    body = bytes(page[16 : 16 + 4072])
    image[offset : offset + PAGE_SIZE] = MetadataPage(blob_id_of(ROOT), 0, body, NO_PAGE).encode()


def test_whatever_is_taken_as_plain_is_what_reading_it_gives() -> None:
    rng = random.Random(1)
    taken = 0
    for _round in range(1500):
        image = image_of(FLAGS, Xattr("name", b"vol0"), Xattr("uuid", bytes(9)), TABLE)
        _flip(image, rng)
        if is_taken_as_plain(image):
            taken += 1
            assert read_outcome(image) == (True, [60, 61])
    assert taken > 300
