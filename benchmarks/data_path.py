"""Rows of the data path: single requests, sequential ones, first writes to thin clusters."""

import mmap
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import fio
from benchmarks.measure import Clock, Goal, Measure, Row, Taken, interleaved, missing_row, speed_row
from benchmarks.scale import Scale
from blobstore import Blob, Blobstore, UnsupportedError
from blobstore.units import KIB, MIB

SIZE: Final = 256 * MIB
_BLOCK: Final = 4 * KIB
_THIN_CLUSTER: Final = 64 * KIB


@dataclass(frozen=True, slots=True)
class Warm:
    """A blob whose clusters lie one after the other in the file, from `start` on."""

    path: Path
    store: Blobstore
    blob: Blob
    descriptor: int
    start: int
    direct: bool

    @property
    def way(self) -> str:
        return "direct" if self.direct else "cached"


@dataclass(frozen=True, slots=True)
class Requests:
    """How many requests of which size, and how fast they must be."""

    name: str
    block: int
    count: int
    rounds: int
    goal: Goal

    @property
    def is_random(self) -> bool:
        return self.name.startswith("random")


def cached_rows(directory: Path, scale: Scale) -> Iterator[Row]:
    """Random 4 KiB and 1 MiB after another, one at a time, in the page cache."""
    count, large, rounds = scale.requests, scale.large_requests, scale.rounds
    with warm_blob(directory, direct=False) as warm:
        small = "random 4 KiB"
        yield from _read_rows(warm, Requests(small, _BLOCK, count, rounds, Goal(0.7, 0.8)))
        yield from _write_rows(warm, Requests(small, _BLOCK, count, rounds, Goal(0.90, 1.0)))
        wanted = Requests("sequential 1 MiB", MIB, large, rounds, Goal(0.95, 1.1))
        yield from _read_rows(warm, wanted)
        yield from _write_rows(warm, wanted)


def clone_rows(directory: Path, scale: Scale) -> Iterator[Row]:
    """Random 4 KiB of what a clone inherits, touched before, beside reads of the ancestor."""
    with warm_blob(directory, direct=False) as warm, warm.blob.snapshot() as snapshot:
        job = fio.Job(warm.path, "randread", _BLOCK, warm.start, SIZE, scale.requests, False)
        offsets = job.offsets()
        buffer = bytearray(_BLOCK)
        warm.blob.read(warm.blob.size)

        def reads_of(blob: Blob) -> Taken:
            read_into = blob.read_into
            clock = Clock()
            for offset in offsets:
                read_into(buffer, offset)
            return clock.per(len(offsets))

        measures = [partial(reads_of, warm.blob), partial(reads_of, snapshot)]
        ours, own = interleaved(scale.rounds, measures)
        yield speed_row(
            "random 4 KiB read_into, cached, in a clone: an ancestor's clusters, touched before",
            "a cluster of its own",
            ours=ours,
            yardstick=own,
            goal=Goal(0.8, 1.0),
            per="each",
        )


def direct_rows(directory: Path, scale: Scale) -> Iterator[Row]:
    """Random 4 KiB, one at a time, past the page cache."""
    wanted = Requests("random 4 KiB", _BLOCK, scale.direct_requests, scale.rounds, Goal(0.95, 1.0))
    try:
        with warm_blob(directory, direct=True) as warm:
            yield from _read_rows(warm, wanted)
            yield from _write_rows(warm, wanted)
    except UnsupportedError as error:
        yield missing_row("random 4 KiB, direct", "fio psync", why=error.message)


@contextmanager
def warm_blob(directory: Path, *, direct: bool) -> Iterator[Warm]:
    """Make a store with one full blob; without `direct` all of it is in the page cache."""
    path = directory / "data.img"
    with ExitStack() as stack:
        store = stack.enter_context(Blobstore.create(path, size=2 * SIZE, direct=direct))
        stack.callback(path.unlink)
        blob = stack.enter_context(store.create_blob(SIZE))
        for offset in range(0, SIZE, MIB):
            blob.write(os.urandom(MIB), offset)
        blob.flush()
        (first, count), *rest = blob.info.extents
        if rest or count != SIZE // store.cluster_size:
            raise AssertionError("the blob is not in one piece")
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_DIRECT if direct else 0)
        descriptor = os.open(path, flags)
        stack.callback(os.close, descriptor)
        yield Warm(path, store, blob, descriptor, first * store.cluster_size, direct)


