"""The extent map: two levels that behave like one list."""

from array import array
from itertools import groupby

import pytest
from bitarray import bitarray
from hypothesis import given
from hypothesis import strategies as st

from blobstore.alloc.extent_map import ExtentMap, drop_all, take_all
from blobstore.alloc.leaves import ABSENT, LEAF_SIZE
from blobstore.errors import CorruptError
from blobstore.format.pairs import PackedPairs

Script = list[tuple[str, int, int]]
SIZES = st.sampled_from([0, 1, 3, 511, 512, 513, 1024, 1500])
STEPS = st.one_of(
    st.tuples(st.just("set"), st.integers(0, 1499), st.integers(0, 40)),
    st.tuples(st.just("resize"), SIZES, st.just(0)),
)


def clusters_of(runs: PackedPairs) -> list[int]:
    return [first + step for first, count in runs for step in range(count)]


def listed(clusters: ExtentMap) -> list[int]:
    return [clusters.get(index) for index in range(clusters.count)]


def runs_of(content: list[int]) -> list[tuple[int, int]]:
    keyed = groupby(
        enumerate(content), key=lambda pair: (pair[1] == 0, pair[1] and pair[1] - pair[0])
    )
    groups = [list(group) for _key, group in keyed]
    return [(group[0][1], len(group)) for group in groups]


@given(SIZES, st.lists(STEPS, max_size=30))
def test_a_map_behaves_like_a_list(size: int, script: Script) -> None:
    clusters, model = ExtentMap(size), [0] * size
    leaves = clusters.leaves
    for name, first, second in script:
        if name == "resize":
            cut = clusters.resize(first)
            assert clusters_of(cut) == [cluster for cluster in model[first:] if cluster]
            model = model[:first] + [0] * (first - len(model))
        elif first < len(model):
            clusters.set(first, second)
            model[first] = second
        assert listed(clusters) == model
        assert clusters.allocated() == [cluster for cluster in model if cluster]
        assert clusters.allocated_count == len(clusters.allocated())
        assert clusters.runs() == runs_of(model)
        assert clusters.leaves is leaves, "the fast path looks into this very list"


@given(SIZES, st.lists(STEPS, max_size=10), st.integers(0, 1500))
def test_the_next_allocated_and_unallocated_places_are_found(
    size: int, script: Script, start: int
) -> None:
    clusters = ExtentMap(size)
    for name, index, cluster in script:
        if name == "set" and index < size:
            clusters.set(index, cluster)
    model = listed(clusters)
    for allocated in (True, False):
        wanted = [at for at in range(start, size) if bool(model[at]) == allocated]
        assert clusters.find(start, allocated=allocated) == (wanted[0] if wanted else None)


def test_an_absent_leaf_is_shared_and_costs_nothing() -> None:
    clusters = ExtentMap(1 << 19)
    assert clusters.leaves == [ABSENT] * 1024
    clusters.set(5, 7)
    assert [clusters.leaves[number] is ABSENT for number in (0, 1)] == [False, True]


def test_what_changed_is_dirty_until_it_is_clean() -> None:
    clusters = ExtentMap(3 * LEAF_SIZE)
    clusters.set(0, 9)
    clusters.set(1, 8)
    clusters.set(2 * LEAF_SIZE, 7)
    assert clusters.dirty_leaves == {0, 2}
    clusters.clean([0])
    assert clusters.dirty_leaves == {2}
    clusters.clean()
    assert clusters.dirty_leaves == set()


def test_both_ends_of_a_resized_map_are_dirty() -> None:
    clusters = ExtentMap(3)
    clusters.resize(2 * LEAF_SIZE + 5)
    assert clusters.dirty_leaves == {0, 2}
    clusters.resize(1)
    assert clusters.dirty_leaves == {0}


def test_a_leaf_has_one_entry_for_each_cluster_of_the_blob() -> None:
    clusters = ExtentMap(LEAF_SIZE + 3)
    clusters.set(LEAF_SIZE, 4)
    assert clusters.entries(0) == array("I", [0] * LEAF_SIZE)
    assert clusters.entries(1) == array("I", [4, 0, 0])


