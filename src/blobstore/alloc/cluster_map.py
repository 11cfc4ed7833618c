"""Which cluster holds which part of a blob: two levels, as on disk.

Readers outside the core index `leaves` directly, and ask the core where they find 0.
"""

from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, Self

from bitarray import bitarray

from blobstore.alloc.leaves import (
    ABSENT,
    LEAF_MASK,
    LEAF_SHIFT,
    LEAF_SIZE,
    UNALLOCATED,
    KeptLeaves,
    Leaf,
    Leaves,
    Piece,
    absent_leaves,
    leaves_for,
    runs_of,
)
from blobstore.format.pairs import PackedPairs

_NONE_DIRTY: Final[frozenset[int]] = frozenset()
"""Shared by all maps that are as on disk: most blobs never change while they are open."""

_PIECE: Final = 1 << 14
_NOWHERE: Final = -1
_NO_SPAN: Final = (0, 0, 0)


class ClusterMap:
    """The clusters of one blob, in order, and which leaves differ from the disk.

    The leaves are made when they are first wanted, as a list or, of a huge map,
    sparse: of most ancestors that own nothing they never are, and lists are what the
    collector of garbage goes through. Before anybody outside the core sees the map,
    `unfold` has made them.
    """

    __slots__ = ("allocated_count", "count", "dirty_leaves", "leaves")

    leaves: Leaves

    def __init__(self, count: int = 0) -> None:
        self.count = count
        self.allocated_count = 0
        self.dirty_leaves: set[int] | frozenset[int] = _NONE_DIRTY

    def __getattr__(self, name: str) -> Leaves:
        if name != "leaves":
            raise AttributeError(f"{type(self).__name__} has no {name}", name=name, obj=self)
        self.leaves = absent_leaves(self.count)
        return self.leaves

    @classmethod
    def of_leaf(cls, entries: "array[int]") -> Self:
        """Return the map of a blob that has no more than these clusters, as they were read."""
        clusters = cls(len(entries))
        clusters.leaves = [entries]
        clusters.allocated_count = len(entries) - entries.count(UNALLOCATED)
        return clusters

    def unfold(self) -> None:
        """Make the leaves: from now on they are always the same object."""
        len(self.leaves)

    def keep_within(self, kept: KeptLeaves | None) -> None:
        """Keep leaves that are made later as long as these have room; here all are made."""

    def copy(self) -> "ClusterMap":
        """Return a clean map that shares the leaves: from now on, one of both may change."""
        copy = ClusterMap(self.count)
        self._share_leaves(copy)
        return copy

    def _share_leaves(self, copy: "ClusterMap") -> None:
        for number, leaf in self._made_leaves():
            copy.leaves[number] = leaf
        copy.allocated_count = self.allocated_count

    def empty(self) -> None:
        """Own nothing any more, as on disk; what holds the leaves stays the same object."""
        leaves = self.leaves
        if isinstance(leaves, list):
            leaves[:] = [ABSENT] * len(leaves)
        else:
            leaves.clear()
        self.allocated_count = 0
        self.clean()

    def get(self, index: int) -> int:
        """Return the cluster at `index`, or 0."""
        if not self.allocated_count:
            return UNALLOCATED
        return self.leaves[index >> LEAF_SHIFT][index & LEAF_MASK]

    def set(self, index: int, cluster: int) -> None:
        """Put a cluster (or 0) at `index`, which lies in the blob."""
        leaf = self._own_leaf(index >> LEAF_SHIFT)
        old = leaf[index & LEAF_MASK]
        leaf[index & LEAF_MASK] = cluster
        self.allocated_count += (cluster != UNALLOCATED) - (old != UNALLOCATED)
        self._mark_dirty(index >> LEAF_SHIFT)

    def set_run(self, index: int, first: int, count: int) -> None:
        """Put neighbouring clusters (or 0: none) into so many places of the blob."""
        for at, number, part in _split_at_leaves(index, count):
            leaf, size = self._own_leaf(number), part.stop - part.start
            owned = size - leaf[part].count(UNALLOCATED)
            start = first and first + at - index
            leaf[part] = array("I", range(start, start + size) if first else [UNALLOCATED] * size)
            self.allocated_count += (size if first else 0) - owned
            self._mark_dirty(number)

    def fill_run(self, index: int, first: int, count: int) -> None:
        """Put neighbouring clusters into those of so many places that have none."""
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
        self.leaves[leaf_number] = entries
        self.allocated_count += len(entries) - entries.count(UNALLOCATED)

    def present_numbers(self) -> list[int]:
        """Return the numbers of all leaves but the absent ones, ascending."""
        return [number for number, _leaf in self._made_leaves()]

    def allocated(self) -> list[int]:
        """Return all clusters that the blob owns, in the order of the blob."""
        if not self.allocated_count:
            return []
        if self.count <= LEAF_SIZE:
            return [cluster for cluster in self.leaves[0] if cluster]
        return [cluster for _number, leaf in self._made_leaves() for cluster in leaf if cluster]

    def allocated_pieces(self) -> Iterator[Piece]:
        """Yield all clusters that the blob owns, some thousand at a time."""
        if self.count <= LEAF_SIZE:
            yield self.allocated()
            return
        piece: list[int] = []
        for _number, leaf in self._made_leaves():
            piece += [cluster for cluster in leaf if cluster]
            if len(piece) >= _PIECE:
                yield piece
                piece = []
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
        for number, leaf in self._made_leaves():
            if number >= start >> LEAF_SHIFT:
                yield from spans_of(leaf, number << LEAF_SHIFT, start)

    def runs(self) -> PackedPairs:
        """Return (first cluster, or 0, count) of neighbouring clusters, merged."""
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

    def find(self, start: int, *, allocated: bool) -> int | None:
        """Return the first index from `start` on that is (or is not) allocated."""
        index = start
        while index < self.count:
            number = index >> LEAF_SHIFT
            if self.leaves[number] is ABSENT:
                end = min(self.count, self._next_leaf(number) << LEAF_SHIFT)
                found = self._find_absent(index, end, allocated=allocated)
                if found is not None:
                    return found
                index = end
            elif (self.get(index) != UNALLOCATED) == allocated:
                return index
            else:
                index += 1
        return None

    def _find_absent(self, index: int, end: int, *, allocated: bool) -> int | None:
        """Look for a place where no leaf is made."""
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
        """Return a leaf as it is, or `ABSENT`."""
        return self.leaves[number]

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


