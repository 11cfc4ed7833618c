"""The dump of what the golden images do not have: hostile and half-read metadata."""

import struct
from dataclasses import replace

import pytest
from bitarray import bitarray
from hypothesis import given
from hypothesis import strategies as st

from blobstore.format.descriptors import ExtentPage, ExtentTable, Flags, Runs, Xattr
from blobstore.format.dump_text import DumpPlan, dump_mask, dump_page, dump_super_block
from blobstore.format.page import BODY_SIZE, NO_PAGE, PAGE_SIZE, MetadataPage
from blobstore.format.super_block import NO_BLOB, MaskRegion, SuperBlock
from blobstore.units import BlobId, PageIndex
from tests.descriptors import Descriptor, Padding, Unknown, encode_descriptors

SUPER_BLOCK = SuperBlock(
    version=3,
    clean=True,
    super_blob=NO_BLOB,
    cluster_size=65536,
    used_pages=MaskRegion(1, 1),
    used_clusters=MaskRegion(2, 1),
    md_start=4,
    md_len=256,
    bstype=b"GOLDEN".ljust(16, b"\0"),
    used_blob_ids=MaskRegion(3, 1),
    size_bytes=1 << 24,
    io_unit_size=512,
    md_page_size=4096,
)
PLAN = DumpPlan(
    clean=True,
    used_pages=MaskRegion(1, 1),
    used_blob_ids=MaskRegion(3, 1),
    md_start=4,
    md_len=256,
    page_size=4096,
    io_unit_size=512,
)
BLOB = BlobId(0x1_0000_0002)


def dump_body(body: bytes) -> str:
    """Return what is printed for a page's descriptors."""
    page = MetadataPage(BLOB, 0, body, NO_PAGE).encode()
    text = dump_page(
        PageIndex(2), page, plan=PLAN, block_size=512, in_used_pages=True, in_used_ids=True
    )
    head, descriptors = text.split(b"(OK)\n", 1)
    assert head.startswith(b"=========\nMetadata Page Index: 2 (0x2)\n")
    return descriptors.decode("latin-1")


def dump_descriptors(*descriptors: Descriptor) -> str:
    return dump_body(encode_descriptors(descriptors))


# --- the super block -------------------------------------------------------------------------


def test_a_super_block_is_dumped_with_all_its_regions() -> None:
    text = dump_super_block(SUPER_BLOCK.encode()).decode()
    crc = int.from_bytes(SUPER_BLOCK.encode()[-4:], "little")
    assert text.splitlines() == [
        'Signature: "SPDKBLOB" (OK)',
        "Version: 3",
        f"CRC: {crc:#x} (OK)",
        "Blobstore Type: GOLDEN",
        "Cluster Size: 65536",
        "Super Blob ID: (None)",
        "Clean: 1",
        "Used Metadata Page Mask Start: 1",
        "Used Metadata Page Mask Length: 1",
        "Used Cluster Mask Start: 2",
        "Used Cluster Mask Length: 1",
        "Used Blob ID Mask Start: 3",
        "Used Blob ID Mask Length: 1",
        "Metadata Start: 4",
        "Metadata Length: 256",
    ]


def test_a_type_of_16_bytes_that_are_no_text_is_dumped_as_it_is() -> None:
    block = replace(SUPER_BLOCK, bstype=bytes(range(0xF0, 0x100)), super_blob=BLOB)
    text = dump_super_block(memoryview(block.encode()))
    assert b"\nBlobstore Type: " + bytes(range(0xF0, 0x100)) + b"\n" in text
    assert b"\nSuper Blob ID: 0x100000002\n" in text


@pytest.mark.parametrize(
    ("signature", "line"),
    [
        (b"SPDKBLOX", b'Signature: "SPDKBLOX" (Mismatch)\n'),
        (b"SPD\0BLOB", b'Signature: "SPD" (Mismatch)\n'),
        (bytes(8), b'Signature: "" (Mismatch)\n'),
        (b"\xff\xfe\n\0    ", b'Signature: "\xff\xfe\n" (Mismatch)\n'),
    ],
)
def test_without_the_signature_a_dump_is_one_line_and_has_no_plan(
    signature: bytes, line: bytes
) -> None:
    page = signature + SUPER_BLOCK.encode()[8:]
    assert dump_super_block(page) == line
    assert DumpPlan.of(page) is None


