"""Going through all blobs: each described as if it were opened, whatever is wrong below it."""

import tracemalloc
from collections.abc import Callable, Iterator
from functools import cache
from typing import Final

import pytest

from blobstore.api.blobstore import Blobstore
from blobstore.device.memory import MemoryDevice
from blobstore.errors import (
    BlobstoreError,
    ClosedError,
    CorruptError,
    DeviceError,
    NotFoundError,
)
from blobstore.format.geometry import blob_id_of
from blobstore.store.describe import BlobInfo
from blobstore.testing.internals import abandon, core_of, session_of
from blobstore.units import MIB, BlobId, PageIndex
from tests.metadata.shapes import SHAPES
from tests.proof.forge import Forge, clone_of, extents, flags, runs, table
from tests.proof.fuzz_target import seeds
from tests.proof.image_device import SparseDevice
from tests.proof.mutate import SmallImage, mutated

CLUSTER: Final = 16384
MANY: Final = 1000
CHANGES: Final = 6

Seen = dict[BlobId, BlobInfo | str]


class CountingDevice(SparseDevice):
    """Counts reads."""

    reads = 0
    fails = False

    def read(self, offset: int, length: int) -> bytes:
        self.reads += 1
        if self.fails:
            raise DeviceError("medium: not there")
        return super().read(offset, length)


def listed(store: Blobstore) -> Seen:
    """Return what a list says."""
    return {
        found.blob_id: found if found.error is None else type(found.error).__name__
        for found in store.list_blobs()
    }


def opened(store: Blobstore) -> Seen:
    """Return what opening one blob after the other shows."""
    seen: Seen = {}
    for blob_id in store.blob_ids():
        try:
            with store.open_blob(blob_id) as blob:
                seen[blob_id] = blob.info
        except BlobstoreError as error:
            seen[blob_id] = type(error).__name__
    return seen


def iterated(store: Blobstore) -> Seen:
    """Return what going through the open blobs shows, in the order in which it does."""
    seen: Seen = {}

    def note(error: BlobstoreError) -> None:
        assert error.blob is not None
        seen[BlobId(error.blob)] = type(error).__name__

    for blob in store.iter_blobs(on_error=note):
        seen[blob.id] = blob.info
    return seen


WAYS: Final[dict[str, Callable[[Blobstore], Seen]]] = {"listed": listed, "iterated": iterated}


