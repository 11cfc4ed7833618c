"""The io_uring of one store on an event loop.

What the tasks of one turn of the loop submit enters the kernel together: with one system call for
every `_HANDED_OVER_AT` requests, so that the device works while other tasks run, and one at the
beginning of the next turn. An eventfd wakes the loop when requests are complete.
"""

import asyncio
import contextlib
import errno
import itertools
from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

from blobstore.device.ring import Completed, Ring
from blobstore.errors import DeviceError

Done: TypeAlias = Callable[[int], None]
"""Called by the event loop with the result of a request: bytes, or a negative errno."""

_HANDED_OVER_AT: Final = 16


class EventLoopRing:
    """A ring on the event loop that is running in the calling thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make a ring.

        Raises:
            UnsupportedError: As `Ring`.
        """
        self._loop = loop
        self._ring = Ring()
        self._pending: dict[int, tuple[Done, memoryview | None]] = {}
        self._completed: deque[Completed] = deque()
        self._next_token = itertools.count().__next__
        self._is_due = False
        loop.add_reader(self._ring.eventfd(), self._turn)

    def submit(
        self,
        done: Done,
        operation: int,
        descriptor: int,
        offset: int = 0,
        address: int = 0,
        memory: memoryview | None = None,
        length: int = 0,
        flags: int = 0,
    ) -> None:
        """Submit a request with the next turn of the loop; `memory` is kept until it is done.

        The result is `-EAGAIN` if the ring is closed, because it has broken.
        """
        if not self._ring.is_open:
            self._loop.call_soon(done, -errno.EAGAIN)
            return
        token = self._next_token()
        self._pending[token] = done, memory
        self._ring.submit(token, operation, descriptor, offset, address, length, flags)
        if self._ring.waiting_count % _HANDED_OVER_AT == 0:  # more wait while the queue is full
            with contextlib.suppress(DeviceError):  # the next turn meets it again
                self._ring.hand_over()
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Hand over what was submitted, and end what is complete."""
        self._is_due = False
        if not self._ring.is_open:
            return
        try:
            completed = self._ring.turn()
        except DeviceError:
            self._give_up()
            return
        self._completed.extend(completed)
        try:
            while self._completed:
                token, result = self._completed.popleft()
                done, _memory = self._pending.pop(token)
                done(result)
        finally:
            if self._completed:  # the task of one of them ends the loop: the program may go on
                self._loop.call_soon(self._turn)

    def _give_up(self) -> None:
        """Let all requests fail; what the kernel has of them may still use their memory."""
        self._loop.remove_reader(self._ring.eventfd())
        _kept_for_ever.append(self._pending)
        pending, self._pending = list(self._pending.values()), {}
        self._completed.clear()
        self._ring.close()
        for done, _memory in pending:
            self._loop.call_soon(done, -errno.EIO)

    def close(self) -> None:
        """Wait for what is in flight, usually nothing, and close the ring."""
        if self._ring.is_open:
            with contextlib.suppress(RuntimeError):  # the loop was closed first
                self._loop.remove_reader(self._ring.eventfd())
            with contextlib.suppress(DeviceError):
                self._ring.drain()
            self._ring.close()


_kept_for_ever: list[object] = []
