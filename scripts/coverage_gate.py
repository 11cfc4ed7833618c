"""Fail when a layer's branch coverage is below what it must be.

Reads the report `coverage json` writes. Coverage is counted as coverage.py does
under branch measurement: executed lines and taken branches, of all of them.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

PACKAGE: Final = "blobstore"
REQUIRED_PERCENT: Final[Mapping[str, int]] = {"format": 100, "alloc": 100, "metadata": 95}


@dataclass(frozen=True, slots=True)
class FileCoverage:
    """What one file has to execute, and what of it the tests left out."""

    path: str
    target_count: int
    covered_count: int
    missing_lines: tuple[int, ...]
    missing_branches: tuple[tuple[int, int], ...]

    @property
    def layer(self) -> str | None:
        """The package's module or subpackage the file belongs to; None outside the package."""
        parts = PurePosixPath(self.path).with_suffix("").parts
        if PACKAGE not in parts:
            return None
        return parts[parts.index(PACKAGE) + 1]


@dataclass(frozen=True, slots=True)
class LayerCoverage:
    """The sum of a layer's files, against what is required of it."""

    name: str
    required_percent: int
    files: tuple[FileCoverage, ...]

    @property
    def target_count(self) -> int:
        return sum(file.target_count for file in self.files)

    @property
    def covered_count(self) -> int:
        return sum(file.covered_count for file in self.files)

    @property
    def percent(self) -> float:
        return 100 * self.covered_count / self.target_count if self.target_count else 0.0

    @property
    def passes(self) -> bool:
        """Integers decide: 99.99 % is never rounded up. A layer nobody measured fails."""
        if not self.target_count:
            return False
        return 100 * self.covered_count >= self.required_percent * self.target_count


def read_report(report: Mapping[str, Any]) -> list[FileCoverage]:
    """Take the files out of a decoded JSON report.

    Raises:
        ValueError: The report was made without branch measurement.
    """
    if not report["meta"]["branch_coverage"]:
        raise ValueError("the report has no branch coverage")
    return [_read_file(path, entry) for path, entry in sorted(report["files"].items())]


def _read_file(path: str, entry: Mapping[str, Any]) -> FileCoverage:
    summary = entry["summary"]
    return FileCoverage(
        path=path,
        target_count=summary["num_statements"] + summary["num_branches"],
        covered_count=summary["covered_lines"] + summary["covered_branches"],
        missing_lines=tuple(entry["missing_lines"]),
        missing_branches=tuple((start, end) for start, end in entry["missing_branches"]),
    )


def sum_layers(
    files: Sequence[FileCoverage], required_percent: Mapping[str, int] = REQUIRED_PERCENT
) -> list[LayerCoverage]:
    """Sum up the layers something is required of; a layer without files is kept, and fails."""
    return [
        LayerCoverage(name, percent, tuple(file for file in files if file.layer == name))
        for name, percent in required_percent.items()
    ]


def render(layers: Sequence[LayerCoverage]) -> str:
    """Draw the table, and under it what each failing layer misses."""
    lines = [f"{'layer':<12}{'targets':>9}{'missed':>9}{'covered':>11}{'required':>11}"]
    for layer in layers:
        missed = layer.target_count - layer.covered_count
        lines.append(
            f"{layer.name:<12}{layer.target_count:>9}{missed:>9}"
            f"{layer.percent:>9.2f} %{layer.required_percent:>9} %"
            f"  {'ok' if layer.passes else 'FAILED'}"
        )
    for layer in layers:
        if not layer.passes:
            lines += _render_missing(layer)
    return "\n".join(lines)


def _render_missing(layer: LayerCoverage) -> list[str]:
    if not layer.target_count:
        return [f"{layer.name}: no file of this layer was measured"]
    return [
        f"{file.path}: missed lines {_join(file.missing_lines)};"
        f" branches {_join(_branch(*branch) for branch in file.missing_branches)}"
        for file in layer.files
        if file.covered_count < file.target_count
    ]


def _branch(start: int, end: int) -> str:
    """Coverage.py names the way out of a function by a negative line number."""
    return f"{start}->{end if end > 0 else 'exit'}"


def _join(items: Iterable[object]) -> str:
    return ", ".join(str(item) for item in items) or "none"


def main(arguments: Sequence[str]) -> int:
    """Print the table of the report named in `arguments`; 0 passed, 1 failed, 2 no report."""
    if len(arguments) != 1:
        print("usage: coverage_gate.py COVERAGE.json", file=sys.stderr)
        return 2
    path = Path(arguments[0])
    if not path.is_file():
        print(f"{path}: not found; `make coverage` writes it", file=sys.stderr)
        return 2
    layers = sum_layers(read_report(json.loads(path.read_text(encoding="utf-8"))))
    print(render(layers))
    return 0 if all(layer.passes for layer in layers) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
