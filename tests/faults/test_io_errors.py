"""I/O errors, and a full host, at every operation of the device that the core asks for."""

from collections.abc import Iterator
from typing import Final

import pytest

from blobstore.errors import DeviceError, NoSpaceError
from blobstore.metadata.load_store import load
from blobstore.store.open_blobs import close_blob
from blobstore.testing.alone import run_alone
from blobstore.testing.explorer import judge
from blobstore.testing.inspect_store import load_checked
from blobstore.testing.simulated_disk import Failure
from tests import matrix
from tests.faults.aftermath import (
    check_nothing_is_held,
    check_only_reads_go_on,
    check_reads_go_on,
)
from tests.faults.bench import (
    CHAINS,
    NAMES,
    PLAIN,
    FaultyRun,
    Judgement,
    faulty_runs,
    script_of,
)
from tests.proof.scenarios import BASES, make_base

LAYOUTS: Final = [pytest.param(True, id="sector"), pytest.param(False, id="compact")]
IO_ERROR: Final = "I/O error"
HOST_IS_FULL: Final = "host is full"


def runs_of(name: str, *, sector: bool) -> Iterator[FaultyRun]:
    """Yield the runs of a script in which the disk fails, or the host is full.

    A disk that fails once is tried with every base, one that is gone for good with one. The bases
    and the kinds of failure take turns with the layouts, which every second operation begins.
    """
    turn = NAMES.index(name) + sector
    bases = BASES if name in PLAIN else (None,)
    for number, base in enumerate(bases):
        if matrix.is_full() or len(bases) == 1 or (turn + number) % 2:
            yield from faulty_runs(script_of(name, sector=sector, base=base), IO_ERROR)
    for number, (kind, forever) in enumerate(
        ((IO_ERROR, True), (HOST_IS_FULL, False), (HOST_IS_FULL, True))
    ):
        if matrix.is_full() or (turn + number) % 2:
            yield from faulty_runs(script_of(name, sector=sector), kind, forever=forever)


@pytest.mark.parametrize("sector", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_what_was_acknowledged_survives_reads_go_on_and_a_failed_change_is_the_last_or_harmless(
    name: str, sector: bool
) -> None:
    judgement = Judgement()
    for run in runs_of(name, sector=sector):
        assert judgement.problem(run) is None, run
        check_nothing_is_held(run)
        if run.is_poisoned:
            check_only_reads_go_on(run)
        else:
            assert not is_failed_flush_of_the_store(run), run
            check_the_store_goes_on(run, judgement)
    assert judgement.judged or name == "read"


def is_failed_flush_of_the_store(run: FaultyRun) -> bool:
    """Tell whether a store that was loaded could not flush: it has to be poisoned."""
    is_of_the_store = run.step_name not in ("init", "grow_closed", "shallow_copy")
    return is_of_the_store and str(run.error).endswith("a flush")


def check_the_store_goes_on(run: FaultyRun, judgement: Judgement) -> None:
    """A call that failed without poisoning can be repeated, and nothing was lost by it."""
    workload = run.workload
    workload.faulty_disk.fault = None
    for blob in check_reads_go_on(run):
        assert run.store is not None
        run_alone(close_blob(run.store, blob), workload.disk)
    workload.run(run.script.steps[run.step :])
    if workload.store is not None:
        assert workload.store.poison is None, run
        workload.step("unload")
    assert judgement.problem_at_the_end(run) is None, run


@pytest.mark.parametrize("name", CHAINS)
def test_a_store_that_the_original_rewrote_survives_an_io_error_anywhere(name: str) -> None:
    judgement = Judgement()
    script = script_of(name, sector=True, base="rewritten snapshots")
    for run in faulty_runs(script, IO_ERROR):
        assert judgement.problem(run) is None, run
        check_nothing_is_held(run)
        if run.is_poisoned:
            check_only_reads_go_on(run)


@pytest.mark.parametrize("sector", LAYOUTS)
@pytest.mark.parametrize(
    "name",
    ["write", "write runs", "overwrite", "zero", "flush", "chains: copy on write", "external"],
)
def test_a_host_without_room_for_data_fails_that_write_only(name: str, sector: bool) -> None:
    hit = 0
    for run in faulty_runs(script_of(name, sector=sector), HOST_IS_FULL):
        if run.step_name in ("write", "zero"):
            hit += 1
            assert not run.is_poisoned, run
            assert isinstance(run.error, DeviceError)
            assert not isinstance(run.error, NoSpaceError)
            assert isinstance(run.error.__cause__, OSError)
            assert run.error.errno_name == "ENOSPC"
    assert hit


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
