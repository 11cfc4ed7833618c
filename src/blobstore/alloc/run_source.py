"""Which cluster holds which part of a blob, as its runs say it: nothing is kept for each cluster.

The runs of one page can name more leaves than there is memory for. What is found here
takes as many bytes as the runs do on disk, and a leaf is made when it is wanted.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from blobstore.alloc.leaves import ABSENT, LEAF_SHIFT, LEAF_SIZE, UNALLOCATED, Leaf, Piece
from blobstore.format.pairs import PackedPairs

_SHORT: Final = 64
"""Runs of so many clusters are better looked at together, longer ones one by one."""

_RUNS_AT_ONCE: Final = 1 << 12

_Numbers: TypeAlias = npt.NDArray[np.int64]


class RunSource:
    """The runs of one blob, in order, neighbours merged; nobody changes them.

    Run i begins at place `starts[i]` of the blob with cluster `firsts[i]`, or with
    none; there is always one, and the last ends at `count`.
    """

    __slots__ = ("allocated_count", "count", "firsts", "starts")

    def __init__(
        self, starts: "array[int]", firsts: "array[int]", *, count: int, allocated_count: int
    ) -> None:
        self.starts = starts
        self.firsts = firsts
        self.count = count
        self.allocated_count = allocated_count

    @classmethod
    def of(cls, pairs: PackedPairs) -> Self:
        """Take runs as they are on disk; all together they have at least one cluster."""
        starts, firsts, at, allocated_count = array("I"), array("I"), 0, 0
        before = np.array([[UNALLOCATED, 0]], dtype=np.int64)
        for piece in pairs.pieces():
            runs = np.concatenate([before, piece[piece[:, 1] != 0]])
            begins = _begins(runs)
            ends = at + np.cumsum(runs[1:, 1])
            starts.frombytes((ends - runs[1:, 1])[begins].astype(np.uint32).tobytes())
            firsts.frombytes(runs[1:, 0][begins].astype(np.uint32).tobytes())
            at += int(runs[1:, 1].sum())
            allocated_count += int(runs[1:, 1][runs[1:, 0] != UNALLOCATED].sum())
            before = runs[-1:]
        return cls(starts, firsts, count=at, allocated_count=allocated_count)

    def get(self, index: int) -> int:
        """Return the cluster at a place of the blob, or 0."""
        at = bisect_right(self.starts, index) - 1
        first = self.firsts[at]
        return first and first + index - self.starts[at]

    def leaf(self, number: int) -> Leaf:
        """Make a leaf."""
        begin = number << LEAF_SHIFT
        end = min(begin + LEAF_SIZE, self.count)
        at = bisect_right(self.starts, begin) - 1
        if self._end_of(at) >= end:
            return self._leaf_of_one(at, begin, end)
        entries = array("I")
        while begin < end:
            step = min(end, self._end_of(at)) - begin
            first = self.firsts[at]
            if first == UNALLOCATED:
                entries.frombytes(bytes(entries.itemsize * step))
            else:
                cluster = first + begin - self.starts[at]
                entries.extend(range(cluster, cluster + step))
            at, begin = at + 1, begin + step
        return entries

    def _leaf_of_one(self, at: int, begin: int, end: int) -> Leaf:
        first = self.firsts[at]
        if first == UNALLOCATED:
            return ABSENT
        shift = first - self.starts[at]
        return range(begin + shift, end + shift)

    def _end_of(self, at: int) -> int:
        return self.starts[at + 1] if at + 1 < len(self.starts) else self.count

    def find(self, begin: int, end: int, *, allocated: bool) -> int | None:
        """Return the first place from `begin` on, before `end`, that is (or is not) allocated."""
        at = bisect_right(self.starts, begin) - 1
        while at < len(self.starts) and self.starts[at] < end:
            if (self.firsts[at] != UNALLOCATED) == allocated:
                return max(begin, self.starts[at])
            at += 1
        return None

    def pairs(self) -> PackedPairs:
        """Return the runs as they are on disk."""
        packed = PackedPairs()
        for starts, firsts, ends in self._columns(0, self.count):
            rows = np.column_stack([firsts, ends - starts]).astype(np.uint32)
            packed.append_encoded(rows.tobytes())
        return packed

    def spans(self, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield (place, first cluster, count) of all that is allocated there, in order."""
        for starts, firsts, sizes in self._owned(begin, end):
            yield from zip(starts.tolist(), firsts.tolist(), sizes.tolist(), strict=True)

    def pieces(self, begin: int, end: int) -> Iterator[Piece]:
        """Yield all clusters of these places, each once."""
        for _starts, firsts, sizes in self._owned(begin, end):
            is_short = sizes <= _SHORT
            long = firsts[~is_short].tolist(), sizes[~is_short].tolist()
            for first, size in zip(*long, strict=True):
                yield slice(first, first + size)
            short: list[int] = _expanded(firsts[is_short], sizes[is_short]).tolist()
            yield short

    def present_numbers(self) -> list[int]:
        """Return the numbers of the leaves in which something is allocated, ascending."""
        present: set[int] = set()
        for starts, _firsts, sizes in self._owned(0, self.count):
            numbers = starts >> LEAF_SHIFT
            counts = ((starts + sizes - 1) >> LEAF_SHIFT) - numbers + 1
            present.update(_expanded(numbers, counts).tolist())
        return sorted(present)

    def resized(self, count: int) -> "RunSource | None":
        """Return the runs of the blob with another size; what is new is unallocated."""
        if count == 0:
            return None
        starts, firsts, owned = self.starts, self.firsts, self.allocated_count
        if count <= self.count:
            owned -= sum(size for _at, _first, size in self.spans(count, self.count))
            kept = bisect_right(starts, count - 1)
            starts, firsts = starts[:kept], firsts[:kept]
        elif firsts[-1] != UNALLOCATED:
            starts, firsts = starts + array("I", [self.count]), firsts + array("I", [UNALLOCATED])
        return RunSource(starts, firsts, count=count, allocated_count=owned)

    def _owned(self, begin: int, end: int) -> Iterator[tuple[_Numbers, _Numbers, _Numbers]]:
        """Yield starts, first clusters and sizes of allocated runs, cut to these places."""
        for starts, firsts, ends in self._columns(begin, end):
            is_owned = firsts != UNALLOCATED
            begins, firsts, ends = starts[is_owned], firsts[is_owned], ends[is_owned]
            cut = np.maximum(begins, begin)
            yield cut, firsts + cut - begins, np.minimum(ends, end) - cut

    def _columns(self, begin: int, end: int) -> Iterator[tuple[_Numbers, _Numbers, _Numbers]]:
        """Yield starts, first clusters and ends of the runs that reach into these places."""
        starts, firsts = _view(self.starts), _view(self.firsts)
        first = bisect_right(self.starts, begin) - 1
        last = bisect_left(self.starts, end)
        for at in range(first, last, _RUNS_AT_ONCE):
            stop = min(at + _RUNS_AT_ONCE, last)
            borders = np.append(starts[at : stop + 1].astype(np.int64), self.count)
            size = stop - at
            yield borders[:size], firsts[at:stop].astype(np.int64), borders[1 : size + 1]


def _begins(runs: _Numbers) -> npt.NDArray[np.bool_]:
    """Tell which runs but the first do not go on with the one before."""
    is_hole = runs[:, 0] == UNALLOCATED
    follows = np.where(is_hole[:-1], UNALLOCATED, runs[:-1].sum(axis=1))
    is_first = runs[:-1, 1] == 0
    begins: npt.NDArray[np.bool_] = (runs[1:, 0] != follows) | is_first
    return begins


def _view(numbers: "array[int]") -> npt.NDArray[np.uint32]:
    return np.frombuffer(numbers, dtype=np.uint32)


def _expanded(firsts: _Numbers, counts: _Numbers) -> _Numbers:
    """Return the numbers from each of the first ones on."""
    before = np.cumsum(counts) - counts
    numbers: _Numbers = np.repeat(firsts - before, counts) + np.arange(counts.sum())
    return numbers
