"""What docs/guide-images.md shows happens as it stands there, line for line and in its order."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.runner import COMMAND
from tests.shared import CHECKOUT

GUIDE = (CHECKOUT / "docs" / "guide-images.md").read_text(encoding="utf-8")
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("qemu-img") is None or shutil.which("qemu-io") is None,
    reason="qemu-img and qemu-io are not installed",
)
def test_the_commands_do_what_is_shown(tmp_path: Path) -> None:
    programs, work = tmp_path / "bin", tmp_path / "work"
    programs.mkdir()
    work.mkdir()
    (programs / "blobstore").write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
    (programs / "blobstore").chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    commands = "".join(CONSOLE.findall(GUIDE)).split("$ ")[1:]
    assert len(commands) > 20
    for command in commands:
        line, _end, shown = command.partition("\n")
        done = subprocess.run(
            line, shell=True, cwd=work, env=environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), line
        if shown:
            assert done.stdout == shown, line
