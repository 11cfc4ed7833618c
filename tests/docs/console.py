"""Pages whose commands and examples run as they stand, in one directory."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

_BLOCK: Final = re.compile(r"^```(console|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_COMMAND: Final = re.compile(r"^\$ ", re.MULTILINE)
_TIMEOUT_S: Final = 120


def run_page(page: str, directory: Path) -> int:
    """Run a page's blocks in their order; return how many commands and examples there were.

    A command prints what is below it; where nothing is below it, any output is right. `echo $?`
    shows the status of the command before; every other command must succeed.
    """
    programs = directory / "bin"
    programs.mkdir()
    program = programs / "blobstore"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m blobstore "$@"\n')
    program.chmod(0o755)
    here = directory / "empty"
    here.mkdir()
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "COLUMNS": "100"}
    count = 0
    for language, text in _BLOCK.findall(page):
        if language == "python":
            _run([sys.executable, "-W", "error", "-c", text], here, environment, shown="")
            count += 1
            continue
        for command in _COMMAND.split(text)[1:]:
            line, _end, shown = command.partition("\n")
            if line != "echo $?":
                _run(["bash", "-o", "pipefail", "-c", line], here, environment, shown=shown)
            else:
                assert shown == "0\n"
            count += 1
    return count


def _run(command: list[str], here: Path, environment: dict[str, str], *, shown: str) -> None:
    done = subprocess.run(
        command,
        cwd=here,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), f"{command[-1]}\n{done.stderr}"
    if shown:
        assert done.stdout.strip("\n") == shown.strip("\n"), command[-1]
