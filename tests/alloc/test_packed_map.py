"""A map whose leaf stays as it was read: it is like any other until and after it is unpacked."""

from array import array
from collections.abc import Callable
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.alloc.cluster_map import ClusterMap
from blobstore.alloc.leaves import LEAF_SIZE
from blobstore.alloc.packed_map import PackedMap

ENTRIES: Final = st.lists(st.sampled_from([0, 5, 6, 7, 900]), min_size=1, max_size=LEAF_SIZE)


def both(entries: list[int]) -> tuple[PackedMap, ClusterMap]:
    leaf = array("I", entries)
    packed = PackedMap(len(leaf), len(leaf) - leaf.count(0), leaf.tobytes())
    return packed, ClusterMap.of_leaf(leaf)


def said_by(clusters: ClusterMap) -> list[object]:
    return [
        clusters.count,
        clusters.allocated_count,
        clusters.allocated(),
        list(clusters.allocated_pieces()),
        list(clusters.spans()),
        [clusters.get(index) for index in range(clusters.count)],
        list(clusters.places()),
        list(clusters.runs()),
        [(number, clusters.entries(number)) for number in clusters.present_numbers()],
        clusters.dirty_leaves,
    ]


@given(ENTRIES)
def test_a_packed_map_says_what_any_other_says(entries: list[int]) -> None:
    packed, other = both(entries)
    assert said_by(packed) == said_by(other)
    assert packed.packed is None
    assert said_by(packed) == said_by(other)


CHANGES: Final[dict[str, Callable[[ClusterMap], object]]] = {
    "a cluster is set": lambda clusters: clusters.set(1, 77),
    "it grows": lambda clusters: clusters.resize(600),
    "it shrinks": lambda clusters: clusters.resize(2),
    "it is emptied": lambda clusters: clusters.empty(),
    "it is unfolded": lambda clusters: clusters.unfold(),
    "it is copied": lambda clusters: clusters.copy().set(0, 9),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_packed_map_is_changed_like_any_other(change: str) -> None:
    packed, other = both([4, 0, 8])
    assert CHANGES[change](packed) == CHANGES[change](other)
    leaves = packed.leaves
    assert said_by(packed) == said_by(other)
    assert packed.leaves is leaves


def test_nothing_is_unpacked_to_look_up_clusters() -> None:
    packed, _other = both([4, 0, 8])
    assert (packed.get(0), packed.get(1), packed.allocated()) == (4, 0, [4, 8])
    assert packed.packed is not None


def test_what_a_packed_map_does_not_have_is_named() -> None:
    packed, name = both([1])[0], "leafs"
    with pytest.raises(AttributeError, match="PackedMap has no leafs"):
        getattr(packed, name)
