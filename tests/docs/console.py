"""Pages whose commands and examples run as they stand, in one directory.

A command that takes nothing but the program runs in this process, in a tenth of the time; a line
with a pipe, a redirection or another program is a shell's.
"""

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from tests.cli.runner import COMMAND, run

_BLOCK: Final = re.compile(r"^```(console|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_COMMAND: Final = re.compile(r"^\$ ", re.MULTILINE)
_SHELL_SIGNS: Final = re.compile(r"[|<>$&;()*?`~\\]")
_TIMEOUT_S: Final = 120


class Ended(NamedTuple):
    """How a command ended, and what it said."""

    status: int
    stdout: str
    stderr: str


def make_program(directory: Path) -> None:
    """Make the program of this checkout available in a directory, under its name."""
    program = directory / "blobstore"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
    program.chmod(0o755)


def run_line(line: str, here: Path, environment: Mapping[str, str]) -> Ended:
    """Run a line as one would type it in a directory; `environment` is where programs are found."""
    if line.startswith("blobstore ") and not _SHELL_SIGNS.search(line):
        with contextlib.chdir(here):
            done = run(*shlex.split(line)[1:], environment=environment)
        return Ended(done.status, done.text, done.stderr)
    return _run(["bash", "-o", "pipefail", "-c", line], here, environment)


def run_page(page: str, directory: Path) -> int:
    """Run a page's blocks in their order; return how many commands and examples there were.

    A command prints what is below it; where nothing is below it, any output is right. `echo $?`
    shows the status of the command before; every other command must succeed.
    """
    programs = directory / "bin"
    programs.mkdir()
    make_program(programs)
    here = directory / "empty"
    here.mkdir()
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "COLUMNS": "100"}
    count = 0
    for language, text in _BLOCK.findall(page):
        if language == "python":
            command = [sys.executable, "-W", "error", "-c", text]
            _check(text, _run(command, here, environment), shown="")
            count += 1
            continue
        for command_line in _COMMAND.split(text)[1:]:
            line, _end, shown = command_line.partition("\n")
            if line != "echo $?":
                _check(line, run_line(line, here, environment), shown=shown)
            else:
                assert shown == "0\n"
            count += 1
    return count


def _run(command: list[str], here: Path, environment: Mapping[str, str]) -> Ended:
    done = subprocess.run(
        command,
        cwd=here,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def _check(line: str, ended: Ended, *, shown: str) -> None:
    assert (ended.status, ended.stderr) == (0, ""), f"{line}\n{ended.stderr}"
    if shown:
        assert ended.stdout.strip("\n") == shown.strip("\n"), line
