"""The extent map: which cluster holds which part of a blob, in two levels, as on disk.

A map has two forms. **Leaves**: blobs with extent pages have them, and blobs with few clusters;
a leaf that is absent holds nothing. **Runs**: other blobs with run-length extents have them,
because the runs of one page can name far more leaves than there is memory for. Their leaves are
made when the core is asked for a cluster, and `runs` says what an absent one holds.

In both forms a leaf that is present in `leaves` takes precedence. So a change makes the leaf
first, as an array, and the runs are never changed. A reader outside the core indexes `leaves`
without a lock, and asks the core if a cluster is 0. A leaf is stored as a whole, or one entry
changes at a time. `leaves` stays the same object as long as the map lives, whatever it holds.

Memory stays in proportion to the metadata. Leaves that were made only for a read are kept up to
`_KEPT_BYTES` for each map and `_KEPT_BYTES_PER_RUN` for each run. Beyond that limit every lookup
is answered from the runs.
"""

import errno
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final, Self

from bitarray import bitarray

from blobstore.alloc.leaves import (
    ABSENT,
    LEAF_MASK,
    LEAF_SHIFT,
    LEAF_SIZE,
    UNALLOCATED,
    Leaf,
    Leaves,
    Piece,
    absent_leaves,
    leaves_for,
    runs_of,
    spans_of,
)
from blobstore.errors import CorruptError
from blobstore.format.pairs import PackedPairs

if TYPE_CHECKING:
    from blobstore.alloc.mapped_runs import MappedRuns

_NONE_DIRTY: Final[frozenset[int]] = frozenset()
"""Shared by all maps that are as on disk: most blobs never change while they are open."""

_KEPT_BYTES: Final = 128 << 10
_KEPT_BYTES_PER_RUN: Final = 128
_RANGE_BYTES: Final = 64
_ENTRY_BYTES: Final = array("I").itemsize

_LONGEST_LEAF: Final = LEAF_SIZE
"""Runs of no more clusters are made a leaf at once."""

_PIECE: Final = 1 << 14
_NOWHERE: Final = -1
_NO_SPAN: Final = (0, 0, 0)


