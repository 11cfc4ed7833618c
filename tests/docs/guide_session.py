"""A user who types the commands of a guide, one after the other."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from tests.cli.runner import COMMAND

_CONSOLE: Final = re.compile(r"^\$ (.*)\n((?:/dev/.*\n)?)", re.MULTILINE)
_TIMEOUT_S: Final = 120


def commands_of(guide: str) -> list[tuple[str, str]]:
    """Return the commands of a guide, with the device that is shown below the command, or ""."""
    return [(line, shown.strip()) for line, shown in _CONSOLE.findall(guide)]


class GuideSession:
    """A shell in a directory, where `blobstore` is the one of this checkout."""

    def __init__(self, directory: Path, environment: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        programs = directory / ".programs"
        programs.mkdir()
        shim = programs / "blobstore"
        shim.write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
        shim.chmod(0o755)
        ours, beside = str(programs), str(Path(sys.executable).parent)
        path = f"{ours}:{os.environ['PATH']}:/usr/sbin:/sbin:{beside}"
        self.environment = {**os.environ, **(environment or {}), "PATH": path}

    def run(self, line: str) -> str:
        """Run a command, which must succeed; return what it printed."""
        done = subprocess.run(
            ["sh", "-c", line],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self, line: str) -> "subprocess.Popen[bytes]":
        """Start a command that runs in the foreground; it reads nothing, and errors are shown."""
        return subprocess.Popen(
            ["sh", "-c", f"exec {line}"],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )

    @contextlib.contextmanager
    def serving(self, line: str, sockets: tuple[str, ...]) -> "Iterator[subprocess.Popen[bytes]]":
        """Have a server until the `with` ends; return when its sockets are there."""
        with self.start(line) as server:
            try:
                deadline = time.monotonic() + _TIMEOUT_S
                while not all((self.directory / name).exists() for name in sockets):
                    assert server.poll() is None, line
                    assert time.monotonic() < deadline, line
                    time.sleep(0.02)
                yield server
            finally:
                server.kill()
