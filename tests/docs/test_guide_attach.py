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
from tests.fuse.mounts import mounting, skip_without_fuse
from tests.shared import CHECKOUT

GUIDE: Final = (CHECKOUT / "docs" / "guide-attach.md").read_text(encoding="utf-8")
CONSOLE: Final = re.findall(r"^\$ (.*)$", GUIDE, re.MULTILINE)


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


@contextlib.contextmanager
def served(line: str, directory: Path) -> Iterator[None]:
    """Have a command of the guide that runs in the foreground, until the `with` ends."""
    words = [
        str(directory / word) if word in ("vms.img", "files") else word for word in line.split()
    ]
    with mounting(Path(words[2]), Path(words[3]), *words[4:]):
        yield


def test_every_command_does_what_it_says(directory: Path) -> None:
    skip_without_fuse()
    path = f"{directory.parent}:{os.environ['PATH']}:/usr/sbin:/sbin"
    with contextlib.ExitStack() as servers:
        for line in CONSOLE:
            if line.startswith("blobstore mount "):
                servers.enter_context(served(line, directory))
                continue
            done = subprocess.run(
                ["sh", "-c", line],
                cwd=directory,
                env={**os.environ, "PATH": path},
                capture_output=True,
                text=True,
                check=False,
            )
            assert (done.returncode, done.stderr) == (0, ""), line
            assert done.stdout or not line.startswith(("ls", "dd if=files", "python3")), line
