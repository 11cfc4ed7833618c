"""Starting the writer, killing it half-way, and keeping what it was promised."""

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from blobstore import DeviceError

_COMMAND: Final = (sys.executable, "-P", "-m", "blobstore.cli.demo.writer")


@dataclass(frozen=True, slots=True)
class Promise:
    """What was acknowledged to the killed process: its blob is durable up to here."""

    blob_id: int
    length: int


def write_and_kill(image: Path, source: Path, *, flush_every: int) -> Promise:
    """Let a process import `source`, and kill it once half of that is acknowledged.

    Raises:
        DeviceError: It ended by itself.
    """
    length = source.stat().st_size
    command = [*_COMMAND, str(image), str(source), str(flush_every)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            numbers = _read_until_half(process.stdout, length)
        finally:
            process.kill()
        numbers += [int(line) for line in process.stdout if line.endswith(b"\n")]
    if process.returncode != -signal.SIGKILL or not numbers:
        raise DeviceError(f"writer: ended by itself with status {process.returncode}")
    return Promise(numbers[0], max(numbers[1:], default=0))


def _read_until_half(stream: IO[bytes], length: int) -> list[int]:
    """Read the id, and acknowledgements up to the one that covers half of the file."""
    numbers: list[int] = []
    for line in stream:
        numbers.append(int(line))
        if length == 0 or (len(numbers) > 1 and numbers[-1] * 2 >= length):
            break
    return numbers
