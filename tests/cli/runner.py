"""Running commands as their users do: as processes."""

import fcntl
import hashlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from click.testing import CliRunner

from blobstore.cli.group import run as run_command

COMMAND: Final = (sys.executable, "-P", "-m", "blobstore")
_TIMEOUT_S: Final = 60
_ANSWER_S: Final = 20


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it said."""

    status: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        return self.stdout.decode()

    @property
    def json(self) -> dict[str, Any]:
        """The one value on standard output, of a command that succeeded."""
        assert (self.status, self.stderr) == (0, "")
        return _versioned(self.stdout)

    @property
    def error(self) -> dict[str, Any]:
        """The error on standard error, of a command that printed nothing else."""
        assert self.stdout == b""
        found: dict[str, Any] = _versioned(self.stderr.encode())["error"]
        assert sorted(found) == ["errno", "message"]
        return found


def _versioned(text: bytes) -> dict[str, Any]:
    text.decode("ascii")
    found: dict[str, Any] = json.loads(text)
    assert found.pop("schema_version") == 1
    return found


def run_process(
    *arguments: str | bytes | os.PathLike[str],
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
) -> Result:
    """Run one command as a process of its own, not on a terminal."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        input=stdin,
        capture_output=True,
        timeout=_TIMEOUT_S,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    return Result(done.returncode, done.stdout, done.stderr.decode())


def run(
    *arguments: str | bytes | os.PathLike[str],
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
) -> Result:
    """Run one command in this process, which takes a hundredth of the time of `run_process`."""
    runner = CliRunner(env=environment)
    with runner.isolation(input=stdin) as (stdout, stderr, _both):
        status = run_command([os.fsdecode(argument) for argument in arguments])
    return Result(status, stdout.getvalue(), stderr.getvalue().decode())


run_here = run


def run_on_terminal(
    *arguments: str | os.PathLike[str],
    typed: str = "",
    environment: Mapping[str, str] | None = None,
) -> Result:
    """Run one command whose standard input and error are a terminal, on which `typed` is typed."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=theirs,
        stderr=theirs,
        stdout=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm-256color", **(environment or {})},
    ) as process:
        os.close(theirs)
        os.write(ours, typed.encode())
        shown = _drain(ours)
        stdout, _none = process.communicate(timeout=_TIMEOUT_S)
    os.close(ours)
    return Result(process.returncode, stdout, shown.decode())


def _drain(terminal: int) -> bytes:
    """Read what is shown until the other side is closed."""
    shown = b""
    while select.select([terminal], [], [], _TIMEOUT_S)[0]:
        try:
            shown += os.read(terminal, 65536)
        except OSError:  # EIO: the last user of the other side is gone
            break
    return shown


def _take_terminal() -> None:
    """Let control-C reach the command, also where the tests run in the background."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """A command with a terminal all to itself, where somebody types and reads."""

    def __init__(
        self,
        *arguments: str | os.PathLike[str],
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = COMMAND,
    ) -> None:
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            [*program, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "NO_COLOR": "1", **(environment or {})},
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(theirs)
        self._unread = b""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)

    def type(self, keys: str, *, until: str) -> str:
        """Type, then return what is shown up to and including `until`."""
        os.write(self._ours, keys.encode())
        while until.encode() not in self._unread:
            ready, _none, _none = select.select([self._ours], [], [], _ANSWER_S)
            assert ready, f"{until!r} did not appear in {self._unread!r}"
            self._unread += os.read(self._ours, 65536)
        shown, found, self._unread = self._unread.partition(until.encode())
        return (shown + found).decode()

    def interrupt(self, *, until: str) -> str:
        """Press control-C."""
        return self.type("\x03", until=until)

    def end_by(self, number: signal.Signals) -> int:
        """Send a signal that ends the command; return the exit status."""
        self._process.send_signal(number)
        return self._process.wait(_TIMEOUT_S)

    def end(self, keys: str = "") -> tuple[int, str]:
        """Type, and wait for the end; return the exit status and what was shown."""
        os.write(self._ours, keys.encode())
        shown = self._unread + _drain(self._ours)
        return self._process.wait(_TIMEOUT_S), shown.decode()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def unchanged(path: Path) -> Callable[[], bool]:
    """Return a question: is the file as it is now, byte for byte?"""
    before = sha256(path)
    return lambda: sha256(path) == before
