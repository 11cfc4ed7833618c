"""An open blob, for programs under asyncio."""

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from blobstore.api import core_calls
from blobstore.api.aio.async_data_path import AsyncDataPath
from blobstore.api.aio.async_opening import Opening
from blobstore.api.aio.async_session import AsyncSession
from blobstore.api.aio.same_names import documented_as
from blobstore.api.arguments import buffers_of, bytes_of, integer_of, writable_bytes_of
from blobstore.api.blob import Blob
from blobstore.api.blob_handle import BlobHandle
from blobstore.api.xattrs import ReadableXattrs
from blobstore.blob import attributes
from blobstore.blob import read as blob_read
from blobstore.blob import write as blob_write
from blobstore.device.base import Device
from blobstore.metadata.blob_state import BlobState
from blobstore.operations import Buffer, Core
from blobstore.store.inflate import decouple, inflate
from blobstore.store.open_blobs import close_blob

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

P = ParamSpec("P")
T = TypeVar("T")


@documented_as(Blob)
class AsyncBlob(BlobHandle, AsyncDataPath):
    """An open blob on an event loop. Offsets, lengths and sizes are bytes.

    Any number of tasks may use it at once. Its methods are those of `Blob`; the ones that may
    wait are awaited. A cancelled call raises `CancelledError` when its operation has ended.
    """

    __slots__ = ("__weakref__", "_open")

    _session: AsyncSession

    def __init__(self, session: AsyncSession, state: BlobState) -> None:
        super().__init__(session, state)
        self._open = True
        session.handles.add(self)

    @property
    def xattrs(self) -> ReadableXattrs:
        """The extended attributes, as a mapping to look at; `set_xattr` changes them."""
        return ReadableXattrs(self)

    # Data

    async def _read_fully(self, view: memoryview, offset: int) -> None:
        await self._run(blob_read.read_into(self._core, self._state, view, offset))

    async def _write_fully(self, view: memoryview, offset: int) -> None:
        await self._run(blob_write.write(self._core, self._state, view, offset))

    async def read_many(
        self, offsets: "npt.ArrayLike", length: int, out: Any = None
    ) -> "npt.NDArray[np.uint8]":
        from blobstore.api import batches  # every other start is faster without NumPy
        from blobstore.api.aio import async_batches

        places = batches.offsets_of(offsets)
        rows = batches.rows_to_fill(out, len(places), length)
        await async_batches.read([self] * len(places), places, rows)
        return rows

    async def write_many(self, offsets: "npt.ArrayLike", data: Any) -> int:
        from blobstore.api import batches  # every other start is faster without NumPy
        from blobstore.api.aio import async_batches

        places = batches.offsets_of(offsets)
        rows = batches.rows_to_write(data, len(places))
        await async_batches.write(self, places, rows)
        return rows.nbytes

    async def readv(self, buffers: Sequence[Any], offset: int = 0) -> int:
        at = start = integer_of(offset, "offset")
        for view in buffers_of(buffers, writable_bytes_of):
            at += await self.read_into(view, at)
        return at - start

    async def writev(self, buffers: Sequence[Buffer], offset: int = 0) -> int:
        return await self.write(b"".join(buffers_of(buffers, bytes_of)), offset)

    async def write_zeroes(self, offset: int, length: int) -> None:
        await self._run(core_calls.write_zeroes(self._core, self._state, offset, length))

    async def unmap(self, offset: int, length: int) -> None:
        await self._run(core_calls.unmap(self._core, self._state, offset, length))

    async def flush(self) -> None:
        await self._run(blob_write.flush_blob(self._core, self._state))

    async def sync_md(self) -> None:
        await self.flush()

    # Metadata

    async def resize(self, size: int | str) -> None:
        await self._run(core_calls.resize(self._core, self._state, size))

    async def set_xattr(self, name: str, value: Buffer) -> None:
        await self._run(core_calls.set_xattr(self._core, self._state, name, value))

    async def remove_xattr(self, name: str) -> None:
        await self._run(core_calls.remove_xattr(self._core, self._state, name))

    async def set_read_only(self) -> None:
        await self._run(attributes.set_read_only(self._core, self._state))

    async def set_attributes(
        self,
        xattrs: Mapping[str, Buffer | None] | None = None,
        *,
        name: str | None = None,
        read_only: bool = False,
    ) -> None:
        core = core_calls.set_attributes(self._core, self._state, xattrs, name, read_only)
        await self._run(core)

    # Relations

    def snapshot(
        self, name: str | None = None, *, xattrs: Mapping[str, bytes] | None = None
    ) -> "Opening[AsyncBlob]":
        return Opening(self._opened(core_calls.snapshot, self._core, self._state, name, xattrs))

    def clone(
        self, name: str | None = None, *, xattrs: Mapping[str, bytes] | None = None
    ) -> "Opening[AsyncBlob]":
        return Opening(self._opened(core_calls.clone, self._core, self._state, name, xattrs))

    async def inflate(self) -> None:
        await self._run(inflate(self._core, self._state))

    async def decouple(self) -> None:
        await self._run(decouple(self._core, self._state))

    async def set_parent(self, parent_id: int) -> None:
        await self._run(core_calls.set_parent(self._core, self._state, parent_id))

    async def rollback(self, snapshot_id: int) -> None:
        await self._run(core_calls.rollback(self._core, self._state, snapshot_id))

    async def set_external_parent(self, external_id: bytes) -> None:
        await self._run(core_calls.set_external_parent(self._core, self._state, external_id))

    async def shallow_copy(
        self, target: Device, progress: Callable[[int, int], None] | None = None
    ) -> int:
        core = core_calls.shallow_copy(self._core, self._state, target, progress)
        return await self._run(core)

    # The end

    async def close(self) -> None:
        if self._session.forget(self):
            self.detach()
            await self._session.run(close_blob(self._core, self._state), self.id)

    def detach(self) -> None:
        self._open = False
        self._leave_fast_path()

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _run(self, core: Core[T]) -> T:
        if not self._open:
            core.close()
        self._check_open()
        return await self._session.run(core, self.id)

    async def _opened(
        self, call: Callable[P, Core[BlobState]], *args: P.args, **kwargs: P.kwargs
    ) -> "AsyncBlob":
        self._check_open()
        state = await self._session.open(call(*args, **kwargs), self.id)
        return AsyncBlob(self._session, state)
