"""`python -m tests.proof.interleavings`: tasks against each other, in seeded orders.

Every run sets a few tasks of the core on one tiny store and lets the simulated
driver decide who goes first, step by step. Afterwards nobody may have read a
byte that was not written to that blob, what is in memory must be what a fresh
load finds, and so must what a power cut at any moment would have left.
"""

import argparse
import multiprocessing
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from blobstore.blob import resize
from blobstore.blob import write as blob_write
from blobstore.blob.read import read_into
from blobstore.epochs import UNPINNED, Pin
from blobstore.errors import BlobstoreError, BusyError, InvalidArgumentError, NoSpaceError
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.store_state import StoreState
from blobstore.operations import Checkpoint, ReadInto
from blobstore.store.blobs import BlobOptions, create_blob
from blobstore.store.delete import delete_blob
from blobstore.store.inflate import decouple, inflate
from blobstore.store.lifecycle import flush_store
from blobstore.store.open_blobs import close_blob, open_blob
from blobstore.store.snapshots import create_clone, create_snapshot
from blobstore.testing.alone import run_alone
from blobstore.testing.crash_states import apply, between_flushes, whole
from blobstore.testing.inspect_store import BrokenStoreError, load_checked
from blobstore.testing.scheduler import Scheduler
from blobstore.testing.simulated_disk import Flushed, SimulatedDisk
from blobstore.testing.workload import CLUSTER, Workload, new_disk
from blobstore.units import BlobId

_ALLOWED: Final = (BusyError, NoSpaceError, InvalidArgumentError)
_FOREIGN: Final = 0x80
"""Bytes from here on were written to another blob, or never."""

Act = Coroutine[Any, Any, Any]


@dataclass(slots=True)
class Arena:
    """One store with blob a (thin, some clusters written) and blob b, both open, and a seed."""

    rng: random.Random
    workload: Workload = field(init=False)
    store: StoreState = field(init=False)
    a: BlobState = field(init=False)
    b: BlobState = field(init=False)
    reads: list[bytearray] = field(default_factory=list)
    value: int = 1

    def __post_init__(self) -> None:
        sector = self.rng.random() < 0.7
        self.workload = Workload(new_disk(sector=sector))
        kind = self.rng.choice(["thin", "thin runs"])
        self.workload.run([("init",), ("create", "a", 4, kind), ("create", "b", 2)])
        self.workload.run([("open", "a"), ("open", "b")])
        assert self.workload.store is not None
        self.store = self.workload.store
        self.a, self.b = self.workload.open["a"], self.workload.open["b"]
        self._run(self.write(self.a, 0, CLUSTER + 700))
        self._run(blob_write.write(self.store, self.b, memoryview(b"\xbb" * (2 * CLUSTER)), 0))

    def _run(self, act: Act) -> Any:
        return run_alone(act, self.workload.disk)

    def write(self, blob: BlobState, offset: int, length: int) -> Act:
        """Write a byte that no other request writes."""
        self.value = self.value % (_FOREIGN - 2) + 1
        data = memoryview(bytes([self.value]) * length)
        return blob_write.write(self.store, blob, data, offset)

    def read(self, blob: BlobState) -> Act:
        """Read a range; what was read is judged at the end."""
        offset = self.rng.randrange(3 * CLUSTER)
        buffer = bytearray(self.rng.randrange(1, CLUSTER))
        self.reads.append(buffer)
        return read_into(self.store, blob, memoryview(buffer), offset)

    async def read_fast(self) -> None:
        """Read a cluster of a as a thread on the fast path does; others run between its steps."""
        buffer, index = bytearray(CLUSTER), self.rng.randrange(3)
        self.reads.append(buffer)
        pin = Pin()
        self.store.epochs.pins.append(pin)
        pin.epoch = self.store.epochs.current
        try:
            await self.pause()
            cluster = self.a.clusters.leaves[0][index]
            await self.pause()
            cluster = cluster or self.a.inherited[0][index]
            if cluster:
                await self.pause()
                await ReadInto(cluster * CLUSTER, [memoryview(buffer)])
        finally:
            pin.epoch = UNPINNED

    async def pause(self) -> None:
        """Let the others take a few steps, or many."""
        for _ in range(self.rng.choice([0, 2, 200])):
            await Checkpoint()

    def write_somewhere(self) -> Act:
        """Write to a, mostly where nothing is allocated yet."""
        return self.write(self.a, self.rng.randrange(3 * CLUSTER), self.rng.randrange(1, CLUSTER))

    def unmap(self, index: int) -> Act:
        """Unmap one cluster of a."""
        return blob_write.unmap(self.store, self.a, index * CLUSTER, CLUSTER)

    def flush(self) -> Act:
        """Flush a."""
        return blob_write.flush_blob(self.store, self.a)

    async def resize(self, clusters: int) -> None:
        """Resize a, and make it durable."""
        await resize.resize(self.store, self.a, clusters)
        await blob_write.flush_blob(self.store, self.a)

    async def snapshot_and_delete(self) -> None:
        """Make a snapshot of a and merge it back."""
        snapshot_id = await create_snapshot(self.store, self.a, {})
        await delete_blob(self.store, snapshot_id)

    async def close_and_delete_b(self) -> None:
        """Give b's clusters back, for others to take."""
        await close_blob(self.store, self.b)
        await delete_blob(self.store, self.b.blob_id)

    async def unmap_and_reuse(self) -> None:
        """Give a's first cluster back, and write another blob's bytes to it."""
        await self.unmap(0)
        await self.flush()
        await flush_store(self.store)
        other = await open_blob(
            self.store, await create_blob(self.store, BlobOptions(1, thin=True))
        )
        await blob_write.write(self.store, other, memoryview(b"\xbb" * CLUSTER), 0)
        await close_blob(self.store, other)

    async def merge_and_reuse(self, snapshot_id: BlobId) -> None:
        """Write a over, delete its snapshot, and write another blob's bytes to what came free.

        At last a new snapshot takes a's own clusters away, which hid what a had inherited.
        """
        await self.write(self.a, 0, 2 * CLUSTER)
        await delete_blob(self.store, snapshot_id)
        await flush_store(self.store)
        other = await open_blob(self.store, await create_blob(self.store, BlobOptions(2)))
        await blob_write.write(self.store, other, memoryview(b"\xbb" * (2 * CLUSTER)), 0)
        await close_blob(self.store, other)
        await create_snapshot(self.store, self.a, {})

    async def clone_of(self, snapshot_id: int) -> None:
        """Clone a snapshot and read the clone."""
        clone_id = await create_clone(self.store, self.a.blob_id.__class__(snapshot_id), {})
        clone = await open_blob(self.store, clone_id)
        await self.read(clone)
        await close_blob(self.store, clone)


