"""What a driver that blocks asks of a device: calls that return when all of a request is done.

Offsets and lengths are bytes. Every call raises `DeviceError` when the device fails.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from blobstore.operations import Buffer


class Medium(Protocol):
    """What operations are performed on; the devices implement it."""

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes."""

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill the buffers one after the other."""

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write the buffers one after the other."""

    def write_zeroes(self, offset: int, length: int) -> None:
        """Make the range read as zeroes."""

    def unmap(self, offset: int, length: int) -> None:
        """Deallocate the range; what it reads as afterwards depends on the device."""

    def flush(self) -> None:
        """Make every completed write durable."""


@runtime_checkable
class CopyingMedium(Protocol):
    """A medium that can copy by itself."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Make the range at `target` hold what the one at `source` holds."""


@runtime_checkable
class SparseMedium(Protocol):
    """A medium that can have holes: ranges without space of their own, which read as zeroes."""

    def allocate(self, offset: int, length: int) -> None:
        """Give the range space, so that writes to it cannot fail for want of it."""

    def next_data(self, offset: int) -> int:
        """Return the first byte from `offset` on that is not in a hole, or the medium's end."""


class ReadableSource(Protocol):
    """An external source as this driver reads it: a device, or a blob of another store."""

    @property
    def size_bytes(self) -> int:
        """How much there is to read."""

    @property
    def block_size(self) -> int:
        """The unit in bytes that it is read in."""

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill the buffers one after the other."""
