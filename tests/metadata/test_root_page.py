"""The root page alone: under every tear of every write it says the old or the new.

A torn write of a page leaves any mixture of its eight sectors, 254 beside all
and none. Each test performs one write of the protocol on a page, looks at every
mixture, and says what a reader makes of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pytest

from blobstore.errors import CorruptError
from blobstore.format.checksum import SECTOR_SIZE, crc32c
from blobstore.format.descriptors import Flags, Xattr
from blobstore.format.geometry import blob_id_of
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
from blobstore.format.super_block import NO_BLOB, MaskRegion, SuperBlock
from blobstore.units import BlobId, PageIndex
from tests.descriptors import encode_descriptors

AT: Final = PageIndex(7)
ID: Final = blob_id_of(AT)
NEXT: Final = PageIndex(12)
ALL_SECTORS: Final = (1 << 8) - 1

SHORT: Final = encode_descriptors([Flags(1), Xattr("name", b"short")])
OTHER: Final = encode_descriptors([Flags(1), Xattr("name", b"other"), Xattr("more", b"x" * 300)])
FULL: Final = encode_descriptors([Flags(5), Xattr("n", b"y" * (SECTOR_CAPACITY - 29 - 10))])
LONG: Final = encode_descriptors([Flags(1), Xattr("name", b"z" * 3000)])
assert len(FULL) == SECTOR_CAPACITY < len(LONG)


def mixtures(old: bytes, new: bytes) -> Iterator[bytes]:
    """Yield every page that a torn write of `new` over `old` can leave, both ends included."""
    for mask in range(ALL_SECTORS + 1):
        yield b"".join(
            (new if mask >> at & 1 else old)[at * SECTOR_SIZE : (at + 1) * SECTOR_SIZE]
            for at in range(8)
        )


def written(page: bytes, data: bytes, offset: int) -> bytes:
    """Return the page after one atomic write of one sector."""
    assert len(data) == SECTOR_SIZE
    assert offset % SECTOR_SIZE == 0
    return page[:offset] + data + page[offset + SECTOR_SIZE :]


@dataclass(frozen=True)
class Said:
    """What any reader of the format takes from a page: its descriptors, and what follows it."""

    descriptors: bytes
    next_page: PageIndex


def said_by(page: bytes) -> Said | None:
    """Read the page as a root; None for one that has a wrong crc."""
    try:
        decoded = MetadataPage.decode(page, at=AT)
    except CorruptError:
        return None
    assert (decoded.blob_id, decoded.sequence) == (ID, 0)
    padding = 5 + 3563 if layout_of(page) is Layout.SECTOR else 0
    return Said(decoded.body[padding:].rstrip(b"\0"), decoded.next_page)


def saying(descriptors: bytes, next_page: PageIndex = NO_PAGE) -> Said:
    return Said(descriptors.rstrip(b"\0"), next_page)


def sector_root(descriptors: bytes, *, next_page: PageIndex = NO_PAGE) -> bytes:
    head = encode_sector_head(ID)
    return head + encode_sector_tail(descriptors, next_page=next_page, head_crc=crc32c(head))


def compact_root(descriptors: bytes, *, next_page: PageIndex = NO_PAGE) -> bytes:
    return MetadataPage(ID, 0, descriptors, next_page).encode()


def kinds_of_old_content() -> dict[str, bytes]:
    """Return what a claimed page may hold before its last sector: that one is zeroes."""
    contents = {
        "zeroes": bytes(PAGE_SIZE),
        "garbage": b"\xdd" * PAGE_SIZE,
        "a root of the same id": compact_root(LONG),
        "a root in the sector layout": sector_root(OTHER),
        "another's chain page": MetadataPage(BlobId(ID + 1), 1, LONG, NO_PAGE).encode(),
    }
    return {name: page[:TAIL_OFFSET] + bytes(SECTOR_SIZE) for name, page in contents.items()}


OLD_CONTENTS: Final = kinds_of_old_content()
STATES: Final = [SHORT, OTHER, FULL]


# Create


@pytest.mark.parametrize("before", OLD_CONTENTS)
def test_the_torn_head_of_a_new_root_was_never_committed(before: str) -> None:
    old = OLD_CONTENTS[before]
    new = encode_sector_head(ID) + bytes(SECTOR_SIZE)
    pages = set(mixtures(old, new))
    assert len(pages) == 2 ** sum(
        old[at : at + SECTOR_SIZE] != new[at : at + SECTOR_SIZE]
        for at in range(0, PAGE_SIZE, SECTOR_SIZE)
    )
    for page in pages:
        assert said_by(page) is None
        assert is_uncommitted(page)
        assert not is_tombstone(page)


@pytest.mark.parametrize("descriptors", STATES)
def test_one_sector_makes_the_new_root_from_nothing(descriptors: bytes) -> None:
    head = encode_sector_head(ID)
    tail = encode_sector_tail(descriptors, next_page=NEXT, head_crc=crc32c(head))
    page = written(head + bytes(SECTOR_SIZE), tail, TAIL_OFFSET)
    assert said_by(page) == saying(descriptors, NEXT)
    assert not is_uncommitted(page)


def test_in_the_compact_layout_a_root_is_there_as_a_whole_or_not_at_all() -> None:
    page = compact_root(LONG, next_page=NEXT)
    assert said_by(page) == saying(LONG, NEXT)
    assert said_by(bytes(PAGE_SIZE)) is None


def test_a_compact_root_that_was_torn_all_the_same_is_never_taken_for_another_state() -> None:
    old, new = compact_root(SHORT), compact_root(LONG)
    for page in mixtures(old, new):
        assert said_by(page) in (saying(SHORT), saying(LONG), None)
    torn = sum(said_by(page) is None for page in set(mixtures(old, new)))
    assert torn == len(set(mixtures(old, new))) - 2


# Update


@pytest.mark.parametrize("old", STATES)
@pytest.mark.parametrize("new", STATES)
@pytest.mark.parametrize("stale", [False, True])
def test_an_update_in_the_sector_layout_changes_one_sector_and_all_it_says(
    old: bytes, new: bytes, stale: bool
) -> None:
    page = sector_root(old, next_page=NEXT)
    if stale:
        page = page[:1024] + b"stale bytes".ljust(SECTOR_SIZE, b"!") + page[1536:]
        tail = encode_sector_tail(old, next_page=NEXT, head_crc=crc32c(page[:TAIL_OFFSET]))
        page = written(page, tail, TAIL_OFFSET)
    state = root_state_of(page)
    assert state.layout is Layout.SECTOR
    tail = encode_sector_tail(new, next_page=NO_PAGE, head_crc=state.head_crc)
    updated = written(page, tail, TAIL_OFFSET)
    assert said_by(page) == saying(old, NEXT)
    assert said_by(updated) == saying(new)
    assert root_state_of(updated) == state


# Tombstone


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(sector_root(SHORT, next_page=NEXT), id="sector"),
        pytest.param(compact_root(SHORT, next_page=NEXT), id="compact and short"),
        pytest.param(compact_root(LONG.ljust(4072, b"q"), next_page=NEXT), id="compact and full"),
    ],
)
def test_a_tombstone_is_one_sector_and_no_reader_takes_it_for_a_root(page: bytes) -> None:
    dead = written(page, encode_tombstone_tail(page), TAIL_OFFSET)
    assert dead[:TAIL_OFFSET] == page[:TAIL_OFFSET]
    assert not is_tombstone(page)
    assert said_by(dead) is None
    assert is_tombstone(dead)
    assert not is_uncommitted(dead)


@pytest.mark.parametrize("page", [sector_root(OTHER), compact_root(LONG)])
def test_while_a_tombstone_is_erased_it_never_looks_like_a_lost_root(page: bytes) -> None:
    dead = written(page, encode_tombstone_tail(page), TAIL_OFFSET)
    without_tail = written(dead, bytes(SECTOR_SIZE), TAIL_OFFSET)
    for between in (dead, without_tail, *mixtures(without_tail, bytes(PAGE_SIZE))):
        assert said_by(between) is None
        assert is_tombstone(between) or is_uncommitted(between)


def test_a_tombstone_erased_at_once_could_look_like_a_lost_root() -> None:
    page = sector_root(OTHER)
    dead = written(page, encode_tombstone_tail(page), TAIL_OFFSET)
    assert not all(is_tombstone(p) or is_uncommitted(p) for p in mixtures(dead, bytes(PAGE_SIZE)))


# Conversion of a root in the original's layout


@pytest.mark.parametrize("descriptors", STATES)
@pytest.mark.parametrize("next_page", [NO_PAGE, NEXT])
def test_a_short_root_says_the_same_before_between_and_after_its_conversion(
    descriptors: bytes, next_page: PageIndex
) -> None:
    page = compact_root(descriptors, next_page=next_page)
    between = written(page, convert_step_one(page, descriptors), TAIL_OFFSET)
    after = written(between, convert_step_two(between), 0)
    assert layout_of(between) is Layout.COMPACT
    assert layout_of(after) is Layout.SECTOR
    for step in (page, between, after):
        said = said_by(step)
        assert said is not None
        assert said.next_page == next_page
        assert said.descriptors[: len(descriptors.rstrip(b"\0"))] == descriptors.rstrip(b"\0")
        (end,) = {said.descriptors[len(descriptors) : len(descriptors) + 5]} - {b""} or {bytes(5)}
        assert end == bytes(5), "the end mark follows: whatever comes later means nothing"
    state = root_state_of(after)
    tail = encode_sector_tail(OTHER, next_page=NO_PAGE, head_crc=state.head_crc)
    assert said_by(written(after, tail, TAIL_OFFSET)) == saying(OTHER)


@pytest.mark.parametrize("new", STATES)
@pytest.mark.parametrize("old", [LONG, LONG.ljust(4072, b"\0"), SHORT])
def test_a_conversion_by_way_of_a_copy_is_whole_or_recovered_from_it(
    old: bytes, new: bytes
) -> None:
    page = compact_root(old, next_page=NEXT)
    copy = page
    head_crc = crc32c(rewritten_from_copy(copy, b"")[:TAIL_OFFSET])
    tail = encode_sector_tail(new, next_page=NO_PAGE, head_crc=head_crc)
    rewritten = rewritten_from_copy(copy, tail)
    assert rewritten[SECTOR_SIZE:TAIL_OFFSET] == page[SECTOR_SIZE:TAIL_OFFSET]
    outcomes = set()
    for mixture in mixtures(page, rewritten):
        said = said_by(mixture)
        outcomes.add(said)
        if said is None:
            assert is_torn_conversion(mixture, copy)
            assert not is_tombstone(mixture)
    assert outcomes == {saying(old, NEXT), saying(new), None}


def test_a_copy_is_not_used_for_a_page_that_was_damaged_otherwise() -> None:
    copy = compact_root(LONG, next_page=NEXT)
    for at in range(0, PAGE_SIZE, 97):
        damaged = bytearray(copy)
        damaged[at] ^= 0x10
        assert said_by(bytes(damaged)) is None
        assert not is_torn_conversion(bytes(damaged), copy)


def test_no_copy_brings_a_deleted_blob_back() -> None:
    copy = compact_root(LONG, next_page=NEXT)
    dead = written(copy, encode_tombstone_tail(copy), TAIL_OFFSET)
    assert is_tombstone(dead)
    assert not is_torn_conversion(dead, copy)


# The super block


def super_block() -> SuperBlock:
    return SuperBlock(
        version=3,
        clean=True,
        super_blob=NO_BLOB,
        cluster_size=65536,
        used_pages=MaskRegion(1, 1),
        used_clusters=MaskRegion(2, 1),
        md_start=4,
        md_len=64,
        bstype=b"type".ljust(16, b"\0"),
        used_blob_ids=MaskRegion(3, 1),
        size_bytes=1 << 24,
        io_unit_size=512,
        md_page_size=4096,
    )


def updates(block: SuperBlock) -> list[SuperBlock]:
    return [
        block.with_changes(clean=False),
        block.with_changes(super_blob=ID),
        block.with_changes(bstype=b"other".ljust(16, b"\0")),
        block.with_changes(size_bytes=1 << 26, used_clusters=MaskRegion(2, 2)),
    ]


def test_an_update_of_the_super_block_is_one_sector_however_the_page_is_torn() -> None:
    page = super_block().encode()
    for wanted in updates(super_block()):
        balanced = wanted.balanced_against(SuperBlock.decode(page))
        after = written(page, balanced.encode()[:SECTOR_SIZE], 0)
        assert SuperBlock.decode(after) == balanced
        for mixture in mixtures(page, balanced.encode()):
            found = SuperBlock.decode(mixture)
            assert found in (SuperBlock.decode(page), balanced)


def test_updates_of_the_super_block_follow_each_other() -> None:
    page = super_block().encode()
    for wanted in updates(super_block()) * 3:
        balanced = wanted.balanced_against(SuperBlock.decode(page))
        page = written(page, balanced.encode()[:SECTOR_SIZE], 0)
        found = SuperBlock.decode(page)
        assert (found.clean, found.super_blob, found.bstype, found.size_bytes) == (
            wanted.clean,
            wanted.super_blob,
            wanted.bstype,
            wanted.size_bytes,
        )


def test_a_super_block_written_whole_could_be_torn() -> None:
    old, new = super_block(), super_block().with_changes(clean=False)
    broken = 0
    for mixture in mixtures(old.encode(), new.encode()):
        try:
            SuperBlock.decode(mixture)
        except CorruptError:
            broken += 1
    assert broken
