"""The benchmarks' arithmetic and their table."""

import os
from datetime import UTC, datetime

import pytest

from benchmarks.measure import Goal, Row, format_seconds, interleaved, speed_row
from benchmarks.table import write_table


def test_every_measure_takes_its_turn_and_the_first_round_does_not_count() -> None:
    turns: list[str] = []

    def first() -> float:
        turns.append("a")
        return 100.0 if len(turns) == 1 else float(len(turns))

    def second() -> float:
        turns.append("b")
        return 7.0

    assert interleaved(3, [first, second]) == [5.0, 7.0]
    assert turns == ["a", "b"] * 4


def test_a_ratio_of_two_is_twice_as_fast() -> None:
    row = speed_row("x", "y", ours=1e-6, yardstick=2e-6, goal=Goal(0.75), per="each")
    assert (row.ratio, row.verdict) == (2.0, "ok")


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
    ("seconds", "text"), [(2.5, "2.5 s"), (0.0125, "12.5 ms"), (1.8e-6, "1.8 us"), (3e-9, "3 ns")]
)
def test_seconds_are_written_in_the_unit_that_fits(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_the_table_says_how_it_was_made_but_not_where() -> None:
    rows = [
        Row("reading", "fio", "1 us", "2 us", 2.0, Goal(0.75, 0.85)),
        Row("no goal", "loop", "1 us", "1 us", 1.0),
        Row("starting", "python", "not there yet", ""),
    ]
    now = datetime(2024, 5, 17, 12, 30, tzinfo=UTC)
    table = write_table(rows, command="python -m benchmarks --quick", now=now)
    lines = table.splitlines()
    assert "`python -m benchmarks --quick`, 2024-05-17 12:30 UTC" in lines[2]
    assert f"{os.cpu_count()} CPUs" in lines[2]
    assert os.uname().nodename not in table
    assert lines[-3].split("|")[1:-1][:2] == [" reading  ", " fio           "]
    assert "| 2.00  | 0.75 / 0.85 | ok |" in lines[-3]
    assert len({len(line) for line in lines if line.startswith("|")}) == 1
