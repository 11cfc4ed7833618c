"""How operations are performed beside an event loop, which must never wait for a device.

- A device that only copies memory is called at once (`Device.never_waits`).
- A read through the page cache is tried at once with `RWF_NOWAIT`: the kernel copies what it has
  in memory, or refuses.
- Everything else goes to a small pool of threads.

The order of operations is the core's. It asks for a `Flush` when everything that the flush is for
has completed, so the `fdatasync` begins after those completions.
"""

import asyncio
import errno
import os
from typing import Any

from blobstore.device.base import Device
from blobstore.drivers.completions import Completion
from blobstore.drivers.event_loop_threads import EventLoopThreads
from blobstore.drivers.perform import perform
from blobstore.operations import Operation, Read, ReadInto


class EventLoopIO:
    """Performs the operations of one store on the event loop that is running when this is made."""

    def __init__(self, device: Device) -> None:
        self.loop = asyncio.get_running_loop()
        self.at_once_count = 0
        self._device = device
        self._cached = device.fast_descriptor
        self.threads = EventLoopThreads(self.loop)

    def start(self, operation: Operation[Any]) -> Completion:
        """Begin an operation; where nothing has to be waited for, it is done on return."""
        if self._device.never_waits:
            return self._at_once(operation)
        if isinstance(operation, ReadInto) and len(operation.buffers) == 1:
            return self.read_into(operation.offset, operation.buffers[0])
        if isinstance(operation, Read):
            return self._read(operation)
        return self.threads.start(perform, self._device, operation)

    def read_into(self, offset: int, view: memoryview) -> Completion:
        """Begin to fill a buffer."""
        if self.read_cached(offset, view):
            return self._done(None)
        return self.threads.start(self._device.read_into, offset, [view])

    def write(self, offset: int, view: memoryview) -> Completion:
        """Begin to write a buffer."""
        if self._device.never_waits:
            self._device.write(offset, [view])
            return self._done(None)
        return self.threads.start(self._device.write, offset, [view])

    def read_cached(self, offset: int, view: memoryview) -> bool:
        """Fill a buffer with what the page cache holds; say whether all of it was there."""
        if self._cached is None:
            return False
        try:
            return os.preadv(self._cached, (view,), offset, os.RWF_NOWAIT) == view.nbytes
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                self._cached = None  # such a file system cannot tell
            return False

    def _read(self, operation: Read) -> Completion:
        buffer = bytearray(operation.length)
        if self.read_cached(operation.offset, memoryview(buffer)):
            return self._done(bytes(buffer))
        return self.threads.start(self._device.read, operation.offset, operation.length)

    def _at_once(self, operation: Operation[Any]) -> Completion:
        completion = Completion(self.loop)
        try:
            completion.finish(perform(self._device, operation))
        except BaseException as error:
            completion.fail(error)
        return completion

    def _done(self, value: object) -> Completion:
        completion = Completion(self.loop)
        completion.finish(value)
        return completion

    def close(self) -> None:
        """Close what performs operations; nothing may be in progress."""
        self._cached = None
        self.threads.close()
