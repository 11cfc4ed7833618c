"""Extent tables that name absent pages one by one, as no writer does: longer than they need be."""

from typing import Final

import pytest

from blobstore.api.blobstore import Blobstore
from blobstore.errors import NoSpaceError
from blobstore.format.geometry import blob_id_of
from blobstore.format.page import NO_PAGE
from blobstore.testing.internals import core_of
from blobstore.units import PageIndex
from tests.proof.forge import Forge, clone_of, flags, runs, table

LEAVES: Final = 3000
SNAPSHOT, FIRST = 1, 3


def forged(free_count: int) -> Forge:
    """Forge a snapshot with scattered runs, and a clone whose table takes a chain of pages."""
    bodies = [table(LEAVES * 512, *[(0, 1)] * 500) for _ in range(LEAVES // 500)]
    numbers = [0, *range(FIRST, FIRST + len(bodies) - 1)]
    forge = Forge(md_len=numbers[-1] + 1 + free_count, cluster_count=600)
    forge.roots.add(0)
    for place, (number, body) in enumerate(zip(numbers, bodies, strict=True)):
        head = b"" if place else clone_of(SNAPSHOT)
        following = NO_PAGE if number == numbers[-1] else numbers[place + 1]
        forge.put(number, 0, head + body, sequence=place, following=following)
    scattered = [pair for leaf in range(20) for pair in ((200 + leaf, 1), (0, 511))]
    forge.root(SNAPSHOT, flags(1, 1), runs(*scattered, (0, (LEAVES - 20) * 512)))
    return forge


@pytest.mark.parametrize("atomic_write_size", [512, 4096])
@pytest.mark.parametrize("free_count", range(18, 36))
def test_a_snapshot_is_deleted_or_refused_before_anything_is_written(
    free_count: int, atomic_write_size: int
) -> None:
    device = forged(free_count).device(atomic_write_size=atomic_write_size)
    with Blobstore.open(device) as store:
        blob_id = blob_id_of(PageIndex(SNAPSHOT))
        try:
            store.delete_blob(blob_id)
        except NoSpaceError:
            assert blob_id in store.blob_ids()
        else:
            assert store.blob_ids() == [blob_id_of(PageIndex(0))]
        assert core_of(store).poison is None
