"""fio, the yardstick for single requests: the same file, the same offsets.

Every job runs alone in one process (`thread`, `numjobs=1`) with `ioengine=psync`,
so one `pread` or `pwrite` at a time. `invalidate=0` keeps the page cache as it is
warmed, `fadvise_hint=0` leaves the kernel's readahead alone, `gtod_reduce=1` stops
fio from asking for the time around each request. `randseed` with `norandommap`
makes the offsets the same each time; `offsets_of` returns them, so that the loops
in Python use them too.
"""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

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
            f"--randseed={_SEED}",
            "--norandommap",
            "--ioengine=psync",
            "--thread",
            "--invalidate=0",
            "--fadvise_hint=0",
            "--gtod_reduce=1",
            "--allow_file_create=0",
        ]

    def seconds_per_request(self) -> float:
        """Run it."""
        output = _run([*self._arguments(), "--output-format=json"], self.path.parent)
        (job,) = json.loads(output[output.index("{") :])["jobs"]
        done = job["read" if self.mode.endswith("read") else "write"]
        return float(done["runtime"]) / 1e3 / int(done["total_ios"])

    def offsets(self) -> list[int]:
        """Return where its requests begin, in order, counted from the part's start."""
        log = self.path.with_suffix(".iolog")
        _run([*self._arguments(), f"--write_iolog={log.name}"], self.path.parent)
        fields = [line.split() for line in log.read_text().splitlines()]
        log.unlink()
        action = "read" if self.mode.endswith("read") else "write"
        # "file action offset length", in later versions after a time stamp
        return [int(words[-2]) - self.offset for words in fields if action in words[-3:-2]]


def is_there() -> bool:
    """Tell whether fio is installed."""
    return shutil.which("fio") is not None


def _run(arguments: list[str], directory: Path) -> str:
    return subprocess.run(
        arguments, cwd=directory, check=True, capture_output=True, text=True
    ).stdout
