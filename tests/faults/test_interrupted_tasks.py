"""One of several tasks is interrupted at any moment, also while it waits for another.

Nobody may wait for ever afterwards: the scheduler sees that as a deadlock. And
the same with a real store, whose driver blocks.
"""

import random
import threading
from collections.abc import Callable, Sequence
from typing import Final

import pytest

from blobstore import Blob, Blobstore, PoisonedError
from blobstore.blob.read import read_into
from blobstore.metadata.store_state import StoreState
from blobstore.operations import Buffer
from blobstore.testing.alone import run_alone
from blobstore.testing.inspect_store import load_checked
from blobstore.testing.scheduler import Scheduler, Task
from blobstore.testing.simulated_device import SimulatedDevice
from blobstore.testing.simulated_disk import SimulatedDisk
from blobstore.testing.workload import CLUSTER, new_disk
from tests.proof.interleavings import SCRIPTS, Arena

SEEDS: Final = 60
OLD: Final = b"old" * 1000
FOREIGN: Final = 0x80
"""Bytes from here on were never written to the blob."""


class InterruptingScheduler(Scheduler):
    """Raises KeyboardInterrupt inside some task, at the moment with number `at`.

    As the public face does, it poisons the store with what escapes.
    """

    def __init__(self, store: StoreState, disk: SimulatedDisk, seed: int, at: int) -> None:
        super().__init__(disk, seed)
        self.store = store
        self.at = at
        self.moments = 0
        self.interrupted = False

    def _advance(self, task: Task) -> None:
        self.moments += 1
        victim = self.tasks[self.at % len(self.tasks)]
        if self.moments == self.at and not victim.done and victim.waiting is not None:
            self.interrupted = True
            victim.waiting = victim.parts = None
            victim.failure = KeyboardInterrupt()
            self._step(victim)
        if not task.done:
            super()._advance(task)

    def _step(self, task: Task) -> None:
        try:
            super()._step(task)
        except KeyboardInterrupt as error:
            task.done = True
            self.store.poison = self.store.poison or error


@pytest.mark.parametrize("script", SCRIPTS)
def test_nobody_waits_for_ever_for_a_task_that_was_interrupted(script: str) -> None:
    interrupted = 0
    for seed in range(SEEDS):
        arena = Arena(random.Random(seed))
        at = 1 + seed // 2 % 30
        scheduler = InterruptingScheduler(arena.store, arena.workload.disk, seed, at)
        for number, act in enumerate(SCRIPTS[script](arena)):
            scheduler.spawn(f"task {number}", act)
        scheduler.run()
        interrupted += scheduler.interrupted
        check(arena, is_poisoned=scheduler.interrupted)
    assert interrupted


def check(arena: Arena, *, is_poisoned: bool) -> None:
    """Nothing is held, reads go on, changes are refused, and the disk holds a sound store."""
    store, disk = arena.store, arena.workload.disk
    assert is_poisoned == (store.poison is not None)
    assert not store.mutex.held
    assert not store.exclusive
    assert not store.allocating
    assert not arena.a.frozen_count
    run_alone(store.epochs.grace_period(), disk)
    content = bytearray(arena.a.clusters.count * CLUSTER)
    run_alone(read_into(store, arena.a, memoryview(content), 0), disk)
    assert all(byte < FOREIGN for buffer in [*arena.reads, content] for byte in buffer)
    if is_poisoned:
        with pytest.raises(PoisonedError):
            run_alone(arena.write(arena.a, 0, 1), disk)
    traits = disk.traits
    found = load_checked(
        SimulatedDisk(
            disk.content, atomic_write_size=traits.atomic_write_size, block_size=traits.block_size
        )
    )
    assert found is not None


class InterruptingDevice(SimulatedDevice):
    """A device on which a second Ctrl-C ends the operation with number `at`."""

    def __init__(self, disk: SimulatedDisk) -> None:
        super().__init__(disk)
        self.at = -1
        self.count = 0

    def _operate(self) -> None:
        self.count += 1
        if self.count - 1 == self.at:
            raise KeyboardInterrupt

    def read(self, offset: int, length: int) -> bytes:
        self._operate()
        return super().read(offset, length)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        self._operate()
        super().read_into(offset, buffers)

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        super().write(offset, buffers)
        self._operate()

    def flush(self) -> None:
        self._operate()
        super().flush()


def write_and_flush(_store: Blobstore, blob: Blob) -> None:
    blob.write(b"new" * 1000, 2 * CLUSTER)
    blob.flush()


def snapshot_and_delete(store: Blobstore, blob: Blob) -> None:
    snapshot = blob.snapshot(xattrs={"name": b"snapshot"})
    snapshot.close()
    blob.write(b"other", 100)
    store.delete_blob(snapshot.id)


def resize_and_sync(_store: Blobstore, blob: Blob) -> None:
    blob.resize(6 * CLUSTER)
    blob.xattrs["key"] = b"value"
    blob.sync_md()


CALLS: Final[dict[str, Callable[[Blobstore, Blob], object]]] = {
    "create": lambda store, _blob: store.create_blob(2 * CLUSTER),
    "write and flush": write_and_flush,
    "snapshot and delete": snapshot_and_delete,
    "resize and sync": resize_and_sync,
    "inflate": lambda _store, blob: blob.inflate(),
    "set super blob": lambda store, blob: store.set_super_blob(blob.id),
    "read": lambda _store, blob: blob.read(blob.size),
}


def interrupted_call(name: str, at: int) -> bool:
    """Interrupt one operation of the call; return whether there was one, and check the rest."""
    device = InterruptingDevice(new_disk(sector=True))
    store = Blobstore.create(device, cluster_size=CLUSTER, md_pages=24, overwrite=True)
    blob = store.create_blob(4 * CLUSTER, thin=True, xattrs={"name": b"blob"})
    blob.write(OLD, 0)
    blob.flush()
    device.count, device.at = 0, at
    try:
        CALLS[name](store, blob)
    except KeyboardInterrupt:
        device.at = -1
    else:
        return False
    assert blob.read(2000, 1000) == OLD[1000:]
    with pytest.raises(PoisonedError):
        blob.write(b"x", 0)
    with pytest.raises(PoisonedError):
        store.create_blob()
    with pytest.raises(PoisonedError):
        store.flush()
    content = bytes(device.disk.content)
    with pytest.raises(PoisonedError):
        store.close()
    assert device.disk.content == content
    found = load_checked(SimulatedDisk(content))
    assert found is not None
    assert found[1].blobs[blob.id].content[1000:3000] == OLD[1000:]
    return True


@pytest.mark.parametrize("name", CALLS)
def test_a_second_ctrl_c_during_any_operation_of_a_call_never_makes_the_next_call_hang(
    name: str,
) -> None:
    counts: list[int] = []

    def interrupt_all() -> None:
        at = 0
        while interrupted_call(name, at):
            at += 1
        counts.append(at)

    thread = threading.Thread(target=interrupt_all, daemon=True)
    thread.start()
    thread.join(timeout=20)
    assert counts
    assert counts[0] > 0
