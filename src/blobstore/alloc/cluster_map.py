"""Which cluster holds which part of a blob.

Two levels, as on disk: leaves of up to 512 clusters. An absent leaf is one
shared, unchangeable run of zeroes; of huge maps only the other leaves are kept,
so that a thin blob of many TiB costs nothing. Readers outside the core index
`leaves` directly.
"""

import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, Self, TypeAlias

from bitarray import bitarray

from blobstore.errors import CorruptError

LEAF_SIZE: Final = 512
LEAF_SHIFT: Final = 9
LEAF_MASK: Final = LEAF_SIZE - 1
UNALLOCATED: Final = 0

Leaf: TypeAlias = "array[int] | bytes"

ABSENT: Final = bytes(LEAF_SIZE)
"""A leaf without clusters; bytes, because nobody can change them."""

_NONE_DIRTY: Final[frozenset[int]] = frozenset()
"""Shared by all maps that are as on disk: most blobs never change while they are open."""

_LARGEST_LIST: Final = 1024
"""The most leaves that are kept in a list: of more, those that are there are looked for."""

_PIECE: Final = 1 << 14
_EINVAL: Final = 22

assert sys.byteorder == "little", "leaves are on disk as they are in memory"
assert array("I").itemsize == 4


class SparseLeaves(dict[int, "Leaf"]):
    """The leaves of a huge map that are there, by their number; any other is absent."""

    __slots__ = ()

    def __missing__(self, number: int) -> Leaf:
        return ABSENT


Leaves: TypeAlias = list[Leaf] | SparseLeaves


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
        count = _leaves_for(self.count)
        self.leaves = [ABSENT] * count if count <= _LARGEST_LIST else SparseLeaves()
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

    def present_leaves(self) -> list[tuple[int, Leaf]]:
        """Return (number, leaf) of all leaves but the absent ones, in order."""
        leaves = self.leaves
        if isinstance(leaves, list):
            return [(number, leaf) for number, leaf in enumerate(leaves) if leaf is not ABSENT]
        return sorted(leaves.items(), key=_number_of)

    def copy(self) -> "ClusterMap":
        """Return a clean map that shares the leaves: from now on, one of both may change."""
        copy = ClusterMap(self.count)
        for number, leaf in self.present_leaves():
            copy.leaves[number] = leaf
        copy.allocated_count = self.allocated_count
        return copy

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

    def resize(self, count: int) -> list[int]:
        """Change the number of clusters; return the clusters that were cut off."""
        cut = self._cut(count) if count < self.count else []
        boundary = {n >> LEAF_SHIFT for n in (self.count - 1, count - 1) if n >= 0}
        leaf_count = _leaves_for(count)
        self._keep_leaves(leaf_count)
        self.count = count
        self.allocated_count -= len(cut)
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
        leaf = self.leaves[leaf_number]
        return array("I", leaf[:size]) if isinstance(leaf, array) else array("I", bytes(4 * size))

    def fill_leaf(self, leaf_number: int, entries: "array[int]") -> None:
        """Take a leaf as it was read; it has as many entries as the blob has there."""
        if len(entries) != self._size_of(leaf_number):
            raise AssertionError(f"leaf {leaf_number} of {len(entries)} entries")
        self.leaves[leaf_number] = entries
        self.allocated_count += len(entries) - entries.count(UNALLOCATED)

    def allocated(self) -> list[int]:
        """Return all clusters that the blob owns, in the order of the blob."""
        if not self.allocated_count:
            return []
        if self.count <= LEAF_SIZE:
            return [cluster for cluster in self.leaves[0] if cluster]
        return [cluster for _number, leaf in self.present_leaves() for cluster in leaf if cluster]

    def allocated_pieces(self) -> Iterator[list[int]]:
        """Yield all clusters that the blob owns, in order, some thousand at a time."""
        if self.count <= LEAF_SIZE:
            yield self.allocated()
            return
        piece: list[int] = []
        for _number, leaf in self.present_leaves():
            piece += [cluster for cluster in leaf if cluster]
            if len(piece) >= _PIECE:
                yield piece
                piece = []
        yield piece

    def places(self) -> Iterator[tuple[int, int]]:
        """Yield (index, cluster) of all places with a cluster, in order."""
        for number, leaf in self.present_leaves():
            for index, cluster in enumerate(leaf, start=number << LEAF_SHIFT):
                if cluster:
                    yield index, cluster

    def runs(self) -> list[tuple[int, int]]:
        """Return (first cluster, or 0, count) of neighbouring clusters, merged."""
        if self.count and not self.allocated_count:
            return [(UNALLOCATED, self.count)]
        runs: list[tuple[int, int]] = []
        for first, count in self._leaf_runs():
            if runs and _continues(runs[-1], first):
                runs[-1] = (runs[-1][0], runs[-1][1] + count)
            else:
                runs.append((first, count))
        return runs

    def find(self, start: int, *, allocated: bool) -> int | None:
        """Return the first index from `start` on that is (or is not) allocated."""
        index = start
        while index < self.count:
            if self.leaves[index >> LEAF_SHIFT] is ABSENT:
                if not allocated:
                    return index
                index = self._next_leaf(index >> LEAF_SHIFT) << LEAF_SHIFT
            elif (self.get(index) != UNALLOCATED) == allocated:
                return index
            else:
                index += 1
        return None

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
        last = _leaves_for(self.count)
        return min((far for far in leaves if far >= near.stop), default=last)

    def _leaf_runs(self) -> Iterator[tuple[int, int]]:
        at = 0
        for number, leaf in self.present_leaves():
            first = number << LEAF_SHIFT
            if at < first:
                yield UNALLOCATED, first - at
            yield from _runs_of(leaf)
            at = first + len(leaf)
        if at < self.count:
            yield UNALLOCATED, self.count - at

    def _keep_leaves(self, count: int) -> None:
        """Drop the leaves from `count` on; in a list, add absent ones up to there."""
        leaves = self.leaves
        if isinstance(leaves, list):
            del leaves[count:]
            leaves.extend([ABSENT] * (count - len(leaves)))
            return
        for number in [number for number in leaves if number >= count]:
            del leaves[number]

    def _own_leaf(self, number: int) -> "array[int]":
        leaf = self.leaves[number]
        if not isinstance(leaf, array):
            leaf = array("I", bytes(4 * self._size_of(number)))
            self.leaves[number] = leaf
        return leaf

    def _size_of(self, leaf_number: int) -> int:
        return min(LEAF_SIZE, self.count - (leaf_number << LEAF_SHIFT))

    def _fit(self, number: int) -> None:
        """Give a leaf at the old or new end its size."""
        leaf = self._own_leaf(number)
        size = self._size_of(number)
        fitted = leaf[:size]
        fitted.frombytes(bytes(4 * (size - len(fitted))))
        self.leaves[number] = fitted

    def _cut(self, count: int) -> list[int]:
        cut: list[int] = []
        for number, leaf in self.present_leaves():
            kept = max(0, count - (number << LEAF_SHIFT))
            cut += [cluster for cluster in leaf[kept:] if cluster]
        return cut


