"""`python -m tests.proof.nbd_fuzz`: look for bytes that do harm to NBD's server or client.

Needs atheris (`pip install atheris`). The search runs in a process of its own, because libFuzzer
ends the one it runs in. What does harm becomes a file, which `--replay` tries again.
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

_TARGET: Final = "tests.proof.nbd_fuzz_target"
_USAGE_EXIT: Final = 2
_LONGEST_INPUT: Final = 8192


def main(arguments: Sequence[str] | None = None) -> int:
    """Search for so many seconds; the exit code is 1 if something was found, 2 without atheris."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof.nbd_fuzz")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--runs", type=int, default=-1, help="end after so many inputs, too")
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    parser.add_argument("--found", type=Path, default=Path("nbd-fuzz-found"), help="what does harm")
    parser.add_argument("--replay", type=Path, nargs="+", help="no search: try these files")
    parser.add_argument("--in-this-process", type=Path, metavar="CORPUS", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.replay:
        target: Any = importlib.import_module(_TARGET)
        for path in options.replay:
            target.try_input(path.read_bytes())
        return 0
    if importlib.util.find_spec("atheris") is None:
        print("nbd_fuzz: atheris is not installed: pip install atheris", file=sys.stderr)
        return _USAGE_EXIT
    if options.in_this_process:
        _search(options)
        return 0
    return _search_in_child(options)


def _search_in_child(options: argparse.Namespace) -> int:
    options.found.mkdir(parents=True, exist_ok=True)
    before = set(options.found.iterdir())
    with tempfile.TemporaryDirectory() as corpus:
        command = [sys.executable, "-m", "tests.proof.nbd_fuzz", f"--in-this-process={corpus}"]
        command += [f"--seconds={options.seconds}", f"--runs={options.runs}"]
        command += [f"--found={options.found}", f"--seed={options.seed}"]
        ended = subprocess.run(command, check=False).returncode
    found = set(options.found.iterdir()) - before
    print(f"{len(found)} found, the search ended with {ended}")
    return 1 if found or ended else 0


def _search(options: argparse.Namespace) -> None:
    """Hand over to libFuzzer, which ends the process."""
    atheris: Any = importlib.import_module("atheris")
    with redirect_stderr(io.StringIO()), atheris.instrument_imports(include=["blobstore.nbd"]):
        target: Any = importlib.import_module(_TARGET)
    for number, seed in enumerate(target.seeds()):
        (options.in_this_process / f"seed-{number}").write_bytes(seed)
    flags = [
        f"-max_total_time={options.seconds}",
        f"-runs={options.runs}",
        f"-seed={options.seed}",
        f"-max_len={_LONGEST_INPUT}",
        f"-artifact_prefix={options.found}/found-",
        "-rss_limit_mb=1024",
        "-verbosity=0",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *flags, str(options.in_this_process)], target.try_input)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
