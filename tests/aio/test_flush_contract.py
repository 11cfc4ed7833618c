"""What the asyncio driver does to a device is what the crash explorer was promised.

The explorer's scripts run under the asyncio driver, on a real file. A write is recorded when it
has completed, and a flush when it begins: a flush makes durable what was complete before, and
nothing else. The explorer then judges all that a power failure could leave of the record.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from blobstore.device.file import FileDevice
from blobstore.device.ring import FDATASYNC, FSYNC, READ, WRITE
from blobstore.drivers.completions import Completion
from blobstore.drivers.event_loop import EventLoopDriver
from blobstore.drivers.event_loop_io import EventLoopIO
from blobstore.drivers.event_loop_ring import Done, EventLoopRing
from blobstore.drivers.perform import perform
from blobstore.operations import (
    Copy,
    Core,
    Flush,
    Operation,
    Unmap,
    Write,
    WriteZeroes,
)
from blobstore.testing import workload
from blobstore.testing.crash_states import Limits
from blobstore.testing.explorer import Explorer, Tally
from blobstore.testing.simulated_disk import Flushed, SimulatedDisk
from tests.aio.loops import no_ring
from tests.proof.scenarios import Scenario, make_base, run_scenario

T = TypeVar("T")

SHORT: Final = Limits(subsets=4, samples=1, torn_masks=1)
SCRIPTS: Final = {
    "write sync": "clean",
    "xattr chain": "clean",
    "unmap": "clean",
    "delete chain": "clean",
    "write runs": "clean",
    "snapshot unsynced": "snapshots",
    "delete middle": "snapshots",
    "copy on write": "snapshots",
    "inflate": "snapshots",
    "rollback": "snapshots",
}
"""Scripts of the explorer, and the stores that they begin with."""


class RecordingIO(EventLoopIO):
    """Performs on a file, and records on a simulated disk."""

    def __init__(self, device: FileDevice, disk: SimulatedDisk, *, keeps_flushes: bool) -> None:
        super().__init__(device)
        self._disk = disk
        self._keeps_flushes = keeps_flushes

    def start(self, operation: Operation[Any]) -> Completion:
        if isinstance(operation, Flush) and self._keeps_flushes:
            self._disk.flush()
        completion = super().start(operation)
        if not isinstance(operation, Write | WriteZeroes | Unmap | Copy):
            return completion
        recorded = Completion()

        def end(_waited: object = None) -> None:
            perform(self._disk, operation)
            recorded.finish(completion.outcome())

        if completion.is_done:
            end()
        else:
            completion.add_done_callback(end)
        return recorded


class UnderAsyncio:
    """Runs the coroutines of a workload on files, in place of `run_alone`."""

    def __init__(self, directory: Path, *, keeps_flushes: bool) -> None:
        self._directory = directory
        self._keeps_flushes = keeps_flushes
        self._runner = asyncio.Runner()
        self._drivers: dict[int, tuple[SimulatedDisk, EventLoopDriver, FileDevice]] = {}

    def run_alone(self, core: Core[T], disk: SimulatedDisk) -> T:
        return self._runner.run(self._run(core, disk))

    async def _run(self, core: Core[T], disk: SimulatedDisk) -> T:
        if id(disk) not in self._drivers:
            self._drivers[id(disk)] = (disk, *self._on_file(disk))
        return await self._drivers[id(disk)][1].run(core)

    def _on_file(self, disk: SimulatedDisk) -> tuple[EventLoopDriver, FileDevice]:
        path = self._directory / f"disk{len(self._drivers)}.img"
        path.write_bytes(disk.content)
        device = FileDevice.open(path, direct=True)
        driver = EventLoopDriver(device, _never_fails)
        driver.close()
        driver.io = RecordingIO(device, disk, keeps_flushes=self._keeps_flushes)
        return driver, device

    def close(self) -> None:
        for _disk, driver, device in self._drivers.values():
            driver.close()
            device.close()
        self._runner.close()


def _never_fails(error: BaseException) -> None:
    raise error


def explored(scenario: Scenario, directory: Path, *, keeps_flushes: bool = True) -> Tally:
    """Run a scenario under asyncio, and judge all that a power failure leaves of it."""
    make_base(scenario.base, sector=scenario.sector)  # under the usual driver
    under_asyncio = UnderAsyncio(directory, keeps_flushes=keeps_flushes)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(workload, "run_alone", under_asyncio.run_alone)
            ran = run_scenario(scenario)
    finally:
        under_asyncio.close()
    assert ran is not None
    record, first = ran
    assert any(isinstance(event, Flushed) for event in record.disk.events) == keeps_flushes
    return Explorer(limits=SHORT).explore(record, first_event=first)


@pytest.mark.slow
@pytest.mark.parametrize("has_ring", [True, False], ids=["ring", "threads"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_no_power_failure_under_asyncio_leaves_a_bad_state(
    script: str, has_ring: bool, tmp_path: Path
) -> None:
    with nullcontext() if has_ring else no_ring():
        tally = explored(Scenario(SCRIPTS[script], True, (script,)), tmp_path)
    assert tally.findings == []
    assert tally.loaded > 0


@pytest.mark.slow
def test_the_explorer_misses_the_flushes_of_a_driver_that_leaves_them_out(tmp_path: Path) -> None:
    scenario = Scenario("snapshots", True, ("snapshot unsynced",))
    assert explored(scenario, tmp_path, keeps_flushes=False).findings


@contextmanager
def log_of_ring() -> Iterator[list[tuple[str, int, int]]]:
    """Record what goes to rings inside the `with`: (submitted or done, operation, flags)."""
    log: list[tuple[str, int, int]] = []
    submit = EventLoopRing.submit

    def noted(
        ring: EventLoopRing,
        done: Done,
        operation: int,
        descriptor: int,
        offset: int = 0,
        address: int = 0,
        memory: memoryview | None = None,
        length: int = 0,
        flags: int = 0,
    ) -> None:
        def noted_done(result: int) -> None:
            log.append(("done", operation, flags))
            done(result)

        log.append(("submitted", operation, flags))
        submit(ring, noted_done, operation, descriptor, offset, address, memory, length, flags)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EventLoopRing, "submit", noted)
        yield log


@pytest.mark.slow
def test_each_flush_is_an_fdatasync_after_the_completions_before_it(tmp_path: Path) -> None:
    """The script is one task: all that it has written is complete when it flushes."""
    with log_of_ring() as log:
        for script in ("write sync", "snapshot unsynced"):
            explored(Scenario(SCRIPTS[script], True, (script,)), tmp_path)
    writes_in_flight = flushes = writes = 0
    for what, operation, flags in log:
        change = 1 if what == "submitted" else -1
        if operation == WRITE:
            writes_in_flight += change
            writes += what == "submitted"
        elif operation == FSYNC:
            assert flags == FDATASYNC
            assert writes_in_flight == 0
            flushes += what == "submitted"
        else:
            assert operation == READ
    assert writes > 10
    assert flushes > 5
