"""What docs/guide-cli.md shows happens as it stands there, line for line."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from blobstore.cli.group import COMMANDS
from tests.cli.runner import run_here
from tests.shared import CHECKOUT

GUIDE = (CHECKOUT / "docs" / "guide-cli.md").read_text(encoding="utf-8")
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_the_commands_print_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    read = b""
    files, *commands = "".join(CONSOLE.findall(GUIDE)).split("$ blobstore ")
    subprocess.run(["sh", "-ec", files.replace("$ ", "")], check=True)
    for command in commands:
        line, _end, shown = command.partition("\n")
        done = run_here(*shlex.split(line))
        assert (done.status, done.stderr) == (0, ""), line
        if shown:
            assert done.text == shown
        read = done.stdout
    assert read == b"p\n" * 256


def test_every_command_is_named() -> None:
    table = GUIDE.split("| to do what")[1].split("\n\n")[0]
    assert sorted(re.findall(r"`([a-z-]+)`", table)) == sorted(COMMANDS)
