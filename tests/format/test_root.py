"""Root pages: two layouts, tombstones, and conversion from one layout to the other."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.errors import CorruptError
from blobstore.format.checksum import SECTOR_SIZE, crc32c
from blobstore.format.descriptors import Flags, Runs, Xattr
from blobstore.format.page import NO_PAGE, PAGE_SIZE, MetadataPage
from blobstore.format.root import (
    SECTOR_CAPACITY,
    TAIL_OFFSET,
    Layout,
    convert_step_one,
    convert_step_two,
    encode_sector_head,
    encode_sector_tail,
    encode_tombstone_tail,
    is_tombstone,
    is_torn_conversion,
    is_uncommitted,
    layout_of,
    rewritten_from_copy,
    root_state_of,
)
from blobstore.units import BlobId, PageIndex
from tests.descriptors import Descriptor, Padding, decode_descriptors, encode_descriptors

BLOB = BlobId(0x1_0000_0005)
AT = PageIndex(5)

contents = st.binary(max_size=400).map(
    lambda value: [Flags(1, 0, 2), Xattr("name", value), Runs(((17, 3), (0, 5)))]
)
next_pages = st.integers(0, 0xFFFF_FFFF).map(PageIndex)


def read(page: bytes) -> tuple[BlobId, PageIndex, list[Descriptor]]:
    """Read a root page as any reader of the format does."""
    found = MetadataPage.decode(page, at=AT)
    assert found.sequence == 0
    descriptors = decode_descriptors(found.body, place="page 5")
    meant: list[Descriptor] = [item for item in descriptors if not isinstance(item, Padding)]
    return found.blob_id, found.next_page, meant


def compact(content: list[Descriptor], next_page: PageIndex = NO_PAGE) -> bytes:
    return MetadataPage(BLOB, 0, encode_descriptors(content), next_page).encode()


def sector(content: list[Descriptor], next_page: PageIndex = NO_PAGE) -> bytes:
    head = encode_sector_head(BLOB)
    tail = encode_sector_tail(
        encode_descriptors(content), next_page=next_page, head_crc=crc32c(head)
    )
    return head + tail


def is_readable(page: bytes) -> bool:
    try:
        MetadataPage.decode(page, at=AT)
    except CorruptError:
        return False
    return True


def sectors_of(page: bytes) -> list[bytes]:
    return [page[at : at + SECTOR_SIZE] for at in range(0, PAGE_SIZE, SECTOR_SIZE)]


def test_the_layouts_differ_in_their_room() -> None:
    assert (Layout.COMPACT.capacity, Layout.SECTOR.capacity) == (4072, 504)


@given(contents, next_pages)
def test_both_layouts_say_the_same(content: list[Descriptor], next_page: PageIndex) -> None:
    old, new = compact(content, next_page), sector(content, next_page)
    assert (layout_of(old), layout_of(new)) == (Layout.COMPACT, Layout.SECTOR)
    assert read(old) == read(new) == (BLOB, next_page, content)


def test_the_sector_layout_is_recognised_by_bytes_16_to_20() -> None:
    page = sector([Flags()])
    assert page[16:21] == bytes.fromhex("00 EB 0D 00 00")
    assert page[21:TAIL_OFFSET] == bytes(TAIL_OFFSET - 21)
    assert layout_of(memoryview(page)) is Layout.SECTOR


def test_another_padding_first_is_no_sector_layout() -> None:
    assert layout_of(compact([Padding(bytes(3562)), Flags()])) is Layout.COMPACT


def test_the_last_sector_can_be_filled_to_its_last_byte() -> None:
    content: list[Descriptor] = [Xattr("n", b"\xff" * (SECTOR_CAPACITY - 10))]
    assert read(sector(content)) == (BLOB, NO_PAGE, content)


def test_more_than_the_last_sector_holds_is_not_written() -> None:
    with pytest.raises(AssertionError, match="505 bytes of descriptors in a sector"):
        encode_sector_tail(bytes(SECTOR_CAPACITY + 1), next_page=NO_PAGE, head_crc=0)


@given(st.lists(st.tuples(contents, next_pages), min_size=1, max_size=5))
def test_an_update_needs_the_last_sector_only(
    updates: list[tuple[list[Descriptor], PageIndex]],
) -> None:
    page = sector([Flags()])
    state = root_state_of(page)
    assert state.layout is Layout.SECTOR
    for content, next_page in updates:
        tail = encode_sector_tail(
            encode_descriptors(content), next_page=next_page, head_crc=state.head_crc
        )
        assert len(tail) == SECTOR_SIZE
        page = page[:TAIL_OFFSET] + tail
        assert read(page) == (BLOB, next_page, content)
        assert root_state_of(page) == state


@given(contents)
def test_stale_bytes_behind_the_padding_are_counted_in_the_checksum(
    content: list[Descriptor],
) -> None:
    head = encode_sector_head(BLOB)[:600] + b"\xee" * (TAIL_OFFSET - 600)
    broken = head + bytes(SECTOR_SIZE)
    state = root_state_of(broken)
    tail = encode_sector_tail(
        encode_descriptors(content), next_page=NO_PAGE, head_crc=state.head_crc
    )
    assert read(head + tail) == (BLOB, NO_PAGE, content)


def test_a_compact_page_needs_no_checksum_of_its_head() -> None:
    state = root_state_of(compact([Flags()]))
    assert (state.layout, state.head_crc) == (Layout.COMPACT, 0)


@given(contents, next_pages, st.sampled_from(Layout))
def test_a_tombstone_is_a_bad_page_that_is_recognised(
    content: list[Descriptor], next_page: PageIndex, layout: Layout
) -> None:
    page = (compact if layout is Layout.COMPACT else sector)(content, next_page)
    assert not is_tombstone(page)
    dead = page[:TAIL_OFFSET] + encode_tombstone_tail(page)
    assert is_tombstone(dead)
    assert not is_readable(dead)
    assert not is_uncommitted(dead)
    assert dead[TAIL_OFFSET:4088] == page[TAIL_OFFSET:4088]
    assert dead[4088:4092] == b"\xff" * 4


def test_a_tombstone_is_made_of_a_broken_root_too() -> None:
    page = compact([Flags()])[:-1] + b"\0"
    assert not is_readable(page)
    assert not is_tombstone(page)
    assert is_tombstone(page[:TAIL_OFFSET] + encode_tombstone_tail(page))


@given(contents, st.integers(0, 8 * PAGE_SIZE - 1))
def test_a_tombstone_with_a_flipped_bit_is_just_broken(content: list[Descriptor], bit: int) -> None:
    page = sector(content)
    dead = bytearray(page[:TAIL_OFFSET] + encode_tombstone_tail(page))
    dead[bit // 8] ^= 1 << bit % 8
    assert not is_tombstone(dead)


def test_a_complemented_checksum_with_a_next_page_is_no_tombstone() -> None:
    page = sector([Flags()], PageIndex(9))
    crc = int.from_bytes(page[-4:], "little") ^ 0xFFFF_FFFF
    assert not is_tombstone(page[:-4] + crc.to_bytes(4, "little"))


def test_a_root_without_its_last_sector_is_uncommitted() -> None:
    page = sector([Flags()])
    assert not is_uncommitted(page)
    assert is_uncommitted(encode_sector_head(BLOB) + bytes(SECTOR_SIZE))
    assert is_uncommitted(bytes(PAGE_SIZE))
    assert not is_readable(encode_sector_head(BLOB) + bytes(SECTOR_SIZE))


@given(contents, next_pages)
def test_a_converted_page_reads_the_same_before_between_and_after(
    content: list[Descriptor], next_page: PageIndex
) -> None:
    before = compact(content, next_page)
    between = before[:TAIL_OFFSET] + convert_step_one(before, encode_descriptors(content))
    after = convert_step_two(between) + between[SECTOR_SIZE:]
    assert read(before) == read(between) == read(after) == (BLOB, next_page, content)
    assert layout_of(between) is Layout.COMPACT
    assert layout_of(after) is Layout.SECTOR
    # No checksum but that of step one is written.
    assert after[SECTOR_SIZE:] == between[SECTOR_SIZE:]
    assert len(after) == PAGE_SIZE


def test_descriptors_that_reach_beyond_the_first_sector_are_converted_without_a_copy() -> None:
    content: list[Descriptor] = [Xattr("n", b"\xff" * (SECTOR_CAPACITY - 10))]
    before = compact(content)
    assert before[SECTOR_SIZE : SECTOR_SIZE + 8] == b"\xff" * 8
    between = before[:TAIL_OFFSET] + convert_step_one(before, encode_descriptors(content))
    after = convert_step_two(between) + between[SECTOR_SIZE:]
    assert read(between) == read(after) == (BLOB, NO_PAGE, content)


@given(contents, contents, next_pages)
def test_a_converted_page_is_updated_like_any_other(
    content: list[Descriptor], update: list[Descriptor], next_page: PageIndex
) -> None:
    before = compact(content)
    between = before[:TAIL_OFFSET] + convert_step_one(before, encode_descriptors(content))
    after = convert_step_two(between) + between[SECTOR_SIZE:]
    tail = encode_sector_tail(
        encode_descriptors(update),
        next_page=next_page,
        head_crc=root_state_of(after).head_crc,
    )
    assert read(after[:TAIL_OFFSET] + tail) == (BLOB, next_page, update)


BIG: list[Descriptor] = [Flags(), Xattr("big", bytes(range(256)) * 15)]
MOVED: list[Descriptor] = [Flags()]


def converted(copy: bytes) -> bytes:
    """Return the page that replaces `copy`: its xattr went to a chain page."""
    draft = rewritten_from_copy(copy, bytes(SECTOR_SIZE))
    tail = encode_sector_tail(
        encode_descriptors(MOVED),
        next_page=PageIndex(9),
        head_crc=crc32c(draft[:TAIL_OFFSET]),
    )
    return rewritten_from_copy(copy, tail)


def test_a_conversion_by_copy_ends_with_a_page_that_reads_as_the_update() -> None:
    new = converted(compact(BIG))
    assert read(new) == (BLOB, PageIndex(9), MOVED)
    assert layout_of(new) is Layout.SECTOR
    assert new[SECTOR_SIZE:TAIL_OFFSET] == compact(BIG)[SECTOR_SIZE:TAIL_OFFSET]


def test_a_copy_elsewhere_is_no_root_there() -> None:
    # Its id names the page it was copied from.
    assert MetadataPage.decode(compact(BIG), at=PageIndex(77)).blob_id != 0x1_0000_0000 | 77


def test_every_torn_combination_of_sectors_is_recognised() -> None:
    old = compact(BIG)
    new = converted(old)
    for sectors in product(*zip(sectors_of(old), sectors_of(new), strict=True)):
        torn = b"".join(sectors)
        assert is_torn_conversion(torn, old)
        # Broken is what is neither whole, and that is when recovery asks.
        assert is_readable(torn) == (torn in (old, new))


@pytest.mark.parametrize("slot_size", [PAGE_SIZE, 16384])
def test_a_torn_conversion_is_recognised_in_a_slot_of_any_size(slot_size: int) -> None:
    old = compact(BIG)
    torn = converted(old)[:SECTOR_SIZE] + old[SECTOR_SIZE:]
    rest = b"\xee" * (slot_size - PAGE_SIZE)
    assert is_torn_conversion(memoryview(torn + rest), old + rest[::-1])


@given(st.integers(0, 8 * PAGE_SIZE - 1), st.booleans(), st.booleans())
def test_a_flipped_bit_is_no_torn_conversion(bit: int, first: bool, last: bool) -> None:
    old = compact(BIG)
    new = converted(old)
    torn = bytearray(
        (new if first else old)[:SECTOR_SIZE]
        + old[SECTOR_SIZE:TAIL_OFFSET]
        + (new if last else old)[TAIL_OFFSET:]
    )
    torn[bit // 8] ^= 1 << bit % 8
    assert not is_torn_conversion(torn, old)


def test_a_conversion_by_copy_changes_the_first_and_the_last_sector_only() -> None:
    old = compact(BIG)
    pairs = zip(sectors_of(old), sectors_of(converted(old)), strict=True)
    assert [a != b for a, b in pairs] == [True, *[False] * 6, True]
