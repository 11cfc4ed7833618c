"""Maps of runs: leaves are made when they are wanted, and nobody can tell."""

import tracemalloc
from array import array
from itertools import islice
from typing import Any, Final

import pytest
from bitarray import bitarray
from hypothesis import given
from hypothesis import strategies as st

from blobstore.alloc import extent_map
from blobstore.alloc.extent_map import (
    ExtentMap,
    common_spans,
    drop_all,
    mark_all,
    take_all,
)
from blobstore.alloc.leaves import ABSENT, LEAF_SIZE, SparseLeaves
from blobstore.format.pairs import PackedPairs
from blobstore.units import KIB, MIB

RUNS: Final = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 9000), st.integers(0, 1300)),
        st.tuples(st.just(0), st.sampled_from([0, 1, 3, 511, 512, 513, 5000])),
    ),
    max_size=12,
)
SIZES: Final = st.sampled_from([0, 1, 511, 512, 513, 1024, 1500, 5000, 9000])
STEPS: Final = st.one_of(
    st.tuples(st.just("set"), st.integers(0, 9000), st.integers(0, 40)),
    st.tuples(st.just("get"), st.integers(0, 9000), st.just(0)),
    st.tuples(st.just("resize"), SIZES, st.just(0)),
    st.tuples(st.just("empty"), st.just(0), st.just(0)),
)


def clusters_of(runs: list[tuple[int, int]]) -> list[int]:
    return [first + step if first else 0 for first, count in runs for step in range(count)]


def made_of(runs: list[tuple[int, int]], *, kept_bytes: int | None = None) -> ExtentMap:
    with pytest.MonkeyPatch.context() as patch:
        if kept_bytes is not None:
            patch.setattr(extent_map, "_KEPT_BYTES", kept_bytes)
            patch.setattr(extent_map, "_KEPT_BYTES_PER_RUN", 0)
        return ExtentMap.of_runs(PackedPairs.of(runs), limit=1 << 26, place="blob")


def spelled_out(runs: list[tuple[int, int]]) -> ExtentMap:
    """Return the same map with all leaves made."""
    numbers = clusters_of(runs)
    clusters = ExtentMap(len(numbers))
    for index, cluster in enumerate(numbers):
        if cluster:
            clusters.set(index, cluster)
    clusters.clean()
    return clusters


def done(clusters: ExtentMap, name: str, place: int, value: int) -> Any:
    """Take a step that the map allows, and return what it answered."""
    if name == "resize":
        return clusters.resize(place)
    if name == "empty":
        return clusters.empty()
    if place >= clusters.count:
        return None
    return clusters.set(place, value) if name == "set" else clusters.get(place)


