"""The fast path: equal to the full path, and never in the way of a cluster that is freed."""

import contextlib
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blobstore import (
    Blob,
    Blobstore,
    BlobstoreError,
    ClosedError,
    DeviceError,
    InvalidArgumentError,
    PoisonedError,
    ReadOnlyError,
)
from blobstore.alloc.leaves import NO_LEAVES
from blobstore.device.file import FileDevice
from blobstore.drivers import blocking
from blobstore.epochs import UNPINNED, Pin
from blobstore.metadata import store_state
from blobstore.testing.internals import core_of, device_of, session_of, state_of, store_of
from blobstore.units import KIB, MIB

STALE: Final = 0xDD
CLUSTER: Final = 4 * KIB
TIMEOUT: Final = 60.0
"""Ends a test that hangs; no result depends on it."""


def stale_store(path: Path, *, cluster_size: int = CLUSTER, size: int = 4 * MIB) -> Blobstore:
    """Make a store on a file full of bytes that nobody may ever see."""
    path.write_bytes(bytes([STALE]) * size)
    device = FileDevice.open(path)
    return Blobstore.create(
        device, cluster_size=cluster_size, md_pages=64, clear="none", overwrite=True
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Blobstore]:
    with stale_store(tmp_path / "disk.img") as store:
        yield store


# Equal to the full path


BLOB_CLUSTERS: Final = 6
OFFSETS: Final = st.integers(-CLUSTER - 1, (BLOB_CLUSTERS + 1) * CLUSTER) | st.sampled_from(
    [number * CLUSTER for number in range(-1, BLOB_CLUSTERS + 1)]
)
LENGTHS: Final = st.integers(0, 3 * CLUSTER) | st.sampled_from([0, 1, 512, CLUSTER, 2 * CLUSTER])
DATA: Final = st.builds(lambda value, length: bytes([value]) * length, st.integers(1, 255), LENGTHS)
CALLS: Final = st.one_of(
    st.tuples(st.just("write"), DATA, OFFSETS),
    st.tuples(st.just("read"), LENGTHS, OFFSETS),
    st.tuples(st.just("read_into"), LENGTHS.map(bytearray), OFFSETS),
    st.tuples(st.sampled_from(["write_zeroes", "unmap"]), OFFSETS, LENGTHS),
    st.tuples(st.just("resize"), st.integers(0, BLOB_CLUSTERS).map(lambda count: count * CLUSTER)),
    st.tuples(st.just("flush")),
)


def outcome_of(blob: Blob, name: str, *arguments: Any) -> object:
    """Call the method; return what a caller sees of it."""
    try:
        result = getattr(blob, name)(*arguments)
    except BlobstoreError as error:
        return type(error), error.errno
    return result, bytes(arguments[0]) if name == "read_into" else b""


@pytest.mark.parametrize("cluster_size", [CLUSTER, 3 * CLUSTER])
@settings(max_examples=40)
@given(thin=st.booleans(), calls=st.lists(CALLS, max_size=20))
def test_both_paths_give_the_same_answers(
    cluster_size: int, thin: bool, calls: list[tuple[Any, ...]]
) -> None:
    with (
        TemporaryDirectory() as directory,
        stale_store(Path(directory, "disk.img"), cluster_size=cluster_size, size=MIB) as store,
    ):
        fast, full = (store.create_blob(BLOB_CLUSTERS * CLUSTER, thin=thin) for _ in range(2))
        full._leave_fast_path()
        for call in calls:
            assert outcome_of(fast, *call) == outcome_of(full, *call)
        assert fast.read(fast.size) == full.read(full.size)


