"""Stores with hardly any space: who is told, when, and what is left afterwards (CRASH-SAFETY 1).

ENOSPC appears at the call that claims, before anything changed; a flush never
fails for space. The blobs are thin and thick, with extent pages and with runs,
some of several extent pages, with attributes that make chains of pages.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blobstore.blob import attributes
from blobstore.blob.read import read_into
from blobstore.blob.resize import resize
from blobstore.blob.write import flush_blob, unmap, write, write_zeroes
from blobstore.drivers.perform import perform
from blobstore.errors import DeviceError, NoSpaceError
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.load_store import load
from blobstore.metadata.space import spare_pages
from blobstore.metadata.store_state import StoreState
from blobstore.operations import Checkpoint, Core, Operation, Write
from blobstore.store.blobs import BlobOptions, create_blob
from blobstore.store.delete import delete_blob
from blobstore.store.init import InitOptions, init_store
from blobstore.store.lifecycle import flush_store, unload
from blobstore.store.open_blobs import close_blob, open_blob
from blobstore.testing.alone import run_alone
from blobstore.testing.crash_states import apply, whole
from blobstore.testing.inspect_store import load_checked
from blobstore.testing.simulated_disk import Failure, Flushed, SimulatedDisk
from blobstore.units import BlobId

CLUSTER: Final = 4096
STAMP: Final = 512
LAYOUTS: Final = [pytest.param(True, id="sector"), pytest.param(False, id="compact")]
NEVER_REFUSED: Final = {"sync", "flush", "close", "delete", "unmap", "unload", "reopen", "crash"}

Step = tuple[Any, ...]


@dataclass
class Model:
    """What a blob must hold: the stamp at the start of each written cluster, and its attributes."""

    count: int
    stamps: dict[int, bytes] = field(default_factory=dict)
    xattrs: dict[str, bytes] = field(default_factory=dict)


class TightStore:
    """A store with few pages and clusters, and a model of it; runs steps and checks each."""

    def __init__(self, *, md_pages: int, clusters: int, sector: bool) -> None:
        size = (4 + md_pages + clusters) * CLUSTER
        self.disk = self.disk_of(bytes([0xDD]) * size, sector)
        options = InitOptions(cluster_size=CLUSTER, md_pages=md_pages)
        self.store: StoreState = run_alone(init_store(self.disk.traits, options), self.disk)
        self.base = bytes(size)
        self.models: dict[BlobId, Model] = {}
        self.open: dict[BlobId, BlobState] = {}
        self.refused = 0
        self._counter = 0

    @staticmethod
    def disk_of(content: bytes | bytearray, sector: bool) -> SimulatedDisk:
        size = 512 if sector else 4096
        return SimulatedDisk(content, atomic_write_size=size, block_size=size)

    def run(self, core: Core[Any]) -> Any:
        return run_alone(core, self.disk)

    def step(self, name: str, *arguments: Any) -> bool:
        """Run one step; False says that it was refused for want of space, and changed nothing."""
        before = self.store.free_clusters
        try:
            getattr(self, f"do_{name}")(*arguments)
        except NoSpaceError:
            self.refused += 1
            self.check_refused(name, free_clusters=before)
            return False
        finally:
            assert self.store.poison is None
            assert not self.store.mutex.held
            assert spare_pages(self.store) >= 0, (name, arguments)
        return True

    def check_refused(self, name: str, *, free_clusters: int) -> None:
        """What was refused may be, and changed nothing."""
        assert name not in NEVER_REFUSED
        assert self.store.free_clusters == free_clusters
        self.check_blobs()

    # Steps

    def do_create(self, count: int, kind: str, xattr_size: int = 0) -> None:
        xattrs = {"x": b"x" * xattr_size} if xattr_size else {}
        options = BlobOptions(
            cluster_count=count,
            thin="thin" in kind,
            extent_table="runs" not in kind,
            xattrs=xattrs,
        )
        self.models[self.run(create_blob(self.store, options))] = Model(count, {}, xattrs)

    def do_write(self, at: int, index: int, count: int = 1) -> None:
        blob_id, model = self.pick(at)
        indices = self.indices(model, index, count)
        if not indices:
            return
        self._counter += 1
        stamp = self._counter.to_bytes(4, "little") * (STAMP // 4)
        data = b"".join(stamp.ljust(CLUSTER, b"\0") for _ in indices)[: -CLUSTER + STAMP]
        blob = self.opened(blob_id)
        is_owned = all(blob.clusters.get(index) for index in indices)
        try:
            self.run(write(self.store, blob, memoryview(data), indices[0] * CLUSTER))
        except NoSpaceError:
            assert not is_owned, "an overwrite takes no space"
            raise
        model.stamps.update(dict.fromkeys(indices, stamp))

    def do_zero(self, at: int, index: int, count: int = 1) -> None:
        blob_id, model = self.pick(at)
        indices = self.indices(model, index, count)
        length = len(indices) * CLUSTER
        blob = self.opened(blob_id)
        self.run(write_zeroes(self.store, blob, index * CLUSTER if indices else 0, length))
        model.stamps.update(dict.fromkeys(indices, bytes(STAMP)))

    def do_unmap(self, at: int, index: int, count: int = 1) -> None:
        blob_id, model = self.pick(at)
        indices = self.indices(model, index, count)
        length = len(indices) * CLUSTER
        blob = self.opened(blob_id)
        self.run(unmap(self.store, blob, index * CLUSTER if indices else 0, length))
        model.stamps.update(dict.fromkeys(indices, bytes(STAMP)))

    def do_resize(self, at: int, count: int) -> None:
        blob_id, model = self.pick(at)
        self.run(resize(self.store, self.opened(blob_id), count))
        for index in [index for index in model.stamps if index >= count]:
            model.stamps[index] = bytes(STAMP)
        model.count = count

    def do_xattr(self, at: int, name: str, size: int) -> None:
        blob_id, model = self.pick(at)
        self.run(attributes.set_xattr(self.store, self.opened(blob_id), name, b"v" * size))
        model.xattrs[name] = b"v" * size

    def do_remove_xattr(self, at: int, name: str) -> None:
        blob_id, model = self.pick(at)
        if name in model.xattrs:
            self.run(attributes.remove_xattr(self.store, self.opened(blob_id), name))
            del model.xattrs[name]

    def do_sync(self, at: int) -> None:
        self.run(flush_blob(self.store, self.opened(self.pick(at)[0])))

    def do_flush(self) -> None:
        self.run(flush_store(self.store))

    def do_close(self, at: int) -> None:
        blob = self.open.pop(self.pick(at)[0], None)
        if blob is not None:
            self.run(close_blob(self.store, blob))

    def do_delete(self, at: int) -> None:
        blob_id, _model = self.pick(at)
        blob = self.open.pop(blob_id, None)
        if blob is not None:
            self.run(close_blob(self.store, blob))
        self.run(delete_blob(self.store, blob_id))
        del self.models[blob_id]

    def do_reopen(self, sector: bool) -> None:
        """Unload, and load again, on a device of either layout."""
        for blob in self.open.values():
            self.run(close_blob(self.store, blob))
        self.run(unload(self.store))
        self._load(bytes(self.disk.content), sector)

    def do_crash(self, sector: bool) -> None:
        """Flush, write a little more, and lose all of that."""
        self.run(flush_store(self.store))
        self._load(self.durable(), sector)

    # Helpers

    def _load(self, content: bytes, sector: bool) -> None:
        checked = self.disk_of(content, sector)
        assert load_checked(checked) is not None
        self.disk = self.disk_of(content, sector)
        self.base = content
        self.store = self.run(load(self.disk.traits))
        self.open.clear()
        self.check_blobs()

    def durable(self) -> bytes:
        """Return what the last flush made durable."""
        events = self.disk.events
        flushes = [number for number, event in enumerate(events) if isinstance(event, Flushed)]
        content = bytearray(self.base)
        patches = [
            whole(e) for e in events[: max(flushes, default=0)] if not isinstance(e, Flushed)
        ]
        apply(content, patches)
        return bytes(content)

    def pick(self, at: int) -> tuple[BlobId, Model]:
        return list(self.models.items())[at % len(self.models)]

    def opened(self, blob_id: BlobId) -> BlobState:
        if blob_id not in self.open:
            self.open[blob_id] = self.run(open_blob(self.store, blob_id))
        return self.open[blob_id]

    @staticmethod
    def indices(model: Model, index: int, count: int) -> range:
        return range(index, min(index + count, model.count))

    def check_blobs(self) -> None:
        """Read what was written, and compare it."""
        for blob_id, model in self.models.items():
            blob = self.opened(blob_id)
            assert (blob.clusters.count, blob.xattrs) == (model.count, model.xattrs)
            for index, stamp in model.stamps.items():
                if index < model.count:
                    buffer = bytearray(CLUSTER)
                    view = memoryview(buffer)
                    self.run(read_into(self.store, blob, view, index * CLUSTER))
                    assert buffer == stamp.ljust(CLUSTER, b"\0"), (hex(blob_id), index)


PLACES: Final = [0, 1, 2, 3, 511, 512, 513, 1023, 1024, 1535, 1536, 2047, 2048, 2600]
SIZES: Final = [0, 1, 2, 3, 4, 6, 512, 513, 600, 1024, 1100, 1600, 2100, 2700]
# 504 bytes fit into a root of the sector layout, 4072 into any other page; the largest sizes
# fill either to the last pair.
XATTR_SIZES: Final = [1, 100, 400, 424, 432, 436, 440, 444, 460, 2000, 3990, 4000, 4010, 4040]

AT: Final = st.integers(0, 3)
STEPS: Final = st.one_of(
    st.tuples(
        st.just("create"),
        st.sampled_from(SIZES),
        st.sampled_from(["thin", "thin runs"]),
        st.sampled_from([0, *XATTR_SIZES]),
    ),
    st.tuples(
        st.just("create"),
        st.integers(0, 6),
        st.sampled_from(["", "runs"]),
        st.sampled_from([0, *XATTR_SIZES]),
    ),
    *[
        st.tuples(st.just(name), AT, st.sampled_from(PLACES), st.integers(1, 3))
        for name in ("write", "write", "write", "unmap", "zero")
    ],
    st.tuples(st.just("resize"), AT, st.sampled_from(SIZES)),
    st.tuples(st.just("xattr"), AT, st.sampled_from("xyz"), st.sampled_from(XATTR_SIZES)),
    st.tuples(st.just("remove_xattr"), AT, st.sampled_from("xyz")),
    st.tuples(st.sampled_from(["sync", "close", "delete"]), AT),
    st.just(("flush",)),
    st.tuples(st.sampled_from(["reopen", "crash"]), st.booleans()),
)


@pytest.mark.slow
@given(
    md_pages=st.integers(3, 12),
    clusters=st.integers(4, 12),
    sector=st.booleans(),
    steps=st.lists(STEPS, min_size=5, max_size=60),
)
@settings(max_examples=150)
def test_a_flush_never_lacks_space_and_what_was_acknowledged_survives(
    md_pages: int, clusters: int, sector: bool, steps: Sequence[Step]
) -> None:
    store = TightStore(md_pages=md_pages, clusters=clusters, sector=sector)
    for step in steps:
        if step[0] in ("create", "flush", "reopen", "crash") or store.models:
            store.step(*step)
    store.step("crash", sector)
    store.step("reopen", sector)


def fill_clusters(store: TightStore, at: int) -> int:
    """Write the blob from its start until no cluster is left; return how many it took."""
    _blob_id, model = store.pick(at)
    for index in range(model.count):
        if not store.step("write", at, index):
            return index
    return model.count


@pytest.mark.parametrize("sector", LAYOUTS)
@pytest.mark.parametrize("kind", ["thin", "thin runs"])
def test_the_last_cluster_can_be_written_and_the_next_write_changes_nothing(
    kind: str, sector: bool
) -> None:
    store = TightStore(md_pages=8, clusters=6, sector=sector)
    store.step("create", 10, kind)
    assert fill_clusters(store, 0) == 6
    assert store.store.free_clusters == 0
    assert not store.step("write", 0, 4, 3), "of three clusters two are there"
    store.step("flush")
    store.check_blobs()
    store.step("crash", sector)


@pytest.mark.parametrize("sector", LAYOUTS)
def test_on_a_full_store_data_are_overwritten_and_blobs_deleted(sector: bool) -> None:
    store = TightStore(md_pages=6, clusters=6, sector=sector)
    store.step("create", 10, "thin")
    fill_clusters(store, 0)
    store.step("sync", 0)
    while store.step("create", 0, "thin"):
        pass
    store.step("write", 0, 0, 6)
    store.step("zero", 0, 2, 2)
    store.step("crash", sector)
    for _ in range(len(store.models)):
        store.step("delete", 0)
    assert store.store.free_clusters == 6
    assert store.step("create", 6, "")


@pytest.mark.parametrize("sector", LAYOUTS)
@pytest.mark.parametrize("kind", ["thin", "thin runs"])
def test_what_an_unmap_frees_can_be_written_again_at_once(kind: str, sector: bool) -> None:
    store = TightStore(md_pages=8, clusters=6, sector=sector)
    store.step("create", 10, kind)
    store.step("create", 10, kind)
    fill_clusters(store, 0)
    store.step("unmap", 0, 1, 3)
    assert store.store.free_clusters == 3
    for index in (5, 7, 9):
        assert store.step("write", 1, index)
    assert store.store.free_clusters == 0
    assert not store.step("write", 1, 0)
    store.step("crash", sector)


@pytest.mark.parametrize("sector", LAYOUTS)
def test_what_a_delete_frees_can_be_taken_at_once(sector: bool) -> None:
    store = TightStore(md_pages=6, clusters=6, sector=sector)
    for _ in range(3):
        store.step("create", 6, "", 2000 if sector else 0)
        assert store.store.free_clusters == 0
        store.step("delete", 0)
        assert store.store.free_clusters == 6
    store.step("create", 6, "thin")
    assert fill_clusters(store, 0) == 6


@pytest.mark.parametrize("sector", LAYOUTS)
def test_every_page_can_be_a_root_and_each_of_them_can_be_made_anew_at_once(sector: bool) -> None:
    store = TightStore(md_pages=5, clusters=4, sector=sector)
    for _ in range(5):
        assert store.step("create", 3, "thin")
    assert not store.step("create", 3, "thin")
    for at in range(5):
        store.step("delete", at)
        assert store.step("create", 3, "thin"), f"page {at} was given back"
        assert not store.step("create", 3, "thin")
        store.step("delete", 4)
        assert store.step("create", 3, "thin")


@pytest.mark.parametrize("sector", LAYOUTS)
def test_on_a_store_without_a_page_an_unmap_writes_zeroes_in_place(sector: bool) -> None:
    store = TightStore(md_pages=6, clusters=4, sector=sector)
    store.step("create", 4, "thin")
    store.step("write", 0, 0, 4)
    store.step("sync", 0)
    while store.step("create", 0, "thin"):
        pass
    store.step("unmap", 0, 1, 2)
    store.check_blobs()
    assert store.store.free_clusters == 0, "no page to note the holes in"
    store.step("delete", 1)
    store.step("delete", 1)
    store.step("unmap", 0, 1, 2)
    assert store.store.free_clusters == 2
    store.step("crash", sector)


@pytest.mark.parametrize("sector", LAYOUTS)
def test_several_dirty_blobs_are_promised_a_page_each_before_any_is_flushed(sector: bool) -> None:
    store = TightStore(md_pages=9, clusters=12, sector=sector)
    for _ in range(4):
        store.step("create", 4, "thin")
    written = [at for at in range(4) if store.step("write", at, 0, 2)]
    assert written == [0, 1, 2, 3], "each takes an extent page"
    while store.step("create", 0, "thin"):
        pass
    assert len(store.models) <= 5, "four of nine pages are promised"
    store.step("flush")
    store.step("crash", sector)


@pytest.mark.parametrize("sector", LAYOUTS)
def test_with_hardly_any_page_for_copies_a_large_blob_is_persisted_in_rounds(sector: bool) -> None:
    places = [0, 600, 1100, 1600, 2100]
    store = TightStore(md_pages=9, clusters=12, sector=sector)
    store.step("create", 2700, "thin")
    for index in places:
        assert store.step("write", 0, index)
    store.step("sync", 0)
    for index in places:
        assert store.step("write", 0, index + 1)
    assert spare_pages(store.store) < len(places)
    flushes = sum(isinstance(event, Flushed) for event in store.disk.events)
    store.step("sync", 0)
    assert sum(isinstance(event, Flushed) for event in store.disk.events) - flushes > 4
    store.step("crash", sector)


@pytest.mark.parametrize("sector", LAYOUTS)
@pytest.mark.parametrize("dirty_count", [1, 2, 3, 5])
def test_the_pages_for_copies_stay_when_others_take_all_that_are_left(
    dirty_count: int, sector: bool
) -> None:
    places = [0, 600, 1100, 1600, 2100]
    store = TightStore(md_pages=12, clusters=12, sector=sector)
    store.step("create", 2700, "thin")
    for index in places:
        store.step("write", 0, index)
    store.step("sync", 0)
    for index in places[:dirty_count]:
        assert store.step("write", 0, index + 1)
    while store.step("create", 0, "thin"):
        pass
    store.step("sync", 0)
    store.step("crash", sector)


class WatchedDisk(SimulatedDisk):
    """Compares at every flush what a blob owns durably with what may be claimed in memory."""

    def __init__(self, store: TightStore) -> None:
        traits = store.disk.traits
        super().__init__(
            store.disk.content,
            atomic_write_size=traits.atomic_write_size,
            block_size=traits.block_size,
        )
        self.durable = bytes(self.content)
        self.flush_count = 0
        self._store = store

    def flush(self) -> None:
        loaded = load_checked(TightStore.disk_of(self.durable, self.traits.block_size == 512))
        assert loaded is not None
        claimable = ~self._store.store.clusters.used
        assert not (loaded[0].clusters.used & claimable).any()
        super().flush()
        self.durable = bytes(self.content)
        self.flush_count += 1


# Bugs that were found here.


@pytest.mark.parametrize("sector", LAYOUTS)
@pytest.mark.parametrize("count", [512, 1024])
def test_growing_from_a_whole_number_of_extent_pages_is_promised_a_copy_of_the_last(
    count: int, sector: bool
) -> None:
    store = TightStore(md_pages=8, clusters=8, sector=sector)
    store.step("create", count, "thin")
    store.step("write", 0, count - 1)
    store.step("sync", 0)
    while store.step("create", 0, "thin"):
        pass
    store.step("delete", 1)
    store.step("resize", 0, count + 100)
    while store.step("create", 0, "thin"):
        pass
    store.step("sync", 0)
    store.step("crash", sector)


@pytest.mark.parametrize("sector", LAYOUTS)
def test_clusters_that_a_shrink_cut_are_not_given_away_before_the_last_round(
    sector: bool,
) -> None:
    places = [0, 600, 1100, 1600, 2100, 2101]
    store = TightStore(md_pages=10, clusters=12, sector=sector)
    store.step("create", 2700, "thin")
    for index in places:
        assert store.step("write", 0, index)
    store.step("sync", 0)
    for index in places[:4]:
        assert store.step("write", 0, index + 1)
    assert store.step("resize", 0, 2101)
    assert store.step("resize", 0, 2700)
    watched = WatchedDisk(store)
    store.disk = watched
    store.step("sync", 0)
    assert watched.flush_count > 4
    assert store.store.free_clusters == 12 - 9


@pytest.mark.parametrize("sector", LAYOUTS)
def test_a_thick_blob_whose_growth_failed_is_what_it_was_and_can_be_read_again(
    sector: bool,
) -> None:
    store = TightStore(md_pages=12, clusters=1100, sector=sector)
    store.step("create", 512, "")
    before = spare_pages(store.store)
    disk = store.disk
    blob = store.opened(next(iter(store.models)))
    operations = disk.operation_count
    disk.failure = Failure(operations, forever=True)
    with pytest.raises(DeviceError):
        store.run(resize(store.store, blob, 1030))
    disk.failure = None
    assert store.store.poison is None
    assert (store.store.free_clusters, spare_pages(store.store)) == (1100 - 512, before)
    store.step("xattr", 0, "x", 10)
    store.step("crash", sector)
    store.step("resize", 0, 1030)
    store.step("crash", sector)


def steps_of(core: Core[Any], disk: SimulatedDisk) -> Iterator[Operation[Any]]:
    """Run the coroutine one operation at a time: each is yielded before it is performed."""
    value: object = None
    while True:
        try:
            operation = core.send(value)
        except StopIteration:
            return
        yield operation
        value = None if isinstance(operation, Checkpoint) else perform(disk, operation)


@pytest.mark.parametrize("sector", LAYOUTS)
def test_a_flush_does_not_give_away_the_pages_of_a_write_in_progress(sector: bool) -> None:
    store = TightStore(md_pages=8, clusters=12, sector=sector)
    store.step("create", 1100, "thin")
    store.step("write", 0, 0)
    blob = store.opened(next(iter(store.models)))
    data = memoryview(bytes(CLUSTER))
    writing = steps_of(write(store.store, blob, data, 600 * CLUSTER), store.disk)
    assert isinstance(next(writing), Write)
    store.step("sync", 0)
    while store.step("create", 0, "thin"):
        pass
    assert not list(writing), "it was the last operation"
    store.step("sync", 0)
    store.step("crash", sector)
