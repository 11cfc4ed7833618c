"""How operations are performed beside an event loop, which must never wait for a device.

- A device that only copies memory is called at once (`Device.never_waits`).
- A read through the page cache is tried at once with `RWF_NOWAIT`: the kernel copies what it has
  in memory, or refuses.
- Reads, writes and flushes that may wait go to an io_uring.
- Everything else goes to a small pool of threads, and all where there is no ring or no
  descriptor. What comes back from the ring short or with an error is done again there: the
  device's own call finishes the request, or knows the error. Only a flush is never done
  again, because the kernel forgets what it could not write.

The order of operations is the core's. It asks for a `Flush` when everything that the flush is for
has completed, so the `fdatasync` begins after those completions.
"""

import asyncio
import errno
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from blobstore.device.base import Device, buffer_length, byte_views
from blobstore.device.bounce import Cursor
from blobstore.device.opening import failure
from blobstore.device.ring import FDATASYNC, FSYNC, READ, WRITE, address_of
from blobstore.drivers.completions import Completion
from blobstore.drivers.event_loop_ring import EventLoopRing
from blobstore.drivers.event_loop_threads import EventLoopThreads
from blobstore.drivers.perform import perform
from blobstore.errors import UnsupportedError
from blobstore.operations import Buffer, Flush, Operation, Read, ReadInto, Write

_NO_DESCRIPTOR: Final = -1
_PAGE: Final = 4096
_COPIED_MAX: Final = 64 * 1024
"""The ring cannot take all buffers; up to this many bytes are copied into one that it takes."""
_MANY: Final = 1 << 20
"""What the device is told about the number of requests, which is not known beforehand."""


class EventLoopIO:
    """Performs the operations of one store on the event loop that is running when this is made.

    `cached` is a descriptor whose page cache can be read without waiting, or None;
    `at_once_count` how many requests of the data path were answered from there.
    """

    def __init__(self, device: Device) -> None:
        self.loop = asyncio.get_running_loop()
        self.at_once_count = 0
        self.threads = EventLoopThreads(self.loop)
        self._device = device
        self.cached = device.fast_descriptor
        self._ring_descriptor = _NO_DESCRIPTOR if self.cached is None else self.cached
        self._offset_mask = self._address_mask = 0
        if self.cached is None:
            self._ring_descriptor = _ask_ring_descriptor(device)
            self._offset_mask = _refused_bits(lambda bit: _ask_ring_descriptor(device, offset=bit))
            self._address_mask = _refused_bits(
                lambda bit: _ask_ring_descriptor(device, address=bit)
            )
        self._ring = None if self._ring_descriptor == _NO_DESCRIPTOR else _make_ring(self.loop)

    def start(self, operation: Operation[Any]) -> Completion:
        """Begin an operation; where nothing has to be waited for, it is done on return."""
        try:
            return self._start(operation)
        except BaseException as error:  # those that were begun with it are waited for first
            completion = Completion()
            completion.fail(error)
            return completion

    def _start(self, operation: Operation[Any]) -> Completion:
        if self._device.never_waits:
            return _done(perform(self._device, operation))
        if isinstance(operation, ReadInto) and len(operation.buffers) == 1:
            return self._read(Completion(), operation.offset, operation.buffers[0])
        if isinstance(operation, Read):
            buffer = self.buffer(operation.length)
            return self._read(CompletionOfBytes(buffer), operation.offset, buffer)
        if isinstance(operation, Write):
            return self._write(operation.offset, operation.buffers)
        if isinstance(operation, Flush):
            return self._flush()
        return self.threads.start(perform, self._device, operation)

    # Reading

    def buffer(self, length: int) -> memoryview:
        """Return memory to read into, such as the device takes without a copy."""
        return _aligned(length) if self._address_mask else memoryview(bytearray(length))

    def read_into(self, offset: int, view: memoryview) -> Completion:
        """Begin to fill a buffer."""
        if self._device.never_waits:
            return _done(self._device.read_into(offset, [view]))
        return self._read(Completion(), offset, view)

    def _read(self, completion: Completion, offset: int, view: memoryview) -> Completion:
        if self.cached is not None and self._read_cached(self.cached, offset, view):
            completion.finish()
        elif not self._read_on_ring(completion, offset, view):
            self._read_in_thread(completion, offset, view)
        return completion

    def _read_cached(self, descriptor: int, offset: int, view: memoryview) -> bool:
        """Fill a buffer with what the page cache holds; say whether all of it was there."""
        try:
            return os.preadv(descriptor, (view,), offset, os.RWF_NOWAIT) == view.nbytes
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                self.cached = None  # such a file system cannot tell
            return False

    def _read_in_thread(self, completion: Completion, offset: int, view: memoryview) -> None:
        self.threads.begin(completion, partial(self._device.read_into, offset, [view]))

    def _read_on_ring(self, completion: Completion, offset: int, view: memoryview) -> bool:
        """Read on the ring, if there is one that takes the request."""
        length = view.nbytes
        if self._ring is None or (offset | length) & self._offset_mask or not length:
            return False
        self._device.check_read(offset, length)
        memory, address = view, address_of(view)
        if address & self._address_mask:
            if length > _COPIED_MAX:
                return False
            memory = _aligned(length)
            address = address_of(memory)

        def done(count: int) -> None:
            if count != length:
                self._read_in_thread(completion, offset, view)
                return
            if memory is not view:
                view[:] = memory
            completion.finish()

        self._ring.submit(done, READ, self._ring_descriptor, offset, address, memory, length)
        return True

    # Writing

    def write(self, offset: int, view: memoryview) -> Completion:
        """Begin to write a buffer."""
        if self._device.never_waits:
            return _done(self._device.write(offset, [view]))
        return self._write(offset, [view])

    def _write(self, offset: int, buffers: Sequence[Buffer]) -> Completion:
        completion = Completion()
        if not self._write_on_ring(completion, offset, buffers):
            self._write_in_thread(completion, offset, buffers)
        return completion

    def _write_in_thread(
        self, completion: Completion, offset: int, buffers: Sequence[Buffer]
    ) -> None:
        self.threads.begin(completion, partial(self._device.write, offset, buffers))

    def _write_on_ring(
        self, completion: Completion, offset: int, buffers: Sequence[Buffer]
    ) -> bool:
        """Write on the ring, if there is one that takes the request."""
        length = buffer_length(buffers)
        if self._ring is None or (offset | length) & self._offset_mask or not length:
            return False
        self._device.check_write(offset, length)
        memory = _one_writable(buffers)
        address = 0 if memory is None else address_of(memory)
        if memory is None or address & self._address_mask:
            if length > _COPIED_MAX:
                return False
            memory = _aligned(length)
            address = address_of(memory)
            Cursor(byte_views(buffers)).fill(memory)
        release = self._device.try_hold_blocks(offset, offset + length)
        if release is None:
            return False

        def done(count: int) -> None:
            release()
            if count == length:
                completion.finish()
            else:
                self._write_in_thread(completion, offset, buffers)

        self._ring.submit(done, WRITE, self._ring_descriptor, offset, address, memory, length)
        return True

    # Flushing

    def _flush(self) -> Completion:
        if self._ring is None or self._device.read_only:
            return self.threads.start(self._device.flush)
        self._device.check_open()
        completion = Completion()

        def done(result: int) -> None:
            if result == -errno.EAGAIN:  # the kernel had no memory to begin
                self.threads.begin(completion, self._device.flush)
            elif result < 0:
                completion.fail(failure(f"{self._device.name}: flush", OSError(-result, "")))
            else:
                completion.finish()

        self._ring.submit(done, FSYNC, self._ring_descriptor, flags=FDATASYNC)
        return completion

    def close(self) -> None:
        """Close what performs operations; nothing may be in progress."""
        self.cached = None
        self.threads.close()
        if self._ring is not None:
            self._ring.close()


