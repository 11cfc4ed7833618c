"""The runs of one blob, by place: the first form of an extent map.

The runs of one page can name more leaves than there is memory for. Here they take as many
bytes as on disk, and a leaf is made of them when it is wanted.
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
"""Runs of up to this many clusters are faster handled together, longer ones one by one."""

_Numbers: TypeAlias = npt.NDArray[np.int64]


class MappedRuns:
    """Runs in the order of the blob, neighbours merged; they never change.

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
        rows = pairs.rows()
        firsts, counts = rows[:, 0], rows[:, 1]
        ends = np.cumsum(counts)
        starts = ends - counts
        is_owned = firsts != UNALLOCATED
        follows = np.where(is_owned, firsts + counts, UNALLOCATED)
        begins = counts != 0
        if not begins.all() or (firsts[1:] == follows[:-1]).any():
            begins = _begins(firsts, follows, begins)
            starts, firsts = starts[begins], firsts[begins]
        return cls(
            _array_of(starts),
            _array_of(firsts),
            count=int(ends[-1]),
            allocated_count=int(counts[is_owned].sum()),
        )

    def __len__(self) -> int:
        return len(self.starts)

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
        starts, firsts, ends = self._between(0, self.count)
        packed = PackedPairs()
        rows = np.column_stack([firsts, ends - starts]).astype(np.uint32)
        packed.append_encoded(rows.tobytes())
        return packed

    def spans(self, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield (place, first cluster, count) of all that is allocated there, in order."""
        starts, firsts, sizes = self._owned(begin, end)
        return zip(starts.tolist(), firsts.tolist(), sizes.tolist(), strict=True)

    def pieces(self, begin: int, end: int) -> Iterator[Piece]:
        """Yield all clusters of these places, in any order; neighbours on the device together."""
        _starts, firsts, sizes = self._owned(begin, end)
        firsts, sizes = _joined(firsts, sizes)
        is_short = sizes <= _SHORT
        if not is_short.all():
            long = firsts[~is_short].tolist(), sizes[~is_short].tolist()
            for first, size in zip(*long, strict=True):
                yield slice(first, first + size)
            firsts, sizes = firsts[is_short], sizes[is_short]
        short: list[int] = _expanded(firsts, sizes).tolist()
        if short:
            yield short

    def present_numbers(self) -> list[int]:
        """Return the numbers of the leaves in which something is allocated, ascending."""
        starts, _firsts, sizes = self._owned(0, self.count)
        numbers = starts >> LEAF_SHIFT
        counts = ((starts + sizes - 1) >> LEAF_SHIFT) - numbers + 1
        present: list[int] = np.unique(_expanded(numbers, counts)).tolist()
        return present

    def resized(self, count: int) -> "MappedRuns | None":
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
        return MappedRuns(starts, firsts, count=count, allocated_count=owned)

    def _owned(self, begin: int, end: int) -> tuple[_Numbers, _Numbers, _Numbers]:
        """Return starts, first clusters and sizes of allocated runs, cut to these places."""
        starts, firsts, ends = self._between(begin, end)
        is_owned = firsts != UNALLOCATED
        begins, firsts, ends = starts[is_owned], firsts[is_owned], ends[is_owned]
        cut = np.maximum(begins, begin)
        return cut, firsts + cut - begins, np.minimum(ends, end) - cut

    def _between(self, begin: int, end: int) -> tuple[_Numbers, _Numbers, _Numbers]:
        """Return starts, first clusters and ends of the runs that reach into these places."""
        first, stop = bisect_right(self.starts, begin) - 1, bisect_left(self.starts, end)
        starts, firsts = (
            np.array(numbers[first:stop], dtype=np.int64) for numbers in (self.starts, self.firsts)
        )
        ends = np.append(starts[1:], self._end_of(stop - 1))
        return starts, firsts, ends


def _begins(
    firsts: _Numbers, follows: _Numbers, is_counted: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Tell which runs are not empty, and do not go on with the one before that is not."""
    counted = np.flatnonzero(is_counted)
    begins = np.zeros_like(is_counted)
    begins[counted[:1]] = True
    begins[counted[1:]] = firsts[counted[1:]] != follows[counted[:-1]]
    return begins


def _array_of(numbers: _Numbers) -> "array[int]":
    found = array("I")
    found.frombytes(numbers.astype(np.uint32).tobytes())
    return found


def _joined(firsts: _Numbers, sizes: _Numbers) -> tuple[_Numbers, _Numbers]:
    """Return runs in ascending order, each as long as the next does not go on with it."""
    order = np.argsort(firsts, kind="stable")
    firsts, sizes = firsts[order], sizes[order]
    begins = np.ones(len(firsts), dtype=np.bool_)
    begins[1:] = firsts[1:] != firsts[:-1] + sizes[:-1]
    if begins.all():
        return firsts, sizes
    at = np.flatnonzero(begins)
    return firsts[at], np.add.reduceat(sizes, at)


def _expanded(firsts: _Numbers, counts: _Numbers) -> _Numbers:
    """Return the numbers from each of the first ones on."""
    before = np.cumsum(counts) - counts
    numbers: _Numbers = np.repeat(firsts - before, counts) + np.arange(counts.sum())
    return numbers


def entries_of(pairs: PackedPairs) -> "array[int]":
    """Return the entries of the only leaf of a map with so few clusters."""
    firsts, counts = pairs.rows().T
    numbers = _expanded(firsts, counts)
    is_absent = firsts == UNALLOCATED
    if is_absent.any():
        numbers[np.repeat(is_absent, counts)] = UNALLOCATED
    entries = array("I")
    entries.frombytes(numbers.astype(np.uint32).tobytes())
    return entries
