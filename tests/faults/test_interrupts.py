"""MemoryError and a second Ctrl-C in place of every operation's result (CRASH-SAFETY 1).

They strike before an operation was performed and after it. As on a public
store each of them poisons; bare runs show that the core by itself poisons
what is in doubt, and keeps account of everything else. A first Ctrl-C is held
back: `tests/drivers/test_interrupts.py`, `tests/faults/test_stops.py`.
"""

from collections.abc import Iterator
from itertools import product
from typing import Final

import pytest

from blobstore.format.geometry import root_of
from blobstore.store.open_blobs import close_blob
from blobstore.testing.alone import run_alone
from tests import matrix
from tests.faults.aftermath import (
    check_nothing_is_held,
    check_only_reads_go_on,
    check_reads_go_on,
)
from tests.faults.bench import NAMES, FaultyRun, Judgement, faulty_runs, script_of

LAYOUTS: Final = [pytest.param(True, id="sector"), pytest.param(False, id="compact")]
KINDS: Final = ("no memory", "interrupt")
DATA_STEPS: Final = frozenset({"write", "zero", "unmap", "read"})


def runs_of(name: str, *, sector: bool) -> Iterator[FaultyRun]:
    """Yield runs of two of the four hits in one layout, and of the other two in the other."""
    for kind, is_after in product(KINDS, (False, True)):
        if matrix.is_full() or (kind == "no memory") == (is_after == sector):
            yield from faulty_runs(script_of(name, sector=sector), kind, is_after=is_after)


def bare_runs_of(name: str, *, sector: bool) -> Iterator[FaultyRun]:
    """Yield runs of the core alone, to which all untyped exceptions are the same.

    Of every second operation one layout is hit before it is performed and the other after it.
    """
    for is_after in (False, True):
        if matrix.is_full() or (NAMES.index(name) % 2 == is_after) == sector:
            script = script_of(name, sector=sector)
            yield from faulty_runs(script, "interrupt", is_after=is_after, is_bare=True)


@pytest.mark.parametrize("sector", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_an_exception_nobody_expected_poisons_and_what_was_acknowledged_is_there_when_reopened(
    name: str, sector: bool
) -> None:
    judgement = Judgement()
    for run in runs_of(name, sector=sector):
        assert judgement.problem(run) is None, run
        check_nothing_is_held(run)
        if run.store is not None:
            assert run.is_poisoned, run
            check_only_reads_go_on(run)


@pytest.mark.parametrize("sector", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_after_an_exception_that_did_not_poison_no_cluster_page_or_promise_is_missing(
    name: str, sector: bool
) -> None:
    judgement = Judgement()
    for run in bare_runs_of(name, sector=sector):
        check_nothing_is_held(run)
        assert not (run.is_poisoned and run.step_name in DATA_STEPS), run
        if run.store is not None and not run.is_poisoned:
            check_the_store_goes_on(run, judgement)


def check_the_store_goes_on(run: FaultyRun, judgement: Judgement) -> None:
    """The call can be repeated, and in the end everything is accounted for.

    A delete that was ended while it cleared clusters is done already.
    """
    workload, store = run.workload, run.store
    assert store is not None
    workload.faulty_disk.fault = None
    for blob in check_reads_go_on(run):
        run_alone(close_blob(store, blob), workload.disk)
    if run.step_name in DATA_STEPS:
        assert store.reservations.total == 0, run
    workload.run(run.script.steps[run.step + is_deleted_already(run) :])
    assert store.poison is None, run
    if workload.store is not None:
        workload.step("unload")
    assert store.clusters.pending_count == store.pages.pending_count == 0, run
    assert judgement.problem_at_the_end(run) is None, run


def is_deleted_already(run: FaultyRun) -> bool:
    """Tell whether the step was a delete, and the blob is gone; the workload takes note."""
    name, *arguments = run.script.steps[run.step]
    if name != "delete" or run.store is None:
        return False
    root = root_of(run.workload.ids[arguments[0]])
    if run.store.used_ids[root]:
        return False
    run.workload.note_deleted(arguments[0])
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_a_flush_that_was_ended_poisons_the_core_itself(kind: str) -> None:
    for run in faulty_runs(script_of("flush", sector=True), kind, is_bare=True):
        if "a flush" in str(run.error):
            assert run.is_poisoned, run
