"""The mark of a repair under way: there and back, every damage noticed, page 0 without it."""

import struct
from dataclasses import replace

import pytest

from blobstore.errors import CorruptError
from blobstore.format.checksum import crc32c
from blobstore.format.repair_mark import MARK_OFFSET, UNDO_ID_SIZE, RepairMark
from blobstore.format.super_block import SUPER_BLOCK_SIZE, SuperBlock
from tests.format.test_super_block import NEW

PAGE = NEW.encode()
HEAD = PAGE[:MARK_OFFSET]
MARK = RepairMark(
    is_undo=False,
    undo_id=bytes(range(UNDO_ID_SIZE)),
    undo_name=b"disk.img.undo-1",
    page_crc=0x1234_5678,
    head_crcs=(crc32c(HEAD), 7),
)


def marked(mark: RepairMark = MARK, head: bytes = HEAD) -> bytes:
    return head + mark.encode(head)


@pytest.mark.parametrize(
    "mark",
    [
        pytest.param(MARK, id="repair"),
        pytest.param(replace(MARK, is_undo=True), id="undo"),
        pytest.param(replace(MARK, undo_name=b""), id="no undo file"),
        pytest.param(replace(MARK, undo_name=b"n" * 456), id="the longest name"),
    ],
)
def test_what_was_encoded_is_decoded(mark: RepairMark) -> None:
    assert RepairMark.decode(marked(mark)) == mark


def test_the_bytes_are_as_documented() -> None:
    fields = struct.pack("<8sII", b"BSREPAIR", 1, 1) + MARK.undo_id
    fields += struct.pack("<IIII", 0x1234_5678, crc32c(HEAD), 7, 15) + b"disk.img.undo-1"
    sector = fields.ljust(504, b"\0")
    sector += struct.pack("<I", crc32c(sector))
    assert MARK.encode(HEAD) == sector + struct.pack("<I", crc32c(HEAD + sector) ^ 0xFFFF_FFFF)


def test_a_long_name_keeps_its_end() -> None:
    mark = RepairMark.decode(marked(replace(MARK, undo_name=b"d" * 500 + b"/disk.img.undo-1")))
    assert mark is not None
    assert len(mark.undo_name) == 456
    assert mark.undo_name.startswith(b"...d")
    assert mark.undo_name.endswith(b"d/disk.img.undo-1")


def test_a_marked_super_block_is_refused_and_the_error_says_what_to_do() -> None:
    with pytest.raises(CorruptError, match=r"^super block: a repair was cut off, its undo file is "
                       r"disk\.img\.undo-1: with it `undo` brings everything back"):  # fmt: skip
        SuperBlock.decode(marked())
    with pytest.raises(CorruptError, match="an undo was cut off, and there is no undo file"):
        SuperBlock.decode(marked(replace(MARK, is_undo=True, undo_name=b"")))


def test_a_name_that_a_terminal_would_take_for_commands_is_escaped() -> None:
    assert r"is '\x1b[2J\\xff': with" in replace(MARK, undo_name=b"\x1b[2J\xff").message


def test_a_damaged_mark_is_none_and_the_page_still_does_not_open() -> None:
    for position in range(MARK_OFFSET, SUPER_BLOCK_SIZE - 4, 3):
        page = bytearray(marked())
        page[position] ^= 0x40
        assert RepairMark.decode(bytes(page)) is None
        with pytest.raises(CorruptError, match="super block: crc"):
            SuperBlock.decode(page)


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        pytest.param(8, 2, id="another version"),
        pytest.param(12, 3, id="neither repair nor undo"),
        pytest.param(44, 457, id="a name longer than there is room for"),
    ],
)
def test_a_mark_that_nobody_writes_is_none(offset: int, value: int) -> None:
    sector = bytearray(MARK.encode(HEAD))
    struct.pack_into("<I", sector, offset, value)
    struct.pack_into("<I", sector, 504, crc32c(sector[:504]))
    assert RepairMark.decode(HEAD + sector) is None


def test_a_page_that_is_too_short_or_has_no_mark_has_none() -> None:
    assert RepairMark.decode(PAGE) is None
    assert RepairMark.decode(marked()[:-1]) is None
    assert RepairMark.decode(b"") is None


def test_without_the_mark_sound_fields_have_a_right_checksum() -> None:
    assert MARK.is_head_sound(marked())
    assert SuperBlock.decode(MARK.without(marked())) == NEW


def test_without_the_mark_other_fields_have_the_checksum_that_page_0_had() -> None:
    torn = NEW.with_changes(clean=True).encode()[:MARK_OFFSET]
    page = marked(head=torn)
    assert not MARK.is_head_sound(page)
    assert MARK.without(page) == torn + bytes(508) + struct.pack("<I", 0x1234_5678)


def test_a_change_of_the_fields_within_their_sector_keeps_the_page_marked() -> None:
    changed = NEW.with_changes(clean=True).balanced_against(NEW).encode()[:MARK_OFFSET]
    page = changed + MARK.encode(HEAD)
    assert RepairMark.decode(page) == MARK
    (stored,) = struct.unpack("<I", page[-4:])
    assert stored == crc32c(page[:-4]) ^ 0xFFFF_FFFF
