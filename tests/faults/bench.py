"""The bench of the fault tests: every operation of the core, with a fault in its way.

A script runs once without a fault, which gives the promise for each of its
steps, and then again with a fault at one operation of the device, until every
operation had its turn. What the disk holds afterwards must be the last
acknowledged state or the one in progress.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from blobstore.blob.read import read_into
from blobstore.errors import DeviceError
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.load_store import known_ids, load
from blobstore.metadata.store_state import StoreState
from blobstore.store.open_blobs import open_blob
from blobstore.store.relations import register_external, set_external_parent
from blobstore.store.shallow_copy import shallow_copy
from blobstore.testing.alone import run_alone
from blobstore.testing.crash_states import apply, whole
from blobstore.testing.expectation import BLOCK, Expectation, FoundBlob, FoundStore, Meta
from blobstore.testing.explorer import judge
from blobstore.testing.simulated_disk import Flushed, SimulatedDisk
from blobstore.testing.workload import CLUSTER, Step, Workload, new_disk
from tests.faults.faulty_disk import Fault, FaultyDisk, Outside
from tests.proof.scenarios import OPERATIONS, SNAPSHOT_OPERATIONS, make_base

EXTERNAL_ID: Final = b"outside"


SPECIAL: Final[dict[str, tuple[str | None, tuple[Step, ...]]]] = {
    "init": (None, (("init",), ("create", "c", 3, "thin"), ("write", "c", 3, 2), ("unload",))),
    "recovery": ("dirty", (("load",), ("create", "c", 1), ("unload",))),
    "grow closed": ("clean", (("grow_closed", 4), ("load",), ("create", "c", 10))),
    "grow open": ("clean", (("load",), ("grow_open", 4), ("create", "c", 10), ("unload",))),
    "remove xattr": ("clean", (("load",), ("remove_xattr", "r", "x"), ("sync", "r"))),
    "delete super": ("clean", (("load",), ("super", "a"), ("delete", "a"))),
    "external": ("clean", (("load",), ("external", "a"), ("write", "a", 27, 3), ("sync", "a"))),
    "inflate external": ("clean", (("load",), ("external", "t"), ("inflate", "t"))),
    "shallow copy": ("snapshots", (("load",), ("shallow_copy", "s1"))),
    "read": ("snapshots", (("load",), ("read", "a"))),
}
"""Scripts with a beginning of their own: the base they start from, and all of their steps."""

PLAIN: Final = tuple(OPERATIONS)
_CHAIN_STEPS: Final[dict[str, list[Step]]] = {
    **SNAPSHOT_OPERATIONS,
    "copy on write runs": [("write", "t", 3, 13), ("sync", "t")],
    "inflate": [("delete", "r"), ("inflate", "a")],
}
CHAINS: Final = tuple(f"chains: {name}" for name in _CHAIN_STEPS)
NAMES: Final = (*PLAIN, *CHAINS, *SPECIAL)


class FaultWorkload(Workload):
    """A workload on a disk with faults, with what a workload has not: the world outside.

    Like the public face it poisons the store when an untyped exception escapes,
    unless it `is_bare`. It keeps no promises: a run without a fault has done that.
    """

    def __init__(self, disk: FaultyDisk, expectation: Expectation | None, *, is_bare: bool) -> None:
        super().__init__(disk)
        self.expected = expectation or self.expected
        self.faulty_disk = disk
        self.is_bare = is_bare
        self.outside: Outside | None = None

    def step(self, name: str, *arguments: Any) -> None:
        handler: Callable[..., None] = getattr(self, f"_do_{name}")
        try:
            handler(*arguments)
        except (MemoryError, KeyboardInterrupt) as error:
            if self.store is not None and not self.is_bare:
                self.store.poison = self.store.poison or error
            raise

    def step_with_promise(self, name: str, *arguments: Any) -> None:
        """Run a step as any workload does."""
        super().step(name, *arguments)

    def _do_external(self, name: str) -> None:
        blob = self._blob(name)
        owned = [blob.clusters.get(index) != 0 for index in range(blob.clusters.count)]
        self.outside = Outside(self.faulty_disk, blob.clusters.count * CLUSTER)
        register_external(self._loaded, EXTERNAL_ID, self.outside)
        run_alone(set_external_parent(self._loaded, blob, EXTERNAL_ID), self.disk)
        expected = self.expected.blobs[blob.blob_id]
        for at in range(len(expected.current)):
            if not owned[at * BLOCK // CLUSTER]:
                expected.write(at, bytes(self.outside.content[at * BLOCK : (at + 1) * BLOCK]))
        self._new_parent(name, None)

    def _do_shallow_copy(self, name: str) -> None:
        blob = self._blob(name)
        size = blob.clusters.count * CLUSTER
        target = Outside(self.faulty_disk, size)
        untouched = bytes(target.content)
        core = shallow_copy(self._loaded, blob, target, None)
        run_alone(core, self.disk)
        current = b"".join(self.expected.blobs[blob.blob_id].current)
        for index in range(blob.clusters.count):
            part = slice(index * CLUSTER, (index + 1) * CLUSTER)
            source = current if blob.clusters.get(index) else untouched
            assert target.content[part] == source[part]

    def _do_read(self, name: str) -> None:
        blob = self._blob(name)
        found = content_of(self._loaded, blob, self.disk)
        assert found == b"".join(self.expected.blobs[blob.blob_id].current)


def content_of(store: StoreState, blob: BlobState, disk: SimulatedDisk) -> bytes:
    """Read the whole blob."""
    content = bytearray(blob.clusters.count * CLUSTER)
    run_alone(read_into(store, blob, memoryview(content), 0), disk)
    return bytes(content)


@dataclass(frozen=True)
class Script:
    """Steps on a base; `base` is None for a disk that never held a store."""

    name: str
    base: str | None
    sector: bool
    steps: tuple[Step, ...]

    def start(self, *, is_bare: bool = False) -> FaultWorkload:
        """Return a workload that has not run yet."""
        if self.base is None:
            return FaultWorkload(
                FaultyDisk.like(new_disk(sector=self.sector)), None, is_bare=is_bare
            )
        made = make_base(self.base, sector=self.sector).start()
        workload = FaultWorkload(FaultyDisk.like(made.disk), made.expected, is_bare=is_bare)
        workload.ids = made.ids
        return workload


def script_of(name: str, *, sector: bool, base: str | None = None) -> Script:
    """Return the script of that name, on another base than usual if one is given."""
    if name in SPECIAL:
        usual, steps = SPECIAL[name]
        return Script(name, usual, sector, steps)
    if name in CHAINS:
        operation = _CHAIN_STEPS[name.removeprefix("chains: ")]
        return Script(name, base or "snapshots", sector, (("load",), *operation))
    return Script(name, base or "dirty", sector, (("load",), *OPERATIONS[name]))


@dataclass(frozen=True)
class FaultyRun:
    """A run in which one step was hit by a fault; `promise` is what may be found after it."""

    script: Script
    workload: FaultWorkload
    fault: Fault
    step: int
    error: BaseException
    promise: Expectation

    @property
    def store(self) -> StoreState | None:
        """The store as it was when it was hit, if there was one."""
        return self.workload.store

    @property
    def is_poisoned(self) -> bool:
        """Whether the store refuses changes now."""
        return self.store is not None and self.store.poison is not None

    @property
    def step_name(self) -> str:
        """The kind of the step that was hit."""
        return str(self.script.steps[self.step][0])

    def contents(self) -> list[bytes]:
        """Return what the disk holds with all that reached it, and with what was flushed alone."""
        return [bytes(self.workload.disk.content), durable_content(self.workload)]

    def __str__(self) -> str:
        return f"{self.script.base} {self.script.steps[self.step]} {self.fault}: {self.error!r}"


@cache
def good_run(script: Script) -> FaultWorkload:
    """Run the script without any fault."""
    workload = script.start()
    for step in script.steps:
        workload.step_with_promise(*step)
    return workload


def faulty_runs(
    script: Script,
    kind: str,
    *,
    forever: bool = False,
    is_after: bool = False,
    is_bare: bool = False,
) -> Iterator[FaultyRun]:
    """Yield a run for every operation of the device that can be hit; loading has its own tests."""
    good = good_run(script)
    for at in range(_first_operation(script), good.faulty_disk.count):
        run = _run_with(script, Fault(kind, at, forever, is_after), is_bare=is_bare)
        if run is not None:
            yield run


@cache
def _first_operation(script: Script) -> int:
    if script.steps[0] != ("load",):
        return 0
    workload = script.start()
    workload.step("load")
    return workload.faulty_disk.count


def _run_with(script: Script, fault: Fault, *, is_bare: bool) -> FaultyRun | None:
    """Run up to the step that fails; None when nobody is told of the fault."""
    workload = script.start(is_bare=is_bare)
    workload.faulty_disk.fault = fault
    for number, step in enumerate(script.steps):
        try:
            workload.step(*step)
        except (DeviceError, MemoryError, KeyboardInterrupt) as error:
            promise = good_run(script).record.spans[number].during
            return FaultyRun(script, workload, fault, number, error, promise)
    return None


def durable_content(workload: Workload) -> bytes:
    """Return what the disk would hold if nothing had reached it that was not flushed."""
    events = workload.disk.events
    flushes = [number for number, event in enumerate(events) if isinstance(event, Flushed)]
    content = bytearray(workload.record.base)
    content += bytes(len(workload.disk.content) - len(content))
    for event in events[: flushes[-1] if flushes else 0]:
        if not isinstance(event, Flushed):
            apply(content, [whole(event)])
    return bytes(content)


class Judgement:
    """Judges what disks hold; the same content under the same promise only once."""

    def __init__(self) -> None:
        self.judged: set[tuple[Script, int, bytes]] = set()
        self._ends: dict[tuple[Script, bytes], list[Expectation]] = {}

    def problem(self, run: FaultyRun) -> str | None:
        """Say what is wrong with what a reopened store would show, or None."""
        for content in run.contents():
            key = (run.script, run.step, content)
            if key not in self.judged:
                self.judged.add(key)
                trouble = judge_content(run.workload, content, run.promise)
                if trouble is not None:
                    return trouble
        return None

    def problem_at_the_end(self, run: FaultyRun) -> str | None:
        """Say what is wrong with the disk of a run that went on to its end, or None."""
        workload, content = run.workload, bytes(run.workload.disk.content)
        known = self._ends.setdefault((run.script, content), [])
        if workload.expected in known:
            return None
        known.append(workload.expected)
        return judge_content(workload, content, workload.expected)


def judge_content(
    workload: FaultWorkload, content: bytes | bytearray, promise: Expectation
) -> str | None:
    """Open what a disk holds, use it, and compare it with the promise."""
    traits = workload.disk.traits
    disk = FaultyDisk(
        content, atomic_write_size=traits.atomic_write_size, block_size=traits.block_size
    )
    if workload.outside is None:
        return judge(disk, promise)
    return _judge_with_external(disk, promise, workload.outside)


def _judge_with_external(disk: FaultyDisk, promise: Expectation, outside: Outside) -> str | None:
    """Compare a store whose clones need something outside, and look for clusters owned twice."""
    store = run_alone(load(disk.traits), disk)
    source = Outside(disk, outside.size_bytes)
    register_external(store, EXTERNAL_ID, source)
    blobs: dict[int, FoundBlob] = {}
    owned: list[int] = []
    for blob_id in known_ids(store):
        blob = run_alone(open_blob(store, blob_id), disk)
        owned += blob.clusters.allocated()
        attributes = tuple(blob.xattrs.items())
        meta = Meta(blob.clusters.count, attributes, blob.data_read_only, blob.parent_id)
        blobs[blob_id] = FoundBlob(meta, content_of(store, blob, disk))
    if len(owned) != len(set(owned)):
        return "a cluster is owned twice"
    return promise.problem(FoundStore(blobs, None, store.geometry.size_bytes))