class ExtentMap:
    """The clusters of one blob, in order, and which leaves differ from the disk."""

    __slots__ = ("_room", "_runs", "allocated_count", "count", "dirty_leaves", "leaves")

    _runs: "MappedRuns | None"
    dirty_leaves: set[int] | frozenset[int]
    leaves: Leaves

    def __init__(self, count: int = 0, runs: "MappedRuns | None" = None) -> None:
        """Make a map of `count` places: all unallocated, or as `runs` say."""
        self.count = count
        self.allocated_count = 0
        self.dirty_leaves = _NONE_DIRTY
        self.leaves = absent_leaves(count)
        self._runs = runs
        self._room = 0
        if runs is not None:
            self.allocated_count = runs.allocated_count
            self._room = _KEPT_BYTES + _KEPT_BYTES_PER_RUN * len(runs)

    @classmethod
    def of_leaf(cls, entries: "array[int]", owned_count: int) -> Self:
        """Make the map of a blob of one leaf: its entries, and how many of them are clusters."""
        clusters = cls.__new__(cls)
        clusters.count = len(entries)
        clusters.allocated_count = owned_count
        clusters.dirty_leaves = _NONE_DIRTY
        clusters.leaves = [entries if owned_count else ABSENT]
        clusters._runs = None
        clusters._room = 0
        return clusters

    @classmethod
    def of_runs(cls, pairs: PackedPairs, *, limit: int, place: str) -> Self:
        """Make the map of run-length extents, in the form that takes less.

        Raises:
            CorruptError: More clusters than `limit`; found before memory is taken.
        """
        total = sum(pairs.numbers[1::2])
        if total > limit:
            message = f"{place}: {total} clusters, expected at most {limit}"
            raise CorruptError(message, errno=errno.EINVAL)
        if not (total and any(pairs.numbers[::2])):
            return cls(total)
        from blobstore.alloc.mapped_runs import MappedRuns, entries_of  # others need no NumPy

        if total > _LONGEST_LEAF:
            return cls(total, MappedRuns.of(pairs))
        entries = entries_of(pairs)
        return cls.of_leaf(entries, total - entries.count(UNALLOCATED))

    def copy(self) -> "ExtentMap":
        """Return a clean map that shares the leaves: from now on, one of both may change."""
        copy = ExtentMap(self.count, self._runs)
        for number, leaf in self._made_leaves():
            copy.leaves[number] = leaf
        copy.allocated_count = self.allocated_count
        copy._room = self._room
        return copy

    def empty(self) -> None:
        """Own nothing any more, as on disk; what holds the leaves stays the same object."""
        leaves = self.leaves
        if isinstance(leaves, list):
            leaves[:] = [ABSENT] * len(leaves)
        else:
            leaves.clear()
        self._runs = None
        self.allocated_count = 0
        self.clean()

    def get(self, index: int) -> int:
        """Return the cluster at `index`, or 0; beyond the end there is none.

        A request can be longer in the core than the blob is: a shrink does not wait for it.
        """
        if index >= self.count or not self.allocated_count:
            return UNALLOCATED
        leaf = self.leaves[index >> LEAF_SHIFT]
        if leaf is ABSENT and self._runs is not None:
            return self._read_runs(self._runs, index)
        return leaf[index & LEAF_MASK]

    def _read_runs(self, runs: "MappedRuns", index: int) -> int:
        """Return what the runs say of a place, and make its leaf while there is room for it."""
        if self._room <= 0:
            return runs.get(index)
        number = index >> LEAF_SHIFT
        leaf = runs.leaf(number)
        if leaf is not ABSENT:
            is_range = isinstance(leaf, range)
            self._room -= _RANGE_BYTES if is_range else _ENTRY_BYTES * len(leaf)
            self.leaves[number] = leaf
        return leaf[index & LEAF_MASK]

    def set(self, index: int, cluster: int) -> None:
        """Put a cluster (or 0) at `index`, which lies in the blob."""
        leaf = self._own_leaf(index >> LEAF_SHIFT)
        old = leaf[index & LEAF_MASK]
        leaf[index & LEAF_MASK] = cluster
        self.allocated_count += (cluster != UNALLOCATED) - (old != UNALLOCATED)
        self._mark_dirty(index >> LEAF_SHIFT)

    def set_run(self, index: int, first: int, count: int) -> None:
        """Put neighbouring clusters (or 0: none) into `count` places of the blob."""
        for at, number, part in _split_at_leaves(index, count):
            leaf, size = self._own_leaf(number), part.stop - part.start
            owned = size - leaf[part].count(UNALLOCATED)
            start = first and first + at - index
            leaf[part] = array("I", range(start, start + size) if first else [UNALLOCATED] * size)
            self.allocated_count += (size if first else 0) - owned
            self._mark_dirty(number)

    def fill_run(self, index: int, first: int, count: int) -> None:
        """Put neighbouring clusters into those of `count` places that have none."""
        for at, number, part in _split_at_leaves(index, count):
            there, start = self._leaf(number)[part], first + at - index
            if not any(there):
                self.set_run(at, start, len(there))
                continue
            for step, cluster in enumerate(there):
                if cluster == UNALLOCATED:
                    self.set(at + step, start + step)

    def clean(self, leaves: Iterable[int] | None = None) -> None:
        """Take note that these leaves, or all, are as on disk."""
        left = self.dirty_leaves.difference(leaves) if leaves is not None else _NONE_DIRTY
        self.dirty_leaves = left or _NONE_DIRTY

    def _mark_dirty(self, number: int) -> None:
        dirty = self.dirty_leaves
        if isinstance(dirty, set):
            dirty.add(number)
        else:
            self.dirty_leaves = {number}

    def resize(self, count: int) -> PackedPairs:
        """Change the number of clusters; return (first, count) of those that were cut off."""
        cut = PackedPairs()
        for _index, first, size in self.spans(count):
            cut.append_run(first, size)
        if self._runs is not None:
            self._runs = self._runs.resized(count)
        boundary = {n >> LEAF_SHIFT for n in (self.count - 1, count - 1) if n >= 0}
        leaf_count = leaves_for(count)
        self._keep_leaves(leaf_count)
        self.count = count
        self.allocated_count -= sum(cut.numbers[1::2])
        kept = (n for n in self.dirty_leaves | boundary if n < leaf_count)
        self.dirty_leaves = set(kept)
        if leaf_count and self.leaves[leaf_count - 1] is not ABSENT:
            self._fit(leaf_count - 1)
        for number in boundary:
            if number < leaf_count - 1 and self.leaves[number] is not ABSENT:
                self._fit(number)
        return cut

    def entries(self, leaf_number: int) -> "array[int]":
        """Return the clusters of a leaf as they belong on disk: one entry each."""
        size = self._size_of(leaf_number)
        leaf = self._leaf(leaf_number)
        return array("I", bytes(4 * size)) if leaf is ABSENT else array("I", leaf[:size])

    def fill_leaf(self, leaf_number: int, entries: "array[int]") -> None:
        """Take a leaf as it was read; it has as many entries as the blob has there."""
        if len(entries) != self._size_of(leaf_number):
            raise AssertionError(f"leaf {leaf_number} of {len(entries)} entries")
        owned_count = len(entries) - entries.count(UNALLOCATED)
        if owned_count:
            self.leaves[leaf_number] = entries
            self.allocated_count += owned_count

    def present_numbers(self) -> list[int]:
        """Return the numbers of all leaves that hold something, ascending."""
        made = [number for number, _leaf in self._made_leaves()]
        return made if self._runs is None else sorted({*made, *self._runs.present_numbers()})

    def allocated(self) -> list[int]:
        """Return all clusters that the blob owns, in the order of the blob."""
        if not self.allocated_count:
            return []
        if self._runs is not None:
            spans = self.spans()
            return [at for _index, first, count in spans for at in range(first, first + count)]
        if self.count <= LEAF_SIZE:
            return [*filter(None, self.leaves[0])]
        return [cluster for _number, leaf in self._made_leaves() for cluster in leaf if cluster]

    def allocated_pieces(self) -> Iterator[Piece]:
        """Yield all clusters that the blob owns, some thousand at a time."""
        if not self.allocated_count:
            return
        if self.count <= LEAF_SIZE:
            yield self.allocated()
            return
        piece: list[int] = []
        for begin, end, leaf in self._parts():
            if leaf is not None:
                piece += filter(None, leaf)
                if len(piece) >= _PIECE:
                    yield piece
                    piece = []
            elif self._runs is not None:
                yield from self._runs.pieces(begin, end)
        yield piece

    def places(self) -> Iterator[tuple[int, int]]:
        """Yield (index, cluster) of all places with a cluster, in order."""
        for index, first, count in self.spans():
            yield from zip(range(index, index + count), range(first, first + count), strict=True)

    def spans(self, start: int = 0) -> Iterator[tuple[int, int, int]]:
        """Yield (index, first cluster, count) of what is allocated from `start` on, in order.

        These are parts of runs: a run can be more than one of them.
        """
        if not self.allocated_count:
            return
        for begin, end, leaf in self._parts(start):
            if leaf is not None:
                yield from spans_of(leaf, begin, start)
            elif self._runs is not None:
                yield from self._runs.spans(begin, end)

    def _parts(self, start: int = 0) -> "Iterator[tuple[int, int, Leaf | None]]":
        """Yield (begin, end, leaf) from `start` on, in order; None where no leaf is made."""
        at = start
        for number, leaf in self._made_leaves():
            begin = number << LEAF_SHIFT
            if begin + LEAF_SIZE <= start:
                continue
            if at < begin:
                yield at, begin, None
            at = begin + LEAF_SIZE
            yield begin, at, leaf
        if at < self.count:
            yield at, self.count, None

    def runs(self) -> PackedPairs:
        """Return (first cluster, or 0, count) of neighbouring clusters, merged."""
        if self._runs is not None and not self._made_leaves():
            return self._runs.pairs()
        if self.count <= LEAF_SIZE and self.allocated_count:
            return PackedPairs.of(runs_of(self.leaves[0]))
        runs = PackedPairs()
        at = 0
        for index, first, count in self.spans():
            if at < index:
                runs.append_run(UNALLOCATED, index - at)
            runs.append_run(first, count)
            at = index + count
        if at < self.count:
            runs.append_run(UNALLOCATED, self.count - at)
        return runs

    def find(self, start: int, *, allocated: bool, end: int | None = None) -> int | None:
        """Return the first index from `start` on, before `end`, that is (or is not) allocated."""
        index = start
        limit = self.count if end is None else min(end, self.count)
        while index < limit:
            number = index >> LEAF_SHIFT
            if self.leaves[number] is ABSENT:
                stop = min(limit, self._next_leaf(number) << LEAF_SHIFT)
                found = self._find_absent(index, stop, allocated=allocated)
                if found is not None:
                    return found
                index = stop
            elif (self.get(index) != UNALLOCATED) == allocated:
                return index
            else:
                index += 1
        return None

    def _find_absent(self, index: int, end: int, *, allocated: bool) -> int | None:
        """Look for a place where no leaf is made."""
        if self._runs is not None:
            return self._runs.find(index, end, allocated=allocated)
        return None if allocated else index

    def _next_leaf(self, number: int) -> int:
        """Return the leaf to look at after an absent one; there is none between that is there.

        Neighbours are tried first, as many as there are leaves: then it takes little
        both to go through many leaves one by one and to find a single one far away.
        """
        leaves = self.leaves
        if isinstance(leaves, list):
            return number + 1
        near = range(number + 1, number + 1 + len(leaves))
        for neighbour in near:
            if neighbour in leaves:
                return neighbour
        last = leaves_for(self.count)
        return min((far for far in leaves if far >= near.stop), default=last)

    def _made_leaves(self) -> list[tuple[int, Leaf]]:
        """Return (number, leaf) of all leaves but the absent ones, in order."""
        leaves = self.leaves
        if isinstance(leaves, list):
            return [(number, leaf) for number, leaf in enumerate(leaves) if leaf is not ABSENT]
        return sorted(leaves.items(), key=_number_of)

    def _keep_leaves(self, count: int) -> None:
        """Drop the leaves from `count` on; in a list, add absent ones up to there."""
        leaves = self.leaves
        if isinstance(leaves, list):
            del leaves[count:]
            leaves.extend([ABSENT] * (count - len(leaves)))
            return
        for number in [number for number in leaves if number >= count]:
            del leaves[number]

    def _leaf(self, number: int) -> Leaf:
        """Return what a leaf holds, without keeping one that is made for it."""
        leaf = self.leaves[number]
        return leaf if leaf is not ABSENT or self._runs is None else self._runs.leaf(number)

    def _own_leaf(self, number: int) -> "array[int]":
        """Return a leaf that can be changed."""
        leaf = self.leaves[number]
        if not isinstance(leaf, array):
            leaf = self.entries(number)
            self.leaves[number] = leaf
        return leaf

    def _size_of(self, leaf_number: int) -> int:
        return min(LEAF_SIZE, self.count - (leaf_number << LEAF_SHIFT))

    def _fit(self, number: int) -> None:
        """Give a leaf at the old or new end its size."""
        size = self._size_of(number)
        fitted = array("I", self.leaves[number][:size])
        fitted.frombytes(bytes(4 * (size - len(fitted))))
        self.leaves[number] = fitted


