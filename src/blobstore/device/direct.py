"""Direct I/O: requests that go past the page cache, whatever their offset, length and memory.

A request of whole blocks in aligned memory is one system call on that memory.
All others are copied through aligned memory, in pieces. If a write covers a
block in part, the block is read first, and no other request may change the
block meanwhile (`ranges`). So a sector outside the request is only ever
rewritten as it is, and a power cut cannot change that sector.

Writes past the page cache are in the device's own cache: `flush` is as necessary
as ever. The page cache and direct I/O are never mixed on one device.
"""

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar, Final

from blobstore.device.alignment import Alignment, alignment_of
from blobstore.device.base import buffer_length, byte_views
from blobstore.device.bounce import BOUNCE_SIZE, Bounce, Cursor
from blobstore.device.descriptor import DescriptorDevice
from blobstore.device.opening import failure
from blobstore.device.ranges import BlockRanges, covering_blocks, partial_blocks
from blobstore.errors import InvalidArgumentError, UnsupportedError
from blobstore.operations import Buffer

# Memory counts as aligned until the host refuses some. Then this many addresses are
# checked first. The check costs every request what a refusal costs one.
_SUSPICION: Final = 1000

_address: Final = ctypes.addressof
_from_buffer: Final = ctypes.c_char.from_buffer


