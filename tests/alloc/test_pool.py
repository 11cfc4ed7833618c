"""The pool: numbers are claimed lowest first, and come back only after a flush."""

import pytest
from bitarray import bitarray
from hypothesis import given
from hypothesis import strategies as st

from blobstore.alloc.pool import Pool
from blobstore.errors import CorruptError, NoSpaceError


def pool_of(bits: str, *, first: int = 0) -> Pool:
    return Pool(bitarray(bits, endian="little"), name="page", errno=12, first=first)


def test_the_lowest_free_number_is_claimed_first() -> None:
    pool = pool_of("110100")
    assert [pool.claim(), pool.claim(), pool.claim()] == [2, 4, 5]
    assert pool.free_count == 0


def test_an_exhausted_pool_says_what_is_missing() -> None:
    with pytest.raises(NoSpaceError, match="pages: 1 needed, 0 free") as caught:
        pool_of("11").claim()
    assert caught.value.errno == 12


def test_many_are_claimed_all_or_none() -> None:
    pool = pool_of("0100")
    with pytest.raises(NoSpaceError):
        pool.claim_many(4)
    assert pool.claim_many(3) == [0, 2, 3]
    assert pool.claim_many(0) == []


def test_one_of_many_is_the_lowest() -> None:
    assert pool_of("0100").claim_many(1) == [0]


def test_a_claim_from_a_start_leaves_what_is_below_for_later() -> None:
    pool = pool_of("0000")
    assert pool.claim_many(2, start=1) == [1, 2]
    assert pool.claim() == 0


def test_what_lies_below_the_first_is_neither_free_nor_claimed() -> None:
    pool = pool_of("000000", first=4)
    assert pool.free_count == 2
    assert pool.claim() == 4


def test_a_pending_number_is_available_but_not_free_until_it_is_freed() -> None:
    pool = pool_of("111")
    pool.mark_pending(1)
    assert (pool.available, pool.free_count) == (1, 0)
    with pytest.raises(NoSpaceError):
        pool.claim()
    pool.free_pending([1])
    assert (pool.available, pool.claim()) == (1, 1)


def test_a_number_is_not_freed_twice() -> None:
    pool = pool_of("10")
    pool.free([0])
    with pytest.raises(CorruptError, match="free already"):
        pool.free([0])


def test_a_grown_pool_has_more_at_its_end() -> None:
    pool = pool_of("11")
    pool.grow(4)
    assert pool.claim_many(2) == [2, 3]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5)), max_size=60))
def test_a_pool_behaves_like_a_set_of_numbers(script: list[tuple[bool, int]]) -> None:
    pool = pool_of("0" * 24)
    free = set(range(24))
    taken: list[int] = []
    for is_claim, count in script:
        if is_claim and count <= len(free):
            claimed = pool.claim_many(count)
            assert claimed == sorted(free)[:count]
            free.difference_update(claimed)
            taken += claimed
        elif not is_claim and taken:
            returned = [taken.pop(0) for _ in range(min(count, len(taken)))]
            pool.free(returned)
            free.update(returned)
        assert pool.free_count == len(free)
        assert pool.lowest_free(24) == sorted(free)


def test_pending_runs_are_freed_and_none_of_them_twice() -> None:
    pool = pool_of("1111111111")
    pool.mark_pending(5)
    pool.free_pending_runs([(2, 3), (7, 2)])
    assert (pool.free_count, pool.pending_count) == (5, 0)
    assert pool.claim() == 2
    pool.mark_pending(4)
    with pytest.raises(CorruptError, match="page 3 is free already"):
        pool.free_pending_runs([(0, 4)])
