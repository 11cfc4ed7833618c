"""The super block: decoded, refused, encoded, and changed within its first sector."""

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.errors import CorruptError
from blobstore.format.checksum import SECTOR_SIZE, crc32c
from blobstore.format.super_block import (
    NO_BLOB,
    SUPER_BLOCK_SIZE,
    MaskRegion,
    SuperBlock,
)
from blobstore.units import BlobId

NEW = SuperBlock(
    version=3,
    clean=False,
    super_blob=NO_BLOB,
    cluster_size=1 << 20,
    used_pages=MaskRegion(1, 2),
    used_clusters=MaskRegion(3, 4),
    md_start=9,
    md_len=1000,
    bstype=b"GOLDEN".ljust(16, b"\0"),
    used_blob_ids=MaskRegion(7, 2),
    size_bytes=1 << 34,
    io_unit_size=512,
    md_page_size=4096,
)

u32 = st.integers(0, 0xFFFF_FFFF)
u64 = st.integers(0, 0xFFFF_FFFF_FFFF_FFFF)
regions = st.builds(MaskRegion, u32, u32)
super_blocks = st.builds(
    SuperBlock,
    version=st.integers(1, 3),
    clean=st.booleans(),
    super_blob=u64.map(BlobId),
    cluster_size=u32,
    used_pages=regions,
    used_clusters=regions,
    md_start=u32,
    md_len=u32,
    bstype=st.binary(min_size=16, max_size=16),
    used_blob_ids=regions,
    size_bytes=u64,
    io_unit_size=u32,
    md_page_size=u32,
    reserved=st.binary(max_size=3996).map(lambda found: found.ljust(3996, b"\x5a")),
)


def with_right_crc(page: bytes) -> bytes:
    return page[:4092] + crc32c(page[:4092]).to_bytes(4, "little")


def patched(offset: int, value: bytes) -> bytes:
    page = NEW.encode()
    return with_right_crc(page[:offset] + value + page[offset + len(value) :])


@pytest.mark.parametrize(
    ("offset", "kind", "value"),
    [
        (0, "8s", b"SPDKBLOB"), (8, "I", 3), (12, "I", 4096), (16, "I", 0), (20, "Q", NO_BLOB),
        (28, "I", 1 << 20), (32, "I", 1), (36, "I", 2), (40, "I", 3), (44, "I", 4), (48, "I", 9),
        (52, "I", 1000), (56, "16s", b"GOLDEN" + bytes(10)), (72, "I", 7), (76, "I", 2),
        (80, "Q", 1 << 34), (88, "I", 512), (92, "I", 4096), (96, "3996s", bytes(3996)),
    ],
)  # fmt: skip
def test_every_field_stands_at_its_place(offset: int, kind: str, value: int | bytes) -> None:
    assert struct.unpack_from(f"<{kind}", NEW.encode(), offset) == (value,)


def test_the_last_four_bytes_are_the_checksum_of_the_others() -> None:
    page = NEW.encode()
    assert len(page) == SUPER_BLOCK_SIZE
    assert with_right_crc(page) == page


@given(super_blocks)
def test_what_was_encoded_is_decoded_the_same(block: SuperBlock) -> None:
    assert SuperBlock.decode(block.encode()) == block


@given(super_blocks)
def test_every_kind_of_buffer_is_decoded_the_same(block: SuperBlock) -> None:
    page = block.encode()
    assert SuperBlock.decode(bytearray(page)) == block
    assert SuperBlock.decode(memoryview(page + bytes(12288))) == block


@pytest.mark.parametrize("version", [1, 2, 3])
def test_versions_1_to_3_are_read_and_written_back_as_they_are(version: int) -> None:
    page = patched(8, version.to_bytes(4, "little"))
    block = SuperBlock.decode(page)
    assert block.version == version
    assert block.encode() == page


