"""A disk, and a device beside it, on which one operation meets a fault."""

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from blobstore.errors import DeviceError
from blobstore.operations import Buffer
from blobstore.testing.expectation import BLOCK
from blobstore.testing.simulated_disk import SimulatedDisk

MOST_OPERATIONS: Final = 5000
"""No script takes nearly as many: who asks for more will never come to an end."""


class InterruptError(KeyboardInterrupt, Exception):
    """Ctrl-C in the middle of an operation, which the runner hands to the coroutine."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at the operation with number `at`; `is_after`: when it was done already."""

    kind: str
    at: int
    forever: bool = False
    is_after: bool = False

    def error_at(self, number: int, what: str, *, is_after: bool) -> Exception | None:
        """Return what is raised at this operation, or None."""
        hits = number >= self.at if self.forever else number == self.at
        if not hits or is_after != self.is_after:
            return None
        if self.kind == "I/O error":
            return DeviceError(f"simulated failure of operation {number}, a {what}")
        if self.kind == "host is full":
            return host_is_full(number) if what == "write" else None
        if self.kind == "no memory":
            return MemoryError(f"operation {number}, a {what}")
        assert self.kind == "interrupt"
        return InterruptError(f"operation {number}, a {what}")


def host_is_full(number: int) -> DeviceError:
    """Return what a device raises whose file has no room on the host."""
    cause = OSError(errno.ENOSPC, "no space left on device")
    error = DeviceError(f"simulated full host at operation {number}", errno=errno.ENOSPC)
    error.__cause__ = cause
    return error


class FaultyDisk(SimulatedDisk):
    """A disk with a fault; a write that fails leaves its first half behind."""

    fault: Fault | None = None
    count: int = 0

    @classmethod
    def like(cls, disk: SimulatedDisk) -> "FaultyDisk":
        """Return such a disk with the same content and traits."""
        return cls(
            disk.content,
            atomic_write_size=disk.traits.atomic_write_size,
            block_size=disk.traits.block_size,
            unmap_zeroes=disk.traits.unmap_zeroes,
        )

    @contextmanager
    def faulty(self, what: str, fail_half: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Let the fault strike before or after what is inside."""
        number = self.count
        self.count += 1
        assert number < MOST_OPERATIONS, "the core goes round in circles"
        fault = self.fault
        error = fault.error_at(number, what, is_after=False) if fault else None
        if error is not None:
            if isinstance(error, DeviceError):
                fail_half()
            raise error
        yield
        error = fault.error_at(number, what, is_after=True) if fault else None
        if error is not None:
            raise error

    def read(self, offset: int, length: int) -> bytes:
        with self.faulty("read"):
            return super().read(offset, length)

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        data = b"".join(bytes(buffer) for buffer in buffers)
        unit = self.traits.atomic_write_size
        half = data[: len(data) // unit // 2 * unit]
        with self.faulty("write", lambda: SimulatedDisk.write(self, offset, [half])):
            super().write(offset, [data])

    def unmap(self, offset: int, length: int) -> None:
        with self.faulty("unmap"):
            super().unmap(offset, length)

    def flush(self) -> None:
        with self.faulty("flush"):
            super().flush()


class Outside:
    """Another device than the store's, whose operations count with the disk's."""

    block_size = BLOCK

    def __init__(self, disk: FaultyDisk, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.content = bytearray(b"outside!" * (size_bytes // 8))
        self._disk = disk

    def read(self, offset: int, length: int) -> bytes:
        with self._disk.faulty("read"):
            return bytes(self.content[offset : offset + length])

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        for view in buffers:
            view[:] = self.read(offset, len(view))
            offset += len(view)

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        with self._disk.faulty("write"):
            data = b"".join(bytes(buffer) for buffer in buffers)
            self.content[offset : offset + len(data)] = data

    def write_zeroes(self, offset: int, length: int) -> None:
        self.write(offset, [bytes(length)])

    def unmap(self, offset: int, length: int) -> None:
        self.write(offset, [bytes(length)])

    def flush(self) -> None:
        with self._disk.faulty("flush"):
            pass
