"""Rows of the data path: single requests, sequential ones, first writes to thin clusters."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import fio
from benchmarks.measure import Goal, Row, interleaved, speed_row
from blobstore import Blob, Blobstore
from blobstore.units import KIB, MIB

_SIZE: Final = 256 * MIB
_THIN_CLUSTER: Final = 64 * KIB


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    rounds: int = 5
    requests: int = 200_000
    large_requests: int = 2_000
    thin_clusters: int = 1_024
    durable_calls: int = 200
    metadata_pages: int = 100_000
    blobs: int = 10_000


QUICK: Final = Scale(
    rounds=3,
    requests=40_000,
    large_requests=500,
    thin_clusters=256,
    durable_calls=40,
    metadata_pages=20_000,
    blobs=2_000,
)


@dataclass(frozen=True, slots=True)
class Warm:
    """A blob whose clusters lie one after the other in the file, from `start` on."""

    path: Path
    blob: Blob
    descriptor: int
    start: int


@contextmanager
def warm_blob(directory: Path) -> Iterator[Warm]:
    """Make a store with one full blob, all of it in the page cache."""
    path = directory / "data.img"
    with ExitStack() as stack:
        store = stack.enter_context(Blobstore.create(path, size=2 * _SIZE))
        blob = stack.enter_context(store.create_blob(_SIZE))
        for offset in range(0, _SIZE, MIB):
            blob.write(os.urandom(MIB), offset)
        blob.flush()
        (first, count), *rest = blob.info().extents
        if rest or count != _SIZE // store.cluster_size:
            raise AssertionError("the blob is not in one piece")
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, descriptor)
        yield Warm(path, blob, descriptor, first * store.cluster_size)
    path.unlink()


def random_rows(warm: Warm, scale: Scale) -> Iterator[Row]:
    """Random 4 KiB, one at a time, in the page cache."""
    block = 4 * KIB
    yield from _read_rows(warm, scale.requests, block, scale.rounds, Goal(0.75, 0.85), random=True)
    yield from _write_rows(warm, scale.requests, block, scale.rounds, Goal(0.90, 1.0), random=True)


def sequential_rows(warm: Warm, scale: Scale) -> Iterator[Row]:
    """1 MiB after another, in the page cache."""
    goal = Goal(0.95, 1.1)
    yield from _read_rows(warm, scale.large_requests, MIB, scale.rounds, goal, random=False)
    yield from _write_rows(warm, scale.large_requests, MIB, scale.rounds, goal, random=False)


def _read_rows(
    warm: Warm, count: int, block: int, rounds: int, goal: Goal, *, random: bool
) -> Iterator[Row]:
    job = fio.Job(warm.path, "randread" if random else "read", block, warm.start, _SIZE, count)
    offsets = job.offsets()
    places = [warm.start + offset for offset in offsets]
    buffer = bytearray(block)

    def ours() -> float:
        read_into = warm.blob.read_into
        begin = time.perf_counter()
        for offset in offsets:
            read_into(buffer, offset)
        return (time.perf_counter() - begin) / len(offsets)

    def plain() -> float:
        preadv, descriptor, buffers = os.preadv, warm.descriptor, [buffer]
        begin = time.perf_counter()
        for place in places:
            preadv(descriptor, buffers, place)
        return (time.perf_counter() - begin) / len(places)

    taken = interleaved(rounds, [ours, plain, job.seconds_per_request])
    what = f"{'random' if random else 'sequential'} {_size_name(block)} read_into, cached"
    yield speed_row(what, "fio psync", ours=taken[0], yardstick=taken[2], goal=goal, per="each")
    yield speed_row(
        what, "os.preadv, a plain file", ours=taken[0], yardstick=taken[1], goal=None, per="each"
    )


def _write_rows(
    warm: Warm, count: int, block: int, rounds: int, goal: Goal, *, random: bool
) -> Iterator[Row]:
    job = fio.Job(warm.path, "randwrite" if random else "write", block, warm.start, _SIZE, count)
    offsets = job.offsets()
    places = [warm.start + offset for offset in offsets]
    data = os.urandom(block)

    def ours() -> float:
        write = warm.blob.write
        begin = time.perf_counter()
        for offset in offsets:
            write(data, offset)
        return (time.perf_counter() - begin) / len(offsets)

    def plain() -> float:
        pwrite, descriptor = os.pwrite, warm.descriptor
        begin = time.perf_counter()
        for place in places:
            pwrite(descriptor, data, place)
        return (time.perf_counter() - begin) / len(places)

    taken = interleaved(rounds, [ours, plain, job.seconds_per_request])
    what = f"{'random' if random else 'sequential'} {_size_name(block)} write, allocated, cached"
    yield speed_row(what, "fio psync", ours=taken[0], yardstick=taken[2], goal=goal, per="each")
    yield speed_row(
        what, "os.pwrite, a plain file", ours=taken[0], yardstick=taken[1], goal=None, per="each"
    )


def thin_rows(directory: Path, scale: Scale) -> Iterator[Row]:
    """The first write to each cluster, and one flush; new sparse files every time."""
    size = scale.thin_clusters * _THIN_CLUSTER
    offsets = range(0, size, _THIN_CLUSTER)
    data = os.urandom(_THIN_CLUSTER)
    path = directory / "thin.img"

    def ours() -> float:
        path.unlink(missing_ok=True)
        with (
            Blobstore.create(path, size=size + 64 * MIB, cluster_size=_THIN_CLUSTER) as store,
            store.create_blob(size, thin=True) as blob,
        ):
            begin = time.perf_counter()
            for offset in offsets:
                blob.write(data, offset)
            blob.flush()
            return (time.perf_counter() - begin) / len(offsets)

    def plain() -> float:
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, size + 64 * MIB)
            begin = time.perf_counter()
            for offset in offsets:
                os.pwrite(descriptor, data, offset)
            os.fdatasync(descriptor)
            return (time.perf_counter() - begin) / len(offsets)
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


def _size_name(size: int) -> str:
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"