def test_reserved_bytes_are_written_back_as_they_are() -> None:
    page = patched(96, bytes(range(256)) * 15)
    assert SuperBlock.decode(page).encode() == page
    assert SuperBlock.decode(page).with_changes(clean=True).encode()[96:4092] == page[96:4092]


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        pytest.param(8, bytes(4), "version 0, expected 1 to 3", id="version too old"),
        pytest.param(8, b"\4\0\0\0", "version 4, expected 1 to 3", id="version too new"),
        pytest.param(12, bytes(4), "length 0, expected 4096", id="length"),
        pytest.param(16, b"\2\0\0\0", "clean is 2, expected 0 or 1", id="clean is no truth value"),
    ],
)
def test_a_field_that_cannot_be_is_refused_although_the_checksum_is_right(
    offset: int, value: bytes, message: str
) -> None:
    with pytest.raises(CorruptError) as caught:
        SuperBlock.decode(patched(offset, value))
    assert (caught.value.message, caught.value.errno) == (f"super block: {message}", 84)


def test_what_begins_with_another_signature_is_no_blobstore_or_has_lost_its_super_block() -> None:
    with pytest.raises(CorruptError) as caught:
        SuperBlock.decode(patched(0, b"SPDKBLOX"))
    assert (caught.value.message, caught.value.errno) == (
        "no blobstore, or its super block is lost: begins with b'SPDKBLOX', expected b'SPDKBLOB'",
        84,
    )


@given(st.integers(0, 8 * SUPER_BLOCK_SIZE - 1))
def test_one_flipped_bit_anywhere_is_noticed(bit: int) -> None:
    page = bytearray(NEW.encode())
    page[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CorruptError, match=r"^(no blobstore|super block: (version|crc))"):
        SuperBlock.decode(page)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptError):
        SuperBlock.decode(data.ljust(SUPER_BLOCK_SIZE, b"\0"))


def test_changes_that_are_not_named_leave_the_field_alone() -> None:
    assert NEW.with_changes() == NEW


def test_the_four_fields_that_ever_change_can_be_changed_also_to_false_and_zero() -> None:
    kind = b"LVOLSTORE".ljust(16, b"\0")
    changed = NEW.with_changes(
        clean=True, super_blob=BlobId(1 << 32), bstype=kind, size_bytes=1 << 40
    )
    assert (changed.clean, changed.super_blob, changed.bstype, changed.size_bytes) == (
        True,
        1 << 32,
        kind,
        1 << 40,
    )
    back = changed.with_changes(clean=False, super_blob=BlobId(0), size_bytes=0)
    assert (back.clean, back.super_blob, back.size_bytes) == (False, 0, 0)


@given(super_blocks, st.lists(st.tuples(st.booleans(), u64), min_size=1, max_size=6))
def test_each_of_many_balanced_updates_differs_in_the_first_sector_only(
    block: SuperBlock, updates: list[tuple[bool, int]]
) -> None:
    first = found = block.encode()
    for clean, super_blob in updates:
        old = SuperBlock.decode(found)
        wanted = old.with_changes(clean=clean, super_blob=BlobId(super_blob))
        new = wanted.balanced_against(old).encode()
        assert new[SECTOR_SIZE:] == first[SECTOR_SIZE:]
        assert new[:508] == wanted.encode()[:508]
        decoded = SuperBlock.decode(new)
        assert (decoded.clean, decoded.super_blob) == (clean, super_blob)
        found = new


def test_balancing_needs_no_change_when_nothing_changed() -> None:
    assert NEW.balanced_against(NEW) == NEW


@given(super_blocks, super_blocks)
def test_any_super_block_can_be_balanced_against_any_other(
    found: SuperBlock, wanted: SuperBlock
) -> None:
    old, new = found.encode(), wanted.balanced_against(found).encode()
    assert SuperBlock.decode(new[:SECTOR_SIZE] + old[SECTOR_SIZE:]).encode() == new


def test_reserved_bytes_behind_the_first_sector_are_those_on_the_device() -> None:
    found = replace(NEW, reserved=b"\1" * 3996)
    new = replace(NEW, clean=True, reserved=b"\2" * 3996).balanced_against(found)
    assert new.reserved[:412] == b"\2" * 412
    assert new.reserved[416:] == b"\1" * 3580
    assert new.encode()[SECTOR_SIZE:] == found.encode()[SECTOR_SIZE:]


def test_a_grown_store_changes_its_size_and_its_cluster_mask() -> None:
    grown = NEW.with_changes(size_bytes=1 << 35, used_clusters=MaskRegion(3, 2))
    assert grown == replace(NEW, size_bytes=1 << 35, used_clusters=MaskRegion(3, 2))
