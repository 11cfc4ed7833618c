"""Single-page blobs are recovered all at once, and exactly as `read_blob` would read them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pytest

from blobstore.drivers.blocking import BlockingDriver
from blobstore.errors import BlobstoreError
from blobstore.format.descriptors import (
    EXTENT_TABLE,
    EXTERNAL_SNAPSHOT,
    HAS_EXTENT_TABLE,
    HAS_INTERNAL_XATTRS,
    READ_ONLY,
    RUNS,
    THIN_PROV,
    XATTR,
    ExtentPage,
    ExtentTable,
    Flags,
    Runs,
    Xattr,
)
from blobstore.format.geometry import Geometry, blob_id_of
from blobstore.format.page import NO_PAGE, PAGE_SIZE, MetadataPage
from blobstore.metadata.blob_reader import read_blob
from blobstore.metadata.load_store import load
from blobstore.metadata.page_reader import PageReader
from blobstore.metadata.recovery import recover
from blobstore.metadata.region_scan import scan_region
from blobstore.metadata.store_state import DeviceTraits
from blobstore.units import BlobId, PageIndex
from tests.descriptors import Descriptor, Padding, Unknown, encode_descriptors
from tests.metadata.media import ImageMedium
from tests.proof.forge import Forge, extents, flags, runs, table

PAGES: Final = 16
GEOMETRY: Final = Geometry.compute(
    size_bytes=128 * 4096, cluster_size=4096, page_size=4096, io_unit_size=512, md_pages=PAGES
)
ROOT: Final = PageIndex(3)
EXTENTS: Final = PageIndex(4)
CLUSTERS: Final = (60).to_bytes(4, "little") + (61).to_bytes(4, "little")
TABLE: Final = ExtentTable(2, ((EXTENTS, 1),))
FLAGS: Final = Flags(THIN_PROV)
CLONE: Final = THIN_PROV | HAS_EXTENT_TABLE | HAS_INTERNAL_XATTRS
PARENT: Final = Xattr("SNAP", (7 << 32).to_bytes(8, "little"), internal=True)


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


@dataclass(frozen=True)
class Outcome:
    """What is known of the blob after looking at it."""

    clusters: list[int]
    extent_pages: list[int]
    cluster_count: int
    flags: Flags
    parent_id: BlobId | None


def batch_outcome(image: bytearray) -> Outcome | None:
    """Return what batch decoding knows, or None when it leaves the blob to be read."""
    driver = BlockingDriver(ImageMedium(image))
    decoded = driver.run(scan_region(GEOMETRY)).decoder.single_page_blobs(GEOMETRY)
    if decoded is None or decoded.roots.tolist() != [ROOT]:
        return None
    this = np.array([blob_id_of(ROOT)], dtype=np.uint64)
    ((blob_id, found),) = decoded.related(this)
    assert blob_id == blob_id_of(ROOT)
    parents = dict(decoded.parent_ids())
    assert parents == ({} if found.parent_id is None else {blob_id: found.parent_id})
    extent_pages = [page for page in decoded.pages.tolist() if page != ROOT]
    clusters = list(decoded.clusters.search(True))
    return Outcome(clusters, extent_pages, found.cluster_count, found.flags, found.parent_id)


def is_decoded(image: bytearray) -> bool:
    return batch_outcome(image) is not None


ATTRIBUTES: Final[dict[str, Sequence[Xattr]]] = {
    "none": [],
    "one": [Xattr("name", b"vol0")],
    "an empty value": [Xattr("name", b"")],
    "several": [Xattr(f"k{n}", bytes(n)) for n in range(8)],
    "long ones": [Xattr("a", bytes(2000)), Xattr("b", bytes(1900))],
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_blob_with_a_few_attributes_is_decoded(name: str) -> None:
    image = image_of(FLAGS, *ATTRIBUTES[name], TABLE)
    assert is_decoded(image)
    found = BlockingDriver(ImageMedium(image)).run(recover(GEOMETRY))
    assert not found.errors
    assert list(found.used_pages.search(True)) == [ROOT, EXTENTS]
    assert set(found.used_clusters.search(True)) >= {60, 61}


RELATED: Final[dict[str, Sequence[Descriptor]]] = {
    "a clone": [Flags(CLONE), PARENT, TABLE],
    "a clone with a name": [Flags(CLONE), Xattr("name", b"vol0"), PARENT, TABLE],
    "a parent before the name": [Flags(CLONE), PARENT, Xattr("SNAP", b"vol0"), TABLE],
    "a snapshot": [Flags(CLONE, READ_ONLY), PARENT, TABLE],
    "a clone that owns nothing": [Flags(CLONE), PARENT, ExtentTable(700, ((0, 2),))],
    "an empty blob": [FLAGS, ExtentTable(1, ((0, 1),))],
    "an empty blob larger than its table": [FLAGS, ExtentTable(1 << 60, ((0, 2),))],
    "an empty blob of no size": [FLAGS, ExtentTable(0, ((0, 1),))],
    "a table without an entry": [FLAGS, ExtentTable(3, ())],
    "a clone without extents": [Flags(CLONE), PARENT],
    "no extents": [FLAGS, Xattr("name", b"vol0")],
}


@pytest.mark.parametrize("name", RELATED)
def test_clones_and_empty_blobs_are_decoded_as_reading_them_gives(name: str) -> None:
    image = image_of(*RELATED[name])
    assert batch_outcome(image) is not None
    assert batch_outcome(image) == read_outcome(image)
    found = BlockingDriver(ImageMedium(image)).run(recover(GEOMETRY))
    assert not found.errors
    assert found.parents == ({blob_id_of(ROOT): 7 << 32} if PARENT in RELATED[name] else {})


LEFT_OVER: Final[dict[str, Sequence[Descriptor]]] = {
    "more attributes than are looked at": [
        FLAGS, *[Xattr(f"k{n}", b"") for n in range(9)], TABLE
    ],
    "a name that is there twice": [FLAGS, Xattr("a", b"1"), Xattr("a", b"2"), TABLE],
    "a name with a NUL": [FLAGS, Xattr("a\0b", b"1"), TABLE],
    "an empty name": [FLAGS, Unknown(XATTR, bytes(4)), TABLE],
    "lengths that do not add up": [FLAGS, Unknown(XATTR, b"\1\0\7\0x"), TABLE],
    "an attribute shorter than its head": [FLAGS, Unknown(XATTR, b"\1"), TABLE],
    "a parent that no flag announces": [FLAGS, PARENT, TABLE],
    "a flag that announces no parent": [Flags(CLONE), TABLE],
    "the id 0 as a parent": [Flags(CLONE), Xattr("SNAP", bytes(8), internal=True), TABLE],
    "a parent of 7 bytes": [Flags(CLONE), Xattr("SNAP", bytes(7), internal=True), TABLE],
    "two parents": [Flags(CLONE), PARENT, PARENT, TABLE],
    "a marker": [Flags(CLONE), Xattr("SNAPRM", b"partner", internal=True), TABLE],
    "a marker beside a parent": [
        Flags(CLONE), PARENT, Xattr("SNAPRM", bytes(8), internal=True), TABLE
    ],
    "a name and an id of other lengths": [
        Flags(CLONE), Xattr("SNAP1", b"2345678", internal=True), TABLE
    ],
    "an external parent": [
        Flags(CLONE | EXTERNAL_SNAPSHOT), Xattr("EXTSNAP", b"disk", internal=True), TABLE
    ],
    "an absent page in a thick blob": [Flags(0), ExtentTable(1, ((0, 1),))],
    "absent pages without end": [FLAGS, ExtentTable(1, ((0, 0xFFFF_FFFF),))],
    "no absent pages": [FLAGS, ExtentTable(1, ((0, 0),))],
    "an absent page and another": [FLAGS, ExtentTable(514, ((0, 1), (EXTENTS, 1)))],
    "an attribute behind the table": [FLAGS, TABLE, Xattr("a", b"1")],
    "a table that ends with the page": [FLAGS, Xattr("a", bytes(4012)), TABLE],
    "two tables": [FLAGS, TABLE, TABLE],
    "two empty tables": [FLAGS, ExtentTable(3, ()), ExtentTable(3, ())],
    "a run of clusters": [Flags(0), Runs(((60, 2),))],
    "a run of no clusters": [FLAGS, Runs(((0, 700),))],
    "runs without a pair": [FLAGS, Runs(())],
    "runs of half a pair": [FLAGS, Unknown(RUNS, bytes(12))],
    "padding": [FLAGS, Padding(b"abc"), TABLE],
    "unknown flags": [Flags(1 << 40), TABLE],
    "no flags": [Unknown(EXTENT_TABLE, bytes(8))],
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT_OVER)
def test_whatever_else_is_left_to_be_read(name: str) -> None:
    assert not is_decoded(image_of(*LEFT_OVER[name]))


def read_outcome(image: bytearray) -> Outcome | None:
    """Return what `read_blob` says of the blob, or None when it refuses it."""
    medium = ImageMedium(image)
    fetch = PageReader(GEOMETRY).fetch
    try:
        blob = BlockingDriver(medium).run(read_blob(GEOMETRY, blob_id_of(ROOT), fetch))
    except BlobstoreError:
        return None
    pages: list[int] = [page for page in blob.metadata_pages if page not in blob.chain]
    clusters = blob.clusters
    return Outcome(clusters.allocated(), pages, clusters.count, blob.flags, blob.parent_id)


def _flip(image: bytearray, rng: random.Random) -> None:
    """Change a byte of the root's descriptors, and put its checksum right."""
    offset = GEOMETRY.page_offset(ROOT)
    page = bytearray(image[offset : offset + PAGE_SIZE])
    page[rng.randrange(16, 120)] ^= 1 << rng.randrange(8)
    body = bytes(page[16 : 16 + 4072])
    image[offset : offset + PAGE_SIZE] = MetadataPage(blob_id_of(ROOT), 0, body, NO_PAGE).encode()


