"""Batches: the same bytes as single requests give, however they are performed."""

import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blobstore import (
    Blob,
    Blobstore,
    ClosedError,
    DeviceError,
    FileDevice,
    InvalidArgumentError,
    MemoryDevice,
    NoSpaceError,
    ReadOnlyError,
    UnsupportedError,
    VolumeStore,
)
from blobstore.api import batches
from blobstore.device import descriptor as descriptor_module
from blobstore.device import ring_batches
from blobstore.device.ring import Ring
from blobstore.epochs import UNPINNED
from blobstore.testing.internals import core_of
from blobstore.units import KIB, MIB

CLUSTER: Final = 4 * KIB
BLOB_CLUSTERS: Final = 12
BLOB_SIZE: Final = BLOB_CLUSTERS * CLUSTER
STALE: Final = 0xDD

Mode = Callable[[pytest.MonkeyPatch], None]


def on_ring(patch: pytest.MonkeyPatch) -> None:
    """Let also the smallest batch go to the ring."""
    patch.setattr(descriptor_module, "_LEAST_ON_RING", 1)


def without_ring(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("BLOBSTORE_RING", "0")
    patch.setattr(ring_batches, "_kept", ring_batches._Kept())


WAYS: Final[dict[str, Mode]] = {"ring": on_ring, "calls": without_ring}


def has_ring() -> bool:
    try:
        Ring(8).close()
    except UnsupportedError:
        return False
    return True


HAS_RING: Final = has_ring()


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name = str(request.param)
    if name == "ring" and not HAS_RING:
        pytest.skip("no io_uring here")
    WAYS[name](monkeypatch)
    return name


@contextmanager
def stale_store(path: Path, *, direct: bool = False) -> Iterator[Blobstore]:
    """Have a store on a file full of bytes that no blob was ever given."""
    path.write_bytes(bytes([STALE]) * MIB)
    device = FileDevice.open(path, direct=direct)
    with Blobstore.create(
        device, cluster_size=CLUSTER, md_pages=64, clear="none", overwrite=True
    ) as store:
        yield store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Blobstore]:
    with stale_store(tmp_path / "disk.img") as store:
        yield store


@pytest.fixture
def blob(store: Blobstore) -> Blob:
    blob = store.create_blob(BLOB_SIZE)
    blob.write(random.Random(1).randbytes(BLOB_SIZE))
    return blob


# Equal to single requests


class Single:
    """What batches must do, by requests that take the full path one by one."""

    def __init__(self, blob: Blob) -> None:
        blob._leave_fast_path()
        self.blob = blob

    def read_many(self, offsets: list[int], length: int) -> bytes:
        return b"".join([self.blob.read(length, offset) for offset in offsets])

    def write_many(self, offsets: list[int], data: bytes) -> int:
        length = len(data) // len(offsets)
        for number, offset in enumerate(offsets):
            self.blob.write(data[number * length :][:length], offset)
        return len(data)


class Fast(Single):
    """The same by single requests that take the fast path where they can."""

    def __init__(self, blob: Blob) -> None:
        self.blob = blob


class Batched:
    def __init__(self, blob: Blob) -> None:
        self.blob = blob

    def read_many(self, offsets: list[int], length: int) -> bytes:
        return self.blob.read_many(offsets, length).tobytes()

    def write_many(self, offsets: list[int], data: bytes) -> int:
        return self.blob.write_many(np.array(offsets), data)


Disk = Single | Batched


