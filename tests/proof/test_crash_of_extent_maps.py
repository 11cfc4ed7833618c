"""Power failures where every map of runs, also a short one, makes its leaves on demand."""

from itertools import chain
from typing import Final

import pytest

from blobstore.alloc import extent_map
from blobstore.testing.crash_states import Limits
from blobstore.testing.explorer import Explorer
from tests.proof.scenarios import Scenario, run_scenario, scenarios, special_scenarios

FEW: Final = Limits(subsets=4, samples=1, torn_masks=1)


def _has_runs(scenario: Scenario) -> bool:
    return scenario.sector and any("runs" in name for name in scenario.operations)


def test_no_state_is_bad_whatever_length_the_maps_of_runs_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(extent_map, "_LONGEST_LEAF", 0)
    loaded = 0
    for scenario in chain(special_scenarios(), scenarios(1)):
        ran = run_scenario(scenario) if _has_runs(scenario) else None
        if ran is not None:
            record, first = ran
            tally = Explorer(limits=FEW).explore(record, first_event=first)
            assert tally.findings == [], scenario
            loaded += tally.loaded
    assert loaded > 200
