"""`python -m tests.proof.interrupts`: Ctrl-C at random moments in every call that changes a store.

A child process makes random calls on a store in a file; this one sends SIGINT. After each, the
child leaves its `with`, and judges: the store was never poisoned, it is unloaded and clean, and
nothing that was acknowledged is missing.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import IO, Final

from tests.proof.interrupted_worker import READY, UNPROTECTED

_LONGEST_WAIT_S: Final = 0.03


def interrupt(moments: int, *, seed: int = 0, is_protected: bool = True) -> Counter[str]:
    """Press Ctrl-C so often; return in which calls.

    Without protection Python raises it anywhere, as it does by itself.

    Raises:
        AssertionError: The child found something wrong; the message has what it says.
    """
    rng = random.Random(seed)
    calls: Counter[str] = Counter()
    with (
        tempfile.TemporaryDirectory() as directory,
        _worker(directory, seed, is_protected) as process,
    ):
        assert process.stdout is not None
        for _ in range(moments):
            _expect(process, READY)
            time.sleep(rng.random() * _LONGEST_WAIT_S)
            os.kill(process.pid, signal.SIGINT)
            calls[_line(process)] += 1
        _line(process)
        process.kill()
    return calls


def _worker(directory: str, seed: int, is_protected: bool) -> subprocess.Popen[str]:
    path = Path(directory, "disk.img")
    command = [sys.executable, "-m", "tests.proof.interrupted_worker", str(path), str(seed)]
    command += [] if is_protected else [UNPROTECTED]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path.cwd()
    )


def _expect(process: subprocess.Popen[str], wanted: str) -> None:
    found = _line(process)
    assert found == wanted, found


def _line(process: subprocess.Popen[str]) -> str:
    line = _stream(process.stdout).readline().strip()
    if not line:
        error = _stream(process.stderr).read()
        raise AssertionError(f"the child ended with status {process.wait()}: {error}")
    return line


def _stream(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def main() -> None:
    """Press Ctrl-C as often as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    calls = interrupt(arguments.moments, seed=arguments.seed)
    for name, count in calls.most_common():
        print(f"{count:6} {name}")
    print(f"{calls.total()} interrupts: never poisoned, nothing acknowledged is missing, clean")


if __name__ == "__main__":
    main()