def _read_rows(warm: Warm, wanted: Requests) -> Iterator[Row]:
    mode = "randread" if wanted.is_random else "read"
    job = fio.Job(warm.path, mode, wanted.block, warm.start, SIZE, wanted.count, warm.direct)
    offsets = job.offsets()
    places = [warm.start + offset for offset in offsets]
    buffer = aligned(wanted.block) if warm.direct else bytearray(wanted.block)

    def ours() -> Taken:
        read_into = warm.blob.read_into
        clock = Clock()
        for offset in offsets:
            read_into(buffer, offset)
        return clock.per(len(offsets))

    def plain() -> Taken:
        preadv, descriptor, buffers = os.preadv, warm.descriptor, [buffer]
        clock = Clock()
        for place in places:
            preadv(descriptor, buffers, place)
        return clock.per(len(places))

    what = f"{wanted.name} read_into, {warm.way}"
    yield from _compared(what, "os.preadv", wanted, job, ours, plain)


def _write_rows(warm: Warm, wanted: Requests) -> Iterator[Row]:
    mode = "randwrite" if wanted.is_random else "write"
    job = fio.Job(warm.path, mode, wanted.block, warm.start, SIZE, wanted.count, warm.direct)
    offsets = job.offsets()
    places = [warm.start + offset for offset in offsets]
    data = os.urandom(wanted.block)
    source = _aligned_copy(data) if warm.direct else data

    def ours() -> Taken:
        write = warm.blob.write
        clock = Clock()
        for offset in offsets:
            write(source, offset)
        return clock.per(len(offsets))

    def plain() -> Taken:
        pwrite, descriptor = os.pwrite, warm.descriptor
        clock = Clock()
        for place in places:
            pwrite(descriptor, source, place)
        return clock.per(len(places))

    what = f"{wanted.name} write, allocated, {warm.way}"
    yield from _compared(what, "os.pwrite", wanted, job, ours, plain)


def _compared(
    what: str, call: str, wanted: Requests, job: fio.Job, ours: Measure, plain: Measure
) -> Iterator[Row]:
    """Measure next to fio, if it is there, and next to the bare call."""
    measures = [ours, plain, job.taken] if fio.is_there() else [ours, plain]
    mine, bare, *by_fio = interleaved(wanted.rounds, measures)
    goal = wanted.goal
    if by_fio:
        yield speed_row(what, "fio psync", ours=mine, yardstick=by_fio[0], goal=goal, per="each")
    else:
        yield missing_row(what, "fio psync", why="no fio", ours=mine)
    yield speed_row(what, f"a loop of {call}", ours=mine, yardstick=bare, goal=None, per="each")


def aligned(size: int) -> memoryview:
    """Return memory that direct I/O takes."""
    return memoryview(mmap.mmap(-1, size))


def _aligned_copy(data: bytes) -> memoryview:
    memory = aligned(len(data))
    memory[:] = data
    return memory


def thin_rows(directory: Path, scale: Scale) -> Iterator[Row]:
    """The first write to each cluster, and one flush; new sparse files every time."""
    size = scale.thin_clusters * _THIN_CLUSTER
    offsets = range(0, size, _THIN_CLUSTER)
    data = os.urandom(_THIN_CLUSTER)
    path = directory / "thin.img"

    def ours() -> Taken:
        path.unlink(missing_ok=True)
        with (
            Blobstore.create(path, size=size + 64 * MIB, cluster_size=_THIN_CLUSTER) as store,
            store.create_blob(size, thin=True) as blob,
        ):
            clock = Clock()
            for offset in offsets:
                blob.write(data, offset)
            blob.flush()
            return clock.per(len(offsets))

    def plain() -> Taken:
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, size + 64 * MIB)
            clock = Clock()
            for offset in offsets:
                os.pwrite(descriptor, data, offset)
            os.fdatasync(descriptor)
            return clock.per(len(offsets))
        finally:
            os.close(descriptor)

    taken = interleaved(scale.rounds, [ours, plain])
    path.unlink()
    yield speed_row(
        "first write to thin clusters (64 KiB), one flush",
        "one pwrite each, one fdatasync",
        ours=taken[0],
        yardstick=taken[1],
        goal=Goal(0.7, 0.9),
        per="each",
    )
