"""Extent pages, many at once: those that can be a single-page blob's only one (FORMAT 4).

Their entries stay as narrow as on the device. Whoever goes through all of them
does so in pieces: in columns of wider numbers they would take several times the
memory of the region.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from blobstore.alloc.leaves import LEAF_SIZE
from blobstore.format.checksum import crc32c
from blobstore.format.descriptors import HEADER
from blobstore.format.page import HEAD, NO_PAGE, PAGE_SIZE, TAIL
from blobstore.metadata.page_arrays import (
    ENTRY,
    Chunk,
    Entries,
    Flagged,
    Numbers,
    Records,
    are_last,
    as_records,
    bytes_at,
    joined,
)

_EXTENT_HEAD: Final = np.dtype(
    [
        ("blob_id", "<u8"), ("sequence", "<u4"), ("reserved", "<u4"),
        ("kind", "u1"), ("length", "<u4"), ("first", "<u4"),
    ]
)  # fmt: skip

_ENTRY_SIZE: Final = ENTRY.itemsize
_ENTRIES_AT: Final = _EXTENT_HEAD.itemsize
_PIECE: Final = 1 << 16
"""Pages are checked together until they have this many entries."""

assert _ENTRIES_AT == HEAD.size + HEADER.size + _ENTRY_SIZE


class _Part(NamedTuple):
    """Some pages in ascending order, and what they hold; `ends` is where their entries end."""

    numbers: Numbers
    heads: Records
    counts: Numbers
    ends: Numbers
    entries: Entries


@dataclass(slots=True)
class ExtentPages:
    """The extent pages that were taken, in the order in which they were.

    A single page is found again if that order is an ascending one.
    """

    _parts: list[_Part] = field(default_factory=list)
    _firsts: list[int] = field(default_factory=list)

    def add(self, chunk: Chunk, rows: Numbers, *, first: int) -> Flagged:
        """Take those with right checksums that can be a single-page blob's only one; tell which."""
        if not len(rows):
            return np.zeros(0, dtype=np.bool_)
        heads = as_records(chunk[rows, :_ENTRIES_AT], _EXTENT_HEAD)
        length = heads["length"].astype(np.int64)
        is_usable: Flagged = (
            are_last(chunk, rows)
            & (heads["first"] == 0)
            & (length % _ENTRY_SIZE == 0)
            & (length > _ENTRY_SIZE)
            & (length <= _ENTRY_SIZE * (LEAF_SIZE + 1))
        )
        ends = _ENTRIES_AT + np.where(is_usable, length - _ENTRY_SIZE, 0)
        is_usable &= ~bytes_at(chunk, rows, ends, HEADER.size).any(axis=1)
        rows, counts = rows[is_usable], (ends[is_usable] - _ENTRIES_AT) // _ENTRY_SIZE
        if len(rows):
            entries = _entries(chunk, rows, counts)
            numbers = rows + first
            self._parts.append(_Part(numbers, heads[is_usable], counts, np.cumsum(counts), entries))
            self._firsts.append(int(numbers[0]))
        return is_usable

    def numbers(self) -> Numbers:
        """Return which pages were taken."""
        return joined([part.numbers for part in self._parts])

    def counts(self) -> Numbers:
        """Return how many entries each has; none has none."""
        return joined([part.counts for part in self._parts])

    def entries(self) -> Entries:
        """Return the entries of all pages, one page after the other."""
        parts = [part.entries for part in self._parts]
        return np.concatenate(parts) if parts else np.empty(0, dtype=ENTRY)

    def pieces(self) -> Iterator[tuple[Numbers, Entries]]:
        """Yield the counts and the entries of all pages, those of some pages at a time."""
        pending = ExtentPages()
        entry_count = 0
        for part in self._parts:
            pending._parts.append(part)
            entry_count += len(part.entries)
            if entry_count >= _PIECE:
                yield pending.counts(), pending.entries()
                pending, entry_count = ExtentPages(), 0
        if entry_count:
            yield pending.counts(), pending.entries()

    def head(self, number: int) -> bytes | None:
        """Return how a page begins that was taken."""
        found = self._find(number)
        return None if found is None else _head(*found)

    def content(self, number: int) -> bytes | None:
        """Return a page that was taken, as good as it was: what follows its end is left out."""
        found = self._find(number)
        if found is None:
            return None
        part, place = found
        end = int(part.ends[place])
        entries = part.entries[end - int(part.counts[place]) : end].tobytes()
        beginning = _head(part, place) + entries
        content = beginning.ljust(PAGE_SIZE - TAIL.size, b"\0") + NO_PAGE.to_bytes(4, "little")
        return content + crc32c(content).to_bytes(4, "little")

    def _find(self, number: int) -> tuple[_Part, int] | None:
        at = bisect_right(self._firsts, number) - 1
        if at < 0:
            return None
        part = self._parts[at]
        place = int(part.numbers.searchsorted(number))
        is_there = place < len(part.numbers) and part.numbers[place] == number
        return (part, place) if is_there else None


def _head(part: _Part, place: int) -> bytes:
    head: bytes = part.heads[place].tobytes()
    return head


def _entries(chunk: Chunk, rows: Numbers, counts: Numbers) -> Entries:
    longest = int(counts.max())
    table = np.ascontiguousarray(chunk[rows, _ENTRIES_AT : _ENTRIES_AT + longest * _ENTRY_SIZE])
    is_entry = np.arange(longest) < counts[:, None]
    entries: Entries = table.view(ENTRY).reshape(len(rows), longest)[is_entry]
    return entries
