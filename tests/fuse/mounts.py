"""`blobstore mount` as a process of its own; no mount and no process outlives its test."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.cli.runner import COMMAND

_TIMEOUT_S: Final = 60


def skip_without_fuse() -> None:
    """Skip the test where this process cannot mount."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("/dev/fuse cannot be opened")
    if shutil.which("fusermount3") is None:
        pytest.skip("fusermount3 is not installed (Debian's package fuse3)")


@dataclass(frozen=True)
class Mount:
    """A running `blobstore mount`."""

    directory: Path
    process: "subprocess.Popen[str]"

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(_TIMEOUT_S)


@contextlib.contextmanager
def mounted(store: Path, *options: str) -> Iterator[Mount]:
    """Mount a store beside its file until the `with` ends."""
    directory = store.with_suffix(".mnt")
    directory.mkdir(exist_ok=True)
    with mounting(store, directory, *options) as mount:
        yield mount


@contextlib.contextmanager
def mounting(store: Path, directory: Path, *options: str) -> Iterator[Mount]:
    """Mount a store at a directory until the `with` ends."""
    skip_without_fuse()
    command = [*COMMAND, "mount", str(store), str(directory), *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        assert line == f"mounted at {directory}\n", line + process.stderr.read()
        yield Mount(directory, process)
    finally:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_TIMEOUT_S)
        process.kill()
        process.wait()
        process.stderr.close()
        if is_mounted(directory):
            subprocess.run(["umount", "-l", directory], check=True)


def is_mounted(directory: Path) -> bool:
    """Say whether the kernel lists a mount at a directory."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return str(directory) in {line.split()[1] for line in mounts}
