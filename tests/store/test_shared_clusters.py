"""Clusters with two owners on a clean store, whose masks are believed: who is refused, and when."""

import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import pytest

from blobstore.api.blobstore import Blobstore
from blobstore.api.source import traits_of
from blobstore.device.overlay import OverlayDevice
from blobstore.drivers.blocking import BlockingDriver
from blobstore.errors import BlobstoreError, CorruptError
from blobstore.format.descriptors import HAS_INTERNAL_XATTRS, THIN_PROV
from blobstore.format.geometry import blob_id_of
from blobstore.metadata.blob_reader import Revisits
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.load_store import load
from blobstore.metadata.page_reader import PageReader
from blobstore.metadata.store_state import StoreState
from blobstore.store import open_blobs
from blobstore.store.open_blobs import close_blob, open_blob
from blobstore.testing.internals import core_of
from blobstore.units import MIB, BlobId, PageIndex
from tests.proof.forge import Forge, flags, runs, xattr

BOTTOM, MIDDLE, TOP = (blob_id_of(PageIndex(number)) for number in range(3))
MANY: Final = 100
LARGE: Final = 600
"""A blob with so many clusters has more than one leaf."""


def clone(parent: int, *pairs: tuple[int, int]) -> bytes:
    value = blob_id_of(PageIndex(parent)).to_bytes(8, "little")
    attribute = xattr("SNAP", value, internal=True)
    return flags(THIN_PROV | HAS_INTERNAL_XATTRS, 1) + attribute + runs(*pairs)


def three(bottom: tuple[int, int], middle: tuple[int, int], top: tuple[int, int]) -> Forge:
    """Forge a snapshot with a clone that has a clone, each with one run of clusters."""
    forge = Forge(md_len=64, cluster_count=8 * LARGE)
    forge.root(0, flags(0, 1) + runs(bottom))
    forge.root(1, clone(0, middle))
    forge.root(2, clone(1, top))
    return forge


def opened(store: Blobstore) -> set[BlobId]:
    found = set()
    for blob_id in store.blob_ids():
        with suppress(CorruptError), store.open_blob(blob_id):
            found.add(blob_id)
    return found


def listed(store: Blobstore) -> set[BlobId]:
    return {found.blob_id for found in store.list_blobs() if found.error is None}


def listed_while_the_bottom_is_open(store: Blobstore) -> set[BlobId]:
    with store.open_blob(BOTTOM):
        return listed(store)


WAYS: Final = {"opened": opened, "listed": listed, "beside": listed_while_the_bottom_is_open}


@pytest.mark.parametrize("count", [3, LARGE])
@pytest.mark.parametrize("way", WAYS)
def test_a_clone_that_owns_what_is_its_ancestors_is_refused_and_its_ancestor_is_not(
    way: str, count: int
) -> None:
    forge = three((1000, count), (2000, count), (1000 + count - 1, count))
    with Blobstore.open(forge.device()) as store:
        assert WAYS[way](store) == {BOTTOM, MIDDLE}
        assert store.read_only
        assert not core_of(store).open_blobs
        assert not core_of(store).owned_clusters.any()


@pytest.mark.parametrize("count", [3, LARGE])
def test_what_stands_on_a_clone_that_is_refused_is_refused_with_its_reason(count: int) -> None:
    forge = three((1000, count), (1000, count), (3000, count))
    with Blobstore.open(forge.device()) as store:
        with pytest.raises(CorruptError, match=f"blob {MIDDLE:#x}: owns a cluster"):
            store.open_blob(TOP)
        assert not core_of(store).owned_clusters.any()
        assert listed(store) == {BOTTOM}


@pytest.mark.parametrize("counts", [(3, LARGE, 3), (LARGE, 3, LARGE)])
def test_small_and_large_blobs_that_share_nothing_open(counts: tuple[int, int, int]) -> None:
    bottom, middle, top = counts
    forge = three((1000, bottom), (2000, middle), (3000, top))
    with Blobstore.open(forge.device()) as store:
        assert WAYS["opened"](store) == WAYS["listed"](store) == {BOTTOM, MIDDLE, TOP}
        with store.open_blob(TOP):
            assert core_of(store).owned_clusters.count() == sum(counts)
        assert not core_of(store).owned_clusters.any()


