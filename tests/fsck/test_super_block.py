"""Looking at a super block: everything that is wrong is named with the number of its invariant."""

import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.format.checksum import crc32c
from blobstore.format.geometry import MAX_CLUSTERS, Geometry
from blobstore.format.repair_mark import MARK_OFFSET, UNDO_ID_SIZE, RepairMark
from blobstore.format.super_block import NO_BLOB, SUPER_BLOCK_SIZE, MaskRegion, SuperBlock
from blobstore.fsck.finding import Severity
from blobstore.fsck.super_block_checks import SuperBlockExamined, examine_super_block
from tests.golden.images import IMAGE_NAMES, load_image

MIB = 1 << 20
SIZE = 16 * MIB
LAYOUT = Geometry.compute(
    size_bytes=SIZE, cluster_size=65536, page_size=4096, io_unit_size=512, md_pages=None
)
GOOD = SuperBlock(
    version=3,
    clean=True,
    super_blob=NO_BLOB,
    cluster_size=LAYOUT.cluster_size,
    used_pages=LAYOUT.used_pages,
    used_clusters=LAYOUT.used_clusters,
    md_start=LAYOUT.md_start,
    md_len=LAYOUT.md_len,
    bstype=b"LVOLSTORE".ljust(16, b"\0"),
    used_blob_ids=LAYOUT.used_blob_ids,
    size_bytes=LAYOUT.size_bytes,
    io_unit_size=LAYOUT.io_unit_size,
    md_page_size=LAYOUT.page_size,
)


def with_right_crc(page: bytes) -> bytes:
    return page[:4092] + crc32c(page[:4092]).to_bytes(4, "little")


def patched(offset: int, value: bytes) -> bytes:
    page = GOOD.encode()
    return page[:offset] + value + page[offset + len(value) :]


def examined(data: bytes, device_size: int = SIZE) -> SuperBlockExamined:
    return examine_super_block(data, device_size=device_size)


def numbers(found: SuperBlockExamined) -> list[int]:
    return [finding.invariant for finding in found.findings]


def test_a_good_super_block_is_decoded_and_nothing_is_found() -> None:
    page = GOOD.encode()
    assert examined(page) == SuperBlockExamined(page, GOOD, LAYOUT, ())


def test_a_wrong_checksum_alone_leaves_the_rest_to_be_looked_at() -> None:
    found = examined(patched(4092, bytes(4)))
    assert numbers(found) == [2]
    assert (found.super_block, found.geometry) == (GOOD, LAYOUT)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"cluster_size": 0}, [3], id="cluster size 0"),
        pytest.param({"cluster_size": 65537}, [3], id="cluster size no multiple"),
        pytest.param({"md_page_size": 5000}, [4], id="page size"),
        pytest.param({"md_page_size": 5000, "cluster_size": 0}, [4, 3], id="both units"),
        pytest.param({"io_unit_size": 500}, [4], id="io unit size"),
        pytest.param({"size_bytes": 2**64 - 1}, [5, 3, 7], id="size and what follows from it"),
        pytest.param({"used_pages": MaskRegion(0, 1)}, [6], id="on page 0"),
        pytest.param({"used_pages": MaskRegion(1, 0)}, [6], id="empty"),
        pytest.param({"used_clusters": MaskRegion(3, 1)}, [6], id="two masks in one place"),
        pytest.param({"md_len": 0xFFFF_FFFF}, [6, 7, 7], id="beyond the store"),
        pytest.param({"size_bytes": 65536 * 16 + 65535}, [7], id="metadata in half a cluster"),
        pytest.param({"bstype": b"A\0B".ljust(16, b"\0")}, [9], id="type goes on after its end"),
        pytest.param(
            {"cluster_size": 0, "io_unit_size": 3, "used_blob_ids": MaskRegion(1, 1)},
            [4, 3, 6],
            id="three at once",
        ),
    ],
)
def test_every_broken_thing_is_named(changes: dict[str, Any], expected: list[int]) -> None:
    found = examined(replace(GOOD, **changes).encode())
    assert numbers(found) == expected
    assert found.super_block is not None
    assert (found.geometry is None) == (expected != [9])


@pytest.mark.parametrize("name", ["used_pages", "used_clusters", "used_blob_ids"])
def test_each_mask_that_is_too_short_is_named(name: str) -> None:
    large = Geometry.compute(
        size_bytes=4096 * MIB,
        cluster_size=4096,
        page_size=4096,
        io_unit_size=512,
        md_pages=100_000,
    )
    block = replace(
        GOOD,
        cluster_size=large.cluster_size,
        used_pages=large.used_pages,
        used_clusters=large.used_clusters,
        used_blob_ids=large.used_blob_ids,
        md_start=large.md_start,
        md_len=large.md_len,
        size_bytes=large.size_bytes,
    )
    assert numbers(examined(block.encode(), 4096 * MIB)) == []
    region = getattr(block, name)
    shorter: dict[str, Any] = {name: MaskRegion(region.start, region.length - 1)}
    short = replace(block, **shorter)
    assert numbers(examined(short.encode(), 4096 * MIB)) == [7]


