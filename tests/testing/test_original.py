"""The model of the original: it reads what this project writes, and gives up where it would."""

import pytest

from blobstore.errors import CorruptError
from blobstore.format.root import Layout, layout_of
from blobstore.testing.inspect_store import load_checked
from blobstore.testing.original import load_as_original, original_problem, rewrite_roots
from blobstore.testing.simulated_disk import SimulatedDisk
from blobstore.testing.workload import CLUSTER
from tests.proof.scenarios import make_base

FIRST_PAGE = 4 * CLUSTER


def page_of(image: bytes, number: int) -> bytes:
    return image[FIRST_PAGE + number * CLUSTER : FIRST_PAGE + (number + 1) * CLUSTER]


def test_it_reads_a_store_in_the_sector_layout() -> None:
    base = make_base("clean", sector=True)
    assert sorted(load_as_original(base.content).blobs) == sorted(base.ids.values())


def test_roots_that_it_rewrote_are_in_its_layout_and_say_the_same() -> None:
    base = make_base("dirty", sector=True)
    rewritten = rewrite_roots(base.content)
    roots = [blob_id & 0xFFFF_FFFF for blob_id in base.ids.values()]
    assert {layout_of(page_of(base.content, root)) for root in roots} == {Layout.SECTOR}
    assert {layout_of(page_of(rewritten, root)) for root in roots} == {Layout.COMPACT}
    loaded = load_checked(SimulatedDisk(rewritten))
    assert loaded is not None
    assert base.expectation.problem(loaded[1]) is None
    assert original_problem(rewritten, loaded[1]) is None


def test_it_gives_up_at_a_broken_extent_page() -> None:
    base = make_base("dirty", sector=True)
    image = bytearray(base.content)
    for number in range(24):
        if page_of(base.content, number)[16] == 6:
            image[FIRST_PAGE + number * CLUSTER + 100] ^= 1
    with pytest.raises(CorruptError, match="gives up at extent page"):
        load_as_original(bytes(image))


def test_a_blob_that_it_does_not_see_is_a_problem() -> None:
    base = make_base("dirty", sector=True)
    loaded = load_checked(SimulatedDisk(base.content))
    assert loaded is not None
    image = bytearray(base.content)
    root = base.ids["t"] & 0xFFFF_FFFF
    image[FIRST_PAGE + root * CLUSTER : FIRST_PAGE + (root + 1) * CLUSTER] = bytes(CLUSTER)
    assert "does not open" in (original_problem(bytes(image), loaded[1]) or "")