ORDINARY: Final[dict[str, Sequence[Descriptor]]] = {
    "a volume": [FLAGS, Xattr("name", b"vol0"), Xattr("uuid", bytes(9)), TABLE],
    "a clone": [Flags(CLONE), Xattr("name", b"v"), PARENT, TABLE],
    "an empty clone": [Flags(CLONE), PARENT, ExtentTable(700, ((0, 2),))],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ORDINARY)
def test_whatever_is_decoded_is_what_reading_it_gives(name: str) -> None:
    rng = random.Random(1)
    taken = 0
    for _round in range(1500):
        image = image_of(*ORDINARY[name])
        _flip(image, rng)
        found = batch_outcome(image)
        if found is not None:
            taken += 1
            assert found == read_outcome(image)
    assert taken > 300


SHARED: Final = {
    "two extent pages": ([300, 301], [302, 300], None),
    "one extent page": ([300, 301, 300], [302], None),
    "an extent page and a run": ([300, 301], [302], (301, 1)),
    "an extent page and a long run": ([300, 301], [302], (301, 90)),
}


@pytest.mark.parametrize("name", SHARED)
def test_a_cluster_that_is_owned_twice_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blobstore.metadata.extent_page_arrays._PIECE", 1)
    upper, lower, run = SHARED[name]
    forge = Forge(cluster_count=600, clean=False)
    for number, clusters in enumerate((upper, lower)):
        forge.root(number, flags(), table(len(clusters), (10 + number, 1)))
        forge.put(10 + number, number, extents(0, clusters))
    if run is not None:
        forge.root(2, flags(0), runs(run))
    device = forge.device(read_only=True)
    store = BlockingDriver(device).run(load(DeviceTraits(device.size_bytes)))
    (error,) = store.errors.values()
    assert "owns a cluster that another place owns" in error.message