@pytest.mark.parametrize("counts", [(3, LARGE, 3), (LARGE, 3, LARGE), (3, 3, LARGE)])
def test_of_small_and_large_blobs_the_one_that_shares_is_refused(
    counts: tuple[int, int, int],
) -> None:
    bottom, middle, top = counts
    forge = three((1000, bottom), (2000, middle), (1000, top))
    with Blobstore.open(forge.device()) as store:
        assert WAYS["opened"](store) == {BOTTOM, MIDDLE}
        assert not core_of(store).owned_clusters.any()
        assert WAYS["listed"](store) == {BOTTOM, MIDDLE}


def test_a_store_opened_by_force_opens_what_shares_clusters() -> None:
    forge = three((1000, 3), (2000, 3), (1000, 3))
    with Blobstore.open(forge.device(), force=True) as store:
        assert opened(store) == {BOTTOM, MIDDLE, TOP}


def two_that_are_not_related(forge: Forge) -> None:
    forge.root(0, flags(0, 1) + runs((1000, 3)))
    forge.root(1, clone(0, (2000, 3)))
    forge.root(2, clone(0, (2000, 3)))


def the_newest_first(forge: Forge) -> None:
    forge.root(0, clone(1, (1000, 3)))
    forge.root(1, clone(2, (2000, 3)))
    forge.root(2, flags(0, 1) + runs((1000, 3)))


def in_itself(forge: Forge) -> None:
    forge.root(0, flags(0, 1) + runs((1000, 3)))
    forge.root(1, clone(0, (2000, 3), (2002, 1)))
    forge.root(2, clone(1, (3000, 3)))


@pytest.mark.parametrize(
    ("build", "good"),
    [
        (two_that_are_not_related, {BOTTOM, MIDDLE, TOP}),
        (the_newest_first, {MIDDLE, TOP}),
        (in_itself, {BOTTOM}),
    ],
)
def test_a_list_shows_what_opening_one_after_the_other_does(
    build: Callable[[Forge], None], good: set[BlobId]
) -> None:
    forge = Forge(md_len=64, cluster_count=8 * LARGE)
    build(forge)
    with Blobstore.open(forge.device(read_only=True), read_only=True) as store:
        assert listed(store) == good
        assert opened(store) == good


