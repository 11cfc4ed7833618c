"""What every test gets: signals that work, the shared directories, the hypothesis profiles."""

import gc
import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

from tests import matrix
from tests.shared import shared

# Shared machines have no steady clock, and a change is not judged by luck.
settings.register_profile("quick", deadline=None, derandomize=True, max_examples=10)
settings.register_profile("ci", deadline=None, derandomize=True, max_examples=50)
settings.register_profile("dev", deadline=None, max_examples=100)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

# A run in the background of a script, or with nohup, ignores these signals, and so would every
# program that a test starts and means to interrupt.
for number, action in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, action)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        matrix.OPTION, action="store_true", help="every cell of the matrices in tests/matrix.py"
    )


def pytest_configure(config: pytest.Config) -> None:
    matrix.set_full(config.getoption(matrix.OPTION))


def pytest_collection_finish() -> None:
    """Spare the garbage collector fifteen thousand tests, which stay until the end."""
    gc.freeze()


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Images the original wrote, with their dumps and descriptions."""
    return shared("golden")


@pytest.fixture(scope="session")
def traces_dir() -> Path:
    """Long random sequences of calls on the original, with the result of every call."""
    return shared("traces")
