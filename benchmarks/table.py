"""The results as Markdown: how they were made stands above, no host and no path."""

import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from benchmarks.curve import Curve
from benchmarks.findings import finding_of
from benchmarks.measure import Row
from benchmarks.plot import format_number

_COLUMNS = (
    "work", "compared with", "ours", "yardstick", "ratio", "rounds", "must / aim", "",
    "CPU: ours / yardstick",
)  # fmt: skip


def write_results(
    rows: Sequence[Row], curves: Sequence[Curve], *, command: str, now: datetime | None = None
) -> str:
    """Return the whole file; the plots are expected in the directory `plots` beside it."""
    lines = _head(command, now or datetime.now(UTC))
    if rows:
        lines += ["", *_table([_COLUMNS, *(_cells_of(row) for row in rows)])]
        lines += _paragraphs(rows)
    for curve in curves:
        lines += _section(curve)
    return "\n".join([*lines, ""])


def _head(command: str, now: datetime) -> list[str]:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    system = f"{platform.system()} {platform.release()}"
    return [
        "# Benchmarks",
        "",
        f"`{command}`, {now:%Y-%m-%d %H:%M} UTC, {system}, {python}, {os.cpu_count()} CPUs.",
        "",
        "Medians of interleaved rounds on the same file or of the same work. A ratio of 1 is as",
        'fast as the yardstick, more is faster; where "≤" stands less is better. "rounds" is the',
        "least and the greatest ratio of one round: how far the machine lets the figure be",
        "trusted. CPU is user and system time for the same unit of work. Rows without a goal are",
        "there to compare with. Each group of rows has a process of its own.",
    ]


def _table(cells: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[at]) for row in cells) for at in range(len(cells[0]))]
    lines = [_line(row, widths) for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return lines


def _cells_of(row: Row) -> tuple[str, ...]:
    goal = "" if row.goal is None else str(row.goal)
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    spread = _spread_of(row)
    return (
        row.work, row.compared_with, row.ours, row.yardstick, ratio, spread, goal, row.verdict,
        row.cpu,
    )  # fmt: skip


def _spread_of(row: Row) -> str:
    return "" if row.spread is None else f"{row.spread[0]:.2f} to {row.spread[1]:.2f}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return "| " + " | ".join(padded) + " |"


def _paragraphs(rows: Sequence[Row]) -> list[str]:
    """Say of each row below what it must reach by how much, and why."""
    below = [row for row in rows if row.verdict == "below"]
    if not below:
        return ["", "## Below what it must reach", "", "Nothing in this run."]
    lines = ["", "## Below what it must reach"]
    for row in below:
        spread = f", {_spread_of(row)} in single rounds" if row.spread else ""
        figure = f"{row.ratio:.2f} of {row.compared_with}{spread}; must be {row.goal}."
        lines += ["", f"**{row.work}**: {figure} {finding_of(row)}"]
    return lines


def _section(curve: Curve) -> list[str]:
    names = [line.name for line in curve.series]
    cells: list[list[str]] = [[curve.x.label, *names]]
    for at, size in enumerate(curve.sizes):
        values = [format_number(line.values[at]) for line in curve.series]
        cells.append([format_number(size), *values])
    grown = [f"x {format_number(line.values[-1] / line.values[0])}" for line in curve.series]
    cells.append([f"x {format_number(curve.sizes[-1] / curve.sizes[0])}", *grown])
    return [
        "",
        f"## {curve.title}",
        "",
        f"{curve.says} In {curve.y.label}; the last line says how often the first size and its",
        "values go into the last.",
        "",
        f"![{curve.title}](plots/{curve.name}.svg)",
        "",
        *_table(cells),
    ]


def command_line() -> str:
    """Return how this run was started."""
    return " ".join(["python -m benchmarks", *sys.argv[1:]])
