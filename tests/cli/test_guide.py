"""What docs/guide-cli.md shows happens as it stands there, line for line."""

import re
import shlex
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
    Path("first.bin").write_bytes(b"1" * (384 << 10))
    Path("second.bin").write_bytes(b"2" * (128 << 10))
    Path("photos.img").write_bytes(b"p" * (512 << 10))
    read = b""
    commands = "".join(CONSOLE.findall(GUIDE)).split("$ blobstore ")
    for command in commands[1:]:
        line, _end, shown = command.partition("\n")
        done = run_here(*shlex.split(line))
        assert (done.status, done.stderr) == (0, ""), line
        if shown:
            assert done.text == shown
        read = done.stdout
    assert read == b"p" * 512


def test_every_command_is_named() -> None:
    table = GUIDE.split("| to do what")[1].split("\n\n")[0]
    assert sorted(re.findall(r"`([a-z-]+)`", table)) == sorted(COMMANDS)
