"""Page arrays: many metadata pages at once, as arrays of numbers."""

from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from blobstore.format.checksum import crc32c
from blobstore.format.descriptors import HEADER
from blobstore.format.geometry import BLOB_ID_BASE
from blobstore.format.page import CRC_OFFSET, HEAD, NO_PAGE, PAGE_SIZE, TAIL
from blobstore.format.root import encode_sector_head
from blobstore.units import BlobId

Numbers: TypeAlias = npt.NDArray[np.int64]
Ids: TypeAlias = npt.NDArray[np.uint64]
Entries: TypeAlias = npt.NDArray[np.uint32]
Flagged: TypeAlias = npt.NDArray[np.bool_]
Records: TypeAlias = npt.NDArray[Any]
Chunk: TypeAlias = npt.NDArray[np.uint8]
"""Neighbouring pages, one in each row."""

ENTRY: Final = np.dtype("<u4")
"""A cluster, in an extent page and in a leaf."""

BODY_END: Final = PAGE_SIZE - TAIL.size
_WORD: Final = 4
_SEQUENCE_WORD: Final = 2
_LINK_WORD: Final = BODY_END // _WORD
_HEADER_WORDS: Final = 3
"""A first sector that is not zero has a byte other than zero in its first 24."""

SECTOR_MARK: Final = np.frombuffer(
    encode_sector_head(BlobId(0))[HEAD.size : HEAD.size + HEADER.size], dtype=np.uint8
)
"""What follows the header of a root in the sector layout."""
_MARK_WORD: Final = HEAD.size // 8
_MARK: Final = np.uint64(int.from_bytes(SECTOR_MARK.tobytes(), "little"))
_MARK_BITS: Final = np.uint64((1 << 8 * HEADER.size) - 1)


def empty_pages(count: int, page_size: int) -> Chunk:
    """Return memory for neighbouring pages, aligned as direct I/O wants it: it is read as it is."""
    memory = np.empty(count * page_size + PAGE_SIZE, dtype=np.uint8)
    start = -memory.__array_interface__["data"][0] % PAGE_SIZE
    return memory[start : start + count * page_size].reshape(count, page_size)


def have_right_checksums(chunk: Chunk, rows: Numbers) -> Flagged:
    """Tell which of these pages are whole."""
    view = chunk.data.cast("B")
    starts = (rows * chunk.shape[1]).tolist()
    checksums = [crc32c(view[start : start + CRC_OFFSET]) for start in starts]
    are_right: Flagged = _word(chunk, rows, CRC_OFFSET // _WORD) == np.array(
        checksums, dtype=np.uint32
    )
    return are_right


def are_heads(chunk: Chunk, rows: Numbers) -> Flagged:
    """Tell which of these pages have the sequence number 0."""
    are_first: Flagged = _word(chunk, rows, _SEQUENCE_WORD) == 0
    return are_first


def are_last(chunk: Chunk, rows: Numbers) -> Flagged:
    """Tell which of these pages name no next one."""
    are_ends: Flagged = _word(chunk, rows, _LINK_WORD) == NO_PAGE
    return are_ends


def are_roots(chunk: Chunk, rows: Numbers, *, first: int) -> Flagged:
    """Tell which of these pages name their own place; the chunk begins at page `first`."""
    own_ids = rows.astype(np.uint64) + np.uint64(BLOB_ID_BASE + first)
    are_own: Flagged = (chunk.view("<u8")[rows, 0] == own_ids) & are_heads(chunk, rows)
    return are_own


def are_impossible(chunk: Chunk, *, first: int, md_len: int) -> Flagged:
    """Tell which pages of a region of `md_len` have a header that no program wrote there.

    Every program writes ids of the region and small sequence numbers. Pages of a blob after the
    first lie elsewhere than the root, and a root in the sector layout lies nowhere else.
    """
    words = chunk.view("<u8")
    ids, sequences = words[:, 0], chunk.view("<u4")[:, _SEQUENCE_WORD]
    rows = np.arange(len(chunk), dtype=np.uint64)
    is_head = sequences == 0
    is_own = ids == rows + np.uint64(BLOB_ID_BASE + first)
    is_inside = (ids >= BLOB_ID_BASE) & (ids < BLOB_ID_BASE + md_len)
    has_mark = words[:, _MARK_WORD] & _MARK_BITS == _MARK
    is_possible = is_inside & np.where(is_own, is_head, ~(is_head & has_mark))
    is_possible &= sequences < md_len
    are_wrong: Flagged = ~is_possible & words[:, :_HEADER_WORDS].any(axis=1)
    return are_wrong


def _word(chunk: Chunk, rows: Numbers, number: int) -> Records:
    words: Records = chunk.view("<u4")[rows, number]
    return words


def bytes_at(chunk: Chunk, rows: Numbers, places: Numbers, count: int) -> Chunk:
    """Return `count` bytes of each page in `rows`, starting at its place in `places`."""
    found = _values_at(chunk, rows, places, np.dtype((np.void, count)))
    bytes_found: Chunk = found.view(np.uint8).reshape(len(rows), count)
    return bytes_found


def records_at(
    chunk: Chunk, rows: Numbers, places: Numbers, fields: "np.dtype[np.void]"
) -> Records:
    """Return the record at a place of each of these pages, which it does not leave."""
    return _values_at(chunk, rows, places, fields)


def _values_at(chunk: Chunk, rows: Numbers, places: Numbers, kind: "np.dtype[np.void]") -> Records:
    """Take whole values, as if one began at each byte: several times as fast as bytes by bytes."""
    count = max(0, chunk.size - kind.itemsize + 1)
    values: Records = np.ndarray((count,), kind, chunk.data, strides=(1,))
    found: Records = values[rows * chunk.shape[1] + places]
    return found


def as_records(rows: Chunk, fields: "np.dtype[np.void]") -> Records:
    """Take rows of bytes as records."""
    records: Records = np.ascontiguousarray(rows).view(fields)[:, 0]
    return records


def joined(parts: list[Numbers]) -> Numbers:
    """Return the parts as one."""
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def has_repeats(numbers: Numbers) -> bool:
    """Tell whether a number is there twice; none is negative."""
    return bool(len(numbers) and np.bincount(numbers).max() > 1)
