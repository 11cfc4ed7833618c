"""The benchmarks' arithmetic and their results."""

import os
import time
from datetime import UTC, datetime

import pytest

from benchmarks.curve import Axis, Curve, Series
from benchmarks.findings import FINDINGS
from benchmarks.measure import (
    Clock,
    Goal,
    Row,
    Taken,
    format_seconds,
    interleaved,
    mean_of,
    missing_row,
    speed_row,
)
from benchmarks.table import write_results

_NOW = datetime(2024, 5, 17, 12, 30, tzinfo=UTC)


def test_every_measure_takes_its_turn_and_the_first_round_does_not_count() -> None:
    turns: list[str] = []

    def first() -> Taken:
        turns.append("a")
        return Taken(100.0 if len(turns) == 1 else float(len(turns)))

    def second() -> Taken:
        turns.append("b")
        return Taken(7.0, 0.5)

    assert interleaved(3, [first, second]) == [
        Taken(5.0, None, (3.0, 5.0, 7.0)),
        Taken(7.0, 0.5, (7.0, 7.0, 7.0)),
    ]
    assert turns == ["a", "b"] * 4


def test_a_clock_counts_time_and_time_on_a_cpu() -> None:
    clock = Clock()
    time.sleep(0.02)
    taken = clock.per(2)
    assert taken.seconds >= 0.01
    assert taken.cpu is not None
    assert 0 <= taken.cpu < taken.seconds


def test_the_mean_is_of_both_times() -> None:
    assert mean_of([Taken(1.0, 0.5), Taken(3.0, 1.5)]) == Taken(2.0, 1.0)


def test_a_ratio_of_two_is_twice_as_fast() -> None:
    ours, yardstick = Taken(1e-6, 5e-7, (1e-6, 2e-6)), Taken(2e-6, None, (2e-6, 2e-6))
    row = speed_row("x", "y", ours=ours, yardstick=yardstick, goal=Goal(0.75), per="each")
    assert (row.ratio, row.verdict, row.spread) == (2.0, "ok", (1.0, 2.0))
    assert row.cpu == "500 ns / ?"


def test_a_goal_not_to_be_exceeded_turns_the_ratio_round() -> None:
    row = speed_row(
        "x", "y", ours=Taken(6.0), yardstick=Taken(2.0), goal=Goal(2, at_most=True), per="each"
    )
    assert (row.ratio, row.verdict, row.spread) == (3.0, "below", None)


def test_what_is_missing_is_said() -> None:
    row = missing_row("x", "fio", why="no fio", ours=Taken(2e-6, 1e-6))
    assert (row.ours, row.yardstick, row.verdict) == ("2 us each", "not measured: no fio", "")
    assert missing_row("x", "fio", why="no fio").ours == "not measured: no fio"


@pytest.mark.parametrize(
    ("goal", "ratio", "verdict"),
    [
        pytest.param(Goal(0.75, 0.85), 0.75, "ok", id="just reached"),
        pytest.param(Goal(0.75, 0.85), 0.74, "below", id="missed"),
        pytest.param(Goal(6, 4, at_most=True), 6.0, "ok", id="as much as may be"),
        pytest.param(Goal(6, 4, at_most=True), 6.1, "below", id="too much"),
    ],
)
def test_a_goal_says_whether_it_is_reached(goal: Goal, ratio: float, verdict: str) -> None:
    assert Row("x", "y", "", "", ratio, goal).verdict == verdict


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (2.5, "2.5 s"),
        (0.0125, "12.5 ms"),
        (0.9996, "1000 ms"),
        (1.8e-6, "1.8 us"),
        (3e-9, "3 ns"),
    ],
)
def test_seconds_are_written_in_the_unit_that_fits(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_the_table_says_how_it_was_made_but_not_where() -> None:
    rows = [
        Row("reading", "fio", "1 us", "2 us", 2.0, Goal(0.75, 0.85), (1.5, 2.25), "1 us / 2 us"),
        Row("no goal", "loop", "1 us", "1 us", 1.0),
        Row("starting", "python", "not there yet", ""),
    ]
    results = write_results(rows, [], command="python -m benchmarks --quick", now=_NOW)
    lines = results.splitlines()
    assert "`python -m benchmarks --quick`, 2024-05-17 12:30 UTC" in lines[2]
    assert f"{os.cpu_count()} CPUs" in lines[2]
    assert os.uname().nodename not in results
    assert "| 2.00  | 1.50 to 2.25 | 0.75 / 0.85 | ok | 1 us / 2 us" in results
    assert len({len(line) for line in lines if line.startswith("|")}) == 1
    assert lines[-1] == "Nothing in this run."


def test_a_row_below_gets_the_paragraph_with_the_longest_fitting_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(FINDINGS, "reading", "Of all reads.")
    monkeypatch.setitem(FINDINGS, "reading, direct", "Of direct ones.")
    rows = [
        Row("reading, direct (4 KiB)", "fio", "", "", 0.5, Goal(0.75, 0.85), (0.25, 0.5)),
        Row("something", "else", "", "", 0.5, Goal(0.75)),
    ]
    results = write_results(rows, [], command="x", now=_NOW)
    assert "0.50 of fio, 0.25 to 0.50 in single rounds; must be 0.75 / 0.85. Of direct" in results
    assert "0.50 of else; must be 0.75. The cause is not known yet" in results


def test_a_curve_is_a_table_with_its_growth_and_a_link() -> None:
    series = (Series("a", (1.5, 3.0)), Series("b", (100.0, 100.0)))
    curve = Curve("file", "Title", "Says.", Axis("pages"), Axis("ms"), (500, 1000), series)
    lines = write_results([], [curve], command="x", now=_NOW).splitlines()
    assert "![Title](plots/file.svg)" in lines
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[-5:]]
    assert cells[0] == ["pages", "a", "b"]
    assert cells[2:] == [["500", "1.5", "100"], ["1,000", "3", "100"], ["x 2", "x 2", "x 1"]]
