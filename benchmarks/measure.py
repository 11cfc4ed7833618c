"""Rounds, medians and ratios: everything is measured side by side, in turn, in one run."""

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Taken:
    """What one unit of work took: time, of it on a CPU, and the time in each round."""

    seconds: float
    cpu: float | None = None
    rounds: tuple[float, ...] = ()


Measure: TypeAlias = Callable[[], Taken]
"""Does its work once and returns what one unit of it took."""


class Clock:
    """Runs from when it is made; of this process, or of its children that have ended."""

    def __init__(self, who: int = resource.RUSAGE_SELF) -> None:
        self._who = who
        self._cpu = self._cpu_seconds()
        self._begin = time.perf_counter()

    def per(self, count: int = 1) -> Taken:
        """Return what has passed, for one of `count` units of work."""
        seconds = time.perf_counter() - self._begin
        return Taken(seconds / count, (self._cpu_seconds() - self._cpu) / count)

    def _cpu_seconds(self) -> float:
        usage = resource.getrusage(self._who)
        return usage.ru_utime + usage.ru_stime


def mean_of(parts: Sequence[Taken]) -> Taken:
    """Return what one of several took, each measured by itself."""
    return Taken(fmean(part.seconds for part in parts), fmean(part.cpu or 0 for part in parts))


def interleaved(rounds: int, measures: Sequence[Measure]) -> list[Taken]:
    """Let all take their turn, once to warm up and then `rounds` times; return the medians."""
    for measure in measures:
        measure()
    taken: list[list[Taken]] = [[] for _ in measures]
    for _ in range(rounds):
        for times, measure in zip(taken, measures, strict=True):
            times.append(measure())
    return [_median_of(times) for times in taken]


def _median_of(times: Sequence[Taken]) -> Taken:
    cpu = [each.cpu for each in times if each.cpu is not None]
    seconds = tuple(each.seconds for each in times)
    return Taken(median(seconds), median(cpu) if cpu else None, seconds)


@dataclass(frozen=True, slots=True)
class Goal:
    """What a ratio must reach, and what it should; with `at_most` it must not exceed them."""

    must: float
    aim: float | None = None
    at_most: bool = False

    def verdict(self, ratio: float) -> str:
        reached = ratio <= self.must if self.at_most else ratio >= self.must
        return "ok" if reached else "below"

    def __str__(self) -> str:
        sign = "≤ " if self.at_most else ""
        return f"{sign}{self.must:g}" + ("" if self.aim is None else f" / {sign}{self.aim:g}")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; a row without a goal is there to compare with.

    `spread` is the least and the greatest ratio of a round; `cpu` the time on a CPU.
    """

    work: str
    compared_with: str
    ours: str
    yardstick: str
    ratio: float | None = None
    goal: Goal | None = None
    spread: tuple[float, float] | None = None
    cpu: str = ""

    @property
    def verdict(self) -> str:
        return "" if self.goal is None or self.ratio is None else self.goal.verdict(self.ratio)


def speed_row(
    work: str, compared_with: str, *, ours: Taken, yardstick: Taken, goal: Goal | None, per: str
) -> Row:
    """Return the row of two times.

    The ratio is how fast we are in terms of the yardstick; with a goal that
    must not be exceeded it is how long we take.
    """

    def ratio(mine: float, theirs: float) -> float:
        return mine / theirs if goal is not None and goal.at_most else theirs / mine

    ratios = [ratio(*pair) for pair in zip(ours.rounds, yardstick.rounds, strict=False)]
    return Row(
        work,
        compared_with,
        f"{format_seconds(ours.seconds)} {per}",
        f"{format_seconds(yardstick.seconds)} {per}",
        ratio(ours.seconds, yardstick.seconds),
        goal,
        (min(ratios), max(ratios)) if ratios else None,
        f"{_format_cpu(ours)} / {_format_cpu(yardstick)}",
    )


def missing_row(work: str, compared_with: str, *, why: str, ours: Taken | None = None) -> Row:
    """Return the row of something that could not be measured, or not be compared with."""
    if ours is None:
        return Row(work, compared_with, f"not measured: {why}", "")
    return Row(
        work,
        compared_with,
        f"{format_seconds(ours.seconds)} each",
        f"not measured: {why}",
        cpu=_format_cpu(ours),
    )


def _format_cpu(taken: Taken) -> str:
    return "?" if taken.cpu is None else format_seconds(taken.cpu)


def format_seconds(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1:
            number = seconds * factor
            return f"{number:.0f} {unit}" if number >= 100 else f"{number:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
