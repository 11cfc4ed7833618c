"""Extent tables in which few pages are there: memory and time are for those alone."""

from itertools import pairwise
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.alloc.leaves import LEAF_SIZE
from blobstore.drivers.blocking import BlockingDriver
from blobstore.errors import CorruptError
from blobstore.format.geometry import Geometry, blob_id_of
from blobstore.format.super_block import SuperBlock
from blobstore.metadata.blob_reader import read_blob
from blobstore.metadata.blob_state import (
    BlobState,
    SparsePages,
    all_pages,
    extent_table_of,
    present_pages,
    table_entries,
)
from blobstore.metadata.page_reader import PageReader
from blobstore.units import PageIndex
from tests.proof.forge import Forge, extents, flags, table

LEAVES: Final = (1 << 26) // LEAF_SIZE
TABLES: Final = st.integers(0, 90).flatmap(
    lambda count: st.tuples(
        st.just(count),
        st.dictionaries(st.integers(0, max(0, count - 1)), st.integers(1, 99), max_size=count)
        if count
        else st.just({}),
    )
)


def read(*entries: tuple[int, int], count: int, **pages: int) -> BlobState:
    """Return the blob of page 0, with this table; `pages` say where extent pages begin."""
    forge = Forge()
    forge.root(0, flags(), table(count, *entries))
    for name, first in pages.items():
        clusters = [0] * (LEAF_SIZE - 1) + [100 + int(name[1:])]
        forge.put(int(name[1:]), 0, extents(first, clusters))
    device = forge.device(read_only=True)
    super_block = SuperBlock.decode(device.read(0, 4096))
    geometry = Geometry.of(super_block, device_size=device.size_bytes)
    blob_id = blob_id_of(PageIndex(0))
    return BlockingDriver(device).run(read_blob(geometry, blob_id, PageReader(geometry).fetch))


def expanded(entries: list[tuple[int, int]]) -> list[int]:
    return [page for page, count in entries for _ in range(count)]


@given(TABLES, st.slices(90))
def test_a_sparse_table_is_a_sequence_like_a_full_one(
    content: tuple[int, dict[int, int]], part: slice
) -> None:
    count, present = content
    model = [present.get(number, 0) for number in range(count)]
    for pages in (SparsePages(count, dict(sorted(present.items()))), extent_table_of(*content)):
        assert len(pages) == count
        assert list(pages) == [pages[number] for number in range(count)] == model
        assert [pages[number - count] for number in range(count)] == model
        assert list(pages[part]) == model[part]
        assert all_pages(pages) == model
        assert present_pages(pages) == present
        assert list(present_pages(pages)) == sorted(present)
        assert (5 in pages) == (5 in model)
        with pytest.raises(IndexError):
            pages[count]
    entries = table_entries(count, present)
    assert expanded(entries) == model
    assert all(before[0] or after[0] for before, after in pairwise(entries))


def test_a_table_is_kept_in_the_form_that_takes_less_memory() -> None:
    assert isinstance(extent_table_of(3, {}), SparsePages)
    assert extent_table_of(3, {1: 9}) == (0, 9, 0)
    assert isinstance(extent_table_of(LEAVES, {1: 9}), SparsePages)
    assert isinstance(extent_table_of(100, dict.fromkeys(range(50), 9)), tuple)


def test_of_a_huge_table_only_the_pages_that_are_there_are_read() -> None:
    last = LEAVES - 1
    blob = read((5, 1), (0, last - 1), (6, 1), count=1 << 26, p5=0, p6=last * LEAF_SIZE)
    assert isinstance(blob.extent_pages, SparsePages)
    assert blob.present_pages == {0: 5, last: 6}
    assert blob.metadata_pages == [5, 6]
    assert len(blob.extent_pages) == LEAVES
    assert blob.clusters.count == blob.disk_count == 1 << 26
    assert blob.clusters.runs() == [(0, 511), (105, 1), (0, (1 << 26) - 513), (106, 1)]


@pytest.mark.parametrize(
    ("said", "count", "length"),
    [
        pytest.param(1 << 26, 1 << 26, LEAVES, id="all of it"),
        pytest.param(70_001, 70_001, 137, id="a part of the absent pages"),
        pytest.param(600, 600, 2, id="a part of the first absent page"),
        pytest.param(5, 512, 1, id="less than is there"),
        pytest.param(1 << 40, 1 << 26, LEAVES, id="far more than is there"),
    ],
)
def test_the_absent_pages_at_the_end_go_as_far_as_the_table_says(
    said: int, count: int, length: int
) -> None:
    blob = read((5, 1), (0, LEAVES - 1), count=said, p5=0)
    assert blob.extent_pages is not None
    assert (blob.clusters.count, len(blob.extent_pages)) == (count, length)
    assert blob.present_pages == {0: 5}


def test_a_table_that_is_longer_than_the_largest_blob_is_refused() -> None:
    with pytest.raises(CorruptError, match=f"extent table of {LEAVES} absent pages"):
        read((5, 1), (0, LEAVES), count=1 << 26, p5=0)
