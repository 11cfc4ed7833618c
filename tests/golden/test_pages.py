"""Every structure of every golden image, decoded and encoded again."""

from collections.abc import Iterator
from contextlib import suppress

import pytest

from blobstore.errors import CorruptError
from blobstore.format.chain import decode_chain, pack_chain
from blobstore.format.descriptors import ExtentPage, Xattr
from blobstore.format.dump_text import DumpPlan
from blobstore.format.geometry import Geometry, blob_id_of
from blobstore.format.mask import (
    MASK_BLOB_IDS,
    MASK_CLUSTERS,
    MASK_PAGES,
    decode_mask,
    encode_mask,
)
from blobstore.format.page import BODY_SIZE, NO_PAGE, PAGE_SIZE, MetadataPage
from blobstore.format.super_block import SUPER_BLOCK_SIZE, MaskRegion, SuperBlock
from blobstore.units import PageIndex
from tests.descriptors import decode_descriptors, encode_descriptors
from tests.golden.images import IMAGE_NAMES, load_image, manifest

Pages = dict[PageIndex, MetadataPage]

BAD_SUPER_BLOCKS = {
    "bad_super_badcrc_clean": "crc",
    "bad_super_badsig_clean": "signature",
    "bad_super_v0_clean": "version 0",
    "bad_super_v4_clean": "version 4",
    "destroyed": "signature",
    "pf_init_n00of03": "signature",
    "pf_init_n01of03_torn512": "signature",
    "pf_init_n02of03": "signature",
}
# The size was changed by hand to one that is larger than the device.
TOO_LARGE = "bad_super_sizebig_clean"
# Their super blocks were made older by hand: there is no mask of blob ids, only room for it.
WITHOUT_ID_MASK = ["v1_bl4096_clean", "v1_bl4096_dirty", "v2_bl512_clean", "v2_bl512_dirty"]

READABLE = [name for name in IMAGE_NAMES if name not in BAD_SUPER_BLOCKS]
LAID_OUT = [name for name in READABLE if name != TOO_LARGE]
WHOLE_LAYOUT = [name for name in LAID_OUT if name not in WITHOUT_ID_MASK]
WITH_PAGES = [name for name in IMAGE_NAMES if BAD_SUPER_BLOCKS.get(name) != "signature"]

# Power failed between the zeroing of the chain's later pages and that of the root.
BROKEN_CHAINS = [
    "pf_delete_et0_n01of04_torn512",
    "pf_delete_et0_n02of04",
    "pf_delete_et1_n01of05_torn512",
    "pf_delete_et1_n02of05",
]
UNKNOWN_DESCRIPTORS = ["unknown_descriptor_clean", "unknown_descriptor_dirty"]


def super_block_of(name: str) -> SuperBlock:
    return SuperBlock.decode(load_image(name)[:SUPER_BLOCK_SIZE])


def geometry_of(name: str) -> Geometry:
    return Geometry.of(super_block_of(name), device_size=len(load_image(name)))


def raw_pages(name: str) -> Iterator[tuple[PageIndex, bytes]]:
    """Yield the metadata pages of an image, also of one whose super block is refused."""
    image = load_image(name)
    plan = DumpPlan.of(image[:SUPER_BLOCK_SIZE])
    assert plan is not None
    for index in map(PageIndex, range(plan.page_count(len(image)))):
        offset = plan.page_offset(index)
        yield index, image[offset : offset + PAGE_SIZE]


def valid_pages(name: str) -> Pages:
    pages: Pages = {}
    for index, data in raw_pages(name):
        with suppress(CorruptError):
            pages[index] = MetadataPage.decode(data, at=index)
    return pages


def chains_of(pages: Pages) -> Iterator[list[MetadataPage] | None]:
    """Yield the chain of every root, or None where a page of it is missing."""
    for index, root in pages.items():
        if root.sequence == 0 and root.blob_id == blob_id_of(index):
            yield follow(pages, root)


def follow(pages: Pages, root: MetadataPage) -> list[MetadataPage] | None:
    chain = [root]
    while chain[-1].next_page != NO_PAGE:
        page = pages.get(chain[-1].next_page)
        if page is None or (page.blob_id, page.sequence) != (root.blob_id, len(chain)):
            return None
        chain.append(page)
    return chain


def whole_chains(name: str) -> list[list[MetadataPage]]:
    return [chain for chain in chains_of(valid_pages(name)) if chain is not None]


def mask_regions(geometry: Geometry) -> list[tuple[int, MaskRegion, int]]:
    return [
        (MASK_PAGES, geometry.used_pages, geometry.md_len),
        (MASK_CLUSTERS, geometry.used_clusters, geometry.total_clusters),
        (MASK_BLOB_IDS, geometry.used_blob_ids, geometry.md_len),
    ]


def read_region(name: str, geometry: Geometry, region: MaskRegion) -> bytes:
    offset = geometry.region_offset(region)
    return load_image(name)[offset : offset + geometry.region_bytes(region)]


def test_all_271_images_are_there() -> None:
    assert len(IMAGE_NAMES) == 271
    assert (len(READABLE), len(LAID_OUT), len(WHOLE_LAYOUT), len(WITH_PAGES)) == (
        263,
        262,
        258,
        266,
    )


@pytest.mark.parametrize("name", READABLE)
def test_a_super_block_is_encoded_as_it_was_found(name: str) -> None:
    assert super_block_of(name).encode() == load_image(name)[:SUPER_BLOCK_SIZE]


