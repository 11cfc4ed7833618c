"""`python -m tests.proof.mutation`: is every flush needed?

Each place in the core that asks for a flush is taken away in turn, as if the
disk had not been told; the explorer must then find a bad state. A flush that
is never missed is no part of the protocol and goes.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable
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


Use = tuple[Scenario, Record, int]
"""A scenario, what it wrote, and the first event of its last operation."""


def uses_of_flushes(tried: Iterable[Scenario]) -> dict[str, list[Use]]:
    """Return which of the scenarios flush where, by place."""
    by_site: defaultdict[str, list[Use]] = defaultdict(list)
    for scenario in tried:
        ran = run_scenario(scenario)
        if ran is None:
            continue
        record, first = ran
        for site in {e.site for e in record.disk.events[first:] if isinstance(e, Flushed)}:
            if len(by_site[site]) < _TRIES:
                by_site[site].append((scenario, record, first))
    return dict(sorted(by_site.items()))


def judge_flush(site: str, uses: Iterable[Use]) -> Verdict:
    """Take one flush away; return the first bad state that is found without it."""
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
    tried = chain(special_scenarios(), scenarios(1), scenarios(2))
    verdicts = [judge_flush(site, uses) for site, uses in uses_of_flushes(tried).items()]
    for verdict in verdicts:
        if verdict.finding is None:
            print(f"NOT MISSED {verdict.site}")
        else:
            print(f"missed     {verdict.site}: {verdict.scenario}: {verdict.finding.problem}")
    return 0 if all(verdict.finding for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
