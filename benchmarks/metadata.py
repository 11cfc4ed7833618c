"""Rows of durable metadata calls, and of the command line."""

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.counting import CountingDevice, Flushes, flushes_text
from benchmarks.measure import Clock, Goal, Row, Taken, interleaved, missing_row, speed_row
from benchmarks.scale import Scale
from blobstore import Blobstore
from blobstore.testing.internals import core_of
from blobstore.units import KIB, MIB


def durable_rows(directory: Path, scale: Scale) -> Iterator[Row]:
    """Metadata calls that are durable on return, by the flush, on pages written before."""
    path = directory / "durable.img"
    with (
        Flushes(directory / "flushes") as flushes,
        CountingDevice.create(path, 512 * MIB) as device,
        Blobstore.create(device, cluster_size=64 * KIB, md_pages=32_768) as store,
    ):
        blob = store.create_blob("1MiB", thin=True)
        device.write_all(core_of(store).geometry.metadata_end)

        def create() -> None:
            store.create_blob("1MiB", thin=True).close()

        def set_and_sync() -> None:
            blob.set_xattr("name", b"%d" % device.flush_count)
            blob.sync_md()

        yield from _durable_row("create_blob, thin", create, device, flushes, scale)
        yield from _durable_row("set_xattr + sync_md", set_and_sync, device, flushes, scale)
    path.unlink()


def _durable_row(
    what: str, call: Callable[[], None], device: CountingDevice, flushes: Flushes, scale: Scale
) -> Iterator[Row]:
    before = device.flush_count
    call()
    each = device.flush_count - before

    def ours() -> Taken:
        clock = Clock()
        before = device.flush_count
        for _ in range(scale.durable_calls):
            call()
        return clock.per(device.flush_count - before)

    taken = interleaved(scale.rounds, [ours, lambda: flushes.taken(scale.durable_calls)])
    yield speed_row(
        f"{what} ({flushes_text(each)})",
        "pwrite + fdatasync, per flush",
        ours=taken[0],
        yardstick=taken[1],
        goal=Goal(0.85, 0.95),
        per="per flush",
    )


def startup_rows(_directory: Path, scale: Scale) -> Iterator[Row]:
    """The command line's start."""
    command = Path(sys.executable).with_name("blobstore")
    if not _runs([str(command), "--version"]):
        yield missing_row("blobstore --version", "python -c pass", why="no command line")
        return
    taken = interleaved(
        2 * scale.rounds,
        [
            lambda: _taken_by([str(command), "--version"]),
            lambda: _taken_by([sys.executable, "-c", "pass"]),
        ],
    )
    yield speed_row(
        "blobstore --version",
        "python -c pass",
        ours=taken[0],
        yardstick=taken[1],
        goal=Goal(6, 4, at_most=True),
        per="each",
    )


def _runs(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _taken_by(command: list[str]) -> Taken:
    clock = Clock(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True, check=True)
    return clock.per()
