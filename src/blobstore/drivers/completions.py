"""The result of something that is under way on an event loop."""

import asyncio
import contextvars
from collections.abc import Callable, Generator
from typing import Any


class Completion:
    """What becomes of one request; one task at a time awaits it.

    A request that was handed over cannot be cancelled: it ends when it ends, and until then its
    memory is the kernel's. So this is a future of asyncio's protocol (`asyncio.isfuture`) that
    refuses to be cancelled. A task that is cancelled meanwhile goes on waiting, and asyncio
    raises `CancelledError` in it when the request has ended. Then `outcome` has the result.
    """

    __slots__ = (
        "_asyncio_future_blocking",
        "_context",
        "_failure",
        "_value",
        "_wake",
        "is_done",
    )

    def __init__(self) -> None:
        self.is_done = self._asyncio_future_blocking = False
        self._wake: Callable[[Any], object] | None = None
        self._failure: BaseException | None = None

    def finish(self, value: Any = None) -> None:
        """End with a result. The waiting task goes on inside this call.

        A future of asyncio would let the event loop call the task, which costs 1 us. So only the
        event loop may call this, and no task while another one waits.
        """
        self._value = value
        self.is_done = True
        if self._wake is not None:
            self._context.run(self._wake, self)

    def fail(self, failure: BaseException) -> None:
        """End with an exception."""
        self._failure = failure
        self.finish()

    def outcome(self) -> Any:
        """Return the result, or raise the exception that it ended with."""
        if self._failure is not None:
            failure, self._failure = self._failure, None  # a traceback holds its frames
            raise failure
        return self._value

    def __await__(self) -> Generator["Completion", None, Any]:
        cancelled: asyncio.CancelledError | None = None
        while not self.is_done:
            self._asyncio_future_blocking = True
            try:
                yield self
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled
        return self.outcome()

    # What a task calls

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop that the task runs on."""
        return asyncio.get_running_loop()

    def add_done_callback(
        self, wake: Callable[[Any], object], *, context: contextvars.Context | None = None
    ) -> None:
        """Remember what to call at the end."""
        self._wake, self._context = wake, context or contextvars.copy_context()

    def cancel(self, msg: object = None) -> bool:
        """Refuse."""
        return False

    def result(self) -> None:
        """Let the task go on; it gets the outcome where it awaits."""
