"""Volume stores whose power was cut: names are unique, and old or new."""

import pytest

from blobstore.testing.workload import new_disk
from tests.proof.volume_cuts import (
    MULTI_STEP,
    OPERATIONS,
    Shop,
    explore,
    explore_init,
    judge,
)

LAYOUTS = pytest.mark.parametrize("sector", [True, False], ids=["sector", "compact"])


@LAYOUTS
@pytest.mark.parametrize("over_a_store", [False, True], ids=["", "over a store"])
def test_a_cut_init_leaves_no_store_or_a_whole_volume_store(
    sector: bool, over_a_store: bool
) -> None:
    outcome = explore_init(sector=sector, over_a_store=over_a_store)
    assert outcome.bad == []
    assert outcome.states > 10


@LAYOUTS
@pytest.mark.parametrize("name", [*OPERATIONS, *MULTI_STEP])
def test_a_cut_operation_leaves_the_volumes_from_before_or_after_it(
    name: str, sector: bool
) -> None:
    outcome = explore(name, sector=sector)
    assert outcome.bad == []
    assert outcome.states > 5


def test_the_judge_sees_a_name_that_is_neither_old_nor_new() -> None:
    shop = Shop(new_disk(sector=True))
    shop.fill()
    before = shop.seen()
    shop.rename("b", "d")
    assert judge(shop.disk, [shop.seen()]) is None
    assert "found" in str(judge(shop.disk, [before]))


def test_the_judge_sees_two_volumes_of_one_name() -> None:
    shop = Shop(new_disk(sector=True))
    shop.fill()
    record = shop.volumes.named("b")
    assert record is not None
    record.name = "hidden"  # so that the store takes the name for free
    shop.create("b")
    record.name = "b"
    assert "two volumes of one name" in str(judge(shop.disk, [shop.seen()]))
