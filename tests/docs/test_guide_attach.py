"""Every command of docs/guide-attach.md works as it stands there, one after the other."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.cli.runner import COMMAND
from tests.docs.test_guides import script_of
from tests.fuse.attachments import Attachments, attachments
from tests.fuse.mounts import mounting
from tests.shared import CHECKOUT

GUIDE: Final = (CHECKOUT / "docs" / "guide-attach.md").read_text(encoding="utf-8")
CONSOLE: Final = re.findall(r"^\$ (.*)\n((?:/dev/.*\n)?)", GUIDE, re.MULTILINE)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The directory of a user who has run the guide's Python, with `blobstore` on the path."""
    shim = tmp_path / "blobstore"
    shim.write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
    shim.chmod(0o755)
    directory = tmp_path / "home"
    directory.mkdir()
    subprocess.run([sys.executable, "-c", script_of(GUIDE)], cwd=directory, check=True)
    return directory


@pytest.fixture
def attached() -> Iterator[Attachments]:
    with attachments() as found:
        yield found


@contextlib.contextmanager
def served(line: str, directory: Path) -> Iterator[None]:
    """Have a command of the guide that runs in the foreground, until the `with` ends."""
    words = [
        str(directory / word) if word in ("vms.img", "files") else word for word in line.split()
    ]
    with mounting(Path(words[2]), Path(words[3]), *words[4:]):
        yield


class Devices:
    """The devices that `attach` made, in the place of those that the guide shows."""

    def __init__(self, attached: Attachments) -> None:
        self._attached = attached
        self._ours: dict[str, str] = {}

    def line(self, line: str) -> str:
        """Return a line of the guide as it has to be typed here."""
        for shown, ours in self._ours.items():
            line = line.replace(shown, ours)
        return line

    def add(self, shown: str, output: str) -> None:
        """Note a device that was printed."""
        assert re.fullmatch(r"/dev/loop\d+\n", output)
        self._ours[shown] = output.strip()
        self._attached.made.add(Path(output.strip()))


def test_every_command_does_what_it_says(directory: Path, attached: Attachments) -> None:
    programs = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{directory.parent}:{os.environ['PATH']}:/usr/sbin:/sbin:{programs}",
        "XDG_RUNTIME_DIR": str(attached.runtime),
    }
    devices = Devices(attached)
    with contextlib.ExitStack() as servers:
        for line, shown in CONSOLE:
            if line.startswith("blobstore mount "):
                servers.enter_context(served(line, directory))
                continue
            if line.startswith("blobstore attach "):
                servers.close()  # the store is unmounted first
            done = subprocess.run(
                ["sh", "-c", devices.line(line)],
                cwd=directory,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, line + done.stdout + done.stderr
            assert done.stdout or not line.startswith(("ls", "dd if=files", "python3")), line
            if shown:
                devices.add(shown.strip(), done.stdout)
    assert attached.is_empty()
