"""Tasks against each other in seeded orders; the driver itself gives the same run twice."""

from typing import Final

import pytest

from blobstore.epochs import Epochs
from blobstore.metadata.store_state import StoreState
from blobstore.operations import Park, Wakeup
from blobstore.testing.alone import DeadlockError
from blobstore.testing.scheduler import Scheduler
from blobstore.testing.simulated_disk import SimulatedDisk
from tests.proof.interleavings import SCRIPTS, run_one

REUSED: Final = "reuse of a cluster with reads in flight"
MERGED: Final = "snapshot merged, what it alone had reused, with reads in flight"


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_order_loses_or_leaks_a_byte(script: str) -> None:
    problems = [problem for seed in range(20) if (problem := run_one(script, seed))]
    assert problems == []


def test_who_does_not_wait_for_requests_in_flight_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def wait_for_nothing(self: Epochs) -> None:
        pass

    monkeypatch.setattr(Epochs, "grace_period", wait_for_nothing)
    for script in (REUSED, MERGED):
        assert any(run_one(script, seed) for seed in range(400))


def test_a_clone_that_does_not_forget_its_ancestors_clusters_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(StoreState, "forget_inherited", lambda _store: None)
    assert any(run_one(MERGED, seed) for seed in range(400))


def test_tasks_that_wait_for_each_other_are_a_deadlock() -> None:
    async def wait() -> None:
        await Park(Wakeup())

    scheduler = Scheduler(SimulatedDisk(bytes(4096)), seed=1)
    scheduler.spawn("one", wait())
    scheduler.spawn("two", wait())
    with pytest.raises(DeadlockError, match="one"):
        scheduler.run()
    for task in scheduler.tasks:
        task.core.close()
