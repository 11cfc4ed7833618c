"""The pages that a blob's attributes take, kept while they change one by one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.format.attribute_pages import AttributePages
from blobstore.format.chain import ChainSize
from blobstore.format.descriptors import Xattr
from blobstore.format.page import BODY_SIZE
from blobstore.format.root import Layout

names = st.integers(0, 300).map("n{}".format)
sizes = st.one_of(st.integers(0, 40), st.integers(0, 4000))
changes = st.lists(st.tuples(names, st.none() | sizes), max_size=300)
capacities = st.sampled_from([layout.capacity for layout in Layout])


def exact(xattrs: dict[str, bytes], capacity: int) -> ChainSize:
    found = [Xattr(name, value) for name, value in xattrs.items()]
    return ChainSize.before_extents(found, root_capacity=capacity)


def position(size: ChainSize) -> tuple[int, int]:
    """How far a chain has come: pages begun, and what is taken of the last."""
    return size.page_count, -size.room


@given(capacity=capacities, changes=changes)
def test_a_changed_layout_is_never_too_small_and_close_to_what_is_written(
    capacity: int, changes: list[tuple[str, int | None]]
) -> None:
    xattrs: dict[str, bytes] = {}
    pages = AttributePages([], root_capacity=capacity)
    for name, size in changes:
        if size is not None:
            xattrs[name] = bytes(size)
            pages.put(Xattr(name, xattrs[name]))
        elif name in xattrs:
            del xattrs[name]
            pages.remove(name)
        real = exact(xattrs, capacity)
        assert position(real) <= position(pages.size)
        assert pages.size.page_count <= 4 or pages.size.page_count <= real.page_count * 3 // 2
        if pages.size.page_count <= 4:
            assert pages.size == real


@given(capacity=capacities, values=st.lists(sizes, max_size=60))
def test_attributes_that_are_only_added_are_counted_exactly(
    capacity: int, values: list[int]
) -> None:
    xattrs = {f"n{number}": bytes(size) for number, size in enumerate(values)}
    first, rest = list(xattrs.items())[:10], list(xattrs.items())[10:]
    pages = AttributePages([Xattr(*item) for item in first], root_capacity=capacity)
    for item in rest:
        pages.put(Xattr(*item))
    assert pages.size == exact(xattrs, capacity)


@pytest.mark.parametrize("capacity", [layout.capacity for layout in Layout])
def test_attributes_that_outgrow_their_pages_get_pages_of_their_own(capacity: int) -> None:
    xattrs = {f"n{number}": bytes(20) for number in range(2000)}
    found = [Xattr(name, value) for name, value in xattrs.items()]
    pages = AttributePages(found, root_capacity=capacity)
    for name in xattrs:
        xattrs[name] = bytes(400)
        pages.put(Xattr(name, xattrs[name]))
    least = 2000 * 410 // BODY_SIZE
    assert least < exact(xattrs, capacity).page_count <= pages.size.page_count < least * 5 // 4
