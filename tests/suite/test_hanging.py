"""A test that hangs fails by itself, and says where every thread stands."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.shared import CHECKOUT

_DEADLOCK = """
import threading

def wait_for_ever(lock):
    lock.acquire()

def test_that_waits_for_a_lock_nobody_releases():
    lock = threading.Lock()
    lock.acquire()
    threading.Thread(target=wait_for_ever, args=(lock,), daemon=True).start()
    lock.acquire()

def test_after_it():
    pass
"""

_LOST_IN_C = """
import signal, threading

def test_whose_process_takes_no_signals():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    threading.Lock().acquire() and threading.Event().wait()
"""


def _run(directory: Path, text: str, *options: str) -> str:
    (directory / "test_hang.py").write_text(text)
    config = ["-c", str(CHECKOUT / "pyproject.toml"), f"--rootdir={directory}"]
    command = [sys.executable, "-m", "pytest", *config, "-p", "no:cacheprovider", *options]
    done = subprocess.run(
        [*command, str(directory)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode != 0
    return done.stdout + done.stderr


def test_a_deadlock_fails_its_test_only_and_shows_the_stacks_of_all_threads(tmp_path: Path) -> None:
    said = _run(tmp_path, _DEADLOCK, "--timeout=0.5")
    assert "1 failed, 1 passed" in said
    assert "Timeout" in said
    assert "in wait_for_ever" in said


def test_a_test_that_no_signal_reaches_ends_its_process(tmp_path: Path) -> None:
    said = _run(tmp_path, _LOST_IN_C, "-o", "faulthandler_timeout=0.5")
    assert "most recent call first" in said
    assert "test_whose_process_takes_no_signals" in said


def test_every_test_here_has_a_time_limit(pytestconfig: pytest.Config) -> None:
    limit_s, last_resort_s = (
        float(pytestconfig.getini(name)) for name in ("timeout", "faulthandler_timeout")
    )
    assert 0 < limit_s < last_resort_s
    assert pytestconfig.getini("faulthandler_exit_on_timeout")