class Tree:
    """Some blobs of one store, all open, and what a script does to them."""

    MOST: Final = 8

    def __init__(self, path: Path) -> None:
        self.store = stale_store(path, size=2 * MIB)
        self.blobs = [self.store.create_blob(BLOB_CLUSTERS * CLUSTER, thin=True)]
        self.value = 0
        for call in [("write", 0, 0), ("snapshot", 0, 0), ("write", 0, 1), ("write", 0, 0)]:
            self.do(*call)

    def do(self, name: str, at: int, other: int) -> object:
        """Do something to one of the blobs; return what a caller sees of it."""
        blob, second = self.blobs[at % len(self.blobs)], self.blobs[other % len(self.blobs)]
        try:
            if name in ("set_parent", "rollback"):
                getattr(blob, name)(second.id)
            elif name in ("snapshot", "clone"):
                if len(self.blobs) < self.MOST:
                    self.blobs.append(getattr(blob, name)())
            elif name == "write":
                self.value += 1
                blob.write(bytes([self.value]) * 700, other % BLOB_CLUSTERS * CLUSTER + 99)
            elif name == "unmap":
                blob.unmap(other % BLOB_CLUSTERS * CLUSTER, CLUSTER)
            elif name == "resize":
                blob.resize(other % (BLOB_CLUSTERS + 1) * CLUSTER)
            elif name == "delete":
                self.delete(blob)
            else:
                getattr(blob, name)()
        except BlobstoreError as error:
            return type(error), error.errno
        return self.blobs[-1].id

    def delete(self, blob: Blob) -> None:
        if len(self.blobs) > 1:
            blob.close()
            self.blobs.remove(blob)
            self.store.delete_blob(blob.id)


def seen_by_cluster(blob: Blob) -> list[bytes]:
    return [blob.read(CLUSTER, offset) for offset in range(0, blob.size, CLUSTER)]


def seen_by_full_path(blob: Blob) -> list[bytes]:
    """Read what the fast path has had no part in, and nothing that was remembered."""
    blob._leave_fast_path()
    state_of(blob).inherited = NO_LEAVES
    return seen_by_cluster(blob)


@settings(max_examples=80)
@given(
    script=st.lists(
        st.tuples(
            st.sampled_from(
                ["snapshot", "clone", "set_parent", "rollback", "decouple", "inflate", "delete"]
            )
            | st.sampled_from(["write", "write", "unmap", "resize", "flush"]),
            st.integers(0, Tree.MOST - 1),
            st.integers(0, Tree.MOST - 1),
        ),
        max_size=30,
    )
)
def test_both_paths_show_the_same_of_a_tree_of_clones_whatever_is_done_to_it(
    script: list[tuple[str, int, int]],
) -> None:
    with TemporaryDirectory() as directory:
        fast, full = (Tree(Path(directory, name)) for name in ("fast.img", "full.img"))
        with fast.store, full.store:
            for call in script:
                assert fast.do(*call) == full.do(*call)
                for mine, other in zip(fast.blobs, full.blobs, strict=True):
                    assert seen_by_cluster(mine) == seen_by_full_path(other)


# What the fast path must leave to the full path


@pytest.fixture
def blob(store: Blobstore) -> Blob:
    blob = store.create_blob(3 * CLUSTER)
    blob.write(b"A" * 3 * CLUSTER)
    return blob


@pytest.mark.parametrize("offset", [-1, -CLUSTER, -3 * CLUSTER, -512 * CLUSTER])
def test_a_negative_offset_does_not_count_from_the_end(blob: Blob, offset: int) -> None:
    with pytest.raises(InvalidArgumentError):
        blob.read(1, offset)
    with pytest.raises(InvalidArgumentError):
        blob.read_into(bytearray(1), offset)
    with pytest.raises(InvalidArgumentError):
        blob.write(b"x", offset)
    assert blob.read(blob.size) == b"A" * blob.size


@pytest.mark.parametrize("length", [2, CLUSTER + 1, 2 * CLUSTER])
def test_a_request_across_clusters_is_one_request(blob: Blob, length: int) -> None:
    blob.write(b"B" * length, CLUSTER - 1)
    buffer = bytearray(length)
    assert blob.read_into(buffer, CLUSTER - 1) == length
    assert buffer == blob.read(length, CLUSTER - 1) == b"B" * length
    assert blob.read(CLUSTER - 1) == b"A" * (CLUSTER - 1)


