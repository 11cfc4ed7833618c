"""The map of a blob with run-length extents: leaves are made when they are first wanted.

Until then they are as absent as those without a cluster.
"""

from array import array
from collections.abc import Iterator
from typing import Final

from blobstore.alloc.cluster_map import ClusterMap, spans_of
from blobstore.alloc.leaves import (
    ABSENT,
    LEAF_MASK,
    LEAF_SHIFT,
    LEAF_SIZE,
    UNALLOCATED,
    KeptLeaves,
    Leaf,
    Piece,
)
from blobstore.alloc.run_source import RunSource
from blobstore.errors import CorruptError
from blobstore.format.pairs import PackedPairs

_EINVAL: Final = 22


class RunMap(ClusterMap):
    """A map whose absent leaves are as `source` says: nothing is kept for each of them.

    Leaves that are looked into stay, as long as there is room among the `kept`: of these
    they take so many `parts`.
    """

    __slots__ = ("_kept", "_parts", "_source")

    def __init__(self, source: RunSource) -> None:
        super().__init__(source.count)
        self.allocated_count = source.allocated_count
        self._source: RunSource | None = source
        self._kept: KeptLeaves | None = None
        self._parts = 0

    def keep_within(self, kept: KeptLeaves | None) -> None:
        """Keep leaves as long as these have room; those that are kept count among them."""
        if self._kept is not None:
            self._kept.parts_left += self._parts
        if kept is not None:
            kept.parts_left -= self._parts
        self._kept = kept

    def copy(self) -> ClusterMap:
        if self._source is None:
            return super().copy()
        copy = RunMap(self._source)
        self._share_leaves(copy)
        copy._parts = self._parts
        return copy

    def empty(self) -> None:
        super().empty()
        self._source = None
        self._recount()

    def get(self, index: int) -> int:
        source = self._source
        if not self.allocated_count:
            return UNALLOCATED
        if source is None or self.leaves[index >> LEAF_SHIFT] is not ABSENT:
            return super().get(index)
        kept = self._kept
        if kept is None or kept.parts_left <= 0:
            return source.get(index)
        leaf = source.leaf(index >> LEAF_SHIFT)
        if leaf is not ABSENT:
            kept.parts_left -= _parts_of(leaf)
            self._parts += _parts_of(leaf)
            self.leaves[index >> LEAF_SHIFT] = leaf
        return leaf[index & LEAF_MASK]

    def resize(self, count: int) -> PackedPairs:
        source = None if self._source is None else self._source.resized(count)
        cut = super().resize(count)
        self._source = source
        self._recount()
        return cut

    def _recount(self) -> None:
        """Give back what was kept of leaves that are gone."""
        kept = self._kept
        self.keep_within(None)
        self._parts = sum(_parts_of(leaf) for _number, leaf in self._made_leaves())
        self.keep_within(kept)

    def present_numbers(self) -> list[int]:
        made = super().present_numbers()
        if self._source is None:
            return made
        return sorted({*made, *self._source.present_numbers()})

    def allocated(self) -> list[int]:
        return [
            cluster
            for _index, first, count in self.spans()
            for cluster in range(first, first + count)
        ]

    def allocated_pieces(self) -> Iterator[Piece]:
        for begin, end, leaf in self._parts_in_order():
            if leaf is not None:
                yield [cluster for cluster in leaf if cluster]
            elif self._source is not None:
                yield from self._source.pieces(begin, end)

    def spans(self, start: int = 0) -> Iterator[tuple[int, int, int]]:
        for begin, end, leaf in self._parts_in_order(start):
            if leaf is not None:
                yield from spans_of(leaf, begin, start)
            elif self._source is not None:
                yield from self._source.spans(begin, end)

    def _parts_in_order(self, start: int = 0) -> "Iterator[tuple[int, int, Leaf | None]]":
        """Yield (begin, end, leaf), or no leaf where none is made, of what is behind `start`."""
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
        if self._source is None or self._made_leaves():
            return super().runs()
        return self._source.pairs()

    def _find_absent(self, index: int, end: int, *, allocated: bool) -> int | None:
        if self._source is None:
            return super()._find_absent(index, end, allocated=allocated)
        return self._source.find(index, end, allocated=allocated)

    def _leaf(self, number: int) -> Leaf:
        leaf = self.leaves[number]
        return leaf if leaf is not ABSENT or self._source is None else self._source.leaf(number)


def _parts_of(leaf: Leaf) -> int:
    return 1 if isinstance(leaf, range) else KeptLeaves.PARTS


def cluster_map_of_runs(runs: PackedPairs, *, limit: int, place: str) -> ClusterMap:
    """Build the map of run-length extents.

    Raises:
        CorruptError: More clusters than `limit`; found before memory is taken.
    """
    total = sum(runs.numbers[1::2])
    if total > limit:
        raise CorruptError(f"{place}: {total} clusters, expected at most {limit}", errno=_EINVAL)
    if total <= LEAF_SIZE:
        return _short_map(runs) if total else ClusterMap()
    source = RunSource.of(runs)
    return RunMap(source) if source.allocated_count else ClusterMap(total)


def _short_map(runs: PackedPairs) -> ClusterMap:
    entries = array("I")
    for first, count in runs:
        if first == UNALLOCATED:
            entries.frombytes(bytes(entries.itemsize * count))
        else:
            entries.extend(range(first, first + count))
    clusters = ClusterMap.of_leaf(entries)
    return clusters if clusters.allocated_count else ClusterMap(clusters.count)
