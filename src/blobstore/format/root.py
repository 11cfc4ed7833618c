"""The root page of a blob in its two layouts (FORMAT 4, CRASH-SAFETY 2).

*Compact* is the original's: descriptors start at byte 16, the page is written
whole. *Sector* keeps the descriptors in the last 512 bytes, after one padding
descriptor, so that one write of one sector changes the blob from one state to
the next. Any reader of the format skips the padding.
"""

from enum import Enum
from typing import Final, NamedTuple

from blobstore.format.checksum import SECTOR_SIZE, balance_sector, crc32c
from blobstore.format.descriptors import HEADER, PADDING, split_descriptors
from blobstore.format.page import (
    BODY_SIZE,
    CRC_OFFSET,
    HEAD,
    NO_PAGE,
    PAGE_SIZE,
    TAIL,
    body_of,
    has_right_crc,
)
from blobstore.operations import Buffer
from blobstore.units import BlobId, PageIndex

TAIL_OFFSET: Final = PAGE_SIZE - SECTOR_SIZE
"""Where the last sector of a root page starts."""

SECTOR_CAPACITY: Final = SECTOR_SIZE - TAIL.size
_PADDING_LENGTH: Final = TAIL_OFFSET - HEAD.size - HEADER.size
_PADDING: Final = HEADER.pack(PADDING, _PADDING_LENGTH)
_MARK: Final = slice(HEAD.size, HEAD.size + HEADER.size)
assert (TAIL_OFFSET, SECTOR_CAPACITY, _PADDING_LENGTH) == (3584, 504, 3563)
assert _PADDING == bytes.fromhex("00 EB 0D 00 00")

_EMPTY_TAIL: Final = bytes(SECTOR_SIZE)
_ALL_ONES: Final = 0xFFFF_FFFF


class Layout(Enum):
    """How a root page holds its descriptors; the value is their room in bytes."""

    COMPACT = BODY_SIZE
    SECTOR = SECTOR_CAPACITY

    @property
    def capacity(self) -> int:
        return self.value


class RootState(NamedTuple):
    """What must be known of a root page on disk to update it in place.

    `head_crc` is the checksum of what really stands before the last sector;
    only a page in the sector layout has it. A page in the compact layout with
    more to say than a sector holds `needs_copy` to be converted.
    """

    layout: Layout
    head_crc: int
    needs_copy: bool = False


def descriptors_length(page: Buffer) -> int:
    """Return how many bytes the descriptors of a page take, up to the end mark."""
    found = split_descriptors(body_of(page), place="root")
    return sum(HEADER.size + len(view) for _kind, view in found)


def layout_of(page: Buffer) -> Layout:
    """Recognise a root page's layout."""
    return Layout.SECTOR if page[_MARK] == _PADDING else Layout.COMPACT


_SHORT: Final = RootState(Layout.COMPACT, 0, needs_copy=False)
_LONG: Final = RootState(Layout.COMPACT, 0, needs_copy=True)


def root_state_of(page: Buffer, *, length: int | None = None) -> RootState:
    """Take from a root page what updates of it need; its descriptors' length if it is known."""
    if layout_of(page) is Layout.SECTOR:
        return RootState(Layout.SECTOR, crc32c(memoryview(page)[:TAIL_OFFSET]))
    return compact_state(descriptors_length(page) if length is None else length)


def compact_state(length: int) -> RootState:
    """Return the state of a root in the compact layout whose descriptors take `length` bytes."""
    return _LONG if length > SECTOR_CAPACITY else _SHORT


def encode_sector_head(blob_id: BlobId) -> bytes:
    """Return the first seven sectors of a new root page in the sector layout."""
    return (HEAD.pack(blob_id, 0, 0) + _PADDING).ljust(TAIL_OFFSET, b"\0")


def encode_sector_tail(descriptors: bytes, *, next_page: PageIndex, head_crc: int) -> bytes:
    """Return the last sector, which makes the page say what `descriptors` say."""
    if len(descriptors) > SECTOR_CAPACITY:
        raise AssertionError(f"{len(descriptors)} bytes of descriptors in a sector")
    content = descriptors.ljust(SECTOR_CAPACITY, b"\0") + next_page.to_bytes(4, "little")
    return content + crc32c(content, head_crc).to_bytes(4, "little")


def encode_tombstone_tail(page: Buffer) -> bytes:
    """Return the last sector that turns the root page into a deleted one.

    The complement of the right checksum makes it a broken page to every
    reader, and tells this project that it was broken on purpose.
    """
    view = memoryview(page)
    content = bytes(view[TAIL_OFFSET : PAGE_SIZE - TAIL.size]) + NO_PAGE.to_bytes(4, "little")
    crc = crc32c(content, crc32c(view[:TAIL_OFFSET]))
    return content + (crc ^ _ALL_ONES).to_bytes(4, "little")


def is_tombstone(page: Buffer) -> bool:
    """Tell whether the root page was deleted (its checksum is wrong in the right way)."""
    next_page, crc = TAIL.unpack_from(page, PAGE_SIZE - TAIL.size)
    complement = crc32c(memoryview(page)[:CRC_OFFSET]) ^ _ALL_ONES
    return bool(next_page == NO_PAGE and crc == complement)


def is_uncommitted(page: Buffer) -> bool:
    """Tell whether the root page was never completed: its last sector is zero."""
    return bytes(memoryview(page)[TAIL_OFFSET:PAGE_SIZE]) == _EMPTY_TAIL


def convert_step_one(page: Buffer, descriptors: bytes) -> bytes:
    """Return a last sector that leaves a compact page saying what it says.

    `descriptors` are the page's own. They end before the last sector, so what
    stands there means nothing to a reader until step two; only the checksum is
    new.
    """
    view = memoryview(page)
    (next_page, _crc) = TAIL.unpack_from(view, PAGE_SIZE - TAIL.size)
    head_crc = crc32c(view[:TAIL_OFFSET])
    return encode_sector_tail(descriptors, next_page=PageIndex(next_page), head_crc=head_crc)


def convert_step_two(page: Buffer) -> bytes:
    """Return the first sector that makes a reader skip to the last one.

    It keeps the checksum of the first sector that `page` has, so that the
    page's own checksum stays right.
    """
    view = memoryview(page)
    return balance_sector(view[:SECTOR_SIZE], bytes(view[: HEAD.size]) + _PADDING)


def rewritten_from_copy(copy: Buffer, tail: Buffer) -> bytes:
    """Return the page that a conversion by way of a copy writes: new ends, old middle."""
    view = memoryview(copy)
    first = (bytes(view[: HEAD.size]) + _PADDING).ljust(SECTOR_SIZE, b"\0")
    return first + bytes(view[SECTOR_SIZE:TAIL_OFFSET]) + bytes(tail)


def is_torn_conversion(page: Buffer, copy: Buffer) -> bool:
    """Tell whether every sector of a broken root is its copy's, or the one that replaces it.

    The middle sectors never change. The first is recognised by its content;
    the last one by completing the page: with the new first sector its checksum
    must be right.
    """
    view, old = memoryview(page)[:PAGE_SIZE], memoryview(copy)[:PAGE_SIZE]
    middle = slice(SECTOR_SIZE, TAIL_OFFSET)
    if view[middle] != old[middle]:
        return False
    completed = rewritten_from_copy(copy, view[TAIL_OFFSET:])
    first_known = view[:SECTOR_SIZE] in (old[:SECTOR_SIZE], memoryview(completed)[:SECTOR_SIZE])
    return first_known and (view[TAIL_OFFSET:] == old[TAIL_OFFSET:] or has_right_crc(completed))
