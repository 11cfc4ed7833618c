"""Snapshots: what one takes, what a copy takes afterwards, and how both grow."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.counting import CountingDevice, Flushes, flushes_text
from benchmarks.curve import Axis, Curve, Series, transposed
from benchmarks.measure import (
    Clock,
    Goal,
    Measure,
    Row,
    Taken,
    interleaved,
    mean_of,
    speed_row,
)
from benchmarks.scale import Scale
from blobstore import Blob, Blobstore
from blobstore.testing.internals import core_of
from blobstore.units import GIB, KIB, MIB, ceil_div

_CLUSTER: Final = 64 * KIB
_BLOCK: Final = 4 * KIB
_CHAIN_CLUSTERS: Final = 512
_MANY: Final = 5  # times the rounds, of what takes a few milliseconds
_MD_PAGES: Final = 2_048


def snapshot_rows(directory: Path, scale: Scale) -> Iterator[Row]:
    """A durable snapshot of a full blob of 1 GiB, next to its flushes."""
    path = directory / "snapshot.img"
    with (
        Flushes(directory / "flushes") as flushes,
        CountingDevice.create(path, 2 * GIB) as device,
        Blobstore.create(device, cluster_size=_CLUSTER) as store,
        store.create_blob(GIB) as blob,
    ):
        device.write_all(core_of(store).geometry.metadata_end)
        before = device.flush_count
        snapshot = blob.snapshot()
        each = device.flush_count - before
        _delete(store, snapshot)
        ours, flush = interleaved(
            scale.rounds,
            [
                _snapshots_of(store, blob, scale.snapshots),
                lambda: flushes.taken(each * scale.snapshots),
            ],
        )
    path.unlink()
    yield speed_row(
        f"snapshot of 1 GiB, 64 KiB clusters, durable ({flushes_text(each)})",
        f"its {flushes_text(each)} alone: pwrite of a page + fdatasync",
        ours=ours,
        yardstick=_times(flush, each),
        goal=Goal(2, 1.3, at_most=True),
        per="each",
    )


def _snapshots_of(store: Blobstore, blob: Blob, count: int) -> Measure:
    """Snapshot and delete in turn; the deletion gives the blob its clusters back."""

    def measure() -> Taken:
        taken: list[Taken] = []
        for _ in range(count):
            clock = Clock()
            snapshot = blob.snapshot()
            taken.append(clock.per())
            _delete(store, snapshot)
        return mean_of(taken)

    return measure


def _delete(store: Blobstore, blob: Blob) -> None:
    blob_id = blob.id
    blob.close()
    store.delete_blob(blob_id)


def _times(taken: Taken, count: int) -> Taken:
    rounds = tuple(each * count for each in taken.rounds)
    return Taken(taken.seconds * count, (taken.cpu or 0) * count, rounds)


def copy_rows(directory: Path, scale: Scale) -> Iterator[Row]:
    """The first write to each cluster of a clone, next to reading and writing as much."""
    count = scale.copied_clusters
    path, plain_path = directory / "copy.img", directory / "copy.plain"
    data = os.urandom(_BLOCK)
    buffer = bytearray(MIB)
    with Blobstore.create(path, size=(2 * count + 64) * MIB, cluster_size=MIB) as store:
        base = store.create_blob(count * MIB)
        _fill(base, MIB)
        snapshot = base.snapshot()
        descriptor = os.open(plain_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        for number in range(count):
            os.pwrite(descriptor, os.urandom(MIB), number * MIB)

        def ours() -> Taken:
            with snapshot.clone() as clone:
                clock = Clock()
                for number in range(count):
                    clone.write(data, number * MIB)
                taken = clock.per(count)
            store.delete_blob(clone.id)
            return taken

        def plain() -> Taken:
            os.ftruncate(descriptor, count * MIB)
            os.ftruncate(descriptor, 2 * count * MIB)
            buffers = [buffer]
            clock = Clock()
            for number in range(count):
                os.preadv(descriptor, buffers, number * MIB)
                os.pwritev(descriptor, buffers, (count + number) * MIB)
            return clock.per(count)

        taken = interleaved(scale.rounds, [ours, plain])
        os.close(descriptor)
    path.unlink()
    plain_path.unlink()
    yield speed_row(
        "copy-on-write of 1 MiB, cached",
        "1 MiB preadv + 1 MiB pwritev",
        ours=taken[0],
        yardstick=taken[1],
        goal=Goal(0.85, 0.95),
        per="each",
    )


def _fill(blob: Blob, piece: int) -> None:
    for offset in range(0, blob.size, piece):
        blob.write(os.urandom(piece), offset)
    blob.flush()


def curves(directory: Path, scale: Scale) -> Iterator[Curve]:
    yield _by_extents(directory, scale)
    yield _by_depth(directory / "chain.img", scale)


def _by_extents(directory: Path, scale: Scale) -> Curve:
    points: list[tuple[float, ...]] = []
    for count in scale.extent_counts:
        small, alone = _snapshot_cpu(directory, _CLUSTER, count, scale)
        large, _alone = _snapshot_cpu(directory, MIB, count, scale)
        listed, _alone = _snapshot_cpu(directory, _CLUSTER, count, scale, extent_table=False)
        points.append((listed, small, large, alone))
    in_chain, small_ones, large_ones, flushes = transposed(points)
    return Curve(
        name="snapshot-by-extents",
        title="A durable snapshot, by the blob's extents",
        says="CPU only, as the disk's flushes vary more than the rest takes. Every other cluster is"
        " allocated.",
        x=Axis("extents", is_log=True),
        y=Axis("milliseconds of CPU", is_log=True),
        sizes=scale.extent_counts,
        series=(
            Series("64 KiB, no extent table", in_chain),
            Series("64 KiB clusters", small_ones),
            Series("1 MiB clusters", large_ones),
            Series("its flushes alone", flushes, is_reference=True),
        ),
    )


def _snapshot_cpu(
    directory: Path, cluster_size: int, count: int, scale: Scale, *, extent_table: bool = True
) -> tuple[float, float]:
    """Return the milliseconds of CPU of a snapshot, and of as many flushes."""
    path = directory / "extents.img"
    size = 2 * count * cluster_size
    with (
        Flushes(directory / "flushes") as flushes,
        CountingDevice.create(path, size + 256 * MIB) as device,
        Blobstore.create(device, cluster_size=cluster_size, md_pages=_MD_PAGES) as store,
        store.create_blob(size, thin=True, extent_table=extent_table) as blob,
    ):
        device.write_all(core_of(store).geometry.metadata_end)
        data = bytes(_BLOCK)
        for offset in range(0, size, 2 * cluster_size):
            blob.write(data, offset)
        blob.flush()
        before = device.flush_count
        snapshot = blob.snapshot()
        each = device.flush_count - before
        _delete(store, snapshot)
        few = ceil_div(scale.snapshots, 4)
        ours, flush = interleaved(
            scale.rounds,
            [_snapshots_of(store, blob, few), lambda: flushes.taken(each * few)],
        )
    path.unlink()
    return (ours.cpu or 0) * 1e3, (flush.cpu or 0) * each * 1e3


def _by_depth(path: Path, scale: Scale) -> Curve:
    points: list[tuple[float, ...]] = []
    size = _CHAIN_CLUSTERS * _CLUSTER
    with (
        Blobstore.create(path, size=4 * size, cluster_size=_CLUSTER) as store,
        store.create_blob(size, thin=True) as blob,
        store.create_blob(size) as own,
    ):
        _fill(blob, MIB)
        _fill(own, MIB)
        depth = 0
        for wanted in scale.depths:
            for _ in range(wanted - depth):
                blob.snapshot().close()
            depth = wanted
            taken = interleaved(
                _MANY * scale.rounds,
                [_reads(blob, store), _reads(blob), _reads(own)],
            )
            points.append(tuple(each.seconds * 1e6 for each in taken))
    path.unlink()
    first, again, beside = transposed(points)
    return Curve(
        name="read-by-depth",
        title="Reading 4 KiB through a chain of snapshots, by its length",
        says="The data are in the oldest snapshot; a cluster's owner is remembered after the"
        " first touch.",
        x=Axis("snapshots between the blob and its data"),
        y=Axis("microseconds for each read"),
        sizes=scale.depths,
        series=(
            Series("first touch", first),
            Series("touched before", again),
            Series("a cluster of its own", beside, is_reference=True),
        ),
    )


def _reads(blob: Blob, forgetful: Blobstore | None = None) -> Measure:
    """Read 4 KiB of each cluster; as for the first time with a store that forgets."""
    offsets = range(0, blob.size, _CLUSTER)
    buffer = bytearray(_BLOCK)

    def measure() -> Taken:
        if forgetful is not None:
            core_of(forgetful).forget_inherited()
        clock = Clock()
        for offset in offsets:
            blob.read_into(buffer, offset)
        return clock.per(len(offsets))

    return measure
