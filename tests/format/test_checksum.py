"""The checksum, and sectors that change without changing it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.format.checksum import SECTOR_SIZE, balance_sector, crc32c


def test_the_checksum_is_castagnolis_with_its_published_check_value() -> None:
    assert crc32c(b"123456789") == 0xE306_9283


def test_the_checksum_of_32_zeroes_is_the_one_of_rfc_3720() -> None:
    assert crc32c(bytes(32)) == 0x8A91_36AA


@given(st.binary(max_size=600), st.binary(max_size=600))
def test_a_checksum_can_be_continued(first: bytes, second: bytes) -> None:
    assert crc32c(second, crc32c(first)) == crc32c(first + second)


@given(st.binary(min_size=1, max_size=100))
def test_every_kind_of_buffer_has_the_same_checksum(data: bytes) -> None:
    assert crc32c(data) == crc32c(bytearray(data)) == crc32c(memoryview(data))


@given(
    st.binary(min_size=SECTOR_SIZE, max_size=SECTOR_SIZE),
    st.binary(max_size=SECTOR_SIZE - 4),
    st.binary(max_size=100),
)
def test_a_balanced_sector_keeps_the_checksum_of_everything_behind_it(
    found: bytes, wanted: bytes, rest: bytes
) -> None:
    sector = balance_sector(found, wanted)
    assert len(sector) == SECTOR_SIZE
    assert sector[:-4] == wanted.ljust(SECTOR_SIZE - 4, b"\0")
    assert crc32c(sector + rest) == crc32c(found + rest)


@given(st.binary(min_size=SECTOR_SIZE, max_size=SECTOR_SIZE))
def test_balancing_a_sector_against_itself_changes_nothing(found: bytes) -> None:
    assert balance_sector(found, found[:-4]) == found


@pytest.mark.parametrize(
    ("found_size", "wanted_size"),
    [
        pytest.param(SECTOR_SIZE - 1, 10, id="less than a sector"),
        pytest.param(SECTOR_SIZE + 1, 10, id="more than a sector"),
        pytest.param(SECTOR_SIZE, SECTOR_SIZE - 3, id="no room to balance"),
    ],
)
def test_only_a_sector_with_room_for_four_bytes_can_be_balanced(
    found_size: int, wanted_size: int
) -> None:
    with pytest.raises(AssertionError, match="a sector and its new content"):
        balance_sector(bytes(found_size), bytes(wanted_size))