@pytest.mark.parametrize(("name", "reason"), BAD_SUPER_BLOCKS.items())
def test_a_broken_super_block_is_refused_as_the_original_refuses_it(name: str, reason: str) -> None:
    what = "no blobstore" if reason == "signature" else f"super block: {reason}"
    with pytest.raises(CorruptError, match=f"^{what}") as caught:
        super_block_of(name)
    assert -caught.value.errno == manifest(name)["expected_after_load"]["load"]["rc"]


def test_a_store_that_is_larger_than_its_device_is_refused_as_the_original_refuses_it() -> None:
    with pytest.raises(CorruptError, match="17825792 bytes, the device 16777216") as caught:
        geometry_of(TOO_LARGE)
    assert -caught.value.errno == manifest(TOO_LARGE)["expected_after_load"]["load"]["rc"]


@pytest.mark.parametrize("name", WHOLE_LAYOUT)
def test_the_layout_is_the_one_that_would_be_computed_for_a_new_store(name: str) -> None:
    found = geometry_of(name)
    assert found == Geometry.compute(
        size_bytes=found.size_bytes,
        cluster_size=found.cluster_size,
        page_size=found.page_size,
        io_unit_size=found.io_unit_size,
        md_pages=found.md_len,
    )


@pytest.mark.parametrize("name", WITHOUT_ID_MASK)
def test_an_old_layout_lacks_the_blob_id_mask_and_nothing_else(name: str) -> None:
    found = geometry_of(name)
    computed = Geometry.compute(
        size_bytes=found.size_bytes,
        cluster_size=found.cluster_size,
        page_size=found.page_size,
        io_unit_size=found.io_unit_size,
        md_pages=found.md_len,
    )
    assert found.used_blob_ids == MaskRegion(0, 0)
    assert (found.used_pages, found.used_clusters, found.md_start) == (
        computed.used_pages,
        computed.used_clusters,
        computed.md_start,
    )


@pytest.mark.parametrize("name", LAID_OUT)
def test_a_mask_is_encoded_as_it_was_found_or_was_never_written_to_a_dirty_store(
    name: str,
) -> None:
    geometry = geometry_of(name)
    for kind, region, bit_count in mask_regions(geometry):
        data = read_region(name, geometry, region)
        if any(data):
            bits = decode_mask(data, kind=kind, bit_count=bit_count)
            assert encode_mask(kind, bits, len(data)) == data
        else:
            assert region.length == 0 or not super_block_of(name).clean


@pytest.mark.parametrize("name", WITH_PAGES)
def test_every_valid_page_is_encoded_as_it_was_found(name: str) -> None:
    for index, data in raw_pages(name):
        try:
            page = MetadataPage.decode(data, at=index)
        except CorruptError:
            continue
        assert page.encode() == data


@pytest.mark.parametrize("name", WITH_PAGES)
def test_the_descriptors_of_every_valid_page_are_encoded_as_they_were_found(name: str) -> None:
    for index, page in valid_pages(name).items():
        descriptors = decode_descriptors(page.body, place=f"page {index}")
        # The original leaves nothing but zeroes behind the last descriptor.
        assert encode_descriptors(descriptors).ljust(BODY_SIZE, b"\0") == page.body


@pytest.mark.parametrize("name", [name for name in WITH_PAGES if name not in UNKNOWN_DESCRIPTORS])
def test_every_whole_chain_is_packed_as_the_original_packed_it(name: str) -> None:
    for chain in whole_chains(name):
        content = decode_chain([page.body for page in chain], place=name)
        assert not content.unknown_kinds
        assert content.flags is not None
        xattrs = [Xattr(key, value) for key, value in content.xattrs.items()]
        internal = [Xattr(key, value, True) for key, value in content.internal_xattrs.items()]
        bodies = pack_chain(
            flags=content.flags,
            xattrs=xattrs + internal,
            runs=content.runs,
            table=(None if content.table is None else (content.table_cluster_count, content.table)),
        )
        assert [body.ljust(BODY_SIZE, b"\0") for body in bodies] == [page.body for page in chain]


@pytest.mark.parametrize("name", UNKNOWN_DESCRIPTORS)
def test_the_unknown_descriptor_is_noticed(name: str) -> None:
    kinds = [
        tuple(decode_chain([page.body for page in chain], place=name).unknown_kinds)
        for chain in whole_chains(name)
    ]
    assert kinds == [(77,), (), (), ()]


@pytest.fixture(scope="module")
def pages() -> dict[str, Pages]:
    """The valid pages of every image: unpacking them all takes seconds."""
    return {name: valid_pages(name) for name in WITH_PAGES}


def test_only_interrupted_deletes_leave_broken_chains(
    pages: dict[str, Pages],
) -> None:
    assert [name for name in WITH_PAGES if None in chains_of(pages[name])] == BROKEN_CHAINS


def test_the_images_hold_what_is_worth_comparing(
    pages: dict[str, Pages],
) -> None:
    lengths = [len(chain) for name in WITH_PAGES for chain in chains_of(pages[name]) if chain]
    extent_pages = sum(
        isinstance(descriptor, ExtentPage)
        for found in pages.values()
        for page in found.values()
        for descriptor in decode_descriptors(page.body, place="page")
    )
    assert sum(map(len, pages.values())) == 1120
    assert {length: lengths.count(length) for length in set(lengths)} == {
        1: 707, 2: 20, 3: 2, 4: 4, 5: 1, 6: 2,
    }  # fmt: skip
    assert extent_pages > 300