@st.composite
def requests(draw: st.DrawFn) -> tuple[list[int], int]:
    """Offsets in any order that do not overlap, and a length; some reach over clusters."""
    length = draw(st.sampled_from([1, 512, 1000, CLUSTER // 2, CLUSTER, 2 * CLUSTER]))
    shift = draw(st.sampled_from([0, 0, 512, 1000]))
    count = (BLOB_SIZE - shift) // length
    numbers = draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=24, unique=True))
    return [shift + number * length for number in numbers], length


STEPS: Final = st.one_of(
    st.tuples(st.just("read_many"), requests()),
    st.tuples(st.just("write_many"), requests(), st.integers(0, 2**32)),
    st.tuples(
        st.sampled_from(["unmap", "write_zeroes"]), st.integers(0, 11), st.integers(1, CLUSTER)
    ),
    st.tuples(st.sampled_from(["snapshot", "clone", "flush"])),
)


def play(store: Blobstore, wrap: Callable[[Blob], Disk], *, thin: bool, steps: Any) -> list[bytes]:
    """Run a script; return all that was read, also from what is left in the end."""
    disk = wrap(store.create_blob(BLOB_SIZE, thin=thin))
    found: list[bytes] = []
    for name, *arguments in steps:
        blob = disk.blob
        if name == "read_many":
            found.append(disk.read_many(*arguments[0]))
        elif name == "write_many":
            (offsets, length), seed = arguments
            disk.write_many(offsets, random.Random(seed).randbytes(len(offsets) * length))
        elif name == "snapshot":
            blob.snapshot()
        elif name == "clone":
            disk = wrap(blob.snapshot().clone())
        elif name == "flush":
            blob.flush()
        else:
            getattr(blob, name)(arguments[0] * CLUSTER, arguments[1])
    return found + contents_of(store, wrap)


def contents_of(store: Blobstore, wrap: Callable[[Blob], Disk]) -> list[bytes]:
    """Read every blob once by clusters, and once over their borders."""
    found: list[bytes] = []
    for blob in store.iter_blobs():
        for shift, length in ((0, CLUSTER), (64, 192), (1, CLUSTER - 3)):
            offsets = list(range(shift, BLOB_SIZE - CLUSTER + 1, length))
            found.append(wrap(blob).read_many(offsets, length))
    return found


def run_of(
    way: Mode, wrap: Callable[[Blob], Disk], *, direct: bool, thin: bool, steps: Any
) -> tuple[list[bytes], bytes]:
    with ExitStack() as stack:
        way(stack.enter_context(pytest.MonkeyPatch.context()))
        path = Path(stack.enter_context(TemporaryDirectory()), "disk.img")
        with stale_store(path, direct=direct) as store:
            found = play(store, wrap, thin=thin, steps=steps)
        with Blobstore.open(path, read_only=True, mapped=wrap is Batched) as store:
            found += contents_of(store, wrap)
        return found, path.read_bytes()


@pytest.mark.slow
@settings(max_examples=8)
@given(thin=st.booleans(), steps=st.lists(STEPS, max_size=10))
def test_every_way_reads_the_same_bytes_and_leaves_the_same_image(thin: bool, steps: Any) -> None:
    script = {"thin": thin, "steps": steps}
    expected = run_of(without_ring, Single, direct=False, **script)
    assert run_of(without_ring, Fast, direct=False, **script) == expected
    for way in WAYS.values():
        for direct in (False, True):
            assert run_of(way, Batched, direct=direct, **script) == expected


def test_a_batch_of_direct_requests_that_are_not_aligned_is_right(tmp_path: Path, way: str) -> None:
    with stale_store(tmp_path / "disk.img", direct=True) as store:
        blob = store.create_blob(BLOB_SIZE)
        content = bytearray(random.Random(1).randbytes(BLOB_SIZE))
        blob.write(content)
        memory = np.zeros(40 * 512 + 1, np.uint8)[1:]  # at an odd address
        offsets = np.arange(40) * 1024
        rows = blob.read_many(offsets, 512, out=memory)
        assert rows.tobytes() == b"".join(bytes(content[at : at + 512]) for at in offsets)
        blob.write_many(offsets + 5, bytes(40 * 7))
        for at in offsets.tolist():
            content[at + 5 : at + 12] = bytes(7)
        assert blob.read(BLOB_SIZE) == content


def test_a_clone_reads_its_own_and_its_ancestors_clusters_in_one_batch(
    blob: Blob, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = blob.snapshot().clone()
    clone.write(b"mine" * (CLUSTER // 4), 3 * CLUSTER)
    expected = clone.read(BLOB_SIZE)
    every = np.arange(BLOB_CLUSTERS) * CLUSTER
    assert clone.read_many(every, CLUSTER).tobytes() == expected
    full_path: list[int] = []
    monkeypatch.setattr(Blob, "_read_fully", lambda _blob, _view, offset: full_path.append(offset))
    assert clone.read_many(every, CLUSTER).tobytes() == expected
    assert full_path == []


def test_large_maps_are_looked_up_request_by_request(tmp_path: Path, way: str) -> None:
    with Blobstore.create(tmp_path / "disk.img", size="8MiB", cluster_size=CLUSTER) as store:
        blob = store.create_blob("32GiB", thin=True)
        offsets = np.arange(20) * 1600 * MIB
        assert not blob.read_many(offsets, 512).any()
        data = np.arange(20 * 512, dtype=np.uint32).astype(np.uint8).reshape(20, 512)
        assert blob.write_many(offsets, data) == data.nbytes
        assert (blob.read_many(offsets, 512) == data).all()


def test_one_batch_reads_several_blobs(store: Blobstore, blob: Blob, way: str) -> None:
    other = store.create_blob(2 * CLUSTER)
    other.write(b"other" * 1000)
    blobs = [blob, other, blob, other, other] * 8
    offsets = np.array([0, 0, CLUSTER + 1, 4, CLUSTER] * 8)
    rows = store.read_many(blobs, offsets, 100)
    for row, each, offset in zip(rows, blobs, offsets.tolist(), strict=True):
        assert row.tobytes() == each.read(100, offset)


def test_volumes_and_memory_take_batches(way: str) -> None:
    with VolumeStore.create(MemoryDevice(8 * MIB), name="vms", cluster_size=CLUSTER) as vms:
        volume = vms.create_volume("debian", BLOB_SIZE, thin=True)
        volume.write_many([0, 2 * CLUSTER], b"AABB")
        assert volume.read_many([2 * CLUSTER, CLUSTER, 0], 2).tolist() == [
            [66, 66],
            [0, 0],
            [65, 65],
        ]
        rows = vms.read_many([volume, vms["debian"]], [0, 2 * CLUSTER], 2)
        assert rows.tobytes() == b"AABB"


# What callers pass, and what they get


def test_the_rows_are_the_callers_memory_or_new(blob: Blob, way: str) -> None:
    memory = bytearray(3 * 8)
    rows = blob.read_many([0, 8, 16], 8, out=memory)
    assert rows.shape == (3, 8)
    assert bytes(memory) == blob.read(24) == blob.read_many([0, 8, 16], 8).tobytes()
    out = np.empty((2, 12), np.uint8)
    blob.read_many(range(0, 24, 12), 12, out)
    assert out.tobytes() == blob.read(24)


@pytest.mark.parametrize("count", [0, 2])
def test_an_empty_batch_and_empty_requests_are_right(blob: Blob, count: int, way: str) -> None:
    assert blob.read_many([0] * count, 0).shape == (count, 0)
    assert blob.read_many([], 512).shape == (0, 512)
    assert blob.write_many([0] * count, b"") == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b: b.read_many([0], -1), "length: expected 0 or more, got -1"),
        (lambda b: b.read_many([0], 2, bytearray(3)), "out: 3 bytes, expected 1 times 2"),
        (lambda b: b.read_many([0.5], 1), "offsets: expected integers"),
        (lambda b: b.read_many(["x"], 1), "offsets: expected integers"),
        (lambda b: b.read_many([[0]], 1), "offsets: expected integers in one dimension"),
        (lambda b: b.read_many([[0], [1, 2]], 1), "offsets: expected integers"),
        (lambda b: b.read_many([0], 1, b"x"), "out: expected a writable buffer, got bytes"),
        (lambda b: b.write_many([0, 1], b"abc"), "data: 3 bytes, expected 2 rows of one length"),
        (lambda b: b.write_many([], b"abc"), "data: 3 bytes, expected 0 rows of one length"),
    ],
)
def test_a_wrong_argument_of_a_batch_is_told_in_these_words(
    blob: Blob, call: Callable[[Blob], object], message: str
) -> None:
    with pytest.raises((TypeError, InvalidArgumentError), match=message):
        call(blob)


def test_blobs_of_another_store_or_too_few_are_refused(store: Blobstore, blob: Blob) -> None:
    with (
        Blobstore.create("memory:") as other,
        pytest.raises(InvalidArgumentError, match=r"blobs\[1\]: of another store"),
    ):
        store.read_many([blob, other.create_blob(1)], [0, 0], 1)
    with pytest.raises(InvalidArgumentError, match="expected one for each of 2 offsets, got 1"):
        store.read_many([blob], [0, 0], 1)
    with pytest.raises(TypeError, match=r"blobs\[0\]: expected an open blob, got int"):
        store.read_many(cast("list[Blob]", [7]), [0], 1)


# Errors name the request


@pytest.mark.parametrize("bad", [-1, BLOB_SIZE, BLOB_SIZE - 511, -(2**62), 2**62])
def test_a_request_beyond_the_blob_is_named_and_nothing_is_done(
    blob: Blob, bad: int, way: str
) -> None:
    before, offsets = blob.read(BLOB_SIZE), [0, 512, bad, 1024] * 10
    out = bytearray(b"kept" * 128 * 40)
    with pytest.raises(InvalidArgumentError, match="request 2: 512 bytes at") as caught:
        blob.read_many(offsets, 512, out)
    assert (caught.value.request, caught.value.blob) == (2, blob.id)
    assert out == b"kept" * 128 * 40
    with pytest.raises(InvalidArgumentError, match="request 2: 512 bytes at"):
        blob.write_many(offsets, bytes(512 * 40))
    assert blob.read(BLOB_SIZE) == before


def test_a_device_that_is_shorter_than_it_was_fails_the_first_request_beyond_its_end(
    tmp_path: Path, way: str
) -> None:
    path = tmp_path / "disk.img"
    with stale_store(path) as store, store.create_blob(BLOB_SIZE) as blob:
        first = blob.info.extents[0][0]
        size = path.stat().st_size
        os.truncate(path, (first + 6) * CLUSTER)
        offsets = np.arange(BLOB_CLUSTERS)[::-1] * CLUSTER
        with pytest.raises(DeviceError, match=r"request 0: .*read of 4096 bytes") as caught:
            blob.read_many(offsets, CLUSTER)
        assert caught.value.request == 0
        with pytest.raises(DeviceError) as caught:
            blob.read_many(offsets[::-1], CLUSTER)
        assert caught.value.request == 6
        os.truncate(path, size)


def test_writes_that_may_not_be_are_refused_with_their_number(
    store: Blobstore, blob: Blob, way: str
) -> None:
    snapshot = blob.snapshot()
    with pytest.raises(ReadOnlyError, match="request 0"):
        snapshot.write_many(np.arange(20) * 512, bytes(20 * 512))
    thin = store.create_blob("4MiB", thin=True)
    with pytest.raises(NoSpaceError) as caught:
        thin.write_many(np.arange(1024) * CLUSTER, b"x" * 1024)
    assert caught.value.request is not None
    assert caught.value.request > 0
    blob.close()
    with pytest.raises(ClosedError):
        blob.read_many([0], 1)


def test_an_error_of_a_batch_keeps_its_request_when_it_is_copied() -> None:
    error = DeviceError("read failed").at(store="disk.img", blob=1, request=7)
    assert error.message == "disk.img: blob 0x1: request 7: read failed"
    assert error.without_traceback().request == 7
    assert error.at(request=9).request == 7


# Durability


@pytest.mark.skipif(not HAS_RING, reason="no io_uring here")
def test_each_flush_is_an_fdatasync_after_the_completions_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flush contract of the crash explorer, for writes that the ring performs."""
    log: list[tuple[str, int]] = []
    enter, fdatasync = Ring.enter, os.fdatasync

    def logged_enter(ring: Ring, wait_for: int = 0) -> bool:
        log.append(("submitted", ring.queued))
        is_taken = enter(ring, wait_for)
        log.append(("complete", ring.collected()[1]))
        return is_taken

    def logged_fdatasync(descriptor: int) -> None:
        log.append(("flush", 0))
        fdatasync(descriptor)

    with stale_store(tmp_path / "disk.img", direct=True) as store:
        blob = store.create_blob(BLOB_SIZE)
        blob.flush()
        data = np.zeros(2 * BLOB_SIZE // 512 * 512, np.uint8)
        rows = data[-data.__array_interface__["data"][0] % 4096 :][:BLOB_SIZE].reshape(-1, 512)
        monkeypatch.setattr(Ring, "enter", logged_enter)
        monkeypatch.setattr(os, "fdatasync", logged_fdatasync)
        for _ in range(3):
            blob.write_many(np.arange(len(rows)) * 512, rows)
            blob.flush()
        monkeypatch.undo()
    in_flight, flushes = 0, 0
    for what, count in log:
        in_flight += {"submitted": count, "complete": -count, "flush": 0}[what]
        if what == "flush":
            assert in_flight == 0
            flushes += 1
    assert flushes == 3
    assert sum(count for what, count in log if what == "submitted") == 3 * len(rows)


# Beside others


def test_the_epoch_is_pinned_while_a_batch_is_performed_and_never_after(
    store: Blobstore, blob: Blob, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def fail(*_arguments: object, **_options: object) -> None:
        seen.append(blob._pins.mine.epoch)
        raise KeyboardInterrupt

    monkeypatch.setattr(batches, "_perform_all", fail)
    for call in (
        partial(blob.read_many, [0, CLUSTER], 512),
        partial(blob.write_many, [0, CLUSTER], bytes(1024)),
    ):
        with pytest.raises(KeyboardInterrupt):
            call()
        assert blob._pins.mine.epoch == UNPINNED
    assert seen == [core_of(store).epochs.current] * 2


@pytest.mark.slow
def test_batches_beside_unmap_and_snapshots_never_see_anothers_bytes(
    store: Blobstore, way: str
) -> None:
    """Each blob holds its own byte only; clusters change their owner all the time."""
    blobs = {value: store.create_blob(BLOB_SIZE, thin=True) for value in (1, 2)}
    ended = dict.fromkeys(blobs, False)
    strange: list[int] = []

    def change(value: int) -> None:
        chance, blob = random.Random(value), blobs[value]
        for _ in range(25):
            numbers = np.array(chance.sample(range(BLOB_CLUSTERS), 8))
            blob.write_many(numbers * CLUSTER, bytes([value]) * 8 * CLUSTER)
            blob.unmap(chance.randrange(BLOB_CLUSTERS - 3) * CLUSTER, 3 * CLUSTER)
            blob.flush()
            if chance.random() < 0.2:
                with blob.snapshot() as snapshot:
                    pass
                store.delete_blob(snapshot.id)
        ended[value] = True

    def read(value: int) -> None:
        every = np.arange(BLOB_CLUSTERS) * CLUSTER
        while not ended[value]:
            found = {*np.unique(blobs[value].read_many(every, CLUSTER)).tolist()}
            strange.extend(found - {0, value})

    with ThreadPoolExecutor() as pool:
        tasks = [pool.submit(task, value) for value in blobs for task in (change, read)]
        for task in tasks:
            task.result()
    assert strange == []
