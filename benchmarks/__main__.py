"""Measure, print the tables, and keep them in results.md with the plots beside it."""

import argparse
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from benchmarks.curve import Curve
from benchmarks.groups import GROUPS, measure
from benchmarks.measure import Row
from benchmarks.plot import draw
from benchmarks.scale import QUICK, Scale
from benchmarks.table import command_line, write_results

_HERE: Final = Path(__file__).parent
_BUILD: Final = _HERE.parent / "build"


def main() -> None:
    options = _parse()
    scale = QUICK if options.quick else Scale()
    directory = options.directory or _BUILD
    directory.mkdir(parents=True, exist_ok=True)
    found: list[Row | Curve] = []
    for name in options.only or GROUPS:
        found += _progress(name, directory, scale)
    rows = [each for each in found if isinstance(each, Row)]
    curves = [each for each in found if isinstance(each, Curve)]
    results = write_results(rows, curves, command=command_line())
    print(results)
    output = options.output or _default_output(options)
    _keep(output, results, curves)
    print(f"kept in {output}", file=sys.stderr)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds of less work")
    parser.add_argument(
        "--only", nargs="+", choices=GROUPS, metavar="GROUP", help=", ".join(GROUPS)
    )
    parser.add_argument("--directory", type=Path, help="where the images are made, for a while")
    parser.add_argument(
        "--output",
        type=Path,
        help="the results; the plots are beside it "
        "(benchmarks/results.md, and with --quick or --only build/benchmarks/results.md)",
    )
    return parser.parse_args()


def _default_output(options: argparse.Namespace) -> Path:
    """Only all of it is worth keeping with the code."""
    place = _BUILD / "benchmarks" if options.quick or options.only else _HERE
    return place / "results.md"


def _keep(output: Path, results: str, curves: Iterable[Curve]) -> None:
    plots = output.parent / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    for curve in curves:
        (plots / f"{curve.name}.svg").write_text(draw(curve), encoding="utf-8")
    output.write_text(results, encoding="utf-8")


def _progress(name: str, directory: Path, scale: Scale) -> list[Row | Curve]:
    """Measure in a process of its own: memory that another group freed would make it faster."""
    print(f"{name} ... ", end="", file=sys.stderr, flush=True)
    begin = time.perf_counter()
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as process:
        found = process.submit(measure, name, directory, scale).result()
    print(f"{time.perf_counter() - begin:.0f} s", file=sys.stderr)
    return found


if __name__ == "__main__":
    main()