def take_all(bits: bitarray, clusters: ExtentMap, *, among: bitarray | None = None) -> bool:
    """Set the bits of all clusters of a blob, or none where one of them is set, or there twice.

    None are set, either, where the bit of one is not set in `among`.
    """
    if clusters.count <= LEAF_SIZE:
        return _take_piece(bits, clusters.allocated(), among)
    for number, piece in enumerate(clusters.allocated_pieces()):
        if not _take_piece(bits, piece, among):
            for taken in islice(clusters.allocated_pieces(), number):
                bits[taken] = False
            return False
    return True


def _take_piece(bits: bitarray, piece: Piece, among: bitarray | None) -> bool:
    """Set some bits, or none where one is set, or there twice, or not set in `among`."""
    if isinstance(piece, slice):
        start, stop = piece.start, piece.stop
        if bits.find(1, start, stop) != _NOWHERE:
            return False
        if among is not None and among.find(0, start, stop) != _NOWHERE:
            return False
    elif piece:
        if bits[piece].any() or len({*piece}) != len(piece):
            return False
        if among is not None and not among[piece].all():
            return False
    bits[piece] = True
    return True


def mark_all(bits: bitarray, clusters: ExtentMap) -> None:
    """Set the bits of all clusters of a blob."""
    for piece in clusters.allocated_pieces():
        bits[piece] = True


