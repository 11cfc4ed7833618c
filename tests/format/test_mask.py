"""The masks: bits and bytes, also over more than one page."""

import pytest
from bitarray import bitarray
from bitarray.util import zeros
from hypothesis import given
from hypothesis import strategies as st

from blobstore.errors import CorruptError
from blobstore.format.mask import (
    MASK_BLOB_IDS,
    MASK_CLUSTERS,
    MASK_PAGES,
    decode_mask,
    encode_mask,
    mask_pages,
)

PAGE = 4096
BITS_OF_ONE_PAGE = (PAGE - 5) * 8

bit_lists = st.lists(st.booleans(), max_size=200)
kinds = st.sampled_from([MASK_PAGES, MASK_CLUSTERS, MASK_BLOB_IDS])


@pytest.mark.parametrize(
    ("bit_count", "pages"),
    [
        (0, 1),
        (1, 1),
        (BITS_OF_ONE_PAGE, 1),
        (BITS_OF_ONE_PAGE + 1, 2),
        (BITS_OF_ONE_PAGE + PAGE * 8, 2),
        (BITS_OF_ONE_PAGE + PAGE * 8 + 1, 3),
        (1 << 32, 131_073),
    ],
)
def test_a_mask_takes_as_many_pages_as_its_header_and_bits_need(bit_count: int, pages: int) -> None:
    assert mask_pages(bit_count, PAGE) == pages


def test_a_mask_is_type_length_and_the_lowest_bit_first() -> None:
    bits = bitarray("1000 0000 01", endian="little")
    assert encode_mask(MASK_CLUSTERS, bits, 16) == bytes.fromhex("01 0a000000 01 02").ljust(
        16, b"\0"
    )


def test_a_mask_held_the_other_way_round_in_memory_is_encoded_the_same() -> None:
    little = bitarray("1101 0000 0110 1", endian="little")
    big = bitarray("1101 0000 0110 1", endian="big")
    assert encode_mask(MASK_PAGES, big, 16) == encode_mask(MASK_PAGES, little, 16)


@given(kinds, bit_lists)
def test_what_was_encoded_is_decoded_the_same(kind: int, flags: list[bool]) -> None:
    bits = bitarray(flags, endian="little")
    data = encode_mask(kind, bits, 64)
    assert decode_mask(data, kind=kind, bit_count=len(flags)) == bits


@given(st.sets(st.integers(0, 100_000), max_size=20))
def test_a_mask_of_four_pages_keeps_every_bit(places: set[int]) -> None:
    bits = zeros(100_001, endian="little")
    for place in places:
        bits[place] = True
    region = mask_pages(len(bits), PAGE) * PAGE
    data = encode_mask(MASK_CLUSTERS, bits, region)
    assert (region, len(data)) == (4 * PAGE, 4 * PAGE)
    assert set(decode_mask(data, kind=1, bit_count=len(bits)).search(bitarray("1"))) == places


@given(bit_lists, st.integers(0, 200))
def test_bits_beyond_those_asked_for_are_left_out(flags: list[bool], wanted: int) -> None:
    count = min(wanted, len(flags))
    data = encode_mask(MASK_PAGES, bitarray(flags, endian="little"), 64)
    assert decode_mask(data, kind=MASK_PAGES, bit_count=count).tolist() == flags[:count]


def test_a_mask_that_fills_its_region_to_the_last_bit_is_read_and_written() -> None:
    bits = bitarray("1", endian="little") * BITS_OF_ONE_PAGE
    data = encode_mask(MASK_PAGES, bits, PAGE)
    assert data[5:] == b"\xff" * (PAGE - 5)
    assert decode_mask(data, kind=MASK_PAGES, bit_count=BITS_OF_ONE_PAGE) == bits


def test_a_mask_larger_than_its_region_is_not_written() -> None:
    with pytest.raises(AssertionError, match="mask 0: 6 bytes do not fit into 5"):
        encode_mask(MASK_PAGES, zeros(8, endian="little"), 5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param("01 08000000 ff", "mask 0: type 1, expected 0", id="type"),
        pytest.param("00 09000000 ff", "mask 0: 9 bits, but its region holds 8", id="too long"),
        pytest.param("00 ffffffff ff", "4294967295 bits, but its region", id="far too long"),
        pytest.param("00 07000000 ff", "mask 0: 7 bits, expected at least 8", id="too short"),
        pytest.param("00 00000000 00", "mask 0: 0 bits, expected at least 8", id="never written"),
    ],
)
def test_a_mask_that_cannot_be_the_stores_is_refused(data: str, message: str) -> None:
    with pytest.raises(CorruptError, match=message) as caught:
        decode_mask(bytes.fromhex(data), kind=MASK_PAGES, bit_count=8)
    assert caught.value.errno == 84


@given(st.binary(min_size=5, max_size=64), kinds, st.integers(0, 1000))
def test_random_bytes_give_the_bits_asked_for_or_are_refused(
    data: bytes, kind: int, bit_count: int
) -> None:
    try:
        bits = decode_mask(data, kind=kind, bit_count=bit_count)
    except CorruptError:
        return
    assert len(bits) == bit_count
