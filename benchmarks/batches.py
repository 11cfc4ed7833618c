"""Rows of batches: many requests in one call, and stores that are mapped into memory.

The yardstick is fio with as many requests in flight as pay there: 32 of 4 KiB, 8 of 1 MiB. A
mapped store is read-only, and its yardstick is fio with one request at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks import fio
from benchmarks.data_path import SIZE, Warm, warm_blob
from benchmarks.measure import Clock, Goal, Row, Taken, interleaved, missing_row, speed_row
from benchmarks.scale import Scale
from blobstore import Blob, Blobstore, UnsupportedError
from blobstore.units import KIB, MIB

_BLOCK: Final = 4 * KIB


@dataclass(frozen=True, slots=True)
class Batches:
    """How many requests of which size in all, how many in one call, and the yardstick's depth."""

    work: str
    mode: str
    block: int
    at_once: int
    depth: int
    goal: Goal

    @property
    def yardstick(self) -> str:
        return "fio psync" if self.depth == 1 else f"fio io_uring, depth {self.depth}"


_CACHED: Final = Batches(
    "read_many, 1024 of 4 KiB at once, cached", "randread", _BLOCK, 1024, 32, Goal(1.4, 1.6)
)
_MAPPED: Final = Batches(
    "read_many, 256 of 4 KiB at once, mapped", "randread", _BLOCK, 256, 1, Goal(2.5, 3.4)
)
_DIRECT: Final = (
    Batches(
        "read_many, 256 of 4 KiB at once, direct", "randread", _BLOCK, 256, 32, Goal(0.95, 1.0)
    ),
    Batches(
        "write_many, 256 of 4 KiB at once, direct", "randwrite", _BLOCK, 256, 32, Goal(0.95, 1.0)
    ),
    Batches("read_many, 16 of 1 MiB in order, direct", "read", MIB, 16, 8, Goal(0.95, 1.0)),
)


def cached_rows(directory: Path, scale: Scale) -> Iterator[Row]:
    """Random 4 KiB in the page cache: on the ring, and from a mapping."""
    with warm_blob(directory, direct=False) as warm:
        yield _row(warm, warm.blob, _CACHED, scale.requests, scale)
        warm.store.close()
        with Blobstore.open(warm.path, read_only=True, mapped=True) as store:
            blob = store.open_blob(warm.blob.id)
            yield _row(warm, blob, _MAPPED, scale.requests, scale)


def direct_rows(directory: Path, scale: Scale) -> Iterator[Row]:
    """Random 4 KiB and 1 MiB in order, past the page cache."""
    try:
        with warm_blob(directory, direct=True) as warm:
            for wanted in _DIRECT:
                count = 8 * scale.direct_requests * _BLOCK // wanted.block
                yield _row(warm, warm.blob, wanted, max(count, 4 * wanted.at_once), scale)
    except UnsupportedError as error:
        for wanted in _DIRECT:
            yield missing_row(wanted.work, wanted.yardstick, why=error.message)


def _row(warm: Warm, blob: Blob, wanted: Batches, count: int, scale: Scale) -> Row:
    job = fio.Job(
        warm.path, wanted.mode, wanted.block, warm.start, SIZE, count, warm.direct, wanted.depth
    )
    every = np.array(job.offsets(), np.int64)
    batches = [every[at : at + wanted.at_once] for at in range(0, len(every), wanted.at_once)]
    rows = blob.read_many(every[: wanted.at_once], wanted.block)

    def ours() -> Taken:
        clock = Clock()
        for offsets in batches:
            part = rows[: len(offsets)]
            if wanted.mode == "randwrite":
                blob.write_many(offsets, part)
            else:
                blob.read_many(offsets, wanted.block, part)
        return clock.per(len(every))

    if not fio.is_there():
        return missing_row(wanted.work, wanted.yardstick, why="no fio", ours=ours())
    mine, by_fio = interleaved(scale.rounds, [ours, job.taken])
    return speed_row(
        wanted.work, wanted.yardstick, ours=mine, yardstick=by_fio, goal=wanted.goal, per="each"
    )