def test_a_request_past_the_end_is_refused_whole(blob: Blob) -> None:
    with pytest.raises(InvalidArgumentError):
        blob.write(b"xx", blob.size - 1)
    with pytest.raises(InvalidArgumentError):
        blob.read(2, blob.size - 1)
    assert blob.read(1, blob.size - 1) == b"A"


def test_a_view_of_larger_items_counts_its_bytes(blob: Blob) -> None:
    buffer = memoryview(bytearray(16)).cast("Q")
    assert blob.write(memoryview(b"12345678" * 2).cast("Q"), 8) == 16
    assert blob.read_into(buffer, 8) == 16
    assert bytes(buffer) == b"12345678" * 2
    with pytest.raises(InvalidArgumentError):
        blob.read_into(buffer, blob.size - 8)


def test_a_closed_handle_does_nothing_although_another_is_open(
    store: Blobstore, blob: Blob
) -> None:
    other = store.open_blob(blob.id)
    blob.close()
    with pytest.raises(ClosedError):
        blob.read(1)
    with pytest.raises(ClosedError):
        blob.read_into(bytearray(1))
    with pytest.raises(ClosedError):
        blob.write(b"x")
    assert other.read(1) == b"A"


def test_a_poisoned_store_is_read_but_not_written(store: Blobstore, blob: Blob) -> None:
    core_of(store).poison = RuntimeError("a flush failed")
    with pytest.raises(PoisonedError):
        blob.write(b"x")
    assert blob.read(1) == b"A"
    with pytest.raises(PoisonedError):
        store.close()


def test_a_read_only_blob_is_read_but_not_written(blob: Blob) -> None:
    blob.set_read_only()
    blob.sync_md()
    with pytest.raises(ReadOnlyError):
        blob.write(b"x")
    assert blob.read(1) == b"A"


def test_a_store_that_turned_read_only_is_not_written(store: Blobstore, blob: Blob) -> None:
    """A blob in quarantine makes the store read-only while others are open for writing."""
    core_of(store).refuse_changes("blob 0x1: is in quarantine")
    with pytest.raises(ReadOnlyError):
        blob.write(b"x")
    assert blob.read(1) == b"A"


def test_a_store_opened_read_only_on_a_writable_device_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with Blobstore.create(path, size="4MiB", cluster_size=CLUSTER, md_pages=64) as store:
        blob_id = store.create_blob(CLUSTER).id
    with Blobstore.open(FileDevice.open(path), read_only=True) as store:
        blob = store.open_blob(blob_id)
        with pytest.raises(ReadOnlyError):
            blob.write(b"x")
        assert blob.read(1) == b"\0"


def test_a_file_that_became_shorter_is_an_error_and_not_zeroes(
    store: Blobstore, blob: Blob
) -> None:
    os.truncate(device_of(store).name, 64 * KIB)
    with pytest.raises(DeviceError):
        blob.read(CLUSTER)
    with pytest.raises(DeviceError):
        blob.read_into(bytearray(CLUSTER))
    os.truncate(device_of(store).name, 4 * MIB)


def test_a_buffer_that_cannot_be_filled_leaves_no_mark(store: Blobstore, blob: Blob) -> None:
    with pytest.raises((TypeError, BufferError)):
        blob.read_into(b"immutable")
    assert session_of(store).pins.mine.epoch == UNPINNED


