"""Run all measurements, print the table and keep it in results.md."""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks import data_path, fio, metadata
from benchmarks.data_path import QUICK, Scale
from benchmarks.measure import Row
from benchmarks.table import command_line, write_table

_HERE = Path(__file__).parent
_BUILD = _HERE.parent / "build"


def main() -> None:
    options = _parse()
    if not fio.is_there():
        sys.exit("benchmarks: fio is not installed; it is what we are compared with")
    scale = QUICK if options.quick else Scale()
    directory = options.directory or _BUILD
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=directory) as scratch:
        rows = _measure(Path(scratch), scale)
    table = write_table(rows, command=command_line())
    options.output.write_text(table, encoding="utf-8")
    print(table)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds of less work")
    parser.add_argument("--directory", type=Path, help="where the images are made, for a while")
    parser.add_argument("--output", type=Path, default=_HERE / "results.md", help="the table")
    return parser.parse_args()


def _measure(directory: Path, scale: Scale) -> list[Row]:
    rows: list[Row] = []
    with data_path.warm_blob(directory) as warm:
        rows += _progress("random 4 KiB", lambda: data_path.random_rows(warm, scale))
        rows += _progress("sequential 1 MiB", lambda: data_path.sequential_rows(warm, scale))
    rows += _progress("thin clusters", lambda: data_path.thin_rows(directory, scale))
    rows += _progress("durable calls", lambda: metadata.durable_rows(directory, scale))
    rows += _progress("opening", lambda: metadata.opening_rows(directory, scale))
    rows += _progress("command line", lambda: metadata.startup_rows(scale))
    return rows


def _progress(name: str, measure: Callable[[], Iterable[Row]]) -> list[Row]:
    print(f"{name} ... ", end="", file=sys.stderr, flush=True)
    begin = time.perf_counter()
    rows = list(measure())
    print(f"{time.perf_counter() - begin:.0f} s", file=sys.stderr)
    return rows


if __name__ == "__main__":
    main()