class CompletionOfBytes(Completion):
    """A read whose result is the content of its buffer."""

    __slots__ = ("_buffer",)

    def __init__(self, buffer: memoryview) -> None:
        super().__init__()
        self._buffer = buffer

    def finish(self, value: Any = None) -> None:
        super().finish(bytes(self._buffer))


def _done(value: object) -> Completion:
    completion = Completion()
    completion.finish(value)
    return completion


def _make_ring(loop: asyncio.AbstractEventLoop) -> EventLoopRing | None:
    try:
        return EventLoopRing(loop)
    except UnsupportedError:
        return None


def _ask_ring_descriptor(device: Device, offset: int = 0, address: int = 0) -> int:
    descriptor = device.ring_descriptor(
        is_write=True, offset_bits=offset, address_bits=address, count=_MANY
    )
    return _NO_DESCRIPTOR if descriptor is None else descriptor


def _refused_bits(descriptor_for: Callable[[int], int]) -> int:
    """Return the bits of an offset or an address that a device does not take."""
    return sum(bit for bit in _BITS if descriptor_for(bit) == _NO_DESCRIPTOR)


_BITS: Final = [1 << number for number in range(16)]


def _one_writable(buffers: Sequence[Buffer]) -> memoryview | None:
    """Return the memory of the only buffer, if its address can be asked for."""
    view = memoryview(buffers[0]).cast("B")
    return None if len(buffers) > 1 or view.readonly else view


def _aligned(length: int) -> memoryview:
    """Return memory that begins at a page, as direct I/O may need it."""
    memory = memoryview(bytearray(length + _PAGE))
    start = -address_of(memory) % _PAGE
    return memory[start : start + length]
