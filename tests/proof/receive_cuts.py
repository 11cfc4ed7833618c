"""Power failures while a stream is received: every state that a cut can leave.

`python -m tests.proof.receive_cuts` explores them all, and prints a line for each kind of stream.
A state is good when `check` finds nothing, when what was there before is as it was, and when the
new snapshot is there whole or not at all. What is left of it otherwise has no name, says that it
is unfinished, and the same stream makes the snapshot of it.

Each kind of stream is explored twice: alone, and with another thread that flushes the store
whenever it can, which is between any two calls of the core.
"""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import count, product
from typing import Any, Final, TypeAlias

import pytest

from blobstore import BlobInfo, Blobstore, BlobstoreError, MemoryDevice, VolumeStore, check
from blobstore.api.session import Session
from blobstore.backup import receiving, sending
from blobstore.backup.any_store import AnyStore
from blobstore.backup.receiving import receive
from blobstore.backup.sending import send
from blobstore.backup.snapshot_identity import take_snapshot
from blobstore.backup.unfinished import RECEIVE_STATE
from blobstore.store.lifecycle import flush_store
from blobstore.testing.crash_states import Limits, crash_contents
from blobstore.testing.simulated_device import SimulatedDevice
from blobstore.testing.simulated_disk import SimulatedDisk
from blobstore.testing.workload import CLUSTER, MD_PAGES, new_disk

SHORT: Final = Limits(subsets=12, samples=4, torn_masks=3)
_LONG: Final = Limits(subsets=256, samples=32, torn_masks=32)
NAME: Final = "new"

Seen: TypeAlias = dict[str | None, tuple[bytes, bool, str | None]]
"""Content, read-only and the parent's name of every complete blob, by its name."""


@dataclass(slots=True)
class Outcome:
    """What was explored of one kind of stream."""

    states: int = 0
    unfinished: int = 0
    bad: list[str] = field(default_factory=list)


def _open(disk: SimulatedDisk, *, volumes: bool) -> AnyStore:
    device = SimulatedDevice(disk)
    return VolumeStore.open(device) if volumes else Blobstore.open(device)


def _make(device: SimulatedDevice | MemoryDevice, *, volumes: bool) -> AnyStore:
    if volumes:
        return VolumeStore.create(
            device,
            name=device.name,
            cluster_size=CLUSTER,
            md_pages_per_cluster_ratio=60,
            overwrite=True,
        )
    return Blobstore.create(device, cluster_size=CLUSTER, md_pages=MD_PAGES, overwrite=True)


def streams() -> tuple[bytes, bytes]:
    """Return a whole stream, and the difference to the snapshot that follows; cut into clusters."""
    with Blobstore.create(MemoryDevice(1 << 20), cluster_size=CLUSTER) as source:
        disk = source.create_blob(6 * CLUSTER, thin=True)
        disk.write(b"1" * (4 * CLUSTER - 9), CLUSTER)
        first = take_snapshot(disk, "first", now=1)
        disk.write(b"2222", 3 * CLUSTER - 2)
        disk.write(b"2", 5 * CLUSTER)
        disk.resize(7 * CLUSTER)
        second = take_snapshot(disk, "second", now=2)
        whole, difference = io.BytesIO(), io.BytesIO()
        send(first, whole)
        send(second, difference, base=first)
    return whole.getvalue(), difference.getvalue()


def explore(
    kind: str,
    *,
    sector: bool,
    volumes: bool,
    flushing: bool = False,
    limits: Limits = SHORT,
    again: int = 5,
) -> Outcome:
    """Cut the receipt of a stream; every `again`-th unfinished state receives the stream again.

    With `flushing` the store is flushed after every call that the receipt makes.
    """
    whole, difference = streams()
    disk = new_disk(sector=sector)
    with _make(SimulatedDevice(disk), volumes=volumes) as store:
        receive(store, io.BytesIO(whole), "first").close()
    base, first = bytes(disk.content), len(disk.events)
    stream = difference if kind == "difference" else whole
    store = _open(disk, volumes=volumes)
    before = seen(store)
    with flushes_between_calls() if flushing else nullcontext():
        receive(store, io.BytesIO(stream), NAME)
    after, events = seen(store), disk.events[first:]
    final = bytes(disk.content)
    store.close()
    assert set(after) - set(before) == {NAME}
    judge = _Judge(stream, before, after, volumes, again)
    limits = replace(limits, atomic=disk.traits.atomic_write_size)
    outcome, judged = Outcome(), set[bytes]()
    for state, content in crash_contents(base, events, limits):
        outcome.states += 1
        if content not in judged:
            judged.add(content)
            problem = judge(_like(disk, content), [before, after])
            if problem is not None:
                outcome.bad.append(f"model {state.model}, event {state.event}: {problem}")
    problem = judge(_like(disk, final), [after])
    if problem is not None:
        outcome.bad.append(f"after the acknowledgement: {problem}")
    outcome.unfinished = judge.unfinished
    return outcome