def take_all(bits: bitarray, clusters: ClusterMap) -> bool:
    """Set the bits of all clusters of a blob; where one is set, or there twice, set none."""
    for number, piece in enumerate(clusters.allocated_pieces()):
        if _is_any_set(bits, piece):
            for taken in islice(clusters.allocated_pieces(), number):
                bits[taken] = False
            return False
        bits[piece] = True
    return True


def mark_all(bits: bitarray, clusters: ClusterMap) -> None:
    """Set the bits of all clusters of a blob."""
    for piece in clusters.allocated_pieces():
        bits[piece] = True


def drop_all(bits: bitarray, clusters: ClusterMap) -> None:
    """Clear the bits of all clusters of a blob."""
    for piece in clusters.allocated_pieces():
        bits[piece] = False


def are_all_set(bits: bitarray, clusters: ClusterMap) -> bool:
    """Tell whether the bits of all clusters of a blob are set."""
    for piece in clusters.allocated_pieces():
        if isinstance(piece, slice):
            if bits.find(0, piece.start, piece.stop) != _NOWHERE:
                return False
        elif not bits[piece].all():
            return False
    return True


def _is_any_set(bits: bitarray, piece: Piece) -> bool:
    """Tell whether a cluster is marked already, or there twice."""
    if isinstance(piece, slice):
        return bits.find(1, piece.start, piece.stop) != _NOWHERE
    return bits[piece].any() or len(set(piece)) != len(piece)


def _split_at_leaves(index: int, count: int) -> Iterator[tuple[int, int, slice]]:
    """Yield (index, number of the leaf, part of the leaf) of so many places."""
    end = index + count
    while index < end:
        start = index & LEAF_MASK
        size = min(end - index, LEAF_SIZE - start)
        yield index, index >> LEAF_SHIFT, slice(start, start + size)
        index += size


def common_spans(one: ClusterMap, other: ClusterMap) -> Iterator[tuple[int, int, int]]:
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


def spans_of(leaf: Leaf, begin: int, start: int) -> Iterator[tuple[int, int, int]]:
    """Yield (index, first cluster, count) from `start` on of a leaf that begins at `begin`."""
    skipped = max(0, start - begin)
    at = begin + skipped
    for first, count in runs_of(leaf[skipped:]):
        if first != UNALLOCATED:
            yield at, first, count
        at += count


def _number_of(numbered: tuple[int, Leaf]) -> int:
    return numbered[0]
