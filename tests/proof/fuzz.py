"""`python -m tests.proof.fuzz`: look for inputs that do harm, led by what they reach.

Needs atheris (`pip install atheris`). The search runs in a process of its own,
because libFuzzer ends the one it runs in. Inputs that reach something new are
kept in the corpus; those that do harm become files that `--replay` tries again.
"""

import argparse
import importlib
import importlib.util
import io
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, Final

_TARGET: Final = "tests.proof.fuzz_target"
_MUTATE: Final = "tests.proof.mutate"
_USAGE_EXIT: Final = 2
_MEGABYTES: Final = 4096


def main(arguments: Sequence[str] | None = None) -> int:
    """Search for so many seconds; the exit code is 1 if something was found, 2 without atheris."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof.fuzz")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--runs", type=int, default=-1, help="end after so many inputs, too")
    parser.add_argument("--corpus", type=Path, help="inputs are read from here, and kept here")
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"), help="what does harm")
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    parser.add_argument("--replay", type=Path, nargs="+", help="no search: try these files")
    parser.add_argument("--in-this-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.replay:
        return _replay(options.replay)
    if importlib.util.find_spec("atheris") is None:
        print("fuzz: atheris is not installed: pip install atheris", file=sys.stderr)
        return _USAGE_EXIT
    if options.in_this_process:
        _search(options)
        return 0
    return _search_in_child(options)


def _replay(files: Sequence[Path]) -> int:
    target: Any = importlib.import_module(_TARGET)
    finder = target.Finder(Path(tempfile.gettempdir()) / "fuzz-replayed")
    for path in files:
        finder(path.read_bytes())
    print(f"{len(files)} files, {len(finder.places)} did harm")
    return 1 if finder.places else 0


def _search_in_child(options: argparse.Namespace) -> int:
    before = set(options.found.glob("found-*"))
    with tempfile.TemporaryDirectory() as scratch:
        corpus = options.corpus or Path(scratch)
        command = [sys.executable, "-m", "tests.proof.fuzz", "--in-this-process"]
        command += [f"--seconds={options.seconds}", f"--corpus={corpus}"]
        command += [f"--found={options.found}", f"--seed={options.seed}", f"--runs={options.runs}"]
        ended = subprocess.run(command, check=False).returncode
    found = sorted(set(options.found.glob("found-*")) - before)
    print(f"{len(found)} found, the search ended with {ended}")
    return 1 if found or ended else 0


def _search(options: argparse.Namespace) -> None:
    """Hand over to libFuzzer, which ends the process."""
    atheris: Any = importlib.import_module("atheris")
    with redirect_stderr(io.StringIO()), atheris.instrument_imports(include=["blobstore"]):
        target: Any = importlib.import_module(_TARGET)
        mutate: Any = importlib.import_module(_MUTATE)
    options.found.mkdir(parents=True, exist_ok=True)
    write_seeds(options.corpus)

    def change(data: bytes, max_size: int, seed: int) -> bytes:
        changed: bytes = mutate.mutated(data, seed)
        return changed[:max_size]

    flags = [
        f"-max_total_time={options.seconds}",
        f"-runs={options.runs}",
        f"-max_len={mutate.LARGEST_INPUT}",
        f"-seed={options.seed}",
        f"-rss_limit_mb={_MEGABYTES}",
        "-timeout=0",  # the target has its own, by processor time
        "-report_slow_units=1000",
        "-verbosity=0",
        "-print_final_stats=1",
        f"-artifact_prefix={options.found}/found-",
    ]
    finder = target.Finder(options.found)
    atheris.Setup([sys.argv[0], *flags, str(options.corpus)], finder, custom_mutator=change)
    atheris.Fuzz()


def write_seeds(corpus: Path) -> None:
    """Make a corpus of the seeds, where there is none."""
    target: Any = importlib.import_module(_TARGET)
    corpus.mkdir(parents=True, exist_ok=True)
    if not any(corpus.iterdir()):
        for number, seed in enumerate(target.seeds()):
            (corpus / f"seed-{number:03}").write_bytes(seed)


if __name__ == "__main__":
    sys.exit(main())
