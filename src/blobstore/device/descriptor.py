"""What files and block devices share: one open, locked descriptor (CRASH-SAFETY 3, "In Python").

The device owns the descriptor and its lock. Requests go through the page cache; `flush` is
`fdatasync`. Nothing here changes the size: bounds are checked before each write.
"""

import contextlib
import fcntl
import functools
import mmap
import os
import warnings
from collections.abc import Sequence
from typing import ClassVar, Final

from blobstore.device.base import Device, buffer_length, byte_views
from blobstore.device.forking import fork_lock, open_devices
from blobstore.device.opening import failure
from blobstore.device.ranges import whole_blocks
from blobstore.device.write_out import WriteOut
from blobstore.errors import DeviceError, UnsupportedError
from blobstore.operations import Buffer
from blobstore.units import KIB, MIB

_IOV_MAX: Final = os.sysconf("SC_IOV_MAX")
_ZEROES: Final = bytes(MIB)

_LARGE: Final = 256 * KIB
"""Smaller writes are left for the host to write out when it likes: they may be overwritten soon."""

_LEAST_ON_RING: Final = 16
"""Fewer cached reads are as fast by plain calls."""

# Up to here zeroes are written: as fast as asking for them, and a file keeps
# its reserved space where zeroing can only be had by a hole.
_WRITTEN_ZEROES_MAX: Final = 64 * KIB


