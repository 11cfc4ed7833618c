"""What docs/RESCUE.md shows happens as it stands there, line for line and in its order."""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.cli.runner import COMMAND, run_here
from tests.shared import CHECKOUT

RESCUE: Final = (CHECKOUT / "docs" / "RESCUE.md").read_text(encoding="utf-8")

_BLOCK: Final = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FENCE: Final = re.compile(r"^```", re.MULTILINE)
_SHELL_SIGNS: Final = re.compile(r"[|<>$]")


class Terminal:
    """Somebody who types what the document says, sees output and errors, and asks for `$?`."""

    def __init__(self, programs: Path) -> None:
        self._status = 0
        self._path = f"{programs}:{os.defpath}"
        shim = programs / "blobstore"
        shim.write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
        shim.chmod(0o755)

    def run(self, line: str) -> str:
        """Run one command line; return what it showed."""
        if line == "echo $?":
            shown, self._status = f"{self._status}\n", 0
        elif line.startswith("blobstore ") and not _SHELL_SIGNS.search(line):
            done = run_here(*shlex.split(line)[1:])
            shown, self._status = done.text + done.stderr, done.status
        else:
            ran = subprocess.run(
                ["sh", "-c", line],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PATH": self._path, "LC_ALL": "C.UTF-8"},
                text=True,
                check=False,
            )
            shown, self._status = ran.stdout, ran.returncode
        return shown


def commands(block: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a console block, and what is shown below it."""
    assert block.startswith("$ ")
    for command in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        line, _end, shown = command.partition("\n")
        yield line, shown


def test_every_block_shows_what_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs, directory = tmp_path / "bin", tmp_path / "empty"
    programs.mkdir()
    directory.mkdir()
    monkeypatch.chdir(directory)
    terminal = Terminal(programs)
    for block in _BLOCK.finditer(RESCUE):
        if block[1] == "python":
            exec(compile(block[2], "RESCUE.md", "exec"), {})
            continue
        for line, shown in commands(block[2]):
            assert terminal.run(line) == shown, line


def test_every_block_is_run() -> None:
    assert 2 * len(_BLOCK.findall(RESCUE)) == len(_FENCE.findall(RESCUE)) > 0


def test_every_link_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", RESCUE)
    assert links
    assert [link for link in links if not (CHECKOUT / "docs" / link).is_file()] == []
