"""The metadata page: its fields, its checksum."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.errors import CorruptError
from blobstore.format.checksum import crc32c
from blobstore.format.page import BODY_SIZE, NO_PAGE, PAGE_SIZE, MetadataPage
from blobstore.units import BlobId, PageIndex

u32 = st.integers(0, 0xFFFF_FFFF)
pages = st.builds(
    MetadataPage,
    blob_id=st.integers(0, 0xFFFF_FFFF_FFFF_FFFF).map(BlobId),
    sequence=u32,
    body=st.binary(max_size=BODY_SIZE).map(lambda body: body.ljust(BODY_SIZE, b"\0")),
    next_page=u32.map(PageIndex),
    reserved=u32,
)


def test_every_field_stands_at_its_place() -> None:
    page = MetadataPage(BlobId(0x1_0000_0007), 2, b"\5" * BODY_SIZE, PageIndex(9), 3).encode()
    assert page[:16] == bytes.fromhex("07000000 01000000 02000000 03000000")
    assert page[16:4088] == b"\5" * 4072
    assert page[4088:4092] == b"\x09\0\0\0"
    assert page[4092:] == crc32c(page[:4092]).to_bytes(4, "little")


@given(pages)
def test_what_was_encoded_is_decoded_the_same(page: MetadataPage) -> None:
    assert MetadataPage.decode(page.encode(), at=PageIndex(0)) == page


@given(pages)
def test_only_the_first_4096_bytes_of_a_larger_slot_count(page: MetadataPage) -> None:
    slot = page.encode() + b"undefined" * 1000
    assert MetadataPage.decode(memoryview(slot), at=PageIndex(0)) == page
    assert MetadataPage.decode(bytearray(slot), at=PageIndex(0)) == page


def test_a_short_body_is_continued_with_zeroes() -> None:
    page = MetadataPage(BlobId(1), 0, b"short", NO_PAGE).encode()
    assert len(page) == PAGE_SIZE
    assert page[16:4088] == b"short".ljust(BODY_SIZE, b"\0")


def test_a_body_that_does_not_fit_is_not_written() -> None:
    with pytest.raises(AssertionError, match="4073 bytes of descriptors in a page"):
        MetadataPage(BlobId(1), 0, bytes(BODY_SIZE + 1), NO_PAGE).encode()


def test_a_zeroed_page_is_no_page() -> None:
    with pytest.raises(CorruptError, match="page 5: crc 0x00000000, expected 0x") as caught:
        MetadataPage.decode(bytes(PAGE_SIZE), at=PageIndex(5))
    assert caught.value.errno == 22


@given(pages, st.integers(0, 8 * PAGE_SIZE - 1))
def test_one_flipped_bit_anywhere_is_noticed(page: MetadataPage, bit: int) -> None:
    data = bytearray(page.encode())
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CorruptError, match="page 0: crc"):
        MetadataPage.decode(data, at=PageIndex(0))
