"""Repairs and undos that are cut off: no state is bad, and each flush is needed."""

from typing import Final

import pytest

from blobstore.testing.crash_states import Limits
from tests.proof.crash import main
from tests.proof.repair_cuts import RepairScenario, explore_repair, repair_scenarios

FEW: Final = Limits(subsets=12, samples=6, torn_masks=6)
MANY: Final = Limits(subsets=64, samples=64, torn_masks=16)


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


@pytest.mark.parametrize(
    ("flush", "what_it_is_for", "scenario"),
    [
        pytest.param("repair flush 1", "neither old, new nor marked",
                     RepairScenario("cluster-of-two-blobs", "all", True), id="mark first"),
        pytest.param("repair flush 2", "reads something else",
                     RepairScenario("cluster-of-two-blobs", "all", True), id="copies before roots"),
        pytest.param("repair flush 3", "was never there",
                     RepairScenario("lost-root-of-a-dirty-store", "all", True), id="masks before fields"),
    ],
)  # fmt: skip
def test_each_flush_of_a_repair_is_needed(
    flush: str, what_it_is_for: str, scenario: RepairScenario
) -> None:
    tally = explore_repair(scenario, MANY, thorough_every=1, without_flush=flush)
    assert any(what_it_is_for in finding.problem for finding in tally.findings), tally.findings


def test_damages_of_every_kind_are_repaired_and_cut_off() -> None:
    assert len(list(repair_scenarios(all_of_them=False))) >= 30
    assert len(list(repair_scenarios())) >= 200


def test_the_program_explores_every_damage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--repairs", "--help"]) == 0
