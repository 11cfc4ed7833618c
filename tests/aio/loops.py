"""Event loops for tests, and tasks that are stepped by hand."""

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn, TypeVar

import pytest
import uvloop

from blobstore.drivers import event_loop_io
from blobstore.errors import UnsupportedError

T = TypeVar("T")

LOOPS: Final[dict[str, Callable[[], asyncio.AbstractEventLoop]]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def run(coroutine: Coroutine[Any, Any, T], loop: str = "asyncio") -> T:
    """Run to the end on a new loop of a kind."""
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(coroutine)


@contextmanager
def no_ring() -> Iterator[None]:
    """Let stores have no io_uring inside the `with`, as where the kernel refuses one."""

    def refuse(_loop: asyncio.AbstractEventLoop) -> NoReturn:
        raise UnsupportedError("io_uring: refused by a test")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(event_loop_io, "EventLoopRing", refuse)
        yield


class CancelledAt:
    """Awaits a coroutine, and cancels it where it waits for the time with number `at`.

    `count` is how often it has waited. What a cancelled task sees is an exception at the
    `await`, so this throws one there.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], at: int) -> None:
        self._coroutine = coroutine
        self._at = at
        self.count = 0
        self.was_cancelled = False

    def __await__(self) -> Generator[Any, Any, None]:
        steps = self._coroutine.__await__()
        try:
            awaited = next(steps)
            while True:
                if self.count == self._at:
                    if awaited is not None:
                        awaited._asyncio_future_blocking = False  # it is not awaited
                    awaited = self._throw(steps)
                else:
                    yield awaited
                    awaited = next(steps)
                self.count += 1
        except StopIteration:
            pass
        except asyncio.CancelledError:
            self.was_cancelled = True

    def _throw(self, steps: Generator[Any, Any, Any]) -> Any:
        return steps.throw(asyncio.CancelledError())
