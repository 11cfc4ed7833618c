"""Rounds, medians and ratios: everything is measured side by side, in turn, in one run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeAlias

Measure: TypeAlias = Callable[[], float]
"""Does its work once and returns the seconds that one unit of it took."""


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
    """One line of the table; a row without a goal is there to compare with."""

    work: str
    compared_with: str
    ours: str
    yardstick: str
    ratio: float | None = None
    goal: Goal | None = None

    @property
    def verdict(self) -> str:
        return "" if self.goal is None or self.ratio is None else self.goal.verdict(self.ratio)


def interleaved(rounds: int, measures: Sequence[Measure]) -> list[float]:
    """Let all take their turn, once to warm up and then `rounds` times; return the medians."""
    for measure in measures:
        measure()
    taken: list[list[float]] = [[] for _ in measures]
    for _ in range(rounds):
        for times, measure in zip(taken, measures, strict=True):
            times.append(measure())
    return [median(times) for times in taken]


def speed_row(
    work: str, compared_with: str, *, ours: float, yardstick: float, goal: Goal | None, per: str
) -> Row:
    """Return the row of two times; the ratio is how fast we are in terms of the yardstick."""
    return Row(
        work,
        compared_with,
        f"{format_seconds(ours)} {per}",
        f"{format_seconds(yardstick)} {per}",
        yardstick / ours,
        goal,
    )


def format_seconds(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
