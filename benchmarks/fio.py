"""fio, the yardstick for single requests: the same file, the same offsets.

Every job runs alone in one process (`thread`, `numjobs=1`) with `ioengine=psync`,
so one `pread` or `pwrite` at a time, or with `io_uring` and several in flight.
`invalidate=0` keeps the page cache as it is warmed, `fadvise_hint=0` leaves the
kernel's readahead alone, `gtod_reduce=1` stops fio from asking for the time around
each request. `randseed` with `norandommap` makes the offsets the same each time;
`offsets` returns them, so that the loops in Python use them too. Where there is no
fio they are random in our own way.
"""

import json
import random
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Taken

_SEED = 20240607


@dataclass(frozen=True, slots=True)
class Job:
    """One kind of request in one part of one file; sizes in bytes."""

    path: Path
    mode: str  # read, write, randread or randwrite
    block_size: int
    offset: int
    size: int
    count: int
    direct: bool = False
    depth: int = 1
    """How many requests are in flight: with more than one by io_uring."""

    def _arguments(self) -> list[str]:
        return [
            "fio",
            "--name=job",
            f"--filename={self.path.name}",
            f"--rw={self.mode}",
            f"--bs={self.block_size}",
            f"--offset={self.offset}",
            f"--size={self.size}",
            f"--io_size={self.count * self.block_size}",
            f"--direct={self.direct:d}",
            f"--randseed={_SEED}",
            "--norandommap",
            f"--ioengine={'psync' if self.depth == 1 else 'io_uring'}",
            f"--iodepth={self.depth}",
            "--thread",
            "--invalidate=0",
            "--fadvise_hint=0",
            "--gtod_reduce=1",
            "--allow_file_create=0",
        ]

    def taken(self) -> Taken:
        """Run it; return what a request took."""
        output = _run([*self._arguments(), "--output-format=json"], self.path.parent)
        (job,) = json.loads(output[output.index("{") :])["jobs"]
        done = job["read" if self.mode.endswith("read") else "write"]
        seconds = float(done["runtime"]) / 1e3 / int(done["total_ios"])
        return Taken(seconds, seconds * (job["usr_cpu"] + job["sys_cpu"]) / 100)

    def offsets(self) -> list[int]:
        """Return where its requests begin, in order, counted from the part's start."""
        if not is_there():
            return self._own_offsets()
        log = self.path.with_suffix(".iolog")
        _run([*self._arguments(), f"--write_iolog={log.name}"], self.path.parent)
        fields = [line.split() for line in log.read_text().splitlines()]
        log.unlink()
        action = "read" if self.mode.endswith("read") else "write"
        # "file action offset length", in later versions after a time stamp
        return [int(words[-2]) - self.offset for words in fields if action in words[-3:-2]]

    def _own_offsets(self) -> list[int]:
        blocks = self.size // self.block_size
        if self.mode.startswith("rand"):
            chance = random.Random(_SEED)
            return [chance.randrange(blocks) * self.block_size for _ in range(self.count)]
        return [number % blocks * self.block_size for number in range(self.count)]


def is_there() -> bool:
    """Tell whether fio is installed."""
    return shutil.which("fio") is not None


def _run(arguments: list[str], directory: Path) -> str:
    return subprocess.run(
        arguments, cwd=directory, check=True, capture_output=True, text=True
    ).stdout
