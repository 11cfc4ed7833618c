"""An I/O error at every operation the disk is asked for, once and for ever (CRASH-SAFETY 1, 6).

Every script is run once without a failure, which gives the promise for each of
its steps; then again for every operation on the disk, which now fails. What the
disk holds afterwards, with and without what was not flushed, must be the last
acknowledged state or the one in progress.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import pytest

from blobstore.blob import attributes
from blobstore.blob.read import read_into
from blobstore.blob.resize import resize
from blobstore.blob.write import flush_blob, unmap, write, write_zeroes
from blobstore.errors import ClosedError, CorruptError, DeviceError, PoisonedError
from blobstore.format.geometry import blob_id_of, root_of
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.load import load
from blobstore.metadata.store_state import StoreState
from blobstore.operations import Buffer
from blobstore.store.blobs import BlobOptions, close_blob, create_blob, open_blob
from blobstore.store.delete import delete_blob
from blobstore.store.grow import grow_open
from blobstore.store.lifecycle import flush_store, set_super_blob, set_type, unload
from blobstore.testing.alone import run_alone
from blobstore.testing.crash_states import apply, whole
from blobstore.testing.expectation import Expectation
from blobstore.testing.explorer import judge
from blobstore.testing.inspect_store import load_checked
from blobstore.testing.scenarios import OPERATIONS, make_base
from blobstore.testing.simulated_disk import Failure, Flushed, SimulatedDisk
from blobstore.testing.workload import CLUSTER, Step, Workload, new_disk
from blobstore.units import BlobId, PageIndex

LAYOUTS: Final = [pytest.param(True, id="sector"), pytest.param(False, id="compact")]
# A dirty store, and one with remains of the original: roots to convert, pages to prepare.
BASES: Final = ("dirty", "leftovers")

_SESSION: Final[list[Step]] = [
    ("load",),
    ("write", "a", 8, 16),
    ("unmap", "a", 0, 8),
    ("xattr", "r", "x", 3000),
    ("delete", "t"),
    ("unload",),
]
SPECIAL: Final[dict[str, tuple[str | None, list[Step]]]] = {
    "init": (None, [("init",), ("create", "c", 3, "thin"), ("write", "c", 3, 2), ("unload",)]),
    "init over a store": ("dirty", [("init",)]),
    "load and unload": ("clean", [("load",), ("create", "c", 1), ("unload",), ("load",)]),
    "recovery": ("dirty", [("load",), ("create", "c", 1), ("unload",), ("load",), ("unload",)]),
    "grow closed": ("clean", [("grow_closed", 4), ("load",), ("create", "c", 10)]),
    "grow open": ("clean", [("load",), ("grow_open", 4), ("create", "c", 10), ("unload",)]),
    "session": ("original", _SESSION),
}
"""Scripts with a beginning of their own: the base they start from, and all of their steps."""

NAMES: Final = [*OPERATIONS, *SPECIAL]


class FailingDisk(SimulatedDisk):
    """A disk whose failed writes leave a part of them behind, as a real one may."""

    @classmethod
    def like(cls, disk: SimulatedDisk) -> "FailingDisk":
        return cls(
            disk.content,
            atomic_write_size=disk.traits.atomic_write_size,
            block_size=disk.traits.block_size,
            unmap_zeroes=disk.traits.unmap_zeroes,
        )

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        try:
            super().write(offset, buffers)
        except DeviceError:
            self._write_half(offset, b"".join(bytes(buffer) for buffer in buffers))
            raise

    def _write_half(self, offset: int, data: bytes) -> None:
        unit = self.traits.atomic_write_size
        half = data[: len(data) // unit // 2 * unit]
        if half:
            failure, self.failure = self.failure, None
            super().write(offset, [half])
            self.operation_count -= 1
            self.failure = failure


@dataclass(frozen=True)
class Script:
    """Steps on a base; `base` is None for a disk that never held a store."""

    base: str | None
    sector: bool
    steps: tuple[Step, ...]

    def start(self) -> Workload:
        if self.base is None:
            return Workload(FailingDisk.like(new_disk(sector=self.sector)))
        made = make_base(self.base, sector=self.sector).start()
        workload = Workload(FailingDisk.like(made.disk), made.expected)
        workload.ids = made.ids
        workload.expected.may_be_missing = self.steps == (("init",),)
        return workload


@dataclass(frozen=True)
class FailedRun:
    """A run in which one step failed; `promise` is what may be found after it."""

    script: Script
    workload: Workload
    failure: Failure
    step: int
    error: DeviceError
    promise: Expectation

    @property
    def store(self) -> StoreState | None:
        return self.workload.store

    @property
    def is_poisoned(self) -> bool:
        return self.store is not None and self.store.poison is not None

    def __str__(self) -> str:
        return f"{self.script.base} {self.script.steps[self.step]} {self.failure}: {self.error}"


def scripts_of(name: str, *, sector: bool) -> Iterator[Script]:
    if name in SPECIAL:
        base, steps = SPECIAL[name]
        yield Script(base, sector, tuple(steps))
    else:
        for base in BASES:
            yield Script(base, sector, (("load",), *OPERATIONS[name]))


@cache
def good_run(script: Script) -> Workload:
    workload = script.start()
    workload.run(script.steps)
    return workload


def first_failure(script: Script) -> int:
    """Return the first operation to fail; loading fails in the same way in all scripts."""
    if script.steps[0] != ("load",) or script.steps[1] == ("create", "c", 1):
        return 0
    workload = script.start()
    workload.step("load")
    return workload.disk.operation_count


def failed_runs(
    name: str, *, sector: bool, endings: Sequence[bool] = (False, True)
) -> Iterator[FailedRun]:
    """Yield a run for every operation that fails, once and (`True`) for ever."""
    for script in scripts_of(name, sector=sector):
        for at in range(first_failure(script), good_run(script).disk.operation_count):
            for forever in endings:
                run = run_with_failure(script, Failure(at, forever))
                if run is not None:
                    yield run


def run_with_failure(script: Script, failure: Failure) -> FailedRun | None:
    """Run up to the step that fails; None when nobody is told of the failure."""
    workload = script.start()
    workload.disk.failure = failure
    for number, step in enumerate(script.steps):
        try:
            workload.step(*step)
        except DeviceError as error:
            promise = good_run(script).record.spans[number].during
            return FailedRun(script, workload, failure, number, error, promise)
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


def disk_with(content: bytes, like: SimulatedDisk) -> SimulatedDisk:
    return SimulatedDisk(
        content,
        atomic_write_size=like.traits.atomic_write_size,
        block_size=like.traits.block_size,
    )


@pytest.mark.parametrize("sector", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_after_an_io_error_the_disk_holds_what_was_acknowledged_or_in_progress(
    name: str, sector: bool
) -> None:
    judged: set[tuple[Script, int, bytes]] = set()
    for run in failed_runs(name, sector=sector):
        if run.store is not None:
            assert not run.store.mutex.held, run
        for content in (bytes(run.workload.disk.content), durable_content(run.workload)):
            key = (run.script, run.step, content)
            if key not in judged:
                judged.add(key)
                assert judge(disk_with(content, run.workload.disk), run.promise) is None, run
    assert judged


@pytest.mark.parametrize("sector", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_a_failed_flush_poisons_and_a_poisoned_store_changes_nothing_but_can_be_read(
    name: str, sector: bool
) -> None:
    for run in failed_runs(name, sector=sector, endings=[False]):
        kind = run.error.message.split(" a ")[1].split()[0]
        is_init = run.script.steps[run.step][0] in ("init", "grow_closed")
        assert run.is_poisoned or is_init or kind != "flush", run
        if run.is_poisoned:
            check_poisoned(run)


def check_poisoned(run: FailedRun) -> None:
    store, disk = run.store, run.workload.disk
    assert store is not None
    disk.failure = None
    if store.is_closed:
        with pytest.raises(ClosedError):
            run_alone(flush_store(store), disk)
        return
    before = len(disk.events)
    blobs = [blob for blob_id in whole_blobs(run, store) for blob in opened(run, store, blob_id)]
    for change in changes_of_a_store(store, disk):
        with pytest.raises(PoisonedError):
            change()
    for blob in blobs:
        check_poisoned_blob(store, blob, disk, run)
    for blob in list(store.open_blobs.values()):
        for _ in range(blob.open_count):
            run_alone(close_blob(store, blob), disk)
    run_alone(unload(store), disk)
    with pytest.raises(ClosedError):
        run_alone(flush_store(store), disk)
    assert len(disk.events) == before, run


def whole_blobs(run: FailedRun, store: StoreState) -> list[BlobId]:
    """Return the blobs that are there; one whose delete has failed is neither there nor gone."""
    step = run.script.steps[run.step]
    ids = [i for name, i in run.workload.ids.items() if step != ("delete", name)]
    return [blob_id for blob_id in ids if store.used_ids[root_of(blob_id)]]


def opened(run: FailedRun, store: StoreState, blob_id: BlobId) -> list[BlobState]:
    """Open the blob; one whose root was torn while it was converted waits for a recovery."""
    try:
        return [run_alone(open_blob(store, blob_id), run.workload.disk)]
    except CorruptError:
        assert (run.script.base, run.script.sector) == ("original", True), run
        assert run.script.steps[run.step] == ("unload",), run
        assert ", a write" in run.error.message
        return []


def changes_of_a_store(store: StoreState, disk: SimulatedDisk) -> list[Callable[[], object]]:
    some_id = blob_id_of(PageIndex(0))
    return [
        lambda: run_alone(create_blob(store, BlobOptions(1)), disk),
        lambda: run_alone(create_blob(store, BlobOptions(1, thin=True)), disk),
        lambda: run_alone(delete_blob(store, some_id), disk),
        lambda: run_alone(set_super_blob(store, some_id), disk),
        lambda: run_alone(grow_open(store, len(disk.content) + CLUSTER), disk),
        lambda: run_alone(flush_store(store), disk),
        lambda: set_type(store, b"other"),
    ]


def check_poisoned_blob(
    store: StoreState, blob: BlobState, disk: SimulatedDisk, run: FailedRun
) -> None:
    count = blob.clusters.count
    content = bytearray(count * CLUSTER)
    run_alone(read_into(store, blob, memoryview(content), 0), disk)
    expected = run.workload.expected.blobs[blob.blob_id]
    blocks = [bytes(content[at : at + 512]) for at in range(0, len(content), 512)]
    assert all(block in expected.blocks[at] for at, block in enumerate(blocks)), run
    changes: list[Callable[[], object]] = [
        lambda: run_alone(write(store, blob, memoryview(b"new"), 0), disk),
        lambda: run_alone(write_zeroes(store, blob, 0, 1), disk),
        lambda: run_alone(unmap(store, blob, 0, CLUSTER), disk),
        lambda: run_alone(resize(store, blob, count + 1), disk),
        lambda: run_alone(resize(store, blob, 0), disk),
        lambda: run_alone(flush_blob(store, blob), disk),
        lambda: attributes.set_xattr(store, blob, "new", b"1"),
        lambda: attributes.set_read_only(store, blob),
    ]
    for change in changes:
        with pytest.raises(PoisonedError):
            change()


@pytest.mark.parametrize("sector", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_a_call_that_fails_without_poisoning_can_be_repeated_and_the_store_goes_on(
    name: str, sector: bool
) -> None:
    for run in failed_runs(name, sector=sector, endings=[False]):
        if run.is_poisoned:
            continue
        workload = run.workload
        workload.run(run.script.steps[run.step :])
        store = workload.store
        if store is not None:
            assert store.poison is None
            workload.step("unload")
        problem = judge(disk_with(bytes(workload.disk.content), workload.disk), workload.expected)
        assert problem is None, run


@pytest.mark.parametrize("sector", LAYOUTS)
@pytest.mark.parametrize(
    "name", ["write", "write sync", "write runs", "overwrite", "zero", "grow blob", "flush"]
)
def test_a_failed_data_write_fails_that_call_only(name: str, sector: bool) -> None:
    failed_writes = 0
    for run in failed_runs(name, sector=sector):
        is_data = run.script.steps[run.step][0] in ("write", "zero") and ", a write" in str(run)
        if is_data:
            failed_writes += 1
            assert not run.is_poisoned, run
    assert failed_writes or name == "grow blob"


@pytest.mark.parametrize("sector", LAYOUTS)
def test_a_failed_data_write_takes_no_cluster_for_good(sector: bool) -> None:
    workload = make_base("clean", sector=sector).start()
    workload.run([("load",), ("open", "t")])
    store = workload.store
    assert store is not None
    free = store.free_clusters
    for _ in range(3 * free):
        workload.disk.failure = Failure(workload.disk.operation_count)
        with pytest.raises(DeviceError):
            workload.step("write", "t", 9, 3)
        workload.disk.failure = None
    assert store.free_clusters == free
    workload.run([("write", "t", 9, 3), ("unload",)])
    assert judge(workload.disk, workload.expected) is None


@pytest.mark.parametrize("sector", LAYOUTS)
def test_loading_fails_with_the_disks_error_and_leaves_no_trace_on_it(sector: bool) -> None:
    for base in BASES:
        disk = make_base(base, sector=sector).start().disk
        run_alone(load(disk.traits), disk)
        for at in range(disk.operation_count):
            failing = make_base(base, sector=sector).start().disk
            failing.failure = Failure(at)
            with pytest.raises(DeviceError):
                run_alone(load(failing.traits), failing)
            assert not failing.events
            failing.failure = None
            assert load_checked(failing) is not None
