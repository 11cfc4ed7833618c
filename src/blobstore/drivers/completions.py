"""The result of something that is under way on an event loop."""

import asyncio
from typing import Any


class Completion:
    """What becomes of one request; one task at a time waits for it.

    It is no future, because whoever cancels a task cancels the future that the task waits
    for. A request that was handed over cannot be cancelled: it ends when it ends.
    """

    __slots__ = ("_failure", "_value", "_waiter", "is_done")

    def __init__(self) -> None:
        self.is_done = False
        self._failure: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None

    def finish(self, value: Any = None) -> None:
        """End with a result."""
        self._value = value
        self.is_done = True
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def fail(self, failure: BaseException) -> None:
        """End with an exception."""
        self._failure = failure
        self.finish()

    def wait(self, loop: asyncio.AbstractEventLoop) -> "asyncio.Future[None]":
        """Return a future of the running loop that is done when this is."""
        self._waiter = waiter = loop.create_future()
        return waiter

    def result(self) -> Any:
        """Return the result, or raise the exception that it ended with."""
        if self._failure is not None:
            failure, self._failure = self._failure, None  # a traceback holds its frames
            raise failure
        return self._value
