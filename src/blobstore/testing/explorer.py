"""The crash explorer: every state that a cut can leave of a record is loaded and judged.

A state is good when it is the last acknowledged one or the one in progress,
its data are intact, every invariant holds, the original's reader accepts it, a
second load gives the same, and the store can be changed and unloaded.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from blobstore.errors import BlobstoreError
from blobstore.format.geometry import blob_id_of
from blobstore.fsck.examine import examine
from blobstore.fsck.finding import Severity
from blobstore.metadata.store_state import StoreState
from blobstore.store.blobs import BlobOptions, create_blob
from blobstore.store.lifecycle import unload
from blobstore.testing.alone import DeadlockError, run_alone
from blobstore.testing.crash_states import (
    CrashState,
    Limits,
    apply,
    between_flushes,
    crash_states,
    make_durable,
)
from blobstore.testing.expectation import Expectation, FoundStore
from blobstore.testing.inspect_store import BrokenStoreError, load_checked
from blobstore.testing.original import original_problem
from blobstore.testing.simulated_disk import Event, SimulatedDisk
from blobstore.testing.workload import Record


@dataclass(frozen=True, slots=True)
class Finding:
    """A bad state: what is wrong, and how to get there again."""

    operation: str
    model: str
    event: int
    problem: str
    state: CrashState


@dataclass(slots=True)
class Tally:
    """States by (model, operation), how many were distinct and loaded, and the bad ones."""

    states: Counter[tuple[str, str]] = field(default_factory=Counter)
    loaded: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def total(self) -> int:
        """All states that were generated."""
        return sum(self.states.values())

    def add(self, other: "Tally") -> None:
        """Take over another tally."""
        self.states.update(other.states)
        self.loaded += other.loaded
        self.findings += other.findings


class Explorer:
    """Judges the crash states of records; `second_crash` tells how often model F follows."""

    def __init__(
        self,
        *,
        limits: Limits,
        seed: int = 0,
        second_crash: int = 0,
        stop_at_first: bool = False,
    ) -> None:
        self.limits = limits
        self.rng = random.Random(seed)
        self.second_crash = second_crash
        self.stop_at_first = stop_at_first
        self.tally = Tally()
        self._seen: set[bytes] = set()

    def explore(
        self, record: Record, *, first_event: int = 0, without_site: str | None = None
    ) -> Tally:
        """Judge all states from `first_event` on, without the flushes of a site if one is named."""
        durable = bytearray(record.base)
        for pending in between_flushes(record.disk.events, without_site):
            if pending and pending[-1][0] >= first_event:
                self._explore_epoch(record, durable, pending, first_event)
            make_durable(durable, pending)
            if self.stop_at_first and self.tally.findings:
                break
        return self.tally

    def _explore_epoch(
        self,
        record: Record,
        durable: bytearray,
        pending: Sequence[tuple[int, Event]],
        first_event: int,
    ) -> None:
        base = blake2b(durable, digest_size=16).digest()
        for state in crash_states(pending, self.limits, self.rng):
            if state.event < first_event:
                continue
            name, expected = record.expectation_at(state.event)
            self.tally.states[state.model, name] += 1
            content = _resized(durable, record)
            apply(content, state.patches)
            key = blake2b(base + content, digest_size=16, salt=id(expected).to_bytes(8, "big"))
            if key.digest() in self._seen:
                continue
            self._seen.add(key.digest())
            self._judge(record, state, name, expected, content)
            if self.stop_at_first and self.tally.findings:
                return

    def _judge(
        self,
        record: Record,
        state: CrashState,
        name: str,
        expected: Expectation,
        content: bytearray,
    ) -> None:
        self.tally.loaded += 1
        disk = SimulatedDisk(
            content,
            atomic_write_size=record.disk.traits.atomic_write_size,
            block_size=record.disk.traits.block_size,
            unmap_zeroes=record.disk.traits.unmap_zeroes,
        )
        problem = judge(disk, expected)
        if problem is None and self.second_crash and self.tally.loaded % self.second_crash == 0:
            problem = self._crash_again(bytes(content), disk, name)
        if problem is not None:
            self.tally.findings.append(Finding(name, state.model, state.event, problem, state))

    def _crash_again(self, content: bytes, used: SimulatedDisk, name: str) -> str | None:
        """Model F: cut the power during recovery and the first change after it."""
        first = load_checked(
            SimulatedDisk(content, atomic_write_size=used.traits.atomic_write_size)
        )
        if first is None:
            return None
        found = first[1]
        durable = bytearray(content)
        for pending in between_flushes(used.events):
            for state in crash_states(pending, Limits(64, 8, 16, self.limits.atomic), self.rng):
                self.tally.states["F", name] += 1
                again = bytearray(durable)
                apply(again, state.patches)
                problem = _compare_again(
                    SimulatedDisk(again, atomic_write_size=used.traits.atomic_write_size), found
                )
                if problem is not None:
                    return f"after a second crash at event {state.event}: {problem}"
            make_durable(durable, pending)
        return None


def _resized(durable: bytearray, record: Record) -> bytearray:
    """Return a copy as large as the disk is in the end: a device grows before its store does."""
    missing = len(record.disk.content) - len(durable)
    return durable + bytes(missing)


def judge(disk: SimulatedDisk, expected: Expectation) -> str | None:
    """Say what is wrong with a crash state, or None.

    Afterwards the disk has seen a recovery, a first change and an unload.
    """
    image = bytes(disk.content)
    try:
        loaded = load_checked(disk)
        if loaded is None:
            return None if expected.may_be_missing else "there is no store"
        store, found = loaded
        excused = [blob_id_of(root) for root in store.recovery_plan.restored]
        problem = expected.problem(found) or original_problem(image, found, excused=excused)
        if problem is not None:
            return problem
        _check(SimulatedDisk(image, atomic_write_size=disk.traits.atomic_write_size), "at first")
        return _use(disk, store, found)
    except (BrokenStoreError, BlobstoreError, DeadlockError, AssertionError) as error:
        return f"{type(error).__name__}: {error}"


def _use(disk: SimulatedDisk, store: StoreState, found: FoundStore) -> str | None:
    """Change the store, unload it, and load it again: nothing else may have changed."""
    try:
        run_alone(create_blob(store, BlobOptions(xattrs={"new": b"1"})), disk)
    except BlobstoreError as error:
        if error.errno not in (12, 28):
            return f"cannot be changed: {error}"
    run_alone(unload(store), disk)
    _check(disk, "after a clean unload")
    again = load_checked(disk)
    if again is None:
        return "is gone after a clean unload"
    return _difference(again[1], found)


def _check(disk: SimulatedDisk, when: str) -> None:
    """Let all invariants be looked at.

    Raises:
        BrokenStoreError: One does not hold.
    """
    for finding in run_alone(examine(disk.traits), disk).findings:
        if finding.severity is not Severity.NOTE:
            raise BrokenStoreError(f"check {when}: {finding}")


def _compare_again(disk: SimulatedDisk, found: FoundStore) -> str | None:
    try:
        again = load_checked(disk)
    except (BrokenStoreError, BlobstoreError) as error:
        return f"{type(error).__name__}: {error}"
    return "there is no store" if again is None else _difference(again[1], found)


def _difference(now: FoundStore, before: FoundStore) -> str | None:
    """Compare two loads; one blob more, made by `_use`, is expected."""
    for blob_id, blob in before.blobs.items():
        if now.blobs.get(blob_id) != blob:
            return f"blob {blob_id:#x} is not the same at the next load"
    new = [blob for blob_id, blob in now.blobs.items() if blob_id not in before.blobs]
    if any(blob.meta.xattrs != (("new", b"1"),) for blob in new) or len(new) > 1:
        return "a blob appeared at the next load"
    return None if now.super_blob == before.super_blob else "the super blob changed"
