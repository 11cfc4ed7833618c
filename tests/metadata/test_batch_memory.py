"""What many blobs own is gone through in pieces: it takes less memory than the metadata."""

import random
import tracemalloc
from collections.abc import Callable
from typing import Final

import pytest

from blobstore.drivers.blocking import BlockingDriver
from blobstore.format.descriptors import HAS_EXTENT_TABLE
from blobstore.fsck.examine import examine
from blobstore.metadata.load_store import load
from blobstore.metadata.store_state import DeviceTraits
from blobstore.units import MIB
from tests.proof.forge import Forge, extents, flags, table
from tests.proof.image_device import SparseDevice

BLOBS: Final = 1000
LEAF: Final = 512
FIRST: Final = 1000
ROOM: Final = 3 * MIB
"""For a piece of the region, and for what is looked at of it."""

_FULL: Final = list(range(FIRST, FIRST + BLOBS * LEAF))
_SCATTERED: Final = random.Random(3).sample(_FULL, len(_FULL))


def with_extent_pages(clusters: list[int]) -> Forge:
    """Forge blobs that each own as many clusters as one extent page can name."""
    forge = Forge(md_len=2 * BLOBS, cluster_count=FIRST + BLOBS * LEAF, clean=False)
    for number in range(BLOBS):
        owned = clusters[number * LEAF : (number + 1) * LEAF]
        forge.root(number, flags(HAS_EXTENT_TABLE), table(LEAF, (BLOBS + number, 1)))
        forge.put(BLOBS + number, number, extents(0, owned))
    return forge


FORGES: Final[dict[str, Callable[[], Forge]]] = {
    "extent pages": lambda: with_extent_pages(_FULL),
    "extent pages of scattered clusters": lambda: with_extent_pages(_SCATTERED),
}


def open_dirty(device: SparseDevice) -> int:
    store = BlockingDriver(device).run(load(DeviceTraits(device.size_bytes)))
    assert not store.errors
    return store.clusters.used.count() - store.geometry.md_clusters


def check(device: SparseDevice) -> int:
    found = BlockingDriver(device).run(examine(DeviceTraits(device.size_bytes)))
    assert found.view is not None
    assert found.view.single_page is not None
    return found.view.single_page.clusters.count()


@pytest.mark.parametrize("way", [open_dirty, check])
@pytest.mark.parametrize("name", FORGES)
def test_what_single_page_blobs_own_takes_no_more_memory_than_their_pages(
    name: str, way: Callable[[SparseDevice], int]
) -> None:
    forge = FORGES[name]()
    device = forge.device(read_only=True)
    tracemalloc.start()
    owned = way(device)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert owned >= 400 * 600
    assert peak < ROOM + forge.md_len * forge.page_size