def _two_writers(arena: Arena) -> list[Act]:
    offset = arena.rng.randrange(2 * CLUSTER, 3 * CLUSTER)
    return [arena.write(arena.a, offset - n, 300) for n in range(3)] + [arena.flush()]


def _unmap_against_allocation(arena: Arena) -> list[Act]:
    return [arena.unmap(0), arena.write_somewhere(), arena.unmap(1), arena.flush()]


def _two_unmaps(arena: Arena) -> list[Act]:
    return [arena.unmap(0), arena.unmap(0), arena.flush(), arena.write_somewhere()]


def _snapshot_in_flight(arena: Arena) -> list[Act]:
    snapshot = create_snapshot(arena.store, arena.a, {})
    return [snapshot, *(arena.write_somewhere() for _ in range(3)), arena.read(arena.a)]


def _resize_in_flight(arena: Arena) -> list[Act]:
    sizes = [arena.resize(arena.rng.choice([1, 2, 5])) for _ in range(2)]
    return [*sizes, arena.write_somewhere(), arena.write_somewhere(), arena.read(arena.a)]


def _delete_with_reads(arena: Arena) -> list[Act]:
    create = create_blob(arena.store, BlobOptions(2))
    acts = [arena.close_and_delete_b(), create, arena.write_somewhere(), arena.read(arena.a)]
    return [*acts, arena.unmap(0), flush_store(arena.store)]


def _reuse_with_reads(arena: Arena) -> list[Act]:
    reads = [arena.read(arena.a) for _ in range(3)]
    return [arena.unmap_and_reuse(), *reads, arena.write_somewhere()]


def _clone_while_deleting(arena: Arena) -> list[Act]:
    snapshot_id = arena._run(create_snapshot(arena.store, arena.a, {}))
    acts = [arena.clone_of(snapshot_id), delete_blob(arena.store, snapshot_id)]
    return [*acts, arena.write_somewhere(), arena.read(arena.a), arena.flush()]


def _merge_in_flight(arena: Arena) -> list[Act]:
    return [
        arena.snapshot_and_delete(),
        arena.write_somewhere(),
        arena.read(arena.a),
        arena.flush(),
    ]


def _merge_with_reads(arena: Arena) -> list[Act]:
    snapshot_id = arena._run(create_snapshot(arena.store, arena.a, {}))
    arena._run(read_into(arena.store, arena.a, memoryview(bytearray(3 * CLUSTER)), 0))
    reads = [arena.read_fast() for _ in range(6)]
    return [arena.merge_and_reuse(snapshot_id), *reads, arena.read(arena.a)]


