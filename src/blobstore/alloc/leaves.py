"""Leaves: up to 512 neighbouring places of a blob, and the cluster in each of them.

A leaf without clusters is one shared, unchangeable run of zeroes. Neighbouring clusters
that are never changed are a `range`; any other leaf is an array. Readers outside the core index
leaves directly: no leaf is longer than its part of the blob, unless it is absent.
"""

import sys
from array import array
from collections.abc import Iterator
from typing import Final, TypeAlias

from blobstore.units import ceil_div

LEAF_SIZE: Final = 512
LEAF_SHIFT: Final = 9
LEAF_MASK: Final = LEAF_SIZE - 1
UNALLOCATED: Final = 0

Leaf: TypeAlias = "array[int] | bytes | range"

Piece: TypeAlias = list[int] | slice
"""Clusters, each once: in any order, or neighbours."""

ABSENT: Final = bytes(LEAF_SIZE)
"""A leaf without clusters, or one that is not made yet; bytes, because they are immutable."""

_LARGEST_LIST: Final = 1024
"""The most leaves that are kept in a list: of more, those that are there are looked for."""

assert sys.byteorder == "little", "leaves are on disk as they are in memory"
assert array("I").itemsize == 4


class SparseLeaves(dict[int, "Leaf"]):
    """The leaves of a huge map that are there, by their number; any other is absent."""

    __slots__ = ()

    def __missing__(self, number: int) -> Leaf:
        return ABSENT


NO_LEAVES: Final = SparseLeaves()
"""Leaves of nothing, shared: they stay empty."""

Leaves: TypeAlias = list[Leaf] | SparseLeaves


def absent_leaves(cluster_count: int) -> Leaves:
    """Return the leaves of a map that owns nothing."""
    count = leaves_for(cluster_count)
    return [ABSENT] * count if count <= _LARGEST_LIST else SparseLeaves()


def leaves_for(cluster_count: int) -> int:
    """Return how many leaves a map of `cluster_count` clusters has."""
    return ceil_div(cluster_count, LEAF_SIZE)


def runs_of(leaf: Leaf) -> Iterator[tuple[int, int]]:
    """Yield the runs of one leaf; a cluster of a run follows the one before, or both are none."""
    if not leaf:
        return
    if isinstance(leaf, range):
        yield leaf.start, len(leaf)
        return
    first, count, follows = leaf[0], 0, leaf[0]
    for cluster in leaf:
        if cluster == follows:
            count += 1
        else:
            yield first, count
            first, count = cluster, 1
        follows = cluster + 1 if cluster else UNALLOCATED
    yield first, count


def spans_of(leaf: Leaf, begin: int, start: int) -> Iterator[tuple[int, int, int]]:
    """Yield (index, first cluster, count) from `start` on of a leaf that begins at `begin`."""
    skipped = max(0, start - begin)
    at = begin + skipped
    for first, count in runs_of(leaf[skipped:]):
        if first != UNALLOCATED:
            yield at, first, count
        at += count