def test_the_plan_is_what_the_super_block_says() -> None:
    assert DumpPlan.of(SUPER_BLOCK.encode()) == PLAN


def test_a_wrong_checksum_version_or_clean_word_does_not_stop_a_dump() -> None:
    page = bytearray(SUPER_BLOCK.encode())
    struct.pack_into("<II", page, 8, 99, 0)
    struct.pack_into("<I", page, 16, 7)
    text = dump_super_block(page)
    assert b"Version: 99\n" in text
    assert b" (Mismatch)\nBlobstore Type" in text
    assert b"Clean: 7\n" in text
    assert DumpPlan.of(page) == PLAN


@pytest.mark.parametrize("page_size", [0, 1, 512, 5000, 1 << 31, 0xFFFF_FFFF])
def test_a_page_size_that_cannot_be_counts_as_4096(page_size: int) -> None:
    plan = DumpPlan.of(replace(SUPER_BLOCK, md_page_size=page_size).encode())
    assert plan == PLAN


def test_pages_of_16_kib_are_found_at_their_places() -> None:
    plan = DumpPlan.of(replace(SUPER_BLOCK, md_page_size=16384, clean=False).encode())
    assert plan == replace(PLAN, page_size=16384, clean=False)
    assert plan is not None
    assert plan.page_offset(PageIndex(3)) == 7 * 16384


@pytest.mark.parametrize(
    ("device_size", "count"),
    [(0, 0), (4 * 4096, 0), (5 * 4096 - 1, 0), (5 * 4096, 1), (260 * 4096, 256), (1 << 40, 256)],
)
def test_only_pages_on_the_device_are_read(device_size: int, count: int) -> None:
    assert PLAN.page_count(device_size) == count


def test_a_mask_is_read_as_far_as_it_lies_on_the_device_and_can_be_meant() -> None:
    region = MaskRegion(3, 0xFFFF_FFFF)
    assert PLAN.mask_range(region, device_size=1 << 40) == (3 * 4096, 4096)
    assert PLAN.mask_range(region, device_size=3 * 4096) == (3 * 4096, 0)
    large = replace(PLAN, md_len=100_000)
    assert large.mask_range(MaskRegion(3, 4), device_size=1 << 40) == (3 * 4096, 4 * 4096)
    assert large.mask_range(MaskRegion(3, 4), device_size=5 * 4096) == (3 * 4096, 2 * 4096)
    assert large.mask_range(MaskRegion(3, 2), device_size=1 << 40) == (3 * 4096, 2 * 4096)
    assert large.mask_range(MaskRegion(9, 1), device_size=4096) == (9 * 4096, 0)
    assert large.mask_range(MaskRegion(0, 0), device_size=1 << 40) == (0, 0)


# --- masks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "bits"),
    [
        pytest.param("00 0c000000 05 08", "101000000001", id="whole"),
        pytest.param("07 0c000000 05 08", "101000000001", id="of another type"),
        pytest.param("00 00000000 ff ff", "000000000000", id="never written"),
        pytest.param("00 03000000 ff ff", "111000000000", id="shorter than asked for"),
        pytest.param("00 ffffffff ff ff", "111111111111", id="longer than its region"),
        pytest.param("00 ffffffff ff", "111111110000", id="region too short"),
        pytest.param("00 0c000000", "000000000000", id="no bits"),
        pytest.param("", "000000000000", id="not on the device"),
        pytest.param("00 0c", "000000000000", id="half a header"),
    ],
)
def test_a_mask_is_read_as_far_as_it_goes(data: str, bits: str) -> None:
    found = dump_mask(bytes.fromhex(data), bit_count=12)
    assert found == bitarray(bits, endian="little")