def test_more_clusters_than_32_bits_count_are_a_matter_of_the_cluster_size() -> None:
    size = (MAX_CLUSTERS + 1) * 65536
    assert numbers(examined(replace(GOOD, size_bytes=size).encode(), size)) == [3, 7]


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        pytest.param(8, bytes(4), id="version 0"),
        pytest.param(8, b"\4\0\0\0", id="version 4"),
        pytest.param(12, bytes(4), id="length"),
        pytest.param(16, b"\2\0\0\0", id="clean is no truth value"),
    ],
)
def test_a_mark_that_cannot_be_is_an_error_beside_a_wrong_checksum(
    offset: int, value: bytes
) -> None:
    assert numbers(examined(with_right_crc(patched(offset, value)))) == [1]
    found = examined(patched(offset, value))
    assert numbers(found) == [1, 2]
    is_of_known_version = offset != 8
    assert (found.super_block is not None) == is_of_known_version
    assert (found.geometry is not None) == is_of_known_version


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="no device at all"),
        pytest.param(GOOD.encode()[:4095], id="a byte short"),
        pytest.param(bytes(SUPER_BLOCK_SIZE), id="zeroes"),
        pytest.param(with_right_crc(patched(0, b"SPDKBLOX")), id="another signature"),
    ],
)
def test_what_is_no_super_block_is_one_finding(data: bytes) -> None:
    found = examined(data)
    assert numbers(found) == [1]
    assert (found.super_block, found.geometry) == (None, None)


def test_a_device_that_was_cut_short_is_checked_as_large_as_the_store_was() -> None:
    found = examined(GOOD.encode(), SIZE // 2)
    assert numbers(found) == [5]
    assert found.geometry == LAYOUT


def test_an_old_store_without_a_size_has_the_devices() -> None:
    found = examined(replace(GOOD, size_bytes=0, io_unit_size=0, md_page_size=0).encode())
    assert found.findings == ()
    assert found.geometry == replace(LAYOUT, io_unit_size=4096)


def test_bytes_after_the_end_of_the_type_are_only_a_note() -> None:
    (finding,) = examined(replace(GOOD, bstype=b"\0" * 15 + b"x").encode()).findings
    assert finding.severity is Severity.NOTE
    full = replace(GOOD, bstype=b"sixteen letters!")
    assert examined(full.encode()).findings == ()


@given(st.binary(max_size=100), st.integers(0, 1 << 64))
def test_random_bytes_never_raise(head: bytes, device_size: int) -> None:
    page = head.ljust(SUPER_BLOCK_SIZE, b"\0")
    for content in (head, page, b"SPDKBLOB" + page[8:]):
        assert examined(content, device_size).findings


@given(st.lists(st.tuples(st.integers(2, 23), st.integers(0, 0xFFFF_FFFF)), max_size=4))
def test_any_fields_give_findings_or_a_sound_layout(words: list[tuple[int, int]]) -> None:
    page = bytearray(GOOD.encode())
    for word, value in words:
        struct.pack_into("<I", page, 4 * word, value)
    found = examined(with_right_crc(bytes(page)))
    errors = {finding.invariant for finding in found.findings} - {9}
    assert (found.geometry is None) == bool(errors & {3, 4, 6, 7} or found.super_block is None)
    if not errors:
        SuperBlock.decode(with_right_crc(bytes(page)))
        assert found.super_block is not None
        assert found.geometry == Geometry.of(found.super_block, device_size=SIZE)


def test_images_of_the_original_have_nothing_but_what_was_broken_on_purpose() -> None:
    broken = {}
    for name in IMAGE_NAMES:
        if name.startswith(("bad_super", "v1", "v2", "v3", "md_page", "cs", "bad_bstype")):
            image = load_image(name)
            found = examined(image[:SUPER_BLOCK_SIZE], len(image))
            if found.findings:
                broken[name] = numbers(found)
    assert broken == {
        "bad_super_badcrc_clean": [2],
        "bad_super_badsig_clean": [1],
        "bad_super_sizebig_clean": [5],
        "bad_super_v0_clean": [1],
        "bad_super_v4_clean": [1],
    }


def test_a_mark_is_a_finding_of_its_own_and_the_fields_below_it_are_looked_at_as_ever() -> None:
    page, head = GOOD.encode(), GOOD.encode()[:MARK_OFFSET]
    mark = RepairMark(False, bytes(UNDO_ID_SIZE), b"disk.img.undo-1", 0, (crc32c(head), 0))
    found = examined(head + mark.encode(head))
    assert numbers(found) == [46]
    assert found == SuperBlockExamined(page, GOOD, LAYOUT, found.findings, mark)


def test_below_a_mark_a_super_block_that_was_torn_has_the_checksum_that_it_had() -> None:
    torn = patched(20, b"\1")
    page_crc = int.from_bytes(torn[4092:], "little")
    mark = RepairMark(False, bytes(UNDO_ID_SIZE), b"", page_crc, (0, 0))
    found = examined(torn[:MARK_OFFSET] + mark.encode(torn[:MARK_OFFSET]))
    assert numbers(found) == [46, 2]
    assert found.page == torn
