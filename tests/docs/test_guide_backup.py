"""What docs/guide-backup.md shows happens as it stands there; what is left out is not shown."""

import os
import re
from pathlib import Path
from typing import Final

import pytest

from tests.docs.console import make_program, run_line
from tests.shared import CHECKOUT

GUIDE: Final = (CHECKOUT / "docs" / "guide-backup.md").read_text(encoding="utf-8")
CONSOLE: Final = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_COMMAND: Final = re.compile(r"^\$ ", re.MULTILINE)


@pytest.mark.slow
def test_the_commands_print_what_is_shown(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    make_program(programs)
    # The other machine is this one, in the same directory.
    ssh = programs / "ssh"
    ssh.write_text('#!/bin/sh\nshift\nexec "$@"\n')
    ssh.chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "COLUMNS": "100"}
    directory = tmp_path / "empty"
    directory.mkdir()
    for command in _COMMAND.split("".join(CONSOLE.findall(GUIDE)))[1:]:
        line, _end, shown = command.partition("\n")
        ended = run_line(line, directory, environment)
        is_broken = "|| true" in line
        assert (ended.status, bool(ended.stderr)) == (0, is_broken), line
        if shown:
            assert ended.stdout.strip("\n") == shown.strip("\n"), line
