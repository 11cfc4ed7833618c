"""Memory that direct I/O takes, for requests whose own memory it does not take.

Each thread keeps one buffer, of at most `BOUNCE_SIZE` bytes, of which only what
was used takes memory. A request that interrupts another one on the same thread
(a finalizer that writes) gets a buffer of its own.
"""

import mmap
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Final

from blobstore.units import MIB

BOUNCE_SIZE: Final = MIB


class _Kept(threading.local):
    """What the calling thread keeps for its next request."""

    buffer: memoryview | None = None


_kept: Final = _Kept()


class Bounce:
    """Page-aligned memory, borrowed while the `with` lasts."""

    __slots__ = ("_buffer",)

    def __enter__(self) -> memoryview:
        buffer, _kept.buffer = _kept.buffer, None
        # Private: a forked child must not share it with its parent.
        self._buffer = buffer or memoryview(
            mmap.mmap(-1, BOUNCE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        )
        return self._buffer

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _kept.buffer = self._buffer


class Cursor:
    """Goes through views one after the other, copying from or to them."""

    def __init__(self, views: Sequence[memoryview]) -> None:
        self._views = views
        self._index = 0
        self._at = 0

    def fill(self, target: memoryview) -> None:
        """Copy as many bytes as `target` takes out of the views."""
        done = 0
        while done < len(target):
            part = self._next(len(target) - done)
            target[done : done + len(part)] = part
            done += len(part)

    def drain(self, source: memoryview) -> None:
        """Copy all of `source` into the views."""
        done = 0
        while done < len(source):
            part = self._next(len(source) - done)
            part[:] = source[done : done + len(part)]
            done += len(part)

    def _next(self, most: int) -> memoryview:
        while self._at == len(self._views[self._index]):
            self._index, self._at = self._index + 1, 0
        part = self._views[self._index][self._at : self._at + most]
        self._at += len(part)
        return part
