"""Rows of `import` and `export`: the commands as a user starts them, with a progress bar."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.measure import Clock, Goal, Row, Taken, interleaved, speed_row
from benchmarks.scale import Scale
from blobstore import Blobstore
from blobstore.units import MIB

_GOAL: Final = Goal(0.8, 1.0)


def rows(directory: Path, scale: Scale) -> Iterator[Row]:
    """A raw file into a new thin blob, durably, and a blob into a raw file."""
    source, copy, out = (directory / name for name in ("source.raw", "copy.raw", "out.raw"))
    store = directory / "store.img"
    _fill(source, scale.copied_mib)
    size = scale.copied_mib * MIB

    def by_cp() -> Taken:
        copy.unlink(missing_ok=True)
        os.sync()
        clock = Clock()
        subprocess.run(["cp", source, copy], check=True)
        subprocess.run(["sync", copy], check=True)
        return clock.per()

    def by_import() -> Taken:
        store.unlink(missing_ok=True)
        Blobstore.create(store, size=2 * size).close()
        os.sync()
        clock = Clock()
        _run("import", str(store), str(source), "--thin", "--name", "v")
        return clock.per()

    def by_export() -> Taken:
        out.unlink(missing_ok=True)
        os.sync()
        clock = Clock()
        _run("export", str(store), "v", str(out))
        return clock.per()

    yardstick, imported, exported = interleaved(scale.rounds, [by_cp, by_import, by_export])
    for name, ours in (("import", imported), ("export", exported)):
        yield speed_row(
            f"{name} of {scale.copied_mib} MiB, thin, durable, with progress",
            "cp + sync",
            ours=ours,
            yardstick=yardstick,
            goal=_GOAL,
            per="each",
        )


def _fill(path: Path, size_mib: int) -> None:
    with path.open("wb") as file:
        for _ in range(size_mib):
            file.write(os.urandom(MIB))


def _run(*arguments: str) -> None:
    """Run a command with a terminal to show its progress on."""
    terminal, inside = os.openpty()
    reader = threading.Thread(target=_drain, args=(terminal,))
    reader.start()
    command = [sys.executable, "-m", "blobstore", *arguments]
    try:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=inside)
    finally:
        os.close(inside)
        reader.join()
        os.close(terminal)


def _drain(terminal: int) -> None:
    try:
        while os.read(terminal, 1 << 16):
            pass
    except OSError:
        return  # nothing writes to the other end any more
