"""The data path under asyncio: one owned cluster without a step of the core.

What the page cache holds is read at once. Between the lookup and the system call nothing else of
the store runs, because a store belongs to one event loop. So such a request pins no epoch. A
request that waits enters an epoch, as one of the full path does: its cluster is not reused before
it has ended (`blobstore.epochs`). Everything else takes the full path, also every error.

A task that finds all its data in memory would never let other tasks run. So one of
`_AT_ONCE_MAX` requests that were answered at once lets the event loop turn.
"""

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final

from blobstore.alloc.leaves import LEAF_MASK, LEAF_SHIFT
from blobstore.api.aio.async_session import AsyncSession
from blobstore.api.aio.same_names import documented_as
from blobstore.api.arguments import bytes_of, integer_of, writable_bytes_of, wrong_type
from blobstore.api.fast_path import FastPath
from blobstore.drivers.completions import Completion
from blobstore.errors import BlobstoreError, InvalidArgumentError
from blobstore.metadata.blob_state import BlobState
from blobstore.operations import Buffer

_get_running_loop: Final = asyncio.get_running_loop
_preadv: Final = os.preadv
_AT_ONCE: Final = os.RWF_NOWAIT
_AT_ONCE_MAX: Final = 64
_NOWHERE: Final = -1
_NO_LEAVES: Final[list[Any]] = []


@documented_as(FastPath)
class AsyncDataPath(ABC):
    """Reading and writing an open blob; `AsyncBlob` adds the full path and everything else."""

    __slots__ = (
        "_cluster_size",
        "_core",
        "_io",
        "_leaves",
        "_loop",
        "_session",
        "_state",
    )

    _session: AsyncSession

    def __init__(self, session: AsyncSession, state: BlobState) -> None:
        self._session = session
        self._io = session.io
        self._loop = session.loop
        self._core = session.core
        self._state = state
        self._cluster_size = session.core.geometry.cluster_size
        self._leaves = state.clusters.leaves

    async def read(self, length: int, offset: int = 0) -> bytes:
        self._check_length(integer_of(length, "length"))
        buffer = self._io.buffer(length)
        await self.read_into(buffer, offset)
        return bytes(buffer)

    async def read_into(self, buffer: Any, offset: int = 0) -> int:
        io = self._io
        descriptor = io.cached
        if descriptor is not None:
            kind = buffer.__class__
            length = buffer.nbytes if kind is memoryview else _length_of(buffer, kind)
            # `_place` and `EventLoopIO.read_cached`, spelled out: nearly all requests end here.
            size = self._cluster_size
            try:
                index = offset // size
                start = offset - index * size
                leaf, at = index >> LEAF_SHIFT, index & LEAF_MASK
                if index >= 0 and start + length <= size and _get_running_loop() is self._loop:
                    cluster = self._leaves[leaf][at] or self._state.inherited[leaf][at]
                    if (
                        cluster
                        and _preadv(descriptor, (buffer,), cluster * size + start, _AT_ONCE)
                        == length
                    ):
                        io.at_once_count = count = io.at_once_count + 1
                        if count % _AT_ONCE_MAX == 0:
                            await asyncio.sleep(0)
                        return length
            except (IndexError, OSError, TypeError, BufferError):
                pass  # not in memory, beyond the end, a wrong type: the other ways say so
        view = writable_bytes_of(buffer)
        place = self._place(integer_of(offset, "offset"), len(view), False)
        if place == _NOWHERE or not await self._transfer(self._io.read_into, place, view):
            await self._read_fully(view, offset)
        return len(view)

    async def write(self, data: Buffer, offset: int = 0) -> int:
        view = bytes_of(data)
        place = self._place(offset, len(view), True) if self._is_writable() else _NOWHERE
        if place == _NOWHERE or not await self._transfer(self._io.write, place, view):
            await self._write_fully(view, integer_of(offset, "offset"))
        return len(view)

    def _place(self, offset: int, length: int, is_write: bool) -> int:
        """Return the place on the device of a range that lies in one known cluster.

        Reads also find an ancestor's cluster that was read before.

        Raises:
            RuntimeError: Another event loop is running than the store's.
        """
        if _get_running_loop() is not self._loop:
            self._session.check_loop()
        size = self._cluster_size
        try:
            index = offset // size
            start = offset - index * size
            if index < 0 or start + length > size:  # a negative index would count from the end
                return _NOWHERE
            cluster = self._leaves[index >> LEAF_SHIFT][index & LEAF_MASK]
            if not cluster and not is_write:
                cluster = self._state.inherited[index >> LEAF_SHIFT][index & LEAF_MASK]
        except (IndexError, TypeError):
            return _NOWHERE  # beyond the end, a wrong type: the full path says so
        return cluster * size + start if cluster else _NOWHERE

    def _is_writable(self) -> bool:
        core, state = self._core, self._state
        return not (
            core.poison is not None
            or core.read_only_reason
            or core.write_through  # the full path flushes
            or state.data_read_only
            or state.frozen_count
        )

    async def _transfer(
        self, start: Callable[[int, memoryview], Completion], place: int, view: memoryview
    ) -> bool:
        """Make a request that may wait; say whether it was done. The full path reports why not."""
        epochs = self._core.epochs
        epoch = epochs.enter()
        try:
            await start(place, view)
        except BlobstoreError:
            return False
        finally:
            epochs.leave(epoch)
        return True

    def _leave_fast_path(self) -> None:
        """Send every request that begins from now on to the full path."""
        self._leaves = _NO_LEAVES

    def _check_length(self, length: int) -> None:
        """Refuse to read what cannot be there, before there is memory for it.

        Raises:
            InvalidArgumentError: The blob has no such length.
        """
        size = self._state.clusters.count * self._cluster_size
        if not 0 <= length <= size:
            raise self._named(InvalidArgumentError(f"read of {length} bytes, it has {size}"))

    @abstractmethod
    def _named(self, error: BlobstoreError) -> BlobstoreError:
        """Name the store and the blob in an error, and return the error."""

    @abstractmethod
    async def _read_fully(self, view: memoryview, offset: int) -> None:
        """Fill the view by the full path."""

    @abstractmethod
    async def _write_fully(self, view: memoryview, offset: int) -> None:
        """Write the view by the full path."""


def _length_of(buffer: Any, kind: type) -> int:
    try:
        return len(buffer) if kind is bytearray else memoryview(buffer).nbytes
    except TypeError:
        raise wrong_type("buffer", buffer, expected="a writable buffer") from None