def damaged_stores() -> Iterator[SparseDevice]:
    for n, seed in enumerate(seeds()):
        for data in [seed, *(mutated(seed, 5000 * n + change) for change in range(CHANGES))]:
            yield SmallImage.unpack(data).device(read_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_damaged_stores_are_seen_as_by_opening_each_blob(way: str) -> None:
    compared = 0
    for device in damaged_stores():
        try:
            store = Blobstore.open(device, read_only=True)
        except BlobstoreError:
            continue
        with store:
            if way == "listed":
                found = WAYS[way](store)
                assert found == opened(store)
            else:
                expected = opened(store)
                assert WAYS[way](store) == expected
            compared += len(store.blob_ids())
            assert not core_of(store).open_blobs
    assert compared > 500


def forged(build: Callable[[Forge], None], *, clean: bool = True) -> CountingDevice:
    size, pieces = built(build, clean)
    return CountingDevice(size, pieces, read_only=True)


@cache
def built(build: Callable[[Forge], None], clean: bool) -> tuple[int, dict[int, bytes]]:
    forge = Forge(md_len=2 * MANY + 8, cluster_count=2 * MANY, clean=clean)
    build(forge)
    device = forge.device(read_only=True)
    return device.size_bytes, {n: device.piece(n) for n in range((2 * MANY + 8) * 2)}


def chain(forge: Forge, *parents: int | None) -> None:
    """Put blobs, each a clone of the one whose number is said."""
    for number, parent in enumerate(parents):
        head = flags(data_ro=1) if parent is None else clone_of(parent, data_ro=1)
        forge.root(number, head, table(2, (0, 1)))


def ascending(forge: Forge) -> None:
    chain(forge, None, *range(MANY - 1))


def descending(forge: Forge) -> None:
    """Put the newest first, as snapshots of one volume come to be."""
    chain(forge, *range(1, MANY), None)


def missing_at_the_bottom(forge: Forge) -> None:
    chain(forge, MANY + 5, *range(MANY - 1))


def broken_at_the_bottom(forge: Forge) -> None:
    ascending(forge)
    forge.root(0, flags(data_ro=1), table(2, (0, 1)), table(3, (0, 1)))


def a_circle_at_the_bottom(forge: Forge) -> None:
    chain(forge, 9, *range(MANY - 1))


def owning_at_the_bottom(forge: Forge) -> None:
    descending(forge)
    forge.root(MANY - 1, flags(0, 1), runs((1500, 2)))


def owning_each(forge: Forge) -> None:
    for number in range(MANY // 4):
        head = clone_of(number - 1, data_ro=1) if number else flags(data_ro=1)
        forge.root(number, head, table(2, (MANY + number, 1)))
        forge.put(MANY + number, number, extents(0, [1200 + number, 0]))


CHAINS: Final = {
    "ascending": (ascending, MANY),
    "descending": (descending, MANY),
    "missing at the bottom": (missing_at_the_bottom, 0),
    "broken at the bottom": (broken_at_the_bottom, 0),
    "a circle at the bottom": (a_circle_at_the_bottom, 0),
    "owning at the bottom": (owning_at_the_bottom, MANY),
    "owning each": (owning_each, MANY // 4),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_is_read_once_whatever_is_at_its_bottom(name: str, way: str) -> None:
    build, good = CHAINS[name]
    device = forged(build)
    with Blobstore.open(device, read_only=True) as store:
        device.reads = 0
        seen = WAYS[way](store)
        assert device.reads < (MANY / 10 if way == "listed" else 2.5 * MANY)
        assert list(seen) == store.blob_ids()
        assert sum(isinstance(found, BlobInfo) for found in seen.values()) == good
        assert not core_of(store).open_blobs


def every_shape(forge: Forge) -> None:
    """Put a root of every kind; clones among them have a parent, and so have two more."""
    for number, body in enumerate(SHAPES.values()):
        forge.root(number, body)
    forge.put(61, 9, extents(0, [1500, 1501]))
    forge.put(60, 9, extents(0, [1260, 1261]))
    forge.root(50, clone_of(3), table(2, (0, 1)))
    forge.root(51, clone_of(MANY), table(2, (0, 1)))


@pytest.mark.parametrize("clean", [pytest.param(True, id="clean"), pytest.param(False, id="dirty")])
def test_roots_of_every_kind_are_listed_as_by_opening_them(clean: bool) -> None:
    with Blobstore.open(forged(every_shape, clean=clean), read_only=True) as store:
        found = listed(store)
        lost_parents = 0 if clean else 1  # which a clone names after a crash: listed with its error
        assert len(found) == len(SHAPES) + 2 + lost_parents
        assert found == opened(store)
        assert found == iterated(store)


def messages(device: SparseDevice) -> dict[int, BlobstoreError]:
    with Blobstore.open(device, read_only=True) as store:
        return {
            found.blob_id & 0xFFFF: found.error
            for found in store.list_blobs()
            if found.error is not None
        }


def test_every_clone_of_a_missing_blob_says_that_an_ancestor_is_missing() -> None:
    errors = messages(forged(missing_at_the_bottom))
    assert len(errors) == MANY
    missing = blob_id_of(PageIndex(MANY + 5))
    for number, error in errors.items():
        assert isinstance(error, NotFoundError)
        assert error.strerror == (
            f"blob {blob_id_of(PageIndex(number)):#x}: its parent or another ancestor is missing: "
            f"blob {missing:#x}: no such blob"
        )


def test_every_clone_of_a_broken_blob_names_that() -> None:
    errors = messages(forged(broken_at_the_bottom))
    assert len(errors) == MANY
    assert all(isinstance(error, CorruptError) for error in errors.values())
    assert {error.strerror.split(":")[0] for error in errors.values()} == {"blob 0x100000000"}


def test_a_blob_that_does_not_open_is_listed_with_its_error_and_its_attributes_alone() -> None:
    with Blobstore.open(forged(broken_at_the_bottom), read_only=True) as store:
        for info in store.list_blobs():
            assert isinstance(info, BlobInfo)
            assert isinstance(info.error, CorruptError)
            assert info == BlobInfo.of_unopened(info.blob_id, info.error, info.xattrs)
            assert (info.size, info.name, info.extents, info.parent) == (0, None, (), None)
            assert info.error.blob == info.blob_id


def test_going_through_the_blobs_ends_with_the_first_that_does_not_open() -> None:
    with Blobstore.open(forged(broken_in_the_middle), read_only=True) as store:
        first, broken, last = store.blob_ids()
        found: list[BlobId] = []
        with pytest.raises(CorruptError) as caught:
            found.extend(blob.id for blob in store.iter_blobs())
        assert (found, caught.value.blob) == ([first], broken)
        errors: list[BlobstoreError] = []
        ids = [blob.id for blob in store.iter_blobs(on_error=errors.append)]
        assert (ids, [error.blob for error in errors]) == ([first, last], [broken])


def broken_in_the_middle(forge: Forge) -> None:
    for number in range(3):
        tables = [table(2, (0, 1)), table(3, (0, 1))] if number == 1 else [table(2, (0, 1))]
        forge.root(number, flags(), *tables)


def test_errors_that_are_listed_keep_nothing_alive() -> None:
    for build in (missing_at_the_bottom, broken_at_the_bottom, a_circle_at_the_bottom):
        errors = messages(forged(build))
        assert all(error.__traceback__ is None for error in errors.values())


@pytest.fixture
def store() -> Iterator[Blobstore]:
    with Blobstore.create(MemoryDevice(16 * MIB), cluster_size=CLUSTER) as store:
        yield store


def test_blobs_that_are_open_are_listed_as_they_are_in_memory(store: Blobstore) -> None:
    blob = store.create_blob(CLUSTER, thin=True)
    closed = store.create_blob(CLUSTER, thin=True, xattrs={"name": b"closed"})
    closed.close()
    blob.set_xattr("name", b"new")
    names = [found.xattrs["name"] for found in store.list_blobs()]
    assert names == [b"new", b"closed"]


def test_a_list_may_be_given_up_and_changes_be_made_during_it(store: Blobstore) -> None:
    for _ in range(600):
        store.create_blob(CLUSTER, thin=True).close()
    for found in store.list_blobs():
        assert found.error is None
        store.delete_blob(found.blob_id)
    assert store.blob_ids() == []


def test_a_blob_deleted_before_its_turn_is_listed_as_gone(store: Blobstore) -> None:
    for _ in range(600):
        store.create_blob(CLUSTER, thin=True).close()
    listing = store.list_blobs()
    next(listing)
    last = store.blob_ids()[-1]
    store.delete_blob(last)
    *_others, gone = listing
    assert gone.blob_id == last
    assert isinstance(gone.error, NotFoundError)


def test_a_blob_that_is_gone_and_made_again_during_a_list_is_no_reason_to_refuse_another(
    store: Blobstore,
) -> None:
    for _ in range(6):
        store.create_blob(CLUSTER, thin=True).close()
    first, _second, third, *_others, last = store.blob_ids()
    errors: list[BlobstoreError] = []
    listing = store.iter_blobs(on_error=errors.append)
    assert next(listing).id == first
    next(listing)
    store.delete_blob(third)
    next(listing)
    (gone,) = errors
    assert isinstance(gone, NotFoundError)
    assert gone.blob == third
    store.flush()
    with store.open_blob(last) as blob:
        made = [blob.snapshot() for _ in range(10)]
        assert third in [snapshot.id for snapshot in made]
        for snapshot in made:
            snapshot.close()
    assert list(listing)
    assert errors == [gone]


def test_a_read_that_failed_once_condemns_no_other_blob() -> None:
    device = forged(ascending)
    with Blobstore.open(device, read_only=True) as store:
        errors: list[BlobstoreError] = []

        def mend(error: BlobstoreError) -> None:
            device.fails = False
            errors.append(error)

        device.fails = True
        assert len(list(store.iter_blobs(on_error=mend))) == MANY - 1
        (error,) = errors
        assert isinstance(error, DeviceError)


def test_who_is_in_a_circle_is_named_as_its_own_ancestor() -> None:
    errors = messages(forged(a_circle_at_the_bottom))
    circle = {f"blob {blob_id_of(PageIndex(number)):#x}" for number in range(10)}
    assert len(errors) == MANY
    for error in errors.values():
        assert error.strerror.endswith(": is its own ancestor")
        assert error.strerror.split(":")[0] in circle


@pytest.mark.slow
def test_a_circle_that_was_found_refuses_all_in_it_and_above_it_as_at_first() -> None:
    def refused(store: Blobstore, blob_id: BlobId) -> str:
        with pytest.raises(CorruptError) as caught:
            store.open_blob(blob_id)
        return caught.value.message

    def image() -> SparseDevice:
        return forged(a_circle_at_the_bottom)

    at_first: dict[BlobId, str] = {}
    with Blobstore.open(image(), read_only=True) as store:
        for blob_id in store.blob_ids()[:30]:
            with Blobstore.open(image(), read_only=True) as fresh:
                at_first[blob_id] = refused(fresh, blob_id)
        for _time in range(2):
            assert {blob_id: refused(store, blob_id) for blob_id in at_first} == at_first


@pytest.mark.parametrize("way", ["list_blobs", "iter_blobs"])
def test_a_list_of_an_abandoned_store_ends_without_asking_it(way: str) -> None:
    store = Blobstore.create(MemoryDevice(16 * MIB), cluster_size=CLUSTER)
    blob = store.create_blob(CLUSTER)
    blob.snapshot().close()
    listing = getattr(store, way)()
    next(listing)
    lock = session_of(store)._driver._lock
    with lock:  # as a thread may hold it that a forked child does not have
        abandon(store)
        listing.close()
    assert not list(listing)


def test_a_chain_of_huge_blobs_that_own_nothing_takes_little_memory() -> None:
    def bombs(forge: Forge) -> None:
        for number in range(MANY):
            head = clone_of(number - 1, data_ro=1) if number else flags(data_ro=1)
            forge.root(number, head, table(1 << 26, (0, (1 << 26) // 512)))

    with Blobstore.open(forged(bombs), read_only=True) as store:
        tracemalloc.start()
        with store.open_blob(store.blob_ids()[-1]) as blob:
            assert blob.read(10) == bytes(10)
        _now, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 32 * MIB


@pytest.mark.parametrize("way", ["list_blobs", "iter_blobs"])
def test_a_store_can_be_closed_in_the_middle_of_a_list(way: str) -> None:
    device = MemoryDevice(16 * MIB)
    store = Blobstore.create(device, cluster_size=CLUSTER)
    blob = store.create_blob(CLUSTER)
    for _ in range(600):
        blob.snapshot().close()
    blob.close()
    listing = getattr(store, way)()
    next(listing)
    store.close()
    assert store.closed
    with pytest.raises(ClosedError):
        list(listing)


def test_a_list_of_a_closed_store_is_refused(store: Blobstore) -> None:
    store.close()
    with pytest.raises(ClosedError):
        next(store.list_blobs())