class DescriptorDevice(Device):
    """A device below an open descriptor, locked while it is open.

    A writer holds an exclusive `flock`, a reader a shared one. The lock belongs
    to this one opening, so it also excludes others in this process.
    """

    _KIND: ClassVar[str]
    _is_cached: ClassVar[bool] = True

    def __init__(
        self,
        descriptor: int,
        *,
        name: str,
        block_size: int,
        physical_block_size: int | None = None,
        atomic_write_size: int,
        read_only: bool,
        unmap_zeroes: bool,
        zeroing_unit: int,
    ) -> None:
        """Take over an open and locked descriptor; zeroes are asked for in multiples of a unit."""
        super().__init__(
            name=name,
            size_bytes=self._ask_size(descriptor, name),
            block_size=block_size,
            physical_block_size=physical_block_size,
            atomic_write_size=atomic_write_size,
            read_only=read_only,
            unmap_zeroes=unmap_zeroes,
        )
        self._descriptor = descriptor
        self._owner = os.getpid()
        self._zeroing_unit = zeroing_unit
        self._mapping: mmap.mmap | None = None
        self._write_out = WriteOut(descriptor)
        open_devices.add(self)

    # The measures

    @property
    def fast_descriptor(self) -> int | None:
        return None if self._closed else self._descriptor

    def ring_descriptor(
        self, *, is_write: bool, offset_bits: int, address_bits: int, count: int
    ) -> int | None:
        """Return the descriptor for many cached reads.

        A host that cannot read without waiting (tmpfs), and every buffered write, would have
        each request carried out by a thread of the kernel.
        """
        if is_write or count < _LEAST_ON_RING or not self._reads_without_waiting:
            return None
        return self.fast_descriptor

    @functools.cached_property
    def _reads_without_waiting(self) -> bool:
        """Whether the host can tell that a read would have to wait."""
        try:
            os.preadv(self._descriptor, [bytearray(1)], 0, os.RWF_NOWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True

    def refresh_size(self) -> int:
        self.check_open()
        self._set_size(self._ask_size(self._descriptor, self.name))
        return self.size_bytes

    @staticmethod
    def _ask_size(descriptor: int, name: str) -> int:
        """Ask the host, by seeking to the end."""
        try:
            return os.lseek(descriptor, 0, os.SEEK_END)
        except OSError as error:
            raise failure(f"{name}: size", error) from error

    # Views of a mapped device. Reading mapped memory that the device has no more is a SIGBUS,
    # which ends the process. So the size is asked for before each use.

    @property
    def is_mapped(self) -> bool:
        return self._mapping is not None

    def map(self) -> None:
        self.check_open()
        try:
            self._mapping = mmap.mmap(self._descriptor, self.size_bytes, prot=mmap.PROT_READ)
        except (OSError, ValueError) as error:
            raise UnsupportedError(f"{self.name}: cannot be mapped into memory: {error}") from error

    def view(self, offset: int, length: int) -> memoryview:
        if self._mapping is None:
            return super().view(offset, length)
        self.check_read(offset, length)
        if self._ask_size(self._descriptor, self.name) < offset + length:
            raise self._ended_early("view", offset, length)
        return memoryview(self._mapping)[offset : offset + length]

    # Reading and writing: one call in nearly all cases, the rest in `_rest`

    def read(self, offset: int, length: int) -> bytes:
        self.check_read(offset, length)
        try:
            data = os.pread(self._descriptor, length, offset)
        except OSError as error:
            raise self._request_failure("read", offset, length, error) from error
        if len(data) == length:
            return data
        rest = bytearray(length - len(data))
        self._read_rest(offset + len(data), [memoryview(rest)])
        return data + rest

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        first = buffers
        if len(buffers) == 1:
            length = buffers[0].nbytes
        else:
            length = buffer_length(buffers)
            first = buffers[:_IOV_MAX]
        if not 0 <= offset <= self._read_limit - length:
            self._refuse_read(offset, length)
        try:
            done = os.preadv(self._descriptor, first, offset)
        except OSError as error:
            raise self._request_failure("read", offset, length, error) from error
        if done != length:
            self._read_rest(offset + done, _views_after(byte_views(buffers), done))

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        first = buffers
        if len(buffers) == 1:
            buffer = buffers[0]
            length = buffer.nbytes if type(buffer) is memoryview else len(buffer)
        else:
            length = buffer_length(buffers)
            first = buffers[:_IOV_MAX]
        if not 0 <= offset <= self._write_limit - length:
            self._refuse_write(offset, length)
        try:
            done = os.pwritev(self._descriptor, first, offset)
        except OSError as error:
            raise self._request_failure("write", offset, length, error) from error
        if done != length:
            self._write_rest(offset + done, _views_after(byte_views(buffers), done))
        if length >= _LARGE and self._is_cached:
            self._write_out.add(length)

    def _read_rest(self, offset: int, views: list[memoryview]) -> None:
        while views:
            try:
                done = os.preadv(self._descriptor, views[:_IOV_MAX], offset)
            except OSError as error:
                raise self._request_failure("read", offset, buffer_length(views), error) from error
            if done == 0:
                raise self._ended_early("read", offset, buffer_length(views))
            offset += done
            views = _views_after(views, done)

    def _write_rest(self, offset: int, views: list[memoryview]) -> None:
        while views:
            try:
                done = os.pwritev(self._descriptor, views[:_IOV_MAX], offset)
            except OSError as error:
                raise self._request_failure("write", offset, buffer_length(views), error) from error
            if done == 0:
                raise DeviceError(
                    f"{self.name}: write at {offset}: 0 bytes written, "
                    f"expected {buffer_length(views)}"
                )
            offset += done
            views = _views_after(views, done)

    def _ended_early(self, what: str, offset: int, length: int) -> DeviceError:
        """Say that the device is shorter than it was: zeroes in its place would be a lie."""
        found = self._ask_size(self._descriptor, self.name)
        return DeviceError(
            f"{self.name}: {what} of {length} bytes at {offset}: "
            f"{self._KIND} of {found} bytes found, expected {self.size_bytes}"
        )

    def _request_failure(self, what: str, offset: int, length: int, error: OSError) -> DeviceError:
        return failure(f"{self.name}: {what} of {length} bytes at {offset}", error)

    # Zeroes: whole units are asked for, what is left at the edges is written

    def write_zeroes(self, offset: int, length: int) -> None:
        self.check_write(offset, length)
        start, end = self._whole_units(offset, length)
        if end - start <= _WRITTEN_ZEROES_MAX or not self._ask_zeroes(start, end - start):
            self._write_zero_bytes(offset, offset + length)
        else:
            self._write_zero_bytes(offset, start)
            self._write_zero_bytes(end, offset + length)

    def unmap(self, offset: int, length: int) -> None:
        self.check_write(offset, length)
        start, end = self._whole_units(offset, length)
        is_done = end > start and self._ask_unmap(start, end - start)
        if not self.unmap_zeroes:
            return
        if not is_done:
            start = end = offset + length
        self._write_zero_bytes(offset, start)
        self._write_zero_bytes(end, offset + length)

    def _whole_units(self, offset: int, length: int) -> tuple[int, int]:
        """Return where the whole units inside the range start and end."""
        return whole_blocks(offset, offset + length, self._zeroing_unit)

    def _ask_zeroes(self, offset: int, length: int) -> bool:
        """Zero whole units the host's way, or say that it has none."""
        return False

    def _ask_unmap(self, offset: int, length: int) -> bool:
        """Give whole units back, or say that the host cannot."""
        return False

    def _write_zero_bytes(self, offset: int, end: int) -> None:
        while offset < end:
            part = min(end - offset, len(_ZEROES))
            self.write(offset, [memoryview(_ZEROES)[:part]])
            offset += part

    # Durability

    def flush(self) -> None:
        """Make every completed write durable, by `fdatasync`.

        After a failure the kernel forgets which pages it could not write, and
        the next flush may succeed without them: the caller must not try again.

        Durability: on return.

        Raises:
            DeviceError: The host failed.
            ClosedError: The device was closed.
        """
        self.check_open()
        if self.read_only:
            return
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise failure(f"{self.name}: flush", error) from error

    # The end

    def close(self) -> None:
        with fork_lock:
            if self._closed:
                return
            super().close()
            self._unmap()
            self._unlock()
            try:
                os.close(self._descriptor)
            except OSError as error:
                raise failure(f"{self.name}: close", error) from error

    def _unmap(self) -> None:
        """Give the mapping back; while there are views, it stays for them."""
        mapping, self._mapping = self._mapping, None
        if mapping is not None:
            with contextlib.suppress(BufferError):
                mapping.close()

    def _unlock(self) -> None:
        """Unlock before closing: a child between fork and exec has a copy that would stay locked.

        A forked child does not unlock: the child shares the lock, which belongs to its parent.
        """
        if os.getpid() == self._owner:
            with contextlib.suppress(OSError):  # closing unlocks as well
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and hasattr(self, "_descriptor"):
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self.close()


def _views_after(views: list[memoryview], done: int) -> list[memoryview]:
    """Drop the first `done` bytes, and empty views with them."""
    rest: list[memoryview] = []
    for view in views:
        if done < len(view):
            rest.append(view[done:])
        done = max(0, done - len(view))
    return rest