@given(st.binary(max_size=40), st.integers(0, 400))
def test_a_mask_of_random_bytes_has_the_bits_asked_for(data: bytes, bit_count: int) -> None:
    assert len(dump_mask(data, bit_count=bit_count)) == bit_count


# --- pages -----------------------------------------------------------------------------------


def test_a_page_that_names_no_blob_is_left_out() -> None:
    page = MetadataPage(BlobId(0), 5, b"\4", NO_PAGE).encode()
    text = dump_page(
        PageIndex(0), page, plan=PLAN, block_size=512, in_used_pages=True, in_used_ids=True
    )
    assert text == b""


@pytest.mark.parametrize(
    ("in_pages", "in_ids", "clean", "line"),
    [
        (True, True, True, "In used bit array: md blob"),
        (True, False, True, "In used bit array: md"),
        (False, True, True, "In used bit array: blob"),
        (False, False, True, "In used bit array:"),
        (True, True, False, "In used bit array (not clean: dubious): md blob"),
        (False, False, False, "In used bit array (not clean: dubious):"),
    ],
)
def test_the_head_of_a_page_says_where_it_is_and_who_uses_it(
    in_pages: bool, in_ids: bool, clean: bool, line: str
) -> None:
    page = bytearray(MetadataPage(BLOB, 3, b"", PageIndex(17)).encode())
    page[-4:] = b"\1\0\0\0"
    text = dump_page(
        PageIndex(26),
        page + bytes(12288),
        plan=replace(PLAN, page_size=16384, clean=clean),
        block_size=4096,
        in_used_pages=in_pages,
        in_used_ids=in_ids,
    )
    assert text.decode().splitlines() == [
        "=========",
        "Metadata Page Index: 26 (0x1a)",
        "Start LBA: 120",
        "Blob ID: 0x100000002",
        "Sequence: 3",
        "Next: 17",
        line,
        "CRC: 0x1 (Mismatch)",
    ]


def test_padding_is_not_shown() -> None:
    assert dump_descriptors(Padding(b"??"), Unknown(77, b"!")) == "Unknown descriptor type 77\n"


def test_extents_of_every_kind_are_shown() -> None:
    text = dump_descriptors(
        Runs(((17, 3), (0, 2))),
        ExtentTable(2000, ((9, 1), (0, 2), (1_000_000, 1000))),
        ExtentPage(0, struct.pack("<III", 17, 0, 18)),
    )
    assert text.splitlines() == [
        "Allocated Extent - Start: 17 Length: 3",
        "Unallocated Extent -  Length: 2",
        "Extent table:",
        "\tExtent page:     9 length   1 at LBA 104",
        "\tExtent page: 1000000 length 1000 at LBA 8000032",
        "Allocated Extent - Start: 17",
        "Unallocated Extent",
        "Allocated Extent - Start: 18",
    ]


def test_flags_are_named_as_far_as_the_original_knows_names() -> None:
    text = dump_descriptors(Flags(0x1F, 0x11, 0x12), Flags(0, 0, 3))
    assert text.splitlines() == [
        "Flags:",
        "\tinvalid: 0x000000000000001f",
        "\t\t 0x0000000000000001 SPDK_BLOB_THIN_PROV",
        "\t\t 0x0000000000000002 SPDK_BLOB_INTERNAL_XATTR",
        "\t\t 0x0000000000000004 SPDK_BLOB_EXTENT_TABLE",
        "\t\t 0x0000000000000018 Unknown",
        "\tdata_ro: 0x0000000000000011",
        "\t\t 0x0000000000000001 SPDK_BLOB_READ_ONLY",
        "\t\t 0x0000000000000010 Unknown",
        "\t  md_ro: 0x0000000000000012",
        "\t\t 0x0000000000000002 BLOB_CLEAR_WITH_UNMAP (mask 0x3 value 0x2)",
        "\t\t 0x0000000000000010 Unknown",
        "Flags:",
        "\tinvalid: 0x0000000000000000",
        "\tdata_ro: 0x0000000000000000",
        "\t  md_ro: 0x0000000000000003",
        "\t\t 0x0000000000000003 BLOB_CLEAR_WITH_WRITE_ZEROES",
    ]


