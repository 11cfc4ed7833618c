"""A device that counts its flushes, and what as many of them take by themselves."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

from benchmarks.measure import Clock, Taken
from blobstore.device.base import Device
from blobstore.device.file import FileDevice
from blobstore.operations import Buffer
from blobstore.units import KIB, MIB

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

    @classmethod
    def create(cls, path: Path, size: int) -> "CountingDevice":
        return cls(FileDevice.create(path, size))

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

    def write_all(self, end: int) -> None:
        """Write what lies before `end` as it is: space only reserved is slower to make durable."""
        for offset in range(0, end, _READ):
            length = min(_READ, end - offset)
            self.write(offset, [self.read(offset, length)])
        self.flush()


class Flushes:
    """A plain file of pages written before, for one `pwrite` and one `fdatasync` after another."""

    def __init__(self, path: Path) -> None:
        self._page = os.urandom(_PAGE)
        with ExitStack() as stack:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
            stack.callback(path.unlink)
            stack.callback(os.close, self._descriptor)
            os.pwrite(self._descriptor, os.urandom(_PLACES * _PAGE), 0)
            os.fdatasync(self._descriptor)
            self._end = stack.pop_all()

    def taken(self, count: int) -> Taken:
        """Return what one of `count` took."""
        clock = Clock()
        for number in range(count):
            os.pwrite(self._descriptor, self._page, number % _PLACES * _PAGE)
            os.fdatasync(self._descriptor)
        return clock.per(count)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.close()


def flushes_text(count: int) -> str:
    return "1 flush" if count == 1 else f"{count} flushes"
