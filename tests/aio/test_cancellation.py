"""A cancelled call ends its operation first, wherever it waits; the store stays usable."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

import pytest

from blobstore import (
    AsyncBlob,
    AsyncBlobstore,
    AsyncVolumeStore,
    MemoryDevice,
    Severity,
    VolumeStore,
    check,
)
from blobstore.device.base import Device
from blobstore.drivers.event_loop_io import EventLoopIO
from blobstore.units import KIB, MIB
from tests.aio.loops import LOOPS, CancelledAt, no_ring, run

CLUSTER: Final = 4 * KIB
TIMEOUT: Final = 60.0

Act = Callable[[AsyncBlobstore, AsyncBlob, AsyncBlob], Coroutine[Any, Any, object]]


async def new_blob(store: AsyncBlobstore, _blob: AsyncBlob, _clone: AsyncBlob) -> None:
    async with store.create_blob(8 * CLUSTER, name="new"):
        pass


async def open_again(store: AsyncBlobstore, blob: AsyncBlob, _clone: AsyncBlob) -> None:
    async with store.open_blob(blob.id):
        pass


async def snapshot(_store: AsyncBlobstore, blob: AsyncBlob, _clone: AsyncBlob) -> None:
    async with blob.snapshot("now"):
        pass


async def list_all(store: AsyncBlobstore, _blob: AsyncBlob, _clone: AsyncBlob) -> None:
    async for blob in store.iter_blobs():
        await blob.read(1) if blob.size else None


async def delete(store: AsyncBlobstore, blob: AsyncBlob, _clone: AsyncBlob) -> None:
    await blob.close()
    await store.delete_blob(blob.id)


async def shrink(_store: AsyncBlobstore, blob: AsyncBlob, _clone: AsyncBlob) -> None:
    await blob.resize(2 * CLUSTER)
    await blob.set_xattr("key", b"value")
    await blob.flush()


async def unmap(_store: AsyncBlobstore, blob: AsyncBlob, _clone: AsyncBlob) -> None:
    await blob.unmap(0, 3 * CLUSTER)
    await blob.flush()


ACTS: Final[dict[str, Act]] = {
    "create_blob": new_blob,
    "open_blob": open_again,
    "find": lambda store, _blob, _clone: store.find("blob"),
    "iter_blobs": list_all,
    "snapshot": snapshot,
    "delete": delete,
    "resize": shrink,
    "flush": lambda _store, blob, _clone: blob.flush(),
    "unmap": unmap,
    "write owned": lambda _store, blob, _clone: blob.write(b"w" * CLUSTER),
    "write thin": lambda _store, blob, _clone: blob.write(b"w" * 3 * CLUSTER, 2 * CLUSTER),
    "copy on write": lambda _store, _blob, clone: clone.write(b"w" * 100, 100),
    "inflate": lambda _store, _blob, clone: clone.inflate(),
    "decouple": lambda _store, _blob, clone: clone.decouple(),
    "read a parent": lambda _store, _blob, clone: clone.read(2 * CLUSTER),
    "dump": lambda store, _blob, _clone: store.dump(),
    "flush the store": lambda store, _blob, _clone: store.flush(),
    "set_super_blob": lambda store, blob, _clone: store.set_super_blob(blob.id),
    "close the blob": lambda _store, blob, _clone: blob.close(),
    "close the store": lambda store, _blob, _clone: store.close(),
}


async def cancelled_at(path: Path, act: Act, at: int) -> bool:
    """Cancel an act at a wait; look at what is left. Say whether there was such a wait."""
    path.unlink(missing_ok=True)
    store = await AsyncBlobstore.create(path, size="1MiB", cluster_size=CLUSTER, md_pages=64)
    blob = await store.create_blob(8 * CLUSTER, thin=True, name="blob")
    await blob.write(b"b" * 3 * CLUSTER)
    async with blob.snapshot() as base:
        clone = await base.clone()
    await blob.write(b"c" * CLUSTER)
    async with store.create_blob(CLUSTER, name="closed"):
        pass
    task = CancelledAt(act(store, blob, clone), at)
    await task
    assert task.was_cancelled == (task.count > at)
    if not store.closed:
        await expect_usable(store, clone)
        await blob.close()
        await clone.close()
        await store.unload()  # refused if a handle were lost
    report = check(path)
    assert report.unloaded
    assert [found for found in report.findings if found.severity != Severity.NOTE] == []
    return task.was_cancelled


async def expect_usable(store: AsyncBlobstore, clone: AsyncBlob) -> None:
    assert await clone.read(CLUSTER, CLUSTER) == b"b" * CLUSTER
    await clone.write(b"after", 4 * CLUSTER)
    await clone.flush()
    async with store.create_blob(CLUSTER) as other:
        await other.write(b"o" * CLUSTER)
        assert await other.read(CLUSTER) == b"o" * CLUSTER


@pytest.mark.slow
@pytest.mark.parametrize("has_ring", [True, False], ids=["ring", "threads"])
@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_a_call_cancelled_at_any_wait_leaves_a_usable_store_and_no_findings(
    act: Act, has_ring: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = EventLoopIO.__init__

    def prepare_without_cache(io: EventLoopIO, device: Device) -> None:
        prepare(io, device)
        io.cached = None  # every read waits

    monkeypatch.setattr(EventLoopIO, "__init__", prepare_without_cache)

    async def at_every_wait() -> int:
        at = 0
        while await cancelled_at(tmp_path / "disk.img", act, at):
            at += 1
        return at

    with nullcontext() if has_ring else no_ring():
        assert run(at_every_wait()) > 0


class Gate(MemoryDevice):
    """Memory whose flushes wait on a thread until they may go on."""

    never_waits = False

    def __init__(self) -> None:
        super().__init__(4 * MIB)
        self.is_shut = False
        self.waiting = threading.Event()
        self.opened = threading.Event()

    def flush(self) -> None:
        if self.is_shut:
            self.waiting.set()
            assert self.opened.wait(TIMEOUT)
        super().flush()


async def until_waiting(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.waiting.wait, TIMEOUT)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_cancelled_metadata_operation_completes_before_the_caller_sees_it(loop: str) -> None:
    async def main() -> None:
        gate = Gate()
        async with AsyncBlobstore.create(gate, cluster_size=CLUSTER) as store:
            blob = await store.create_blob(4 * CLUSTER)
            gate.is_shut = True
            task = asyncio.create_task(blob.snapshot("monday").__aenter__())
            await until_waiting(gate)
            task.cancel()
            await asyncio.sleep(0)
            assert not task.done()
            gate.is_shut = False
            gate.opened.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert blob.info.parent == await store.find("monday")
            await store.open_blob(name="monday")

    run(main(), loop)


def test_a_timeout_ends_with_the_operation_and_is_a_timeout() -> None:
    async def main() -> None:
        gate = Gate()
        async with AsyncBlobstore.create(gate, cluster_size=CLUSTER) as store:
            blob = await store.create_blob(4 * CLUSTER)
            await blob.set_xattr("key", b"value")
            gate.is_shut = True
            asyncio.get_running_loop().call_later(0.05, gate.opened.set)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await blob.flush()
            assert blob.info.xattrs == {"key": b"value"}

    run(main())


def test_a_task_that_waits_for_the_mutex_can_be_cancelled_and_others_get_it() -> None:
    async def main() -> None:
        gate = Gate()
        async with AsyncBlobstore.create(gate, cluster_size=CLUSTER) as store:
            blob = await store.create_blob(4 * CLUSTER)
            gate.is_shut = True
            first = asyncio.create_task(blob.snapshot("first").__aenter__())
            await until_waiting(gate)
            second = asyncio.create_task(store.create_blob(CLUSTER, name="second").__aenter__())
            third = asyncio.create_task(store.create_blob(CLUSTER, name="third").__aenter__())
            await asyncio.sleep(0)
            second.cancel()
            gate.opened.set()
            await first
            with pytest.raises(asyncio.CancelledError):
                await second
            assert (await third).name == "third"

    run(main())


def test_a_long_read_stops_at_a_checkpoint_when_it_is_cancelled() -> None:
    """Its parts are 8 MiB; the caller does not wait for all of them."""

    class Counting(MemoryDevice):
        never_waits = False
        read_count = 0

        def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
            self.read_count += 1
            super().read_into(offset, buffers)

    async def main() -> None:
        device = Counting(64 * MIB)
        async with AsyncBlobstore.create(device, cluster_size=MIB) as store:
            blob = await store.create_blob(40 * MIB)
            before = device.read_count
            task = CancelledAt(blob.read(40 * MIB), 0)
            await task
            assert task.was_cancelled
            assert device.read_count == before + 1

    run(main())


def test_a_store_that_opens_for_a_cancelled_caller_is_closed_again(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"

    async def main() -> None:
        make = AsyncVolumeStore.create(path, name="vms", size="4MiB", cluster_size=CLUSTER)
        task = CancelledAt(make.__aenter__(), 0)  # while a thread makes it
        await task
        assert task.was_cancelled

    run(main())
    with VolumeStore.open(path) as vms:  # nobody has it locked
        assert vms.name == "vms"