def cluster_map_of_runs(runs: Sequence[tuple[int, int]], *, limit: int, place: str) -> ClusterMap:
    """Build the map of run-length extents.

    Raises:
        CorruptError: More clusters than `limit`; found before memory is taken.
    """
    total = sum(count for _first, count in runs)
    if total > limit:
        raise CorruptError(f"{place}: {total} clusters, expected at most {limit}", errno=_EINVAL)
    clusters = ClusterMap(total)
    number, leaf = 0, array("I")
    for first, count in runs:
        left = count
        while left:
            if first == UNALLOCATED and not leaf:
                number += left >> LEAF_SHIFT
                left &= LEAF_MASK
            step = min(left, LEAF_SIZE - len(leaf))
            if first == UNALLOCATED:
                leaf.frombytes(bytes(leaf.itemsize * step))
            else:
                start = first + count - left
                leaf.extend(range(start, start + step))
            left -= step
            if len(leaf) == LEAF_SIZE:
                _fill(clusters, number, leaf)
                number, leaf = number + 1, array("I")
    _fill(clusters, number, leaf)
    return clusters


def _fill(clusters: ClusterMap, number: int, leaf: "array[int]") -> None:
    """Let the map have a leaf, unless nothing is allocated in it."""
    if leaf.count(UNALLOCATED) < len(leaf):
        clusters.fill_leaf(number, leaf)


def take_all(bits: bitarray, clusters: ClusterMap) -> bool:
    """Set the bits of all clusters of a blob; where one is set, or there twice, set none."""
    for number, piece in enumerate(clusters.allocated_pieces()):
        if bits[piece].any() or len(set(piece)) != len(piece):
            for taken in islice(clusters.allocated_pieces(), number):
                bits[taken] = False
            return False
        bits[piece] = True
    return True


def drop_all(bits: bitarray, clusters: ClusterMap) -> None:
    """Clear the bits of all clusters of a blob."""
    for piece in clusters.allocated_pieces():
        bits[piece] = False


def _number_of(numbered: tuple[int, Leaf]) -> int:
    return numbered[0]


def _runs_of(leaf: Leaf) -> Iterator[tuple[int, int]]:
    """Yield the runs of one leaf; a cluster of a run follows the one before, or both are none."""
    first, count, follows = leaf[0], 0, leaf[0]
    for cluster in leaf:
        if cluster == follows:
            count += 1
        else:
            yield first, count
            first, count = cluster, 1
        follows = cluster + 1 if cluster else UNALLOCATED
    yield first, count


def _continues(run: tuple[int, int], first: int) -> bool:
    if first == UNALLOCATED or run[0] == UNALLOCATED:
        return first == run[0]
    return first == run[0] + run[1]


def _leaves_for(count: int) -> int:
    return -(-count // LEAF_SIZE)
