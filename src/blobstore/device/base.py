"""The common part of all devices: size and units, bounds checks, and closing.

A device is a `Medium` with a size. Requests may come from several threads at
once; `close` and `resize` may not run beside requests, which the store sees to.
"""

import abc
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import ClassVar, Final, Self

from blobstore.errors import ClosedError, InvalidArgumentError, ReadOnlyError, UnsupportedError
from blobstore.operations import Buffer

SECTOR_SIZE: Final = 512
_SIZE_MAX: Final = 2**63 - 1  # what an offset of the host can express
_NOTHING: Final = -1


class Device(abc.ABC):
    """A medium with a size, which can be closed.

    Attributes:
        name: For messages, such as the path.
        block_size: The logical block in bytes.
        physical_block_size: The block in bytes that the device handles best.
        atomic_write_size: An aligned write of this many bytes is never torn by a power failure.
        read_only: Every change is refused.
        unmap_zeroes: An unmapped range is guaranteed to read as zeroes.
        is_sparse: Writing can need space that is not there: `allocate` asks for it beforehand.
        needs_undo_path: The content outlives the process, and there is no directory beside it: a
            repair must be told where its undo file goes.
        never_waits: Every call only copies memory, so that an event loop may make it.
    """

    is_sparse: ClassVar[bool] = False
    needs_undo_path: ClassVar[bool] = False
    never_waits: ClassVar[bool] = False

    def __init__(
        self,
        *,
        name: str,
        size_bytes: int,
        block_size: int = SECTOR_SIZE,
        physical_block_size: int | None = None,
        atomic_write_size: int = SECTOR_SIZE,
        read_only: bool = False,
        unmap_zeroes: bool = False,
    ) -> None:
        self._closed = False
        self.name = name
        self.block_size = _checked_block(block_size, what="block size")
        self.physical_block_size = physical_block_size or block_size
        self.atomic_write_size = _checked_block(atomic_write_size, what="atomic write size")
        self.read_only = read_only
        self.unmap_zeroes = unmap_zeroes
        self._set_size(checked_size(size_bytes, name=name))

    # The measures

    @property
    def size_bytes(self) -> int:
        """The size, as it was when last asked for."""
        return self._size_bytes

    @property
    def has_fixed_size(self) -> bool:
        """Whether `resize` always refuses."""
        return type(self).resize is Device.resize

    @property
    def closed(self) -> bool:
        """Whether the device was closed."""
        return self._closed

    @property
    def fast_descriptor(self) -> int | None:
        """A file descriptor for `os.preadv` and `os.pwritev`, or None.

        Its users check bounds, `read_only` and short results themselves, and forget
        the number when the device is closed or the process has forked.
        """
        return None

    def ring_descriptor(
        self, *, is_write: bool, offset_bits: int, address_bits: int, count: int
    ) -> int | None:
        """Return a descriptor for `count` requests on an io_uring, or None if a ring is no gain.

        `offset_bits` are the bits that are set in any offset or length, `address_bits` those
        in any address of memory. The user of the descriptor does as with `fast_descriptor`, and
        keeps `hold_blocks` while the device is written.
        """
        return None

    def hold_blocks(self, start: int, end: int) -> AbstractContextManager[None]:
        """Let no other request change a block of the range in part, while the `with` lasts."""
        return nullcontext()

    def try_hold_blocks(self, start: int, end: int) -> Callable[[], None] | None:
        """Do as `hold_blocks` if that need not wait; return what ends it, or None."""
        return _nothing

    @property
    def is_mapped(self) -> bool:
        """Whether `view` shows the device's own bytes."""
        return False

    def map(self) -> None:
        """Map a read-only device into memory, for `view`.

        Raises:
            UnsupportedError: This kind of device cannot be mapped, or the host refused.
            ClosedError: The device was closed.
        """
        self.check_open()
        raise UnsupportedError(f"{self.name}: a device that cannot be mapped into memory")

    def view(self, offset: int, length: int) -> memoryview:
        """Return a read-only view of a mapped device's own bytes.

        Raises:
            UnsupportedError: The device is not mapped.
            DeviceError: The device is shorter than it was.
            InvalidArgumentError, ClosedError: As `check_read`.
        """
        self.check_read(offset, length)
        raise UnsupportedError(f"{self.name}: not mapped into memory: open it with mapped=True")

    def refresh_size(self) -> int:
        """Ask for the size again, and return it.

        Raises:
            ClosedError: The device was closed.
            DeviceError: The size could not be asked for.
        """
        self.check_open()
        return self._size_bytes

    def resize(self, size: int) -> None:
        """Give the device `size` bytes; what is added reads as zeroes.

        Durability: The new size is durable on return.

        Raises:
            UnsupportedError: This kind of device has a fixed size.
        """
        self.check_resize(size)
        raise UnsupportedError(f"{self.name}: a device of fixed size")

    def allocate(self, offset: int, length: int) -> None:
        """Reserve the space below the range, so that later writes to it cannot fail for want of it.

        The content stays. A device that always has its space has nothing to do.

        Raises:
            DeviceFullError: There is no space.
            DeviceError: The device failed.
        """
        self.check_write(offset, length)

    def next_data(self, offset: int) -> int:
        """Return the first byte from `offset` on that is not in a hole, or the device's size.

        What lies in between reads as zeroes. A device that knows of no holes returns `offset`, as
        every device does beyond its end.

        Raises:
            ClosedError: The device was closed.
            DeviceError: The device failed.
        """
        self.check_open()
        return offset

    # The medium

    @abc.abstractmethod
    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes.

        Raises:
            DeviceError: The device failed. Also what `check_read` raises.
        """

    @abc.abstractmethod
    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill the buffers, which are contiguous, one after the other.

        Raises:
            BlobstoreError: As `read`.
        """

    @abc.abstractmethod
    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write the buffers, which are contiguous, one after the other.

        Durability: with the next `flush`.

        Raises:
            DeviceError: The device failed. Also what `check_write` raises.
        """

    @abc.abstractmethod
    def write_zeroes(self, offset: int, length: int) -> None:
        """Make `length` bytes at `offset` read as zeroes.

        Durability: with the next `flush`.

        Raises:
            BlobstoreError: As `write`.
        """

    @abc.abstractmethod
    def unmap(self, offset: int, length: int) -> None:
        """Deallocate `length` bytes at `offset`; they read as zeroes where `unmap_zeroes` says so.

        Raises:
            BlobstoreError: As `write`.
        """

    @abc.abstractmethod
    def flush(self) -> None:
        """Make every completed write durable.

        Durability: on return.

        Raises:
            DeviceError: The device failed; it is unknown which writes are durable.
            ClosedError: The device was closed.
        """

    # The end

    def close(self) -> None:
        """Close what is below, without flushing it; calling it again does nothing.

        Raises:
            DeviceError: The host failed.
        """
        self._closed = True
        self._read_limit = self._write_limit = _NOTHING

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self._size_bytes} bytes"
        return f"<{type(self).__name__} {self.name!r} {state}>"

    # The bounds

    def check_open(self) -> None:
        """Refuse to go on when the device was closed.

        Raises:
            ClosedError: It was.
        """
        if self._closed:
            raise ClosedError(f"{self.name}: closed")

    def check_read(self, offset: int, length: int) -> None:
        """Refuse a read that cannot be right.

        Raises:
            ClosedError: The device was closed.
            InvalidArgumentError: The range is not inside the device.
        """
        if length < 0 or not 0 <= offset <= self._read_limit - length:
            self._refuse_read(offset, length)

    def check_write(self, offset: int, length: int) -> None:
        """Refuse a change that cannot be right.

        Raises:
            ClosedError: The device was closed.
            ReadOnlyError: The device may not be changed.
            InvalidArgumentError: The range is not inside the device.
        """
        if length < 0 or not 0 <= offset <= self._write_limit - length:
            self._refuse_write(offset, length)

    def check_resize(self, size: int) -> None:
        """Refuse a new size that cannot be right.

        Raises:
            ClosedError: The device was closed.
            ReadOnlyError: The device may not be changed.
            InvalidArgumentError: The size is negative, or larger than a file can be.
        """
        self.check_open()
        self._check_changeable()
        checked_size(size, name=self.name)

    def _refuse_read(self, offset: int, length: int) -> None:
        self.check_open()
        raise InvalidArgumentError(
            f"{self.name}: {length} bytes at {offset}: outside of {self._size_bytes} bytes"
        )

    def _refuse_write(self, offset: int, length: int) -> None:
        self.check_open()
        self._check_changeable()
        self._refuse_read(offset, length)

    def _check_changeable(self) -> None:
        if self.read_only:
            raise ReadOnlyError(f"{self.name}: opened read-only")

    # Closed, read-only and out of bounds are one comparison on the way of
    # every request: these limits are below zero for what is not allowed.

    def _set_size(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._read_limit = size_bytes
        self._write_limit = _NOTHING if self.read_only else size_bytes


def _nothing() -> None:
    return None


def buffer_length(buffers: Sequence[Buffer]) -> int:
    """Count the bytes in all buffers; a view's items may be larger than one."""
    length = 0
    for buffer in buffers:
        length += buffer.nbytes if type(buffer) is memoryview else len(buffer)
    return length


def byte_views(buffers: Sequence[Buffer]) -> list[memoryview]:
    """Look at every buffer as plain bytes."""
    return [memoryview(buffer).cast("B") for buffer in buffers]


def checked_size(size: int, *, name: str) -> int:
    """Refuse a size that no device can have."""
    if not 0 <= size <= _SIZE_MAX:
        raise InvalidArgumentError(f"{name}: size {size}: expected 0 to {_SIZE_MAX}")
    return size


def _checked_block(size: int, *, what: str) -> int:
    if size < SECTOR_SIZE or size & (size - 1):
        raise InvalidArgumentError(f"{what} {size}: expected a power of two, at least 512")
    return size
