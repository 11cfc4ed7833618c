"""`python -m tests.proof.crash`: explore crash states, and print what was looked at."""

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TypeAlias

from blobstore.testing.crash_states import Limits
from blobstore.testing.explorer import Explorer, Tally
from tests.proof.repair_cuts import RepairScenario, explore_repair, repair_scenarios
from tests.proof.scenarios import (
    Scenario,
    random_scenarios,
    run_scenario,
    scenarios,
    special_scenarios,
)

AnyScenario: TypeAlias = Scenario | RepairScenario
Job: TypeAlias = tuple[AnyScenario, Limits]

_FULL = Limits()
_PAIRS = Limits(subsets=256, samples=32, torn_masks=32)
_FEW = Limits(subsets=12, samples=3, torn_masks=2)
_SHORT = Limits(subsets=32, samples=8, torn_masks=6)
_REPAIRS = Limits(subsets=64, samples=16, torn_masks=16)


def main(arguments: Sequence[str] | None = None) -> int:
    """Explore until so many states were judged; the exit code is 1 if one was bad."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof.crash")
    parser.add_argument("--states", type=int, default=100_000, help="how many states to reach")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--every-sequence",
        action="store_true",
        help="instead: every sequence of one to three operations, a few states each",
    )
    parser.add_argument(
        "--repairs",
        action="store_true",
        help="instead: every damage of the corruptor's catalogue, its repair and undo cut off",
    )
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    options = parser.parse_args(arguments)
    began = time.monotonic()
    totals: dict[bool, Tally] = {True: Tally(), False: Tally()}
    failed: list[tuple[AnyScenario, Tally]] = []
    sequences = 0
    plan = _plan(options.seed)
    wanted = options.states
    if options.every_sequence or options.repairs:
        plan = _every_sequence() if options.every_sequence else _repairs()
        wanted = sys.maxsize
    with multiprocessing.Pool(options.jobs) as pool:
        for scenario, tally in pool.imap(_explore, plan, chunksize=16):
            sequences += bool(tally.total)
            totals[scenario.sector].add(tally)
            if tally.findings:
                failed.append((scenario, tally))
            if sum(tally.total for tally in totals.values()) >= wanted or len(failed) > 20:
                pool.terminate()
                break
    _print_table(totals)
    _print_failures(failed)
    states = sum(tally.total for tally in totals.values())
    loaded = sum(tally.loaded for tally in totals.values())
    bad = sum(len(tally.findings) for tally in totals.values())
    print(
        f"{sequences} scripts, {states} states, {loaded} of them distinct and loaded, {bad} bad, "
        f"seed {options.seed}, {time.monotonic() - began:.0f} s"
    )
    return 1 if bad else 0


def _plan(seed: int) -> Iterator[Job]:
    """Yield scenarios, the shortest first, so that the first failure is the simplest.

    All single operations come first with a few states each: a short run sees them all.
    """
    brief = ((scenario, _SHORT) for scenario in chain(scenarios(1), special_scenarios()))
    repairs = ((scenario, _SHORT) for scenario in repair_scenarios(all_of_them=False))
    ones = ((scenario, _FULL) for scenario in chain(special_scenarios(), scenarios(1)))
    long = ((scenario, _SHORT) for scenario in random_scenarios(16, seed))
    twos = ((scenario, _PAIRS) for scenario in scenarios(2))
    threes = ((scenario, _SHORT) for scenario in scenarios(3))
    rest = ((scenario, _SHORT) for scenario in random_scenarios(1 << 30, seed + 1000))
    return chain(brief, repairs, ones, long, twos, threes, rest)


def _repairs() -> Iterator[Job]:
    return ((scenario, _REPAIRS) for scenario in repair_scenarios())


def _every_sequence() -> Iterator[Job]:
    """Yield all sequences of one to three operations; the longest on one base of each kind."""
    short = chain(scenarios(1), scenarios(2))
    return ((scenario, _FEW) for scenario in chain(short, scenarios(3, all_bases=False)))


def _explore(job: Job) -> tuple[AnyScenario, Tally]:
    scenario, limits = job
    if isinstance(scenario, RepairScenario):
        return scenario, explore_repair(scenario, limits)
    ran = run_scenario(scenario)
    if ran is None:
        return scenario, Tally()
    record, first = ran
    atomic = record.disk.traits.atomic_write_size
    limits = Limits(limits.subsets, limits.samples, limits.torn_masks, atomic)
    second_crash = 0 if limits.samples == _FEW.samples else 97
    explorer = Explorer(limits=limits, seed=scenario.seed, second_crash=second_crash)
    return scenario, explorer.explore(record, first_event=first)


def _print_table(totals: dict[bool, Tally]) -> None:
    print(f"{'layout':8} {'operation':14} " + " ".join(f"{model:>8}" for model in "ABCDEF"))
    for sector, tally in totals.items():
        layout = "sector" if sector else "compact"
        by_operation: dict[str, Counter[str]] = {}
        for (model, operation), count in tally.states.items():
            by_operation.setdefault(operation, Counter())[model] += count
        for operation, counts in sorted(by_operation.items()):
            cells = " ".join(f"{counts[model]:8}" for model in "ABCDEF")
            print(f"{layout:8} {operation:14} {cells}")


def _print_failures(failed: Sequence[tuple[AnyScenario, Tally]]) -> None:
    for scenario, tally in failed:
        finding = tally.findings[0]
        print(
            f"BAD {scenario} (seed {scenario.seed}): model {finding.model}, during "
            f"{finding.operation}, event {finding.event}: {finding.problem} "
            f"({len(tally.findings)} bad states)"
        )


if __name__ == "__main__":
    sys.exit(main())
