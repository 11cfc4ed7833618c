"""Maps of huge blobs: only the leaves that are there are kept, and nobody can tell."""

import tracemalloc
from array import array
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.alloc import leaves as leaves_module
from blobstore.alloc.extent_map import ExtentMap
from blobstore.alloc.leaves import ABSENT, LEAF_SIZE, SparseLeaves
from blobstore.format.pairs import PackedPairs
from blobstore.units import KIB

HUGE: Final = 1 << 26
LEAVES: Final = 24
PLACES: Final = st.one_of(
    st.integers(0, LEAVES * LEAF_SIZE - 1),
    st.builds(
        lambda leaf, at: leaf * LEAF_SIZE + at,
        st.integers(0, LEAVES - 1),
        st.sampled_from([0, 1, 511]),
    ),
)
SIZES: Final = st.one_of(PLACES, st.sampled_from([0, 512, 1024, LEAVES * LEAF_SIZE]))
STEPS: Final = st.one_of(
    st.tuples(st.just("set"), PLACES, st.integers(0, 40)),
    st.tuples(st.just("fill_leaf"), PLACES, st.integers(0, 40)),
    st.tuples(st.just("resize"), SIZES, st.just(0)),
    st.tuples(st.just("clean"), PLACES, st.just(0)),
    st.tuples(st.just("empty"), st.just(0), st.just(0)),
)


def made(count: int, *, largest_list: int) -> ExtentMap:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaves_module, "_LARGEST_LIST", largest_list)
        return ExtentMap(count)


def done(clusters: ExtentMap, name: str, place: int, value: int) -> Any:
    """Take a step that the map allows, and return what it answered."""
    if name == "resize":
        return clusters.resize(place)
    if name == "empty":
        return clusters.empty()
    if place >= clusters.count:
        return None
    if name == "set":
        return clusters.set(place, value)
    number = place // LEAF_SIZE
    size = len(clusters.entries(number))
    if name == "fill_leaf" and clusters.leaves[number] is ABSENT:
        return clusters.fill_leaf(number, array("I", [value] * size))
    return clusters.clean([number])


def answers(clusters: ExtentMap) -> list[Any]:
    """Return all that a map says; what was found from the beginning of each leaf on."""
    numbers = range(-(-clusters.count // LEAF_SIZE))
    starts = [number * LEAF_SIZE + at for number in numbers for at in (0, 3)]
    return [
        clusters.count,
        clusters.allocated_count,
        sorted(clusters.dirty_leaves),
        clusters.allocated(),
        list(clusters.places()),
        clusters.runs(),
        clusters.present_numbers(),
        [clusters.entries(number) for number in numbers],
        [clusters.leaves[number][0] for number in numbers],
        [clusters.get(start) for start in starts if start < clusters.count],
        [clusters.find(start, allocated=True) for start in starts],
        [clusters.find(start, allocated=False) for start in starts],
    ]


@given(SIZES, st.lists(STEPS, max_size=30))
def test_a_sparse_map_answers_as_a_list_does(size: int, script: list[tuple[str, int, int]]) -> None:
    listed, sparse = made(size, largest_list=LEAVES), made(size, largest_list=-1)
    leaves = sparse.leaves
    for step in script:
        assert done(sparse, *step) == done(listed, *step)
        assert answers(sparse) == answers(listed)
        assert answers(sparse.copy())[3:] == answers(listed.copy())[3:]
    assert sparse.leaves is leaves, "the fast path looks into this very object"
    assert isinstance(leaves, SparseLeaves)
    assert isinstance(listed.leaves, list)
    assert all(isinstance(leaf, array) for leaf in leaves.values())


@pytest.mark.parametrize("gap", [1, 2, 3, 7, 100, 5000])
def test_all_that_is_far_apart_is_found(gap: int) -> None:
    clusters = ExtentMap(HUGE)
    places = [number * gap * LEAF_SIZE + 5 for number in range(6)]
    for place in reversed(places):
        clusters.set(place, 9)
    found: list[int] = []
    at = clusters.find(0, allocated=True)
    while at is not None:
        found.append(at)
        at = clusters.find(at + 1, allocated=True)
    assert found == places
    assert clusters.find(5, allocated=False) == 6
    assert clusters.find(HUGE - 1, allocated=False) == HUGE - 1


def test_a_huge_map_takes_memory_for_what_is_there() -> None:
    tracemalloc.start()
    clusters = ExtentMap.of_runs(PackedPairs.of([(0, HUGE - 1), (7, 1)]), limit=HUGE, place="blob")
    assert clusters.runs() == [(0, HUGE - 1), (7, 1)]
    assert clusters.allocated() == [7]
    assert clusters.find(0, allocated=True) == HUGE - 1
    assert clusters.resize(HUGE - 5) == [(7, 1)]
    assert clusters.find(0, allocated=True) is None
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 * KIB


def test_what_a_huge_map_answers_beyond_its_end_is_nothing() -> None:
    clusters = ExtentMap(HUGE)
    clusters.set(HUGE - 1, 4)
    leaves = clusters.leaves
    assert leaves[HUGE // LEAF_SIZE - 1][-1] == 4
    assert leaves[HUGE // LEAF_SIZE] is ABSENT
    assert len(leaves) == 1


def test_a_copy_and_an_emptied_map_have_nothing_to_do_with_each_other() -> None:
    for count in (600, HUGE):
        clusters = ExtentMap(count)
        clusters.set(599, 3)
        copy = clusters.copy()
        clusters.empty()
        assert (clusters.allocated(), clusters.dirty_leaves) == ([], set())
        assert (copy.allocated(), copy.dirty_leaves, copy.count) == ([3], set(), count)
        assert type(copy.leaves) is type(clusters.leaves)