def drop_all(bits: bitarray, clusters: ExtentMap) -> None:
    """Clear the bits of all clusters of a blob."""
    if clusters.count <= LEAF_SIZE:
        bits[clusters.allocated()] = False
        return
    for piece in clusters.allocated_pieces():
        bits[piece] = False


def _split_at_leaves(index: int, count: int) -> Iterator[tuple[int, int, slice]]:
    """Yield (index, number of the leaf, part of the leaf) of `count` places."""
    end = index + count
    while index < end:
        start = index & LEAF_MASK
        size = min(end - index, LEAF_SIZE - start)
        yield index, index >> LEAF_SHIFT, slice(start, start + size)
        index += size


def common_spans(one: ExtentMap, other: ExtentMap) -> Iterator[tuple[int, int, int]]:
    """Yield (index, first cluster, count) of what both have in the same places, in order."""
    spans = iter(one.spans())
    index, first, count = next(spans, _NO_SPAN)
    for begin, cluster, size in other.spans():
        while count and index < begin + size:
            start, end = max(index, begin), min(index + count, begin + size)
            if start < end and first - index == cluster - begin:
                yield start, cluster + start - begin, end - start
            if index + count > begin + size:
                break
            index, first, count = next(spans, _NO_SPAN)


def _number_of(numbered: tuple[int, Leaf]) -> int:
    return numbered[0]