def test_an_xattr_is_shown_as_text_and_in_hex_lines_of_16_bytes() -> None:
    text = dump_descriptors(Xattr("key", b'\x1f ~\x7f"' + bytes(range(12))), Xattr("e", b"", True))
    assert text.splitlines() == [
        'XATTR: name = "key"',
        '       value = ". ~."............"',
        "               1f 20 7e 7f 22 00 01 02 03 04 05 06 07 08 09 0a ",
        "               0b ",
        'XATTR_INTERNAL: name = "e"',
        '       value = ""',
    ]


def test_only_64_bytes_of_a_value_are_shown_as_text_and_all_in_hex() -> None:
    lines = dump_descriptors(Xattr("key", b"a" * 80)).splitlines()
    assert lines[1] == f'       value = "{"a" * 64}"'
    assert lines[2:] == ["               " + "61 " * 16] * 5


def test_a_name_that_is_no_text_is_shown_as_it_is_up_to_its_first_nul() -> None:
    body = b"\2\x0a\0\0\0\6\0\0\0" + b"\xff\xfe\0abc"
    assert dump_body(body) == 'XATTR: name = "\xff\xfe"\n       value = ""\n'


@pytest.mark.parametrize(
    ("body", "text"),
    [
        pytest.param(
            b"\2\xff\xff\xff\xff\1\0\xff\xffkv" + b"\xff" * (BODY_SIZE - 11),
            'XATTR: name = "k"',
            id="a value longer than the page",
        ),
        pytest.param(
            b"\2\1\0\0\0\x09", 'XATTR: name = ""\n       value = ""\n', id="xattr without lengths"
        ),
        pytest.param(b"\3\2\0\0\0\1\1", "\tinvalid: 0x0000000000000101\n", id="half a flag word"),
        pytest.param(b"\3\0\0\0\0", "\tinvalid: 0x0000000000000000\n", id="no flags"),
        pytest.param(b"\1\x0c\0\0\0" + b"\1" * 12, "Start: 16843009 Length:", id="half a run"),
        pytest.param(b"\5\3\0\0\0abc", "Extent table:\n", id="a table without its count"),
        pytest.param(b"\6\2\0\0\0ab", "", id="an extent page without its place"),
        pytest.param(b"\x4d\xff\xff\xff\xff", "Unknown descriptor type 77\n", id="past the page"),
    ],
)
def test_descriptors_that_do_not_add_up_are_shown_as_far_as_they_go(body: bytes, text: str) -> None:
    assert text in dump_body(body)


def test_a_page_full_of_descriptors_ends_where_no_header_fits() -> None:
    body = Unknown(9, bytes(BODY_SIZE - 9)).encode() + b"\xff" * 4
    assert dump_body(body) == "Unknown descriptor type 9\n"


@given(st.binary(max_size=300), st.binary(max_size=40))
def test_random_bytes_give_a_bounded_text(page: bytes, tail: bytes) -> None:
    text = dump_page(
        PageIndex(0),
        b"\1" + page.ljust(PAGE_SIZE - 1 - len(tail), b"\2") + tail,
        plan=PLAN,
        block_size=512,
        in_used_pages=False,
        in_used_ids=False,
    )
    # The densest text is that of descriptors without a body.
    assert len(text) < 200 * PAGE_SIZE


@given(st.binary(max_size=100))
def test_random_bytes_as_a_super_block_give_a_dump(fields: bytes) -> None:
    page = fields.ljust(PAGE_SIZE, b"\0")
    assert dump_super_block(page).endswith(b"\n")
    hostile = b"SPDKBLOB" + page[8:]
    plan = DumpPlan.of(hostile)
    assert plan is not None
    assert dump_super_block(hostile).count(b"\n") >= 15
    assert 0 <= plan.page_count(1 << 30) <= (1 << 30) // 4096
    for region in (plan.used_pages, plan.used_blob_ids):
        offset, length = plan.mask_range(region, device_size=1 << 30)
        assert length == 0 or offset + length <= 1 << 30
