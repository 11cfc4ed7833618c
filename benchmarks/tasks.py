"""Rows of asyncio: 32 tasks that read 4 KiB each, next to fio with as many requests in flight."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import uvloop

from benchmarks import fio
from benchmarks.data_path import aligned
from benchmarks.measure import Clock, Goal, Measure, Row, Taken, interleaved, missing_row, speed_row
from benchmarks.scale import Scale
from blobstore import AsyncBlob, AsyncBlobstore, Blobstore, UnsupportedError
from blobstore.units import KIB, MIB

_TASKS: Final = 32
_BLOCK: Final = 4 * KIB
_SIZE: Final = 256 * MIB
_YARDSTICK: Final = f"fio io_uring, depth {_TASKS}"

_LOOPS: Final[dict[str, Callable[[], asyncio.AbstractEventLoop]]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def rows(directory: Path, scale: Scale) -> Iterator[Row]:
    """Random reads in the page cache, and past it."""
    yield from _way_rows(directory, scale, scale.requests, Goal(0.55, 0.75), direct=False)
    try:
        yield from _way_rows(
            directory, scale, 10 * scale.direct_requests, Goal(0.75, 0.95), direct=True
        )
    except UnsupportedError as error:
        yield missing_row("32 tasks, direct", _YARDSTICK, why=error.message)


def _way_rows(
    directory: Path, scale: Scale, count: int, goal: Goal, *, direct: bool
) -> Iterator[Row]:
    way = "direct" if direct else "cached"
    path, blob_id, start = _full_blob(directory, direct=direct)
    job = fio.Job(path, "randread", _BLOCK, start, _SIZE, count, direct, depth=_TASKS)
    offsets = job.offsets()
    for name, loop in _LOOPS.items():
        with _OnLoop.opened(path, blob_id, loop, direct=direct) as ours:
            measures: list[Measure] = [partial(ours.taken, offsets)]
            measures += [job.taken] if fio.is_there() else []
            mine, *by_fio = interleaved(scale.rounds, measures)
        what = f"random 4 KiB read_into, {way}, {_TASKS} tasks of {name}"
        if by_fio:
            wanted = goal if name == "asyncio" else None
            yield speed_row(
                what, _YARDSTICK, ours=mine, yardstick=by_fio[0], goal=wanted, per="each"
            )
        else:
            yield missing_row(what, _YARDSTICK, why="no fio", ours=mine)
    path.unlink()


def _full_blob(directory: Path, *, direct: bool) -> tuple[Path, int, int]:
    """Make a store with one full blob in one piece; return where it begins in the file."""
    path = directory / "tasks.img"
    with Blobstore.create(path, size=2 * _SIZE, direct=direct) as store:
        blob = store.create_blob(_SIZE)
        for offset in range(0, _SIZE, MIB):
            blob.write(os.urandom(MIB), offset)
        ((first, _count),) = blob.info.extents
        return path, blob.id, first * store.cluster_size


@dataclass(frozen=True, slots=True)
class _OnLoop:
    """A blob on an event loop that runs when it is measured."""

    runner: asyncio.Runner
    blob: AsyncBlob
    buffers: list[memoryview]

    @classmethod
    @contextmanager
    def opened(
        cls,
        path: Path,
        blob_id: int,
        loop: Callable[[], asyncio.AbstractEventLoop],
        *,
        direct: bool,
    ) -> Iterator["_OnLoop"]:
        with asyncio.Runner(loop_factory=loop) as runner:
            store, blob = runner.run(_open(path, blob_id, direct=direct))
            yield cls(runner, blob, [aligned(_BLOCK) for _ in range(_TASKS)])
            runner.run(store.close())

    def taken(self, offsets: list[int]) -> Taken:
        """Read at all offsets, each task its part of them; return what a read took."""
        return self.runner.run(self._taken(offsets))

    async def _taken(self, offsets: list[int]) -> Taken:
        clock = Clock()
        async with asyncio.TaskGroup() as tasks:
            for number, buffer in enumerate(self.buffers):
                tasks.create_task(self._read(buffer, offsets[number::_TASKS]))
        return clock.per(len(offsets))

    async def _read(self, buffer: memoryview, offsets: list[int]) -> None:
        read_into = self.blob.read_into
        for offset in offsets:
            await read_into(buffer, offset)


async def _open(path: Path, blob_id: int, *, direct: bool) -> tuple[AsyncBlobstore, AsyncBlob]:
    store = await AsyncBlobstore.open(path, direct=direct)
    return store, await store.open_blob(blob_id)