class DirectRequests(DescriptorDevice):
    """Put before another class of descriptor device, makes its requests direct.

    There is no fast descriptor: a writer that used one would not know which blocks
    are being changed, and could not use memory that is not aligned.
    """

    _is_cached: ClassVar[bool] = False

    def _start_direct(self, descriptor: int, name: str) -> None:
        """Switch the descriptor over, before the device takes its size.

        Raises:
            UnsupportedError: There is no direct I/O.
        """
        alignment = start_direct(descriptor, name)
        self._unit = alignment.offset
        self._unit_mask = alignment.offset - 1
        self._memory_mask = alignment.memory - 1
        self._ranges = BlockRanges()
        self._suspicion = 0

    # The measures

    @property
    def fast_descriptor(self) -> int | None:
        return None

    def ring_descriptor(
        self, *, is_write: bool, offset_bits: int, address_bits: int, count: int
    ) -> int | None:
        if offset_bits & self._unit_mask or address_bits & self._memory_mask or count == 1:
            return None
        return super().fast_descriptor

    def map(self) -> None:
        self.check_open()
        raise UnsupportedError(f"{self.name}: direct I/O goes past what could be mapped")

    def hold_blocks(self, start: int, end: int) -> AbstractContextManager[None]:
        return self._ranges.hold(start, end)

    def try_hold_blocks(self, start: int, end: int) -> Callable[[], None] | None:
        return self._ranges.try_hold(start, end)

    def check_resize(self, size: int) -> None:
        super().check_resize(size)
        self._check_reachable(size)

    def _set_size(self, size_bytes: int) -> None:
        self._check_reachable(size_bytes)
        super()._set_size(size_bytes)

    def _check_reachable(self, size: int) -> None:
        """Refuse a last block that only a change of the size could write."""
        if size & self._unit_mask:
            raise InvalidArgumentError(
                f"size {size}: expected a multiple of {self._unit} for direct I/O"
            )

    # Reading

    def read(self, offset: int, length: int) -> bytes:
        self.check_read(offset, length)
        with Bounce() as bounce:
            if not (offset | length) & self._unit_mask and length <= BOUNCE_SIZE:
                piece = bounce[:length]
                super().read_into(offset, [piece])
                return bytes(piece)
            return b"".join([bytes(part) for part in self._read_parts(bounce, offset, length)])

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        if len(buffers) == 1 and self._read_as_it_is(offset, buffers[0]):
            return
        if self._passes(offset, buffers):
            super().read_into(offset, buffers)
            return
        length = buffer_length(buffers)
        self.check_read(offset, length)
        cursor = Cursor(byte_views(buffers))
        with Bounce() as bounce:
            for part in self._read_parts(bounce, offset, length):
                cursor.drain(part)

    def _read_as_it_is(self, offset: int, buffer: memoryview) -> bool:
        """Read whole blocks into memory that may be aligned; say whether it was done."""
        length = buffer.nbytes
        if (
            (offset | length) & self._unit_mask
            or not 0 <= offset <= self._read_limit - length
            or (self._suspicion and self._is_suspect(buffer))
        ):
            return False
        try:
            return os.preadv(self._descriptor, (buffer,), offset) == length
        except OSError as error:
            self._suspect_memory("read", offset, length, error)
            return False

    def _read_parts(self, bounce: memoryview, offset: int, length: int) -> Iterator[memoryview]:
        """Read piece by piece; yield what was asked for of each."""
        for start, end in self._pieces(offset, offset + length):
            piece = bounce[: end - start]
            super().read_into(start, [piece])
            yield piece[max(offset - start, 0) : offset + length - start]

    def _read_rest(self, offset: int, views: list[memoryview]) -> None:
        if offset & self._unit_mask:  # only its end can cut a device in the middle of a block
            raise self._ended_early("read", offset, buffer_length(views))
        super()._read_rest(offset, views)

    # Writing

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        if len(buffers) == 1 and self._write_as_it_is(offset, buffers[0]):
            return
        if self._passes(offset, buffers):
            with self._ranges.hold(offset, offset + buffer_length(buffers)):
                super().write(offset, buffers)
            return
        length = buffer_length(buffers)
        self.check_write(offset, length)
        if (offset | length) & self._unit_mask or length > BOUNCE_SIZE:
            self._write_bounced(offset, buffers, length)
            return
        with Bounce() as bounce:
            piece = bounce[:length]
            Cursor(byte_views(buffers)).fill(piece)
            if not self._write_as_it_is(offset, piece):
                self._write_bounced(offset, [piece], length)

    def _write_as_it_is(self, offset: int, buffer: Buffer) -> bool:
        """Write whole blocks of memory that may be aligned; say whether it was done.

        The common case, so `hold` is spelled out here.
        """
        if type(buffer) is not memoryview:
            return False
        end = offset + buffer.nbytes
        if (
            buffer.readonly
            or (offset | end) & self._unit_mask
            or not 0 <= offset <= end <= self._write_limit
            or (self._suspicion and self._is_suspect(buffer))
        ):
            return False
        ranges = self._ranges
        number = ranges.number()
        try:
            ranges.requests[number] = (offset, end, ())
            if ranges.partial_count:
                ranges.wait_for_turn(number)
            return os.pwritev(self._descriptor, (buffer,), offset) == end - offset
        except OSError as error:
            self._suspect_memory("write", offset, end - offset, error)
            return False
        finally:
            ranges.requests.pop(number, None)
            if ranges.partial_count:
                ranges.wake()

    def _write_bounced(self, offset: int, buffers: Sequence[Buffer], length: int) -> None:
        """Write blocks of which one or two are covered in part, or more than the memory holds."""
        cursor = Cursor(byte_views(buffers))
        stop = offset + length
        with (
            self._ranges.hold(*self._covering(offset, stop), self._edges(offset, stop)),
            Bounce() as bounce,
        ):
            for start, end in self._pieces(offset, stop):
                piece = bounce[: end - start]
                part = slice(max(offset - start, 0), min(stop, end) - start)
                self._fill_edges(start, piece, part)
                cursor.fill(piece[part])
                super().write(start, [piece])

    def _fill_edges(self, start: int, piece: memoryview, part: slice) -> None:
        """Read the blocks of the piece of which only a part is written."""
        for edge in self._edges(start + part.start, start + part.stop):
            at = edge - start
            super().read_into(edge, [piece[at : at + self._unit]])

    # Zeroes

    def _ask_zeroes(self, offset: int, length: int) -> bool:
        with self._ranges.hold(offset, offset + length):
            return super()._ask_zeroes(offset, length)

    def _ask_unmap(self, offset: int, length: int) -> bool:
        with self._ranges.hold(offset, offset + length):
            return super()._ask_unmap(offset, length)

    # Blocks

    def _covering(self, start: int, end: int) -> tuple[int, int]:
        """Return where the blocks that the range touches start and end."""
        return covering_blocks(start, end, self._unit)

    def _edges(self, start: int, end: int) -> tuple[int, ...]:
        """Return the blocks that the range covers in part: none, one or two."""
        return partial_blocks(start, end, self._unit)

    def _pieces(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Cut the blocks that the range touches into pieces that the memory has room for."""
        if start == end:
            return
        start, end = self._covering(start, end)
        for at in range(start, end, BOUNCE_SIZE):
            yield at, min(at + BOUNCE_SIZE, end)

    def _suspect_memory(self, what: str, offset: int, length: int, error: OSError) -> None:
        """Take note that the host did not like the memory, if that is what it says."""
        if error.errno != errno.EINVAL:
            raise self._request_failure(what, offset, length, error) from error
        self._suspicion = _SUSPICION

    def _is_suspect(self, buffer: memoryview) -> bool:
        """Look at the address, as the host refused one lately."""
        self._suspicion -= 1
        return not self._passes(0, (buffer,))

    def _passes(self, offset: int, buffers: Sequence[Buffer]) -> bool:
        """Tell whether the host takes the request as it is: whole blocks of aligned memory.

        The address of memory that may not be written cannot be asked for
        cheaply; it is nearly always inside a `bytes`, and those are not aligned.
        """
        unit_mask, memory_mask = self._unit_mask, self._memory_mask
        if offset & unit_mask:
            return False
        for buffer in buffers:
            if isinstance(buffer, bytes):
                return False
            view = buffer if isinstance(buffer, memoryview) else memoryview(buffer)
            if view.readonly or view.nbytes & unit_mask or not view.nbytes:
                return False
            if _address(_from_buffer(view)) & memory_mask:
                return False
        return True


def start_direct(descriptor: int, name: str) -> Alignment:
    """Let the descriptor's requests go past the page cache; return what they must look like.

    Raises:
        UnsupportedError: The host cannot.
        DeviceError: The host refused.
    """
    alignment = alignment_of(descriptor)
    try:
        if alignment is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise UnsupportedError(f"{name}: no direct I/O here") from error
        raise failure(f"{name}: direct I/O", error) from error
    return alignment
