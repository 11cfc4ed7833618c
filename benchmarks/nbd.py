"""Rows of the NBD server: fio's own client, beside nbdkit and qemu-nbd on the same data."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Final

from benchmarks.measure import Goal, Row, Taken, interleaved, missing_row, speed_row
from benchmarks.scale import Scale
from blobstore import VolumeStore
from blobstore.units import KIB, MIB

_GOAL: Final = Goal(0.9, 1.2)
_SIZE_MIB: Final = 256
_BYTES_OF_SMALL: Final = 128 * MIB
_BYTES_OF_LARGE: Final = 1024 * MIB
_PROGRAMS: Final = ("fio", "nbdkit", "qemu-nbd")


@dataclass(frozen=True, slots=True)
class Load:
    """What a client asks for: requests of one size, a fixed number in flight."""

    what: str
    mode: str
    size: int
    depth: int
    bytes: int


SMALL: Final = Load("random read, 4 KiB, depth 16", "randread", 4 * KIB, 16, _BYTES_OF_SMALL)
LARGE: Final = Load("sequential read, 1 MiB, depth 4", "read", MIB, 4, _BYTES_OF_LARGE)


def rows(directory: Path, scale: Scale) -> Iterator[Row]:
    """One client, over a Unix socket, of data in the page cache."""
    missing = [program for program in _PROGRAMS if which(program) is None]
    if missing:
        why = f"{', '.join(missing)} not installed"
        for load in (SMALL, LARGE):
            yield missing_row(f"NBD: {load.what}", "", why=why)
        return
    raw = _make_data(directory)
    with ExitStack() as stack:

        def served(name: str, *command: str) -> str:
            return stack.enter_context(_serving(directory / name, command))

        ours = served("ours", *_OURS, str(directory / "disk.img"), "v", "--quiet")
        file = served("file", "nbdkit", "-f", "file", str(raw))
        qemu = served("qemu", "qemu-nbd", "-t", "-f", "raw", str(raw))
        memory = served("memory", "nbdkit", "-f", "memory", f"{_SIZE_MIB}M")
        yield from _compared(SMALL, scale, ours, {"nbdkit's memory plugin": (memory, _GOAL)})
        others = {"nbdkit's file plugin": (file, _GOAL), "qemu-nbd": (qemu, None)}
        yield from _compared(LARGE, scale, ours, others)


_OURS: Final = (sys.executable, "-m", "blobstore", "serve")


def _make_data(directory: Path) -> Path:
    """Write the same bytes to a volume and to a file."""
    raw = directory / "raw.img"
    with VolumeStore.create(
        directory / "disk.img", name="vms", size=(_SIZE_MIB + 16) * MIB, cluster_size=MIB
    ) as store:
        volume = store.create_volume("v", _SIZE_MIB * MIB)
        with open(raw, "wb") as file:
            for number in range(_SIZE_MIB):
                data = number.to_bytes(4, "big") * (MIB // 4)
                file.write(data)
                volume.write(data, number * MIB)
    return raw


@contextmanager
def _serving(path: Path, command: tuple[str, ...]) -> Iterator[str]:
    """Run a server at a socket; the options for it differ."""
    option = {"nbdkit": ["-U", str(path)], "qemu-nbd": ["-k", str(path)]}
    more = option.get(command[0], ["--nbd", f"unix:{path}"])
    words = [command[0], *more, *command[1:]] if command[0] in option else [*command, *more]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(words, stdout=quiet, stderr=quiet) as process:
        try:
            while not path.exists():
                assert process.poll() is None, command
                time.sleep(0.01)
            yield f"nbd+unix:///?socket={path}"
        finally:
            process.terminate()


def _compared(
    load: Load, scale: Scale, ours: str, others: dict[str, tuple[str, Goal | None]]
) -> Iterator[Row]:
    measures = [_fio(load, uri) for uri in (ours, *(uri for uri, _goal in others.values()))]
    mine, *theirs = interleaved(scale.rounds, measures)
    for (name, (_uri, goal)), taken in zip(others.items(), theirs, strict=True):
        yield speed_row(
            f"NBD: {load.what}", name, ours=mine, yardstick=taken, goal=goal, per="each"
        )


def _fio(load: Load, uri: str) -> Callable[[], Taken]:
    """Return the measure: what a request takes; the processor time is fio's own, so not told."""
    command = [
        "fio", "--name=job", "--thread", "--ioengine=nbd", f"--uri={uri}", f"--rw={load.mode}",
        f"--bs={load.size}", f"--iodepth={load.depth}", f"--size={_SIZE_MIB}m",
        f"--io_size={load.bytes}", "--gtod_reduce=1", "--norandommap", "--output-format=json",
    ]  # fmt: skip

    def measure() -> Taken:
        done = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        (job,) = json.loads(done[done.index("{") :])["jobs"]
        return Taken(float(job["read"]["runtime"]) / 1e3 / int(job["read"]["total_ios"]))

    return measure
