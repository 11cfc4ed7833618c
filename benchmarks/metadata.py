"""Rows of the metadata path: durable calls, opening a store, memory, the command line."""

import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks.data_path import Scale
from benchmarks.images import ManyBlobs, root_offsets, write_dirty_image
from benchmarks.measure import Goal, Row, interleaved, speed_row
from blobstore import Blobstore
from blobstore.device.base import Device
from blobstore.device.file import FileDevice
from blobstore.operations import Buffer
from blobstore.units import KIB, MIB, PageIndex

_PAGE: Final = 4 * KIB
_READ: Final = 1 * MIB
_PLACES: Final = 1024


class CountingDevice(Device):
    """Passes everything on to another device, and counts how often it is flushed."""

    def __init__(self, inner: Device) -> None:
        super().__init__(
            name=inner.name,
            size_bytes=inner.size_bytes,
            block_size=inner.block_size,
            atomic_write_size=inner.atomic_write_size,
            unmap_zeroes=inner.unmap_zeroes,
        )
        self._inner = inner
        self.flush_count = 0

    def allocate(self, offset: int, length: int) -> None:
        self._inner.allocate(offset, length)

    def read(self, offset: int, length: int) -> bytes:
        return self._inner.read(offset, length)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        self._inner.read_into(offset, buffers)

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        self._inner.write(offset, buffers)

    def write_zeroes(self, offset: int, length: int) -> None:
        self._inner.write_zeroes(offset, length)

    def unmap(self, offset: int, length: int) -> None:
        self._inner.unmap(offset, length)

    def flush(self) -> None:
        self.flush_count += 1
        self._inner.flush()

    def close(self) -> None:
        super().close()
        self._inner.close()


def durable_rows(directory: Path, scale: Scale) -> Iterator[Row]:
    """Metadata calls that are durable on return, by the flush, on pages written before."""
    with (
        CountingDevice(FileDevice.create(directory / "durable.img", 512 * MIB)) as device,
        Blobstore.create(device, cluster_size=64 * KIB, md_pages=32_768) as store,
    ):
        blob = store.create_blob("1MiB", thin=True)
        _write_all(device, store.state.geometry.metadata_end)

        def create() -> None:
            store.create_blob("1MiB", thin=True).close()

        def set_and_sync() -> None:
            blob.set_xattr("name", b"%d" % device.flush_count)
            blob.sync_md()

        yield from _durable_row("create_blob, thin", create, device, scale)
        yield from _durable_row("set_xattr + sync_md", set_and_sync, device, scale)
    os.unlink(directory / "durable.img")


def _write_all(device: Device, end: int) -> None:
    """Write the region once as it is: space that was only reserved is slower to make durable."""
    for offset in range(0, end, _READ):
        length = min(_READ, end - offset)
        device.write(offset, [device.read(offset, length)])
    device.flush()


