"""A signal ends the program without a traceback from the first import that it makes to its end."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest

from tests.cli.conftest import Image
from tests.shared import CHECKOUT

pytestmark = pytest.mark.slow

_AFTER_THE_COMMAND: Final = """
import atexit, runpy, signal, sys
atexit.register(signal.raise_signal, signal.SIGINT)
sys.argv = ["blobstore", "--help"]
runpy.run_module("blobstore", run_name="__main__", alter_sys=True)
"""


def script_entry() -> str:
    """Return the entry point of the console script, which another checkout may have installed."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    entry: str = project["scripts"]["blobstore"]
    return entry


@pytest.mark.parametrize(
    ("entry", "number", "status", "message"),
    [
        ("module", "SIGINT", 130, "interrupted\n"),
        (script_entry(), "SIGTERM", 143, "terminated\n"),
    ],
)
def test_a_signal_at_any_import_ends_the_program_without_a_traceback(
    image: Image, tmp_path: Path, entry: str, number: str, status: int, message: str
) -> None:
    report = tmp_path / "report"
    program = [sys.executable, "-m", "tests.cli.signals_at_imports", str(report), number, entry]
    command = [*program, "list", str(image.path)]
    subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True)
    found = [json.loads(line) for line in report.read_text().splitlines()]
    names = [name for name, _status, _said in found]
    assert {"blobstore.cli.main", "click", "blobstore.cli.commands.list"} <= set(names)
    assert [copy for copy in found if copy[1:] != [status, message]] == []


def test_a_signal_after_the_command_changes_neither_its_status_nor_what_it_said() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", _AFTER_THE_COMMAND], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_signal_that_is_ignored_stays_so(image: Image) -> None:
    ignoring = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
    code = (
        "import signal, sys; sys.argv = ['blobstore', 'list', sys.argv[1]]\n"
        "from blobstore.__main__ import main\n"
        "signal.raise_signal(signal.SIGINT); main(); signal.raise_signal(signal.SIGINT)"
    )
    done = subprocess.run(
        [*ignoring, sys.executable, "-P", "-c", code, image.path], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