def answers(clusters: ExtentMap) -> list[Any]:
    """Return all that a map says, without a leaf being made for it."""
    numbers = range(-(-clusters.count // LEAF_SIZE))
    starts = [number * LEAF_SIZE + at for number in numbers for at in (0, 3)]
    return [
        clusters.count,
        clusters.allocated_count,
        clusters.allocated(),
        list(clusters.places()),
        clusters.runs(),
        [clusters.entries(number) for number in numbers],
        [number for number in clusters.present_numbers() if any(clusters.entries(number))],
        [clusters.find(start, allocated=True) for start in starts],
        [clusters.find(start, allocated=False) for start in starts],
        sorted(number for piece in clusters.allocated_pieces() for number in numbers_of(piece)),
    ]


def numbers_of(piece: list[int] | slice) -> list[int]:
    return list(range(piece.start, piece.stop)) if isinstance(piece, slice) else piece


@given(RUNS, st.lists(STEPS, max_size=20), st.sampled_from([0, 1, 3000, 1 << 20]))
def test_a_map_of_runs_answers_as_one_whose_leaves_are_all_there(
    runs: list[tuple[int, int]], script: list[tuple[str, int, int]], kept_bytes: int
) -> None:
    lazy, plain = made_of(runs, kept_bytes=kept_bytes), spelled_out(runs)
    leaves = lazy.leaves
    for step in script:
        assert done(lazy, *step) == done(plain, *step)
        assert answers(lazy) == answers(plain)
        assert sorted(lazy.dirty_leaves) == sorted(plain.dirty_leaves)
        assert answers(lazy.copy()) == answers(plain.copy())
    assert lazy.leaves is leaves, "the fast path looks into this very object"
    for index in range(0, lazy.count, 100):
        assert lazy.get(index) == plain.get(index)


def test_the_lane_finds_a_leaf_after_it_was_asked_for_and_nothing_before() -> None:
    clusters = made_of([(20, 2000), (0, 100), (9000, 700)])
    assert list(clusters.leaves) == [ABSENT] * 6
    assert (clusters.get(513), clusters.get(2050), clusters.get(2100)) == (533, 0, 9000)
    assert clusters.leaves[1] == range(532, 1044)
    assert clusters.leaves[4][2050 % LEAF_SIZE : 2102 % LEAF_SIZE] == array(
        "I", [0] * 50 + [9000, 9001]
    )
    assert clusters.leaves[0] is ABSENT


def test_leaves_that_are_kept_are_bounded_by_the_runs() -> None:
    lone = [(run, 1) for pair in zip(range(7, 27), [0] * 20, strict=True) for run in pair]
    runs = [(first, 1 if first else 600) for first, _count in lone]
    clusters = made_of(runs, kept_bytes=3 * 4 * LEAF_SIZE)
    assert [clusters.get(601 * number) for number in range(20)] == list(range(7, 27))
    assert (len(clusters.present_numbers()), made_count(clusters)) == (20, 3)
    copy = clusters.copy()
    clusters.empty()
    assert [copy.get(601 * number) for number in range(20)] == list(range(7, 27))
    assert (made_count(clusters), made_count(copy)) == (0, 3)


def test_all_that_is_read_of_a_map_takes_no_more_than_sixteen_times_its_page() -> None:
    runs = [(1 + 2 * number, 1) if number % 2 else (0, 999) for number in range(500)]
    pairs = PackedPairs.of(runs)
    tracemalloc.start()
    clusters = ExtentMap.of_runs(pairs, limit=1 << 26, place="blob")
    for index in range(0, clusters.count, LEAF_SIZE):
        clusters.get(index)
    now, _peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert now < 256 * KIB


def made_count(clusters: ExtentMap) -> int:
    return sum(leaf is not ABSENT for leaf in islice(clusters.leaves, 10_000))


@pytest.mark.slow
def test_neighbouring_clusters_of_a_huge_blob_take_little_even_when_they_are_read() -> None:
    tracemalloc.start()
    clusters = made_of([(50, 1 << 26)])
    assert clusters.get((1 << 26) - 1) == (1 << 26) + 49
    assert clusters.runs() == [(50, 1 << 26)]
    _now, peak = tracemalloc.get_traced_memory()
    assert peak < 64 * KIB
    for index in range(0, 1 << 26, LEAF_SIZE):
        clusters.get(index)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 * MIB
    assert isinstance(clusters.leaves, SparseLeaves)


def test_runs_far_apart_take_as_much_memory_as_on_disk() -> None:
    pairs = PackedPairs.of(
        [(1 + n // 2 if n % 2 else 0, 1 if n % 2 else 511) for n in range(100_000)]
    )
    tracemalloc.start()
    clusters = ExtentMap.of_runs(pairs, limit=1 << 26, place="blob")
    bits = bitarray(1 << 20, endian="little")
    assert take_all(bits, clusters)
    now, _peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert bits.count() == clusters.allocated_count == 50_000
    assert now < 8 * 100_000 + 256 * KIB


@pytest.mark.parametrize("cluster", [20, 25, 90, 700])
def test_one_bit_that_is_not_set_is_found_in_long_and_in_short_runs(cluster: int) -> None:
    clusters = made_of([(0, 600), (20, 10), (90, 1), (600, 300)])
    bits = bitarray(1024, endian="little")
    assert take_all(bits, clusters)
    used, bits = bits, bitarray(1024, endian="little")
    used[cluster] = False
    assert not take_all(bits, clusters, among=used)
    assert not bits.any()
    assert not take_all(used, clusters)
    assert used.count() == clusters.allocated_count - 1, "what was set by others stays so"
    used[cluster] = True
    assert take_all(bits, clusters, among=used)
    drop_all(bits, clusters)
    assert not bits.any()


def test_a_map_without_a_cluster_has_nothing_to_make() -> None:
    for runs in ([], [(0, 3), (0, 2)], [(0, 700), (0, 700)]):
        clusters = made_of(runs)
        assert clusters.get(0) == 0 if clusters.count else True
        assert (clusters.count, clusters.allocated()) == (sum(n for _first, n in runs), [])


@pytest.mark.parametrize("sizes", [(0, 3000), (100, 3000), (900, 512, 3000), (2000, 3000)])
def test_what_was_cut_off_does_not_come_back(sizes: tuple[int, ...]) -> None:
    runs = [(20, 800), (0, 200), (900, 500)]
    clusters, numbers = made_of(runs), clusters_of(runs)
    for size in sizes:
        cut = clusters_of(list(clusters.resize(size)))
        assert cut == [cluster for cluster in numbers[size:] if cluster]
        numbers = numbers[:size] + [0] * (size - len(numbers))
        assert [clusters.get(index) for index in range(size)] == numbers
        assert clusters.allocated() == [cluster for cluster in numbers if cluster]
    clusters.empty()
    assert clusters.present_numbers() == []
    assert clusters.runs() == [(0, sizes[-1])]
    assert clusters.resize(10) == []


def test_all_leaves_of_a_map_that_was_written_to_are_taken_some_at_a_time() -> None:
    clusters = ExtentMap(40_000)
    for index in range(0, 40_000, 2):
        clusters.set(index, 1 + index)
    pieces = [numbers_of(piece) for piece in clusters.allocated_pieces()]
    assert len(pieces) > 1
    assert [number for piece in pieces for number in piece] == list(range(1, 40_001, 2))


@given(RUNS, RUNS)
def test_what_two_maps_have_in_the_same_places_is_found(
    some: list[tuple[int, int]], more: list[tuple[int, int]]
) -> None:
    one, other = made_of([*some, (0, 700), *more]), made_of([*more, (0, 700), *some])
    expected = [
        (index, cluster)
        for index, cluster in one.places()
        if index < other.count and other.get(index) == cluster
    ]
    found = list(common_spans(one, other))
    assert [(at + n, first + n) for at, first, count in found for n in range(count)] == expected


@given(RUNS, st.integers(0, 3000), st.integers(1, 2000), st.sampled_from([0, 7000]))
def test_a_run_is_put_into_all_places_or_only_where_there_is_none(
    runs: list[tuple[int, int]], index: int, count: int, first: int
) -> None:
    numbers = clusters_of(runs)
    end = min(index + count, len(numbers))
    if index >= end:
        return
    put = [first + step if first else 0 for step in range(end - index)]
    filled = [old or new for old, new in zip(numbers[index:end], put, strict=True)]
    for make in (made_of, spelled_out):
        clusters = make(runs)
        clusters.set_run(index, first, end - index)
        assert_same(clusters, numbers[:index] + put + numbers[end:])
        assert clusters.dirty_leaves == {*range(index // LEAF_SIZE, (end - 1) // LEAF_SIZE + 1)}
        if first:
            clusters = make(runs)
            clusters.fill_run(index, first, end - index)
            assert_same(clusters, numbers[:index] + filled + numbers[end:])


def assert_same(clusters: ExtentMap, numbers: list[int]) -> None:
    assert [clusters.get(at) for at in range(clusters.count)] == numbers
    assert clusters.allocated_count == sum(map(bool, numbers))


def test_bits_are_set_whoever_had_set_some() -> None:
    clusters = made_of([(20, 10), (0, 600), (600, 300)])
    bits = bitarray(1024, endian="little")
    bits[25] = True
    mark_all(bits, clusters)
    assert bits.count() == 310
    assert bits[20:30].all()
    assert bits[600:900].all()


def test_leaves_that_were_made_before_the_new_end_stay() -> None:
    clusters = made_of([(20, 700), (0, 100), (900, 1000)])
    assert [clusters.get(at) for at in (3, 600, 1700)] == [23, 620, 1800]
    assert clusters.resize(1300) == [(1400, 500)]
    assert [clusters.get(at) for at in (3, 600, 1299)] == [23, 620, 1399]
    assert [leaf is ABSENT for leaf in clusters.leaves] == [False, False, False]


def test_a_run_is_put_only_where_nothing_is() -> None:
    clusters = made_of([(0, 2), (20, 3), (0, 600)])
    clusters.fill_run(0, 100, 605)
    assert clusters.runs() == [(100, 2), (20, 3), (105, 600)]


def test_two_maps_have_in_common_what_both_have_in_the_same_places() -> None:
    one = made_of([(20, 10), (0, 5), (50, 600), (900, 3)])
    other = made_of([(20, 4), (70, 8), (0, 5), (52, 500), (0, 98), (900, 5)])
    assert list(common_spans(one, other)) == [(0, 20, 4), (17, 52, 500), (615, 900, 3)]
    assert list(common_spans(other, one)) == list(common_spans(one, other))
    assert list(common_spans(one, made_of([(0, 700)]))) == []