def test_a_chain_of_blobs_that_all_own_everything_takes_no_more_than_two_maps_of_memory() -> None:
    clusters = 1 << 17
    forge = Forge(md_len=64, cluster_size=4096, cluster_count=clusters)
    everything = (clusters // 2, clusters // 2 - 1)
    forge.root(0, flags(0, 1) + runs(everything))
    for number in range(1, 60):
        forge.root(number, clone(number - 1, everything))
    with Blobstore.open(forge.device(read_only=True), read_only=True) as store:
        tracemalloc.start()
        with pytest.raises(CorruptError):
            store.open_blob(blob_id_of(PageIndex(59)))
        _now, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 12 * MIB


@pytest.mark.parametrize("count", [3, LARGE])
def test_a_chain_that_does_not_open_takes_no_cluster_from_a_blob_that_is_open(count: int) -> None:
    forge = Forge(md_len=64, cluster_count=8 * LARGE)
    forge.root(0, flags(0) + runs((1000, count)))
    forge.root(1, clone(9, (1000, count)))
    with Blobstore.open(forge.device()) as store, store.open_blob(BOTTOM):
        with pytest.raises(BlobstoreError):
            store.open_blob(MIDDLE)
        assert core_of(store).owned_clusters.count() == count


def sharing(forge: Forge, *, at: int, owner: int) -> None:
    """Put a chain of snapshots that own two clusters each, but for one that has another's."""
    for number in range(MANY):
        first = 1000 + 2 * (owner if number == at else number)
        own = (first, 1), (0, 1), (first + 1, 1)
        forge.root(number, clone(number - 1, *own) if number else flags(THIN_PROV, 1) + runs(*own))


@pytest.mark.slow
@pytest.mark.parametrize(("at", "owner"), [(70, 69), (70, 3), (3, 70), (MANY - 1, 0)])
def test_of_a_long_chain_only_what_shares_and_stands_on_that_is_refused(
    at: int, owner: int
) -> None:
    forge = Forge(md_len=MANY + 8, cluster_count=8 * LARGE)
    sharing(forge, at=at, owner=owner)
    ids = [blob_id_of(PageIndex(number)) for number in range(MANY)]
    good = set(ids[: max(at, owner)])
    with Blobstore.open(forge.device(), read_only=True) as store:
        with pytest.raises(CorruptError, match=f"blob {ids[max(at, owner)]:#x}: owns a cluster"):
            store.open_blob(ids[-1])
        assert not core_of(store).owned_clusters.any()
        assert listed(store) == opened(store) == good
        with store.open_blob(ids[max(at, owner) - 1]):
            assert core_of(store).owned_clusters.count() == 2 * len(good)


def test_a_store_is_read_only_once_a_list_has_found_a_cluster_with_two_owners() -> None:
    forge = Forge(md_len=64, cluster_count=8 * LARGE)
    two_that_are_not_related(forge)
    with Blobstore.open(forge.device()) as store:
        assert listed(store) == {BOTTOM, MIDDLE, TOP}
        assert store.read_only


def test_a_list_refuses_what_shares_a_cluster_with_a_snapshot_that_it_has_to_open() -> None:
    forge = Forge(md_len=64, cluster_count=8 * LARGE)
    forge.root(0, clone(1, (2000, 1)))
    forge.root(1, flags(THIN_PROV, 1) + runs((2000, 1), (0, LARGE)))
    with Blobstore.open(forge.device()) as store:
        assert listed(store) == {MIDDLE}
        assert store.read_only


@pytest.mark.parametrize("count", [1, LARGE])
def test_a_chain_of_blobs_that_share_clusters_with_ones_far_below_is_read_a_few_times(
    count: int,
) -> None:
    depth = 100
    forge = Forge(md_len=depth + 8, cluster_count=2000 + depth * count // 2)
    for number in range(depth):
        head = (1100 + number % (depth // 2) * count, count)
        forge.root(
            number, clone(number + 1, head) if number + 1 < depth else flags(0, 1) + runs(head)
        )
    device = forge.device(read_only=True)
    with Blobstore.open(device, read_only=True) as store:
        walked: list[BlobId] = []
        read_known = open_blobs._read_known

        async def counting(
            state: StoreState, blob_id: BlobId, reader: PageReader, revisits: Revisits | None
        ) -> BlobState:
            walked.append(blob_id)
            return await read_known(state, blob_id, reader, revisits)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(open_blobs, "_read_known", counting)
            assert len(listed(store)) == depth // 2
        assert len(walked) < 5 * depth


class InterruptedDevice(OverlayDevice):
    """Is interrupted at the read after so many."""

    left = 1 << 30

    def read(self, offset: int, length: int) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().read(offset, length)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("counts", [(3, LARGE, 3), (LARGE, LARGE, LARGE)])
@pytest.mark.parametrize("read_count", range(4))
def test_whatever_ends_the_opening_of_a_chain_no_mark_is_left(
    counts: tuple[int, int, int], force: bool, read_count: int
) -> None:
    bottom, middle, top = counts
    forge = three((1000, bottom), (2000, middle), (2000, top))
    device = InterruptedDevice(forge.device())
    driver = BlockingDriver(device)
    store = driver.run(load(traits_of(device), forced=force))
    device.left = read_count
    with suppress(KeyboardInterrupt, CorruptError):
        driver.run(close_blob(store, driver.run(open_blob(store, TOP))))
    assert not store.open_blobs
    assert not store.owned_clusters.any()
