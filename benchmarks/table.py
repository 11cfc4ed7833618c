"""The table of results, as Markdown: how it was made stands above it, no host and no path."""

import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from benchmarks.measure import Row

_COLUMNS = ("work", "compared with", "ours", "yardstick", "ratio", "must / aim", "")


def write_table(rows: Sequence[Row], *, command: str, now: datetime | None = None) -> str:
    """Return the whole file."""
    cells = [_COLUMNS, *(_cells_of(row) for row in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(_COLUMNS))]
    lines = [_line(row, widths) for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join([*_head(command, now or datetime.now(UTC)), "", *lines, ""])


def _head(command: str, now: datetime) -> list[str]:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    system = f"{platform.system()} {platform.release()}"
    return [
        "# Benchmarks",
        "",
        f"`{command}`, {now:%Y-%m-%d %H:%M} UTC, {system}, {python}, {os.cpu_count()} CPUs.",
        "",
        "Medians of interleaved rounds on the same file. A ratio of 1 is as fast as the yardstick,",
        "more is faster; for memory and for the command line less is better (≤).",
    ]


def _cells_of(row: Row) -> tuple[str, ...]:
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    goal = "" if row.goal is None else str(row.goal)
    return (row.work, row.compared_with, row.ours, row.yardstick, ratio, goal, row.verdict)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return "| " + " | ".join(padded) + " |"


def command_line() -> str:
    """Return how this run was started."""
    return " ".join(["python -m benchmarks", *sys.argv[1:]])
