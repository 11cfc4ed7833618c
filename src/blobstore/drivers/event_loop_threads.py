"""A small pool of threads for calls that an event loop must not wait for."""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from blobstore.drivers.completions import Completion

_THREADS: Final = 8


class EventLoopThreads:
    """The threads of one store; they are made when they are needed."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pool: ThreadPoolExecutor | None = None

    def start(self, function: Callable[..., Any], *arguments: Any) -> Completion:
        """Begin to call a function on a thread."""
        completion = Completion()
        self.begin(completion, partial(function, *arguments))
        return completion

    def begin(self, completion: Completion, function: Callable[[], Any]) -> None:
        """Begin to call a function on a thread, which ends a request that exists."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="blobstore")
        self._pool.submit(self._call, completion, function)

    def _call(self, completion: Completion, function: Callable[[], Any]) -> None:
        try:
            end = partial(completion.finish, function())
        except BaseException as error:
            end = partial(completion.fail, error)
        with contextlib.suppress(RuntimeError):  # the loop was closed: nothing waits any more
            self._loop.call_soon_threadsafe(end)

    def close(self) -> None:
        """Wait for what was begun, and let the threads end; usually they have nothing to do."""
        if self._pool is not None:
            self._pool.shutdown()
