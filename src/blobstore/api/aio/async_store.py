"""Stores, for programs under asyncio: what all have, and the store of blobs."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias, overload

from blobstore.api import core_calls
from blobstore.api.aio.async_blob import AsyncBlob
from blobstore.api.aio.async_opening import Opening
from blobstore.api.aio.async_session import AsyncSession
from blobstore.api.aio.same_names import documented_as
from blobstore.api.arguments import blob_name_of, check_callback, id_of, optional, value_of
from blobstore.api.blobstore import Blobstore
from blobstore.api.external import (
    AwaitedBlobSource,
    External,
    open_external,
)
from blobstore.api.open_store import OpenStore
from blobstore.api.source import Source, traits_of
from blobstore.api.store_handle import StoreHandle
from blobstore.api.store_opening import create_store, load_store, new_store_options
from blobstore.device.base import Device
from blobstore.errors import BlobstoreError, PoisonedError
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.store_state import StoreState
from blobstore.operations import Core, ExternalSource
from blobstore.store import lifecycle
from blobstore.store.blobs import ClearMethod
from blobstore.store.describe import BlobInfo, StoreInfo
from blobstore.store.grow import grow_open
from blobstore.store.init import DEFAULT_CLUSTER_SIZE, Clear
from blobstore.store.listing import Listing
from blobstore.store.names import find_blob
from blobstore.store.open_blobs import close_blob
from blobstore.units import BlobId

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Found: TypeAlias = tuple[BlobId, BlobState | BlobstoreError]
"""The next blob of a listing, open, or why it does not open."""


async def _close_found(store: StoreState, found: Found | None) -> None:
    if found is not None and isinstance(found[1], BlobState):
        await close_blob(store, found[1])


@documented_as(OpenStore)
class AsyncOpenStore(StoreHandle):
    """The part of an open store that does not ask what its blobs are called."""

    _session: AsyncSession

    # Blobs

    async def list_blobs(self) -> AsyncIterator[BlobInfo]:
        async with self._listing() as listing:
            while described := await self._session.run(listing.describe()):
                for info in described:
                    if info.error is not None:
                        info.error.at(store=self.device_name, blob=info.blob_id)
                    yield info

    async def iter_blobs(
        self, on_error: Callable[[BlobstoreError], object] | None = None
    ) -> AsyncGenerator[AsyncBlob, None]:
        check_callback("on_error", on_error)
        async with self._listing() as listing:
            while (found := await self._next_of(listing)) is not None:
                blob_id, state = found
                if isinstance(state, BlobstoreError):
                    error = state.at(store=self.device_name, blob=blob_id)
                    if on_error is None:
                        raise error
                    on_error(error)
                    continue
                async with self._handle(state) as blob:
                    yield blob

    async def _next_of(self, listing: Listing) -> Found | None:
        return await self._session.run(
            listing.open(), give_up=lambda found: _close_found(self._core, found)
        )

    @asynccontextmanager
    async def _listing(self) -> AsyncIterator[Listing]:
        """Have a listing that ends with the store, if not before."""
        listings, listing = self._session.listings, self._session.call(Listing, self._core)
        listings.add(listing)
        try:
            yield listing
        finally:
            if listing in listings:
                listings.discard(listing)
                await self._session.run(listing.close())

    def _handle(self, state: BlobState) -> AsyncBlob:
        """Return what the user gets of an open blob."""
        return AsyncBlob(self._session, state)

    async def _opened(self, core: Core[BlobState], blob_id: BlobId | None = None) -> AsyncBlob:
        return self._handle(await self._session.open(core, blob_id))

    async def read_many(
        self,
        blobs: Iterable[AsyncBlob],
        offsets: "npt.ArrayLike",
        length: int,
        out: Any = None,
    ) -> "npt.NDArray[np.uint8]":
        from blobstore.api import batches  # every other start is faster without NumPy
        from blobstore.api.aio import async_batches

        places = batches.offsets_of(offsets)
        found = async_batches.blobs_of(blobs, len(places), self._core)
        rows = batches.rows_to_fill(out, len(places), length)
        await async_batches.read(found, places, rows)
        return rows

    # The whole

    async def register_external(
        self, external_id: bytes, what: External | AsyncBlob | None
    ) -> None:
        name = value_of(external_id, "external_id")
        source, opened = await self._open_external(what)
        self._session.register_external(name, source, opened)

    async def _open_external(
        self, what: External | AsyncBlob | None
    ) -> tuple[ExternalSource | None, Device | None]:
        if what is None:
            return None, None
        if isinstance(what, AsyncBlob):
            return AwaitedBlobSource(what), None
        return await self._session.in_thread(open_external, what)

    async def flush(self) -> None:
        await self._session.run(lifecycle.flush_store(self._core))

    async def grow(self) -> StoreInfo:
        size = await self._session.in_thread(self._session.device.refresh_size)
        await self._session.run(grow_open(self._core, size))
        return self.info

    async def dump(self) -> bytes:
        return b"".join([text async for text in self.iter_dump()])

    async def iter_dump(self) -> AsyncIterator[bytes]:
        from blobstore.store.dump import Dumping  # every other start is faster without

        dumping = Dumping(traits_of(self._session.device))
        while (text := await self._session.run(dumping.read())) is not None:
            yield text

    async def unload(self) -> None:
        if not self.closed:
            await self._session.unload()

    async def close(self) -> None:
        if not self.closed:
            await self._session.close()

    async def destroy(self) -> None:
        await self._session.destroy()

    async def __aenter__(self) -> Self:
        self._session.check_open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.close()
        except PoisonedError:
            if error is None:  # otherwise what is on its way says why
                raise


@documented_as(Blobstore)
class AsyncBlobstore(AsyncOpenStore):
    """An open store of blobs on an event loop. Leaving its `async with` unloads it clean.

    Any number of tasks of that loop may use it at once; threads and processes may not. Its
    methods are those of `Blobstore`; the ones that may wait are awaited.
    """

    # Making and opening

    @classmethod
    def create(
        cls,
        source: Source,
        *,
        size: int | str | None = None,
        cluster_size: int | str = DEFAULT_CLUSTER_SIZE,
        block_size: int | None = None,
        max_size: int | str | None = None,
        md_pages: int | None = None,
        md_page_size: int | str | None = None,
        bstype: bytes = b"",
        clear: Clear | str = Clear.UNMAP,
        overwrite: bool = False,
        atomic_write_size: int | None = None,
        direct: bool = False,
        write_through: bool = False,
    ) -> Opening[Self]:
        options = new_store_options(
            cluster_size=cluster_size,
            max_size=max_size,
            md_pages=md_pages,
            md_page_size=md_page_size,
            bstype=bstype,
            clear=clear,
        )

        async def make() -> Self:
            session = await AsyncSession.start(
                create_store,
                source,
                options,
                size=size,
                block_size=block_size,
                overwrite=overwrite,
                atomic_write_size=atomic_write_size,
                direct=direct,
                write_through=write_through,
            )
            return cls(session)

        return Opening(make())

    @classmethod
    def open(
        cls,
        source: Source,
        *,
        read_only: bool = False,
        bstype: bytes | None = None,
        force_recovery: bool = False,
        force: bool = False,
        on_blob: Callable[[AsyncBlob], Awaitable[object]] | None = None,
        atomic_write_size: int | None = None,
        direct: bool = False,
        write_through: bool = False,
        mapped: bool = False,
        wait: float = 0.0,
    ) -> Opening[Self]:
        async def load() -> Self:
            check_callback("on_blob", on_blob)
            session = await AsyncSession.start_when_free(
                wait,
                load_store,
                source,
                bstype=optional(value_of, bstype, "bstype"),
                read_only=read_only,
                force_recovery=force_recovery,
                force=force,
                atomic_write_size=atomic_write_size,
                direct=direct,
                write_through=write_through,
                mapped=mapped,
            )
            store = cls(session)
            if on_blob is not None:
                await store._call_with_each(on_blob)
            return store

        return Opening(load())

    async def _call_with_each(self, on_blob: Callable[[AsyncBlob], Awaitable[object]]) -> None:
        try:
            async with aclosing(self.iter_blobs(on_error=lambda _error: None)) as blobs:
                async for blob in blobs:
                    await on_blob(blob)
        except BaseException:
            await self.close()
            raise

    # Blobs

    def create_blob(
        self,
        size: int | str = 0,
        *,
        thin: bool = False,
        extent_table: bool = True,
        clear_method: ClearMethod | int = ClearMethod.DEFAULT,
        name: str | None = None,
        xattrs: Mapping[str, bytes] | None = None,
        external_snapshot: bytes | None = None,
    ) -> Opening[AsyncBlob]:
        core = core_calls.create_blob(
            self._core,
            size,
            thin=thin,
            extent_table=extent_table,
            clear_method=clear_method,
            name=name,
            xattrs=xattrs,
            external_snapshot=external_snapshot,
        )
        return Opening(self._opened(core))

    async def find(self, name: str) -> BlobId:
        return await self._session.run(find_blob(self._core, blob_name_of(name)))

    @overload
    def open_blob(self, blob_id: int) -> Opening[AsyncBlob]: ...

    @overload
    def open_blob(self, *, name: str) -> Opening[AsyncBlob]: ...

    def open_blob(
        self, blob_id: int | None = None, *, name: str | None = None
    ) -> Opening[AsyncBlob]:
        core = core_calls.open_blob(self._core, blob_id, name)
        return Opening(self._opened(core, optional(id_of, blob_id, "blob_id")))

    async def delete_blob(self, blob_id: int) -> None:
        await self._session.run(core_calls.delete_blob(self._core, blob_id), id_of(blob_id))

    # The whole

    async def set_super_blob(self, blob_id: int | None) -> None:
        await self._session.run(core_calls.set_super_blob(self._core, blob_id))

    async def set_type(self, bstype: bytes) -> None:
        await self._session.run(core_calls.set_type(self._core, bstype))