def _like(disk: SimulatedDisk, content: bytes) -> SimulatedDisk:
    traits = disk.traits
    return SimulatedDisk(
        content, atomic_write_size=traits.atomic_write_size, block_size=traits.block_size
    )


def seen(store: AnyStore) -> Seen:
    """Return every blob that is complete."""
    infos = {info.blob_id: info for info in store.list_blobs()}
    return {
        info.name: (
            content_of(store, info),
            info.data_read_only,
            None if info.parent is None else infos[info.parent].name,
        )
        for info in infos.values()
        if RECEIVE_STATE not in info.xattrs
    }


def content_of(store: AnyStore, info: BlobInfo) -> bytes:
    with store.open_blob(info.blob_id) as blob:
        return blob.read(blob.size)


class _Judge:
    """Says what is wrong with a crash state, or None."""

    def __init__(self, stream: bytes, before: Seen, after: Seen, volumes: bool, again: int) -> None:
        self.unfinished = 0
        self._stream = stream
        self._before = before
        self._after = after
        self._volumes = volumes
        self._again = again
        self._numbers = count()

    def __call__(self, disk: SimulatedDisk, allowed: list[Seen]) -> str | None:
        try:
            report = check(SimulatedDevice(_like(disk, bytes(disk.content))))
            if not report.clean:
                return f"check: {report.findings}"
            with _open(disk, volumes=self._volumes) as store:
                return self._judge_store(store, allowed)
        except BlobstoreError as error:
            return f"{type(error).__name__}: {error}"

    def _judge_store(self, store: AnyStore, allowed: list[Seen]) -> str | None:
        found = seen(store)
        if found not in allowed:
            return f"found {sorted(map(str, found))}"
        left = [info for info in store.list_blobs() if RECEIVE_STATE in info.xattrs]
        if found == self._after:
            return "an unfinished blob beside the snapshot" if left else None
        self.unfinished += bool(left)
        if any(info.name in self._after for info in left):
            return "an unfinished blob with the snapshot's name"
        if left and next(self._numbers) % self._again == 0:
            receive(store, io.BytesIO(self._stream), NAME)
            if seen(store) != self._after:
                return "the same stream does not complete it"
        return None


@contextmanager
def flushes_between_calls() -> Iterator[None]:
    """Flush the store after every call of its core, as the luckiest other thread would."""
    run = Session.run

    def run_and_flush(session: Session, core: Any, blob_id: Any = None) -> Any:
        result = run(session, core, blob_id)
        run(session, flush_store(session.core))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "run", run_and_flush)
        yield


@contextmanager
def small_steps() -> Iterator[None]:
    """Cut streams into records of one cluster, and note after every second how far it came."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sending, "DATA_MAX", CLUSTER)
        patch.setattr(receiving, "_CHECKPOINT_BYTES", 2 * CLUSTER)
        yield


def explore_all(limits: Limits, again: int = 1) -> Iterator[tuple[str, Outcome]]:
    """Explore whole streams and differences, in both kinds of stores and both layouts of roots."""
    with small_steps():
        for kind in ("whole", "difference"):
            for volumes in (False, True):
                for sector, flushing in product((True, False), repeat=2):
                    store = "volumes" if volumes else "blobs"
                    title = f"{kind}, {store}, sector={sector}, flushing={flushing}"
                    outcome = explore(
                        kind,
                        sector=sector,
                        volumes=volumes,
                        flushing=flushing,
                        limits=limits,
                        again=again,
                    )
                    yield title, outcome


def main() -> int:
    """Explore all; the exit code is 1 if a state was bad."""
    states = bad = 0
    for title, outcome in explore_all(_LONG):
        states, bad = states + outcome.states, bad + len(outcome.bad)
        print(f"{title:55} {outcome.states:8} states {len(outcome.bad):4} bad")
        for problem in outcome.bad[:3]:
            print(f"    BAD {problem}")
    print(f"{states} states of streams that are received, {bad} bad")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
