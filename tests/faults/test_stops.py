"""The caller stops at each checkpoint of each operation: nothing is in doubt, nothing is missing.

Parts of long operations are made as small as a cluster, so that the tiny stores here have many.
"""

from collections.abc import Iterator
from itertools import count
from typing import Final

import pytest

from blobstore.blob import read as blob_read
from blobstore.blob import write as blob_write
from blobstore.drivers.perform import perform
from blobstore.metadata import space
from blobstore.operations import Checkpoint, Flush, Interrupted
from blobstore.store import inflate
from blobstore.store.lifecycle import close_store, flush_store
from blobstore.testing.alone import run_alone
from blobstore.testing.inspect_store import load_checked
from blobstore.testing.workload import CLUSTER, Workload, new_disk
from tests.faults.aftermath import check_nothing_is_held, check_reads_go_on
from tests.faults.bench import (
    NAMES,
    FaultyRun,
    Judgement,
    Script,
    good_run,
    judge_content,
    script_of,
)
from tests.faults.faulty_disk import Fault

LAYOUTS: Final = [pytest.param(True, id="sector"), pytest.param(False, id="compact")]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (blob_read, "AT_ONCE"),
        (blob_write, "AT_ONCE"),
        (blob_write, "_ZEROED_AT_ONCE"),
        (space, "_CLEARED_BYTES"),
        (inflate, "_AT_ONCE_BYTES"),
    ):
        monkeypatch.setattr(module, name, CLUSTER)


def stopped_runs(script: Script) -> Iterator[FaultyRun]:
    """Yield a run for every checkpoint of the script, stopped there."""
    for at in count():
        run = stopped_run(script, at)
        if run is None:
            return
        yield run


def stopped_run(script: Script, at: int) -> FaultyRun | None:
    """Run up to the checkpoint with that number; None when there are not as many."""
    workload = script.start()
    asked = count()
    workload.disk.wants_to_stop = lambda: next(asked) == at
    for number, step in enumerate(script.steps):
        try:
            workload.step(*step)
        except Interrupted as stop:
            promise = good_run(script).record.spans[number].during
            return FaultyRun(script, workload, Fault("interrupt", at), number, stop, promise)
    return None


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("sector", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_an_operation_that_stops_at_a_checkpoint_leaves_nothing_in_doubt(
    name: str, sector: bool
) -> None:
    judgement = Judgement()
    for run in stopped_runs(script_of(name, sector=sector)):
        assert judgement.problem(run) is None, run
        check_nothing_is_held(run)
        assert not run.is_poisoned, run
        check_reads_go_on(run)
        check_the_store_ends_clean(run)


def check_the_store_ends_clean(run: FaultyRun) -> None:
    """Closing the store keeps what was acknowledged, and accounts for everything."""
    store, workload = run.store, run.workload
    assert store is not None, run
    workload.disk.wants_to_stop = bool
    run_alone(close_store(store), workload.disk)
    assert store.super_block.clean, run
    assert store.clusters.pending_count == store.pages.pending_count == 0, run
    assert judge_content(workload, workload.disk.content, run.promise) is None, run


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("name", ["write", "unmap", "delete", "read", "shallow copy", "inflate"])
def test_long_operations_have_checkpoints(name: str) -> None:
    names = [one for one in NAMES if name in one]
    assert any(list(stopped_runs(script_of(one, sector=True))) for one in names), names


@pytest.mark.usefixtures("small_parts")
def test_what_several_rounds_of_one_flush_released_is_free_although_the_caller_stops() -> None:
    workload = Workload(new_disk(sector=True))
    workload.run([("init",), ("create", "a", 8, "thin"), ("write", "a", 0, 64), ("sync", "a")])
    workload.step("unmap", "a", 0, 16)
    store, blob, disk = workload.store, workload.open["a"], workload.disk
    assert store is not None
    flush = blob_write.flush_blob(store, blob)
    operation = flush.send(None)
    while not isinstance(operation, Flush):
        operation = flush.send(perform(disk, operation))
    workload.step("unmap", "a", 32, 16)  # beside the first round: so there is a second one
    while not isinstance(operation, Checkpoint):
        operation = flush.send(perform(disk, operation))
    with pytest.raises(Interrupted):
        flush.throw(Interrupted(KeyboardInterrupt()))
    run_alone(flush_store(store), disk)
    assert store.clusters.pending_count == 0
    run_alone(close_store(store), disk)
    assert load_checked(disk) is not None
