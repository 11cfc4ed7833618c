"""Repairs and undos that are cut off: no state is bad, and each flush is needed."""

from typing import Final

import pytest

from blobstore.testing.crash_states import Limits
from tests.proof.repair_cuts import RepairScenario, explore_repair, repair_scenarios

FEW: Final = Limits(subsets=12, samples=6, torn_masks=6)
MANY: Final = Limits(subsets=16, samples=16, torn_masks=8)


@pytest.mark.parametrize(
    "scenario",
    [
        RepairScenario("super-block-of-zeroes", "all", sector=True),
        RepairScenario("root-with-a-wrong-crc", "all", sector=True),
        RepairScenario("cluster-of-two-blobs", "all", sector=False),
        RepairScenario("snapshot-being-made-that-stands", "safe", sector=True),
        RepairScenario("undo-that-was-cut-off", "all", sector=True),
    ],
    ids=str,
)
def test_no_cut_of_a_repair_or_its_undo_leaves_a_bad_state(scenario: RepairScenario) -> None:
    tally = explore_repair(scenario, FEW)
    assert [str(finding) for finding in tally.findings] == []
    assert {operation for _model, operation in tally.states} == {"repair", "undo"}
    assert tally.loaded > 3


CONTESTED: Final = "cluster-of-two-blobs"
STALE_MASKS: Final = "lost-root-beside-masks-of-an-earlier-time"


@pytest.mark.parametrize(
    ("damage", "flush", "problem"),
    [
        pytest.param(CONTESTED, "repair flush 1", "neither", id="mark first"),
        pytest.param(CONTESTED, "repair flush 2", "reads something else", id="copies first"),
        pytest.param(STALE_MASKS, "repair flush 2", "was never there", id="masks before fields"),
        pytest.param(CONTESTED, "repair flush 4", "neither", id="fields before the mark goes"),
        pytest.param(CONTESTED, "undo flush 1", "neither", id="undo: mark first"),
        pytest.param(STALE_MASKS, "undo flush 2", "was never there", id="undo: fields first"),
        pytest.param(CONTESTED, "undo flush 3", "reads something else", id="undo: copies last"),
        pytest.param(CONTESTED, "undo flush 4", "neither", id="undo: all before the mark goes"),
    ],
)
def test_each_flush_of_a_repair_and_an_undo_is_needed(
    damage: str, flush: str, problem: str
) -> None:
    scenario = RepairScenario(damage, "all", sector=True)
    every = 1 << 20 if problem == "neither" else 1
    tally = explore_repair(scenario, MANY, thorough_every=every, without_flush=flush)
    assert any(problem in finding.problem for finding in tally.findings), tally.findings


def test_damages_of_every_kind_are_repaired_and_cut_off() -> None:
    assert len(list(repair_scenarios(all_of_them=False))) >= 30
    assert len(list(repair_scenarios())) >= 200
