"""`python -m tests.proof.mutation`: is every flush needed?

Each place in the core that asks for a flush is taken away in turn, as if the
disk had not been told; the explorer must then find a bad state. A flush that
is never missed is no part of the protocol and goes.
"""

import sys
from collections import defaultdict
from dataclasses import dataclass
from itertools import chain

from blobstore.testing.crash_states import Limits
from blobstore.testing.explorer import Explorer, Finding
from blobstore.testing.simulated_disk import Flushed
from blobstore.testing.workload import Record
from tests.proof.scenarios import Scenario, run_scenario, scenarios, special_scenarios

_TRIES = 400


@dataclass(frozen=True, slots=True)
class Verdict:
    """One place that flushes, and the bad state found without it, if any."""

    site: str
    scenario: Scenario | None
    finding: Finding | None


def judge_flushes(*, pairs: bool = True) -> list[Verdict]:
    """Take every flush away once; return what was found, by place."""
    by_site: defaultdict[str, list[tuple[Scenario, Record, int]]] = defaultdict(list)
    longer = scenarios(2) if pairs else iter(())
    for scenario in chain(special_scenarios(), scenarios(1), longer):
        ran = run_scenario(scenario)
        if ran is None:
            continue
        record, first = ran
        for site in {e.site for e in record.disk.events[first:] if isinstance(e, Flushed)}:
            if len(by_site[site]) < _TRIES:
                by_site[site].append((scenario, record, first))
    return [_judge(site, uses) for site, uses in sorted(by_site.items())]


def _judge(site: str, uses: list[tuple[Scenario, Record, int]]) -> Verdict:
    for scenario, record, first in uses:
        limits = Limits(
            subsets=128, samples=64, torn_masks=48, atomic=record.disk.traits.atomic_write_size
        )
        explorer = Explorer(limits=limits, stop_at_first=True)
        tally = explorer.explore(record, first_event=first, without_site=site)
        if tally.findings:
            return Verdict(site, scenario, tally.findings[0])
    return Verdict(site, None, None)


def main() -> int:
    """Print the verdicts; the exit code is 1 if a flush was not missed."""
    verdicts = judge_flushes()
    for verdict in verdicts:
        if verdict.finding is None:
            print(f"NOT MISSED {verdict.site}")
        else:
            print(f"missed     {verdict.site}: {verdict.scenario}: {verdict.finding.problem}")
    return 0 if all(verdict.finding for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
