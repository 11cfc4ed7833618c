"""Streams of snapshots: a whole one next to reading its clusters, and differences by their size."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.curve import Axis, Curve, Series, transposed
from benchmarks.measure import Clock, Goal, Measure, Row, Taken, interleaved, speed_row
from benchmarks.scale import Scale
from blobstore import Blob, Blobstore
from blobstore.backup import send, take_snapshot
from blobstore.units import GIB, KIB, MIB

_CLUSTER: Final = 64 * KIB
_MD_PAGES: Final = 2_048


def rows(directory: Path, scale: Scale) -> Iterator[Row]:
    """A whole stream that is not compressed, next to reading the same clusters."""
    path = directory / "stream.img"
    size = scale.stream_mib * MIB
    with (
        Blobstore.create(path, size=size + 256 * MIB, cluster_size=_CLUSTER) as store,
        store.create_blob(size, thin=True) as blob,
    ):
        _write_random(blob, 0, size)
        with take_snapshot(blob) as snapshot:
            ours, read = interleaved(scale.rounds, [_sent(snapshot), _clusters_read(snapshot)])
    path.unlink()
    yield speed_row(
        f"full stream of a snapshot of {scale.stream_mib} MiB, not compressed, to /dev/null",
        "reading its clusters, 1 MiB at a time",
        ours=ours,
        yardstick=read,
        goal=Goal(0.7, 0.9),
        per="each",
    )


def _write_random(blob: Blob, offset: int, length: int) -> None:
    for at in range(offset, offset + length, MIB):
        blob.write(os.urandom(min(MIB, offset + length - at)), at)
    blob.flush()


def _sent(snapshot: Blob, base: Blob | None = None) -> Measure:
    def measure() -> Taken:
        with open(os.devnull, "wb", buffering=0) as nowhere:
            clock = Clock()
            send(snapshot, nowhere, base=base, level=0)
            return clock.per()

    return measure


def _clusters_read(snapshot: Blob) -> Measure:
    buffer = bytearray(MIB)

    def measure() -> Taken:
        clock = Clock()
        for offset in range(0, snapshot.size, MIB):
            snapshot.read_into(buffer, offset)
        return clock.per()

    return measure


def curves(directory: Path, scale: Scale) -> Iterator[Curve]:
    """What a difference takes, by how much changed, in a small and in a large blob."""
    points: list[tuple[float, ...]] = []
    for changed in scale.changed_mib:
        points.append(
            tuple(
                _difference(directory / "difference.img", blob_size, changed, scale)
                for blob_size in (GIB, 16 * GIB)
            )
        )
    small, large = transposed(points)
    yield Curve(
        name="stream-by-change",
        title="A stream of what differs between two snapshots, by how much differs",
        says="Not compressed, to /dev/null. The size of the blob does not matter: a hundredth of"
        " each is allocated, and only what differs is read.",
        x=Axis("MiB changed", is_log=True),
        y=Axis("milliseconds", is_log=True),
        sizes=scale.changed_mib,
        series=(Series("blob of 1 GiB", small), Series("blob of 16 GiB", large)),
    )


def _difference(path: Path, blob_size: int, changed_mib: int, scale: Scale) -> float:
    """Return the milliseconds that a difference takes."""
    with (
        Blobstore.create(
            path, size=blob_size, cluster_size=_CLUSTER, md_pages=_MD_PAGES, overwrite=True
        ) as store,
        store.create_blob(blob_size, thin=True) as blob,
    ):
        for offset in range(0, blob_size, 100 * _CLUSTER):
            blob.write(b"old", offset)
        with take_snapshot(blob) as base:
            _write_random(blob, 0, changed_mib * MIB)
            with take_snapshot(blob) as snapshot:
                (taken,) = interleaved(scale.rounds, [_sent(snapshot, base)])
    path.unlink()
    return taken.seconds * 1e3