def test_a_leaf_of_the_wrong_size_is_not_taken() -> None:
    clusters = ExtentMap(3)
    clusters.fill_leaf(0, array("I", [1, 0, 3]))
    assert (listed(clusters), clusters.allocated_count) == ([1, 0, 3], 2)
    with pytest.raises(AssertionError, match="leaf 0 of 2 entries"):
        clusters.fill_leaf(0, array("I", [1, 0]))


def test_runs_become_a_map_and_runs_again() -> None:
    runs = [(0, 600), (20, 700), (9, 1), (0, 2)]
    clusters = ExtentMap.of_runs(PackedPairs.of(runs), limit=2000, place="blob")
    assert clusters.runs() == runs
    assert (clusters.allocated_count, clusters.dirty_leaves) == (701, set())


def test_runs_that_are_too_long_are_refused_before_memory_is_taken() -> None:
    with pytest.raises(CorruptError, match="blob: 4294967295 clusters, expected at most 10"):
        ExtentMap.of_runs(PackedPairs.of([(1, 0xFFFF_FFFF)]), limit=10, place="blob")


@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(1, 9000), st.integers(0, 1300)),
            st.tuples(st.just(0), st.sampled_from([0, 1, 3, 511, 512, 513, 5000])),
        ),
        max_size=12,
    )
)
def test_runs_of_any_length_are_the_clusters_they_name(runs: list[tuple[int, int]]) -> None:
    expected = [first + step if first else 0 for first, count in runs for step in range(count)]
    clusters = ExtentMap.of_runs(PackedPairs.of(runs), limit=1 << 20, place="blob")
    assert [clusters.get(index) for index in range(clusters.count)] == expected
    assert clusters.allocated() == [cluster for cluster in expected if cluster]
    assert clusters.allocated_count == len(clusters.allocated())
    assert not clusters.dirty_leaves
    again = [first + step if first else 0 for first, n in clusters.runs() for step in range(n)]
    assert again == expected
    assert all(any(clusters.entries(number)) for number in clusters.present_numbers())


@pytest.mark.parametrize("contested", [None, 0, 39_999])
def test_all_clusters_of_a_map_are_taken_or_none(contested: int | None) -> None:
    clusters = ExtentMap.of_runs(PackedPairs.of([(1, 40_000)]), limit=1 << 20, place="blob")
    bits = bitarray(50_000, endian="little")
    if contested is not None:
        bits[1 + contested] = True
    assert take_all(bits, clusters) == (contested is None)
    assert bits.count() == (40_000 if contested is None else 1)
    drop_all(bits, clusters)
    assert not bits.any()


def test_a_map_that_names_a_cluster_twice_takes_none() -> None:
    clusters = ExtentMap.of_runs(
        PackedPairs.of([(1, 20_000), (1, 20_000)]), limit=1 << 20, place="blob"
    )
    bits = bitarray(50_000, endian="little")
    assert not take_all(bits, clusters)
    assert not bits.any()


def test_a_leaf_that_was_read_and_holds_nothing_stays_absent() -> None:
    clusters = ExtentMap(600)
    clusters.fill_leaf(0, array("I", bytes(4 * LEAF_SIZE)))
    clusters.fill_leaf(1, array("I", [7] + [0] * 87))
    assert clusters.present_numbers() == [1]
    assert clusters.allocated() == [7]


@pytest.mark.parametrize("allocated", [True, False])
def test_find_stops_before_an_end(allocated: bool) -> None:
    clusters = ExtentMap(2000)
    for index in range(0 if not allocated else 900, 900 if not allocated else 901):
        clusters.set(index, 7)
    assert clusters.find(0, allocated=allocated) == 900
    assert clusters.find(0, allocated=allocated, end=901) == 900
    assert clusters.find(0, allocated=allocated, end=900) is None
    assert clusters.find(900, allocated=allocated, end=5000) == 900
