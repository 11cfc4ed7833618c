"""Packed pairs: a sequence of tuples that takes as many bytes as on disk."""

import pickle
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.format.pairs import PackedPairs

NUMBERS = st.integers(0, 0xFFFF_FFFF)
PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS), max_size=20)


@given(PAIRS, st.slices(20))
def test_packed_pairs_are_the_same_sequence(pairs: list[tuple[int, int]], part: slice) -> None:
    packed = PackedPairs.of(pairs)
    assert list(packed) == pairs
    assert len(packed) == len(pairs)
    assert packed[part] == pairs[part]
    assert [packed[at] for at in range(-len(pairs), len(pairs))] == pairs + pairs
    assert packed == pairs
    assert packed == tuple(pairs)
    assert packed == pickle.loads(pickle.dumps(packed))
    assert packed.rows().tolist() == [*map(list, pairs)]
    with pytest.raises(IndexError):
        packed[len(pairs)]


@given(PAIRS, PAIRS)
def test_pairs_are_appended_as_they_are_on_disk(
    some: list[tuple[int, int]], more: list[tuple[int, int]]
) -> None:
    packed = PackedPairs.of(some)
    packed.append_encoded(memoryview(b"".join(struct.pack("<II", *pair) for pair in more)))
    assert packed == some + more


def test_pairs_differ_from_what_is_not_the_same() -> None:
    packed = PackedPairs.of([(1, 2), (3, 4)])
    for other in ([(1, 2)], [(1, 2), (3, 5)], PackedPairs(), "ab", 7, None):
        assert packed != other
    assert (packed[1], packed[-2], packed[1:]) == ((3, 4), (1, 2), [(3, 4)])
    assert repr(packed) == "PackedPairs.of([(1, 2), (3, 4)])"
    with pytest.raises(TypeError):
        hash(packed)


def test_a_run_that_goes_on_makes_the_last_one_longer() -> None:
    runs = PackedPairs()
    for run in [(0, 2), (0, 3), (5, 2), (7, 1), (9, 1), (0, 1), (1, 1)]:
        runs.append_run(*run)
    assert runs == [(0, 5), (5, 3), (9, 1), (0, 1), (1, 1)]
