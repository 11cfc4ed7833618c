"""Loop devices: real block devices on a file, for tests that run as root."""

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from blobstore.units import MIB

# linux/loop.h, struct loop_info64
_SET_STATUS: Final = 0x4C04
_GET_STATUS: Final = 0x4C05
_STATUS_SIZE: Final = 232
_SIZE_LIMIT: Final = struct.Struct("Q")
_SIZE_LIMIT_AT: Final = 32


@dataclass(frozen=True)
class Loop:
    """An attached loop device and the file below it."""

    path: Path
    backing: Path

    def hide_end(self, visible: int) -> None:
        """Let the device end after `visible` bytes, 0 for all; the file keeps what is behind."""
        with open(self.path, "rb") as device:
            status = bytearray(fcntl.ioctl(device, _GET_STATUS, bytes(_STATUS_SIZE)))
            _SIZE_LIMIT.pack_into(status, _SIZE_LIMIT_AT, visible)
            fcntl.ioctl(device, _SET_STATUS, bytes(status))

    def set_size(self, size: int) -> None:
        """Let the device have another size, also while it is in use."""
        os.truncate(self.backing, size)
        subprocess.run(["losetup", "-c", self.path], check=True)


@contextlib.contextmanager
def attached(backing: Path, *, block_size: int, size: int = 32 * MIB) -> Iterator[Loop]:
    """Attach a new file; skips the test where that is not allowed."""
    if os.geteuid() != 0 or shutil.which("losetup") is None:
        pytest.skip("loop devices need root and losetup")
    backing.touch()
    os.truncate(backing, size)
    command = ["losetup", "-f", "--show", "-b", str(block_size), str(backing)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no loop devices: {done.stderr.strip()}")
    path = Path(done.stdout.strip())
    try:
        yield Loop(path, backing)
    finally:
        subprocess.run(["losetup", "-d", path], check=True)