def _inflate_in_flight(arena: Arena) -> list[Act]:
    arena._run(create_snapshot(arena.store, arena.a, {}))
    act = arena.rng.choice([inflate, decouple])(arena.store, arena.a)
    return [act, arena.write_somewhere(), arena.unmap(1), arena.read(arena.a), arena.flush()]


SCRIPTS: Final[dict[str, Callable[[Arena], list[Act]]]] = {
    "two writers allocate one cluster": _two_writers,
    "unmap against allocation": _unmap_against_allocation,
    "two unmaps of one cluster": _two_unmaps,
    "snapshot with allocation in flight": _snapshot_in_flight,
    "resize with writes in flight": _resize_in_flight,
    "delete with reads in flight": _delete_with_reads,
    "reuse of a cluster with reads in flight": _reuse_with_reads,
    "clone while its parent is being deleted": _clone_while_deleting,
    "snapshot merged with writes in flight": _merge_in_flight,
    "snapshot merged, what it alone had reused, with reads in flight": _merge_with_reads,
    "inflate with unmap in flight": _inflate_in_flight,
}


def run_one(script: str, seed: int) -> str | None:
    """Run a script in the order that the seed gives; say what went wrong, or None."""
    arena = Arena(random.Random(seed))
    start = len(arena.workload.disk.events)
    scheduler = Scheduler(arena.workload.disk, seed)
    for number, act in enumerate(SCRIPTS[script](arena)):
        scheduler.spawn(f"task {number}", act)
    try:
        scheduler.run()
        return _problem(arena, scheduler, start)
    except (BrokenStoreError, AssertionError, BlobstoreError) as error:
        return f"{type(error).__name__}: {error}"


def _problem(arena: Arena, scheduler: Scheduler, start: int) -> str | None:
    for task in scheduler.tasks:
        if task.error is not None and not isinstance(task.error, _ALLOWED):
            return f"{task.name} failed: {task.error}"
    if any(byte >= _FOREIGN for buffer in arena.reads for byte in buffer):
        return "a read saw bytes that were not written to its blob"
    if arena.store.mutex.held or arena.store.exclusive or arena.a.frozen_count:
        return "a lock was left behind"
    content = bytearray(arena.a.clusters.count * CLUSTER)
    run_alone(read_into(arena.store, arena.a, memoryview(content), 0), arena.workload.disk)
    if any(byte >= _FOREIGN for byte in content):
        return "the blob holds bytes that were not written to it"
    run_alone(flush_store(arena.store), arena.workload.disk)
    return _compare_with_disk(arena, bytes(content)) or _cut_power(arena, start)


def _compare_with_disk(arena: Arena, content: bytes) -> str | None:
    loaded = load_checked(_same_disk(arena, arena.workload.disk.content))
    if loaded is None:
        return "there is no store"
    found = loaded[1].blobs.get(arena.a.blob_id)
    return None if found is not None and found.content == content else "a flush lost something"


def _cut_power(arena: Arena, start: int) -> str | None:
    """Cut the power at a random moment of the run, with a random subset of what was in flight."""
    events = arena.workload.disk.events
    cut = arena.rng.randrange(start, len(events) + 1)
    durable = bytearray(arena.workload.record.base)
    for pending in between_flushes(events[:cut]):
        is_last = pending[-1][0] >= cut
        for _number, event in pending:
            if not isinstance(event, Flushed) and (not is_last or arena.rng.random() < 0.5):
                apply(durable, [whole(event)])
    load_checked(_same_disk(arena, durable))
    return None


def _same_disk(arena: Arena, content: bytearray) -> SimulatedDisk:
    traits = arena.workload.disk.traits
    return SimulatedDisk(
        content, atomic_write_size=traits.atomic_write_size, block_size=traits.block_size
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as many interleavings as asked for; the exit code is 1 if one went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof.interleavings")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    began = time.monotonic()
    names = list(SCRIPTS)
    jobs = [(names[n % len(names)], options.seed + n) for n in range(options.runs)]
    done: Counter[str] = Counter()
    bad = 0
    with multiprocessing.Pool() as pool:
        for script, seed, problem in pool.imap(_job, jobs, chunksize=64):
            done[script] += 1
            if problem is not None:
                bad += 1
                print(f"BAD {script}, seed {seed}: {problem}")
    for script, count in done.items():
        print(f"{count:8} {script}")
    print(f"{options.runs} interleavings, {bad} bad, {time.monotonic() - began:.0f} s")
    return 1 if bad else 0


def _job(job: tuple[str, int]) -> tuple[str, int, str | None]:
    script, seed = job
    return script, seed, run_one(script, seed)


if __name__ == "__main__":
    sys.exit(main())