def test_a_forked_child_finds_its_blob_closed(blob: Blob) -> None:
    def errors() -> Iterator[str]:
        for call in (lambda: blob.read(1), lambda: blob.write(b"child"), blob.close):
            try:
                call()
                yield "nothing"
            except Exception as error:
                yield type(error).__name__

    answer_end, answer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(answer, " ".join(errors()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(answer_end, 100) == b"ClosedError ClosedError nothing"
    os.close(answer)
    os.close(answer_end)
    assert blob.read(5) == b"AAAAA"


# Against freeing and reuse


def test_a_pin_is_registered_while_its_thread_lives(store: Blobstore, blob: Blob) -> None:
    blob.read(1)
    before = len(core_of(store).epochs.pins)
    in_thread(lambda: blob.read(1)).join()
    assert len(core_of(store).epochs.pins) == before


def in_thread(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


class Unpinned(Pin):
    """A pin that never holds."""

    __slots__ = ()

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, UNPINNED)


class Interrupted:
    """A read that has looked into the map and is stopped right before it reads."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, store: Blobstore, blob: Blob, *, pinned: bool
    ) -> None:
        self.buffer = bytearray(CLUSTER)
        self._store, self._blob, self._pinned = store, blob, pinned
        self._has_looked = threading.Event()
        self._may_go_on = threading.Event()
        self._preadv = os.preadv
        monkeypatch.setattr(blob, "_preadv", self._stopped_preadv)
        self._reader = 0
        self._thread = in_thread(self._read)
        assert self._has_looked.wait(TIMEOUT)

    def _read(self) -> None:
        self._reader = threading.get_ident()
        if not self._pinned:
            session_of(self._store).pins.mine = Unpinned()
        self._blob.read_into(self.buffer)

    def _stopped_preadv(self, descriptor: int, buffers: Any, offset: int) -> int:
        if threading.get_ident() == self._reader:
            self._has_looked.set()
            self._may_go_on.wait(TIMEOUT)
        return self._preadv(descriptor, buffers, offset)

    def go_on(self) -> None:
        self._may_go_on.set()
        self._thread.join()


def give_up_clusters(blob: Blob) -> None:
    """Shrink the blob to nothing; durable, so that its clusters may be another's."""
    blob.resize(0)
    blob.flush()
    blob.flush()


@pytest.fixture
def filler(store: Blobstore) -> Blob:
    """A blob that has room for all clusters."""
    return store.create_blob(4 * MIB, thin=True)


def fill_free_clusters(store: Blobstore, filler: Blob) -> None:
    """Write to every cluster that is free now."""
    first = filler.next_unallocated(0)
    assert first is not None
    filler.write(b"F" * CLUSTER * core_of(store).clusters.free_count, first)


@pytest.fixture
def victim(store: Blobstore) -> Blob:
    blob = store.create_blob(CLUSTER, thin=True, clear_method=1)
    blob.write(b"V" * CLUSTER)
    return blob


def test_a_cluster_is_not_freed_under_a_pinned_read(
    store: Blobstore, victim: Blob, filler: Blob, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_waiting = threading.Event()
    wait_until_quiet = blocking._wait_until_over

    def noted(operation: Any) -> None:
        is_waiting.set()
        wait_until_quiet(operation)

    monkeypatch.setattr(blocking, "_wait_until_over", noted)
    read = Interrupted(monkeypatch, store, victim, pinned=True)
    freeing = in_thread(lambda: give_up_clusters(victim))
    assert is_waiting.wait(TIMEOUT)
    fill_free_clusters(store, filler)
    read.go_on()
    freeing.join()
    assert read.buffer == b"V" * CLUSTER


def test_without_its_pin_a_read_would_see_foreign_bytes(
    store: Blobstore, victim: Blob, filler: Blob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the test above is able to fail."""
    read = Interrupted(monkeypatch, store, victim, pinned=False)
    give_up_clusters(victim)
    fill_free_clusters(store, filler)
    read.go_on()
    assert read.buffer == b"F" * CLUSTER


def test_a_handle_is_closed_only_when_no_request_is_in_flight(
    store: Blobstore, victim: Blob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The descriptor is closed next, and its number may then be any other file's."""
    is_waiting = threading.Event()
    wait_until_quiet = blocking._wait_until_over

    def noted(operation: Any) -> None:
        is_waiting.set()
        wait_until_quiet(operation)

    monkeypatch.setattr(blocking, "_wait_until_over", noted)
    read = Interrupted(monkeypatch, store, victim, pinned=True)
    closing = in_thread(store.close)
    assert is_waiting.wait(TIMEOUT)
    was_closed = device_of(store).closed
    read.go_on()
    closing.join()
    assert (was_closed, device_of(store).closed) == (False, True)
    assert read.buffer == b"V" * CLUSTER


def test_a_request_that_was_on_its_way_when_the_blob_closed_is_refused(
    store: Blobstore, victim: Blob, filler: Blob
) -> None:
    """Its map still names clusters that are another's by now."""
    victim_id = victim.id
    victim.close()
    store.delete_blob(victim_id)
    store.flush()
    fill_free_clusters(store, filler)
    victim._open = True  # as a thread saw it before the close
    with pytest.raises(ClosedError):
        victim.read(CLUSTER)
    with pytest.raises(ClosedError):
        victim.write(b"V")
    victim._open = False


class Crowd:
    """Threads that use blobs, each with a byte of its own, while another takes clusters away."""

    def __init__(self, store: Blobstore) -> None:
        self.store = store
        self.blobs = {value: self._new(value) for value in (1, 2, 3)}
        self.seen_foreign: set[int] = set()
        self.read_count = 0
        self._is_over = False

    def _new(self, value: int) -> Blob:
        blob = self.store.create_blob(32 * CLUSTER, thin=True)
        blob.write(bytes([value]) * 32 * CLUSTER)
        return blob

    def use_blobs(self, seed: int) -> None:
        choice = random.Random(seed)
        buffer = bytearray(CLUSTER)
        while not self._is_over:
            value, blob = choice.choice(list(self.blobs.items()))
            offset = choice.randrange(32) * CLUSTER
            with contextlib.suppress(InvalidArgumentError):
                if choice.random() < 0.3:
                    blob.write(bytes([value]) * CLUSTER, offset)
                else:
                    blob.read_into(buffer, offset)
                    self.read_count += 1
                    self.seen_foreign |= set(buffer) - {0, value}

    def take_clusters_away(self, rounds: int) -> None:
        choice = random.Random(rounds)
        try:
            for number in range(rounds):
                blob = choice.choice(list(self.blobs.values()))
                blob.resize(choice.randrange(32) * CLUSTER)
                blob.flush()
                other = self._new(100 + number % 100)
                blob.resize(32 * CLUSTER)
                blob.unmap(choice.randrange(16) * CLUSTER, 8 * CLUSTER)
                self.store.flush()
                other.close()
                self.store.delete_blob(other.id)
        finally:
            self._is_over = True


@pytest.mark.slow
def test_no_reader_ever_sees_what_was_not_written_to_its_blob(store: Blobstore) -> None:
    crowd = Crowd(store)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        users = [in_thread(partial(crowd.use_blobs, seed)) for seed in range(3)]
        crowd.take_clusters_away(20)
        for user in users:
            user.join()
    finally:
        sys.setswitchinterval(interval)
    assert crowd.seen_foreign == set()
    assert crowd.read_count > 0


# What a clone reads from its ancestors


@pytest.fixture
def clone(store: Blobstore) -> Blob:
    """A blob that has read all it inherits: A of its parent, B of the one above, and a hole."""
    clone = store.create_blob(3 * CLUSTER, thin=True, clear_method=1)
    for letter, place in ((b"B", 1), (b"A", 0)):
        clone.write(letter * CLUSTER, place * CLUSTER)
        clone.snapshot().close()
    clone.read(clone.size)
    return clone


def test_an_ancestors_cluster_that_was_touched_is_read_by_the_fast_path(
    clone: Blob, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []
    read_fully = Blob._read_fully

    def noted(blob: Blob, view: memoryview, offset: int) -> None:
        left.append(offset)
        read_fully(blob, view, offset)

    monkeypatch.setattr(Blob, "_read_fully", noted)
    assert clone.read(CLUSTER) == b"A" * CLUSTER
    assert clone.read(5, 2 * CLUSTER - 5) == b"BBBBB"
    assert left == []
    assert clone.read(1, 2 * CLUSTER) == b"\0"
    assert left == [2 * CLUSTER]


def test_a_write_does_not_go_to_an_ancestors_cluster(clone: Blob) -> None:
    clone.write(b"C", 0)
    assert clone.read(CLUSTER) == b"C" + b"A" * (CLUSTER - 1)
    parent = clone.info.parent
    assert parent is not None
    with store_of(clone).open_blob(parent) as below:
        assert below.read(CLUSTER) == b"A" * CLUSTER


def overwritten(clone: Blob) -> None:
    clone.write(b"C" * 3 * CLUSTER)


def merged(clone: Blob) -> None:
    overwritten(clone)
    parent = clone.info.parent
    assert parent is not None
    store_of(clone).delete_blob(parent)


def rolled_back(clone: Blob) -> None:
    overwritten(clone)
    parent = clone.info.parent
    assert parent is not None
    clone.rollback(parent)


def shrunken(clone: Blob) -> None:
    clone.resize(0)
    with pytest.raises(InvalidArgumentError):
        clone.read(1)
    clone.resize(3 * CLUSTER)


def given_another_parent(clone: Blob) -> None:
    with store_of(clone).create_blob(3 * CLUSTER) as other:
        other.write(b"O" * 3 * CLUSTER)
        other.set_read_only()
        other.sync_md()
        clone.set_parent(other.id)


def taken_a_snapshot(clone: Blob) -> None:
    overwritten(clone)
    clone.snapshot().close()


AB0: Final = b"A" * CLUSTER + b"B" * CLUSTER + bytes(CLUSTER)


@pytest.mark.parametrize(
    ("change", "content"),
    [
        (overwritten, b"C" * 3 * CLUSTER),
        (merged, b"C" * 3 * CLUSTER),
        (rolled_back, AB0),
        (shrunken, AB0),
        (given_another_parent, b"O" * 3 * CLUSTER),
        (taken_a_snapshot, b"C" * 3 * CLUSTER),
        (Blob.decouple, AB0),
        (Blob.inflate, AB0),
    ],
)
def test_a_clone_reads_what_it_is_after(
    change: Callable[[Blob], None], content: bytes, clone: Blob, store: Blobstore, filler: Blob
) -> None:
    change(clone)
    store.flush()
    fill_free_clusters(store, filler)
    for _touch in range(2):
        seen = [clone.read(CLUSTER, offset) for offset in range(0, clone.size, CLUSTER)]
        assert b"".join(seen) == content == clone.read(clone.size)


def test_a_blob_that_is_written_to_although_it_has_clones_is_read_by_them_as_it_is(
    store: Blobstore, clone: Blob
) -> None:
    """The original refuses such a parent; a store that was forged can have one."""
    parent = state_of(clone).parent
    assert parent is not None
    parent.data_read_only = parent.md_read_only = False
    with store.open_blob(parent.blob_id) as below:
        below.write(b"W" * CLUSTER)
    assert clone.read(CLUSTER) == b"W" * CLUSTER == clone.read(clone.size)[:CLUSTER]


def test_an_ancestors_cluster_is_not_freed_under_a_pinned_read_of_a_clone(
    store: Blobstore, clone: Blob, filler: Blob, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_waiting = threading.Event()
    wait_until_quiet = blocking._wait_until_over

    def noted(operation: Any) -> None:
        is_waiting.set()
        wait_until_quiet(operation)

    read = Interrupted(monkeypatch, store, clone, pinned=True)
    monkeypatch.setattr(blocking, "_wait_until_over", noted)
    merging = in_thread(lambda: merged(clone))
    assert is_waiting.wait(TIMEOUT)
    fill_free_clusters(store, filler)
    read.go_on()
    merging.join()
    assert read.buffer == b"A" * CLUSTER


def test_what_all_clones_remember_is_bounded(
    store: Blobstore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_state, "_MOST_INHERITED_LEAVES", 3)
    with store.create_blob(5 * 512 * CLUSTER, thin=True) as origin:
        for leaf in range(5):
            origin.write(bytes([leaf + 1]) * CLUSTER, leaf * 512 * CLUSTER)
        clones = [origin.snapshot(), origin]
        for _touch in range(2):
            for blob in clones:
                for leaf in range(5):
                    assert blob.read(1, leaf * 512 * CLUSTER) == bytes([leaf + 1])
                    states = core_of(store).open_blobs.values()
                    assert 0 <= sum(len(state.inherited) for state in states) <= 3
        assert len(state_of(origin).inherited) > 0
