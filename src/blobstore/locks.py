"""Waiting inside the core: a queue, a mutex, and a flush that several share.

All of it is built on `Park`. State changes only between awaits, so none of it
needs a lock of its own.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Self

from blobstore.operations import Park, Wakeup


async def park(waiting: deque[Wakeup]) -> None:
    """Wait in the queue until fired; leave it again when the wait is broken off."""
    wakeup = Wakeup()
    waiting.append(wakeup)
    try:
        await Park(wakeup)
    except BaseException:
        if not wakeup.fired:
            waiting.remove(wakeup)
        raise


def fire_all(waiting: deque[Wakeup]) -> None:
    """Let all that wait look again."""
    while waiting:
        waiting.popleft().fire()


class Mutex:
    """One holder at a time, in the order of arrival; use with `async with`."""

    def __init__(self) -> None:
        self.held = False
        self._waiting: deque[Wakeup] = deque()

    async def __aenter__(self) -> Self:
        while self.held:
            await self._park()
        self.held = True
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.held = False
        self._wake_next()

    async def _park(self) -> None:
        try:
            await park(self._waiting)
        except BaseException:
            if not self.held:
                self._wake_next()
            raise

    def _wake_next(self) -> None:
        if self._waiting:
            self._waiting.popleft().fire()


class SharedFlush:
    """Flushes the device once for all that ask at about the same time.

    A flush serves the calls that came before it began. `flush_once` does one.
    """

    def __init__(self, flush_once: Callable[[], Awaitable[None]]) -> None:
        self._flush_once = flush_once
        self._begun = 0
        self._done = 0
        self._running = False
        self._waiting: deque[Wakeup] = deque()

    async def __call__(self) -> None:
        """Return when a flush that began after this call has ended well."""
        wanted = self._begun + 1
        while self._done < wanted:
            if self._running:
                await park(self._waiting)
            else:
                await self._run()

    async def _run(self) -> None:
        self._running = True
        self._begun += 1
        try:
            await self._flush_once()
            self._done = self._begun
        finally:
            self._running = False
            fire_all(self._waiting)