def _durable_row(
    what: str, call: Callable[[], None], device: CountingDevice, scale: Scale
) -> Iterator[Row]:
    plain = os.open(f"{device.name}.plain", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    os.pwrite(plain, os.urandom(_PLACES * _PAGE), 0)
    os.fdatasync(plain)
    page = os.urandom(_PAGE)

    def ours() -> float:
        before = device.flush_count
        begin = time.perf_counter()
        for _ in range(scale.durable_calls):
            call()
        return (time.perf_counter() - begin) / (device.flush_count - before)

    def yardstick() -> float:
        begin = time.perf_counter()
        for number in range(scale.durable_calls):
            os.pwrite(plain, page, number % _PLACES * _PAGE)
            os.fdatasync(plain)
        return (time.perf_counter() - begin) / scale.durable_calls

    before = device.flush_count
    call()
    flushes = device.flush_count - before
    taken = interleaved(scale.rounds, [ours, yardstick])
    os.close(plain)
    os.unlink(f"{device.name}.plain")
    yield speed_row(
        f"{what} ({flushes} flushes)" if flushes > 1 else f"{what} (1 flush)",
        "pwrite + fdatasync, per flush",
        ours=taken[0],
        yardstick=taken[1],
        goal=Goal(0.85, 0.95),
        per="per flush",
    )


def opening_rows(directory: Path, scale: Scale) -> Iterator[Row]:
    """Recovery of a store that was not unloaded, then the clean open of the same."""
    path = directory / "many.img"
    wanted = ManyBlobs(scale.blobs, scale.metadata_pages)
    geometry = write_dirty_image(path, wanted)
    begin, end = geometry.page_offset(PageIndex(0)), geometry.metadata_end
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    buffer = bytearray(_READ)

    def read_region() -> float:
        start = time.perf_counter()
        for offset in range(begin, end, _READ):
            os.preadv(descriptor, [memoryview(buffer)[: end - offset]], offset)
        return time.perf_counter() - start

    taken = interleaved(scale.rounds, [lambda: _open_once(path, wanted), read_region])
    yield speed_row(
        f"recovery, {wanted.page_count} metadata pages, {wanted.blob_count} blobs, cached",
        "reading the region, 1 MiB at a time",
        ours=taken[0],
        yardstick=taken[1],
        goal=Goal(0.4, 0.7),
        per="in all",
    )

    Blobstore.open(path).close()
    offsets = root_offsets(wanted)

    def read_roots() -> float:
        start = time.perf_counter()
        for offset in offsets:
            os.pread(descriptor, _PAGE, offset)
        return time.perf_counter() - start

    taken = interleaved(scale.rounds, [lambda: _open_once(path, wanted), read_roots])
    yield speed_row(
        f"clean open, {wanted.blob_count} blobs, cached",
        "reading their root pages, one at a time",
        ours=taken[0],
        yardstick=taken[1],
        goal=Goal(0.3, 1.0),
        per="in all",
    )
    yield from _memory_rows(path, wanted)
    os.close(descriptor)
    path.unlink()


def _open_once(path: Path, wanted: ManyBlobs) -> float:
    begin = time.perf_counter()
    store = Blobstore.open(path, read_only=True)
    taken = time.perf_counter() - begin
    found = store.state.used_ids.count()
    store.close()
    if found != wanted.blob_count or store.errors:
        raise AssertionError(f"{found} blobs, expected {wanted.blob_count}")
    return taken


def _memory_rows(path: Path, wanted: ManyBlobs) -> Iterator[Row]:
    """What an open blob takes, by what Python allocated for a thousand of them."""
    with Blobstore.open(path, read_only=True) as store:
        ids = store.blob_ids()[:1001]
        kept = [store.open_blob(ids.pop())]
        tracemalloc.start()
        before, _peak = tracemalloc.get_traced_memory()
        kept += [store.open_blob(blob_id) for blob_id in ids]
        after, _peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    each = (after - before) / len(ids)
    allowed = KIB + 4 * wanted.clusters_per_blob
    yield Row(
        f"memory per open blob of {wanted.clusters_per_blob} clusters",
        "1 KiB + 4 bytes per cluster",
        f"{each:.0f} bytes",
        f"{allowed} bytes",
        each / allowed,
        Goal(1.0, at_most=True),
    )


def startup_rows(scale: Scale) -> Iterator[Row]:
    """The command line's start."""
    command = Path(sys.executable).with_name("blobstore")
    if not _runs([str(command), "--version"]):
        yield Row("blobstore --version", "python -c pass", "not there yet", "")
        return
    taken = interleaved(
        2 * scale.rounds,
        [
            lambda: _time_of([str(command), "--version"]),
            lambda: _time_of([sys.executable, "-c", "pass"]),
        ],
    )
    row = speed_row(
        "blobstore --version",
        "python -c pass",
        ours=taken[0],
        yardstick=taken[1],
        goal=Goal(6, 4, at_most=True),
        per="each",
    )
    yield Row(row.work, row.compared_with, row.ours, row.yardstick, taken[0] / taken[1], row.goal)


def _runs(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _time_of(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - begin
