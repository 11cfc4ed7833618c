"""Bits set many at once are those that setting one after the other comes to."""

from typing import Final

import numpy as np
import pytest
from bitarray import bitarray
from hypothesis import given
from hypothesis import strategies as st

from blobstore.drivers.blocking import BlockingDriver
from blobstore.metadata.load import load
from blobstore.metadata.spans import mark_entries, mark_spans
from blobstore.metadata.store_state import DeviceTraits
from tests.proof.forge import Forge, extents, flags, runs, table

BITS: Final = 700

spans = st.lists(
    st.integers(0, BITS - 1).flatmap(
        lambda first: st.tuples(st.just(first), st.integers(1, min(200, BITS - first)))
    ),
    max_size=40,
)


@given(spans)
def test_spans_are_marked_whatever_their_order_and_length(asked: list[tuple[int, int]]) -> None:
    bits, expected = (bitarray(BITS, endian="little") for _ in range(2))
    for first, count in asked:
        expected[first : first + count] = True
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("blobstore.metadata.spans._PIECE", 7)
        mark_spans(bits, *np.array([*asked], dtype=np.int64).reshape(-1, 2).T)
    assert bits == expected


@given(st.lists(st.integers(0, BITS - 1), max_size=80))
def test_entries_are_marked_whatever_their_order(entries: list[int]) -> None:
    bits = bitarray(BITS, endian="little")
    mark_entries(bits, np.array(entries, dtype=np.uint32))
    assert list(bits.search(True)) == sorted(set(entries))


SHARED: Final = {
    "two extent pages": ([300, 301], [302, 300], None),
    "one extent page": ([300, 301, 300], [302], None),
    "an extent page and a run": ([300, 301], [302], (301, 1)),
    "an extent page and a long run": ([300, 301], [302], (301, 90)),
}


@pytest.mark.parametrize("name", SHARED)
def test_a_cluster_that_is_owned_twice_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blobstore.metadata.extent_pages._PIECE", 1)
    upper, lower, run = SHARED[name]
    forge = Forge(cluster_count=600, clean=False)
    for number, clusters in enumerate((upper, lower)):
        forge.root(number, flags(), table(len(clusters), (10 + number, 1)))
        forge.put(10 + number, number, extents(0, clusters))
    if run is not None:
        forge.root(2, flags(0), runs(run))
    device = forge.device(read_only=True)
    store = BlockingDriver(device).run(load(DeviceTraits(device.size_bytes)))
    (error,) = store.errors.values()
    assert "owns a cluster that another place owns" in error.message
