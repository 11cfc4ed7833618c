"""Runs of numbers: merged, and without others."""

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from blobstore.alloc.runs import merged_runs, runs_without
from blobstore.format.pairs import PackedPairs

NUMBERS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=8)


def test_numbers_in_any_order_are_merged_to_runs() -> None:
    assert merged_runs([]) == []
    assert merged_runs([(7, 1)]) == [(7, 1)]
    many = [(3 * number, 2) for number in range(5000)]
    assert merged_runs(reversed(many)) == many
    assert merged_runs(reversed(many[:500])) == many[:500]
    assert merged_runs([(9, 2), (4, 1), (5, 4), (20, 1)]) == [(4, 7), (20, 1)]


@given(NUMBERS, NUMBERS)
def test_runs_without_others_are_what_is_in_none_of_them(
    some: list[tuple[int, int]], more: list[tuple[int, int]]
) -> None:
    def numbers_in(runs: Iterable[tuple[int, int]]) -> set[int]:
        return {first + step for first, count in runs for step in range(count)}

    def merged(runs: list[tuple[int, int]]) -> PackedPairs:
        return merged_runs((number, 1) for number in numbers_in(runs))

    left = runs_without(merged(some), merged(more))
    assert left == merged_runs((number, 1) for number in numbers_in(some) - numbers_in(more))


def test_what_others_cut_out_of_runs_and_what_reaches_beyond_them() -> None:
    runs, others = merged_runs([(0, 10), (20, 10)]), merged_runs([(2, 3), (8, 14), (40, 5)])
    assert runs_without(runs, others) == [(0, 2), (5, 3), (22, 8)]
    assert runs_without(runs, merged_runs([])) == runs
    assert runs_without(runs, merged_runs([(0, 100)])) == []
