"""One open store on an event loop: what `AsyncBlobstore` and its blobs share."""

import asyncio
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from blobstore.api.session import OpenSession
from blobstore.api.store_opening import LoadedStore
from blobstore.api.waiting import check_wait, pauses
from blobstore.device.base import Device
from blobstore.drivers.event_loop import EventLoopDriver, Patience
from blobstore.drivers.event_loop_threads import EventLoopThreads
from blobstore.errors import BlobstoreError, BusyError
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.store_state import StoreState
from blobstore.operations import Core
from blobstore.store import lifecycle
from blobstore.store.open_blobs import close_blob
from blobstore.units import BlobId

P = ParamSpec("P")
T = TypeVar("T")


class AsyncSession(OpenSession):
    """A store under the asyncio driver; it belongs to the event loop that is running now."""

    _driver: EventLoopDriver

    def __init__(self, device: Device, core: StoreState) -> None:
        super().__init__(device, core)
        self._driver = EventLoopDriver(device, core.mark_unusable)
        self.io = self._driver.io
        self.loop = self._driver.loop

    @classmethod
    async def start(
        cls, load: Callable[P, LoadedStore], *args: P.args, **kwargs: P.kwargs
    ) -> "AsyncSession":
        """Make or load a store on a thread of its own, and take it over.

        Raises:
            asyncio.CancelledError: The caller was cancelled: the store was closed again.
        """
        loop = asyncio.get_running_loop()
        threads, patience = EventLoopThreads(loop), Patience()
        try:
            loaded = await patience.wait(threads.start(_call, load, args, kwargs))
        except BlobstoreError as error:
            raise patience.cancelled or error from None
        finally:
            threads.close()
        session = cls(*loaded)
        if patience.cancelled is not None:
            await session.close()
            raise patience.cancelled
        return session

    @classmethod
    async def start_when_free(
        cls, wait: float, load: Callable[P, LoadedStore], *args: P.args, **kwargs: P.kwargs
    ) -> "AsyncSession":
        """Load a store as `start`, for up to `wait` seconds again for as long as it is in use.

        The pauses are the event loop's, so that a cancelled caller does not wait for their end.

        Raises:
            BusyError: It is still in use.
            asyncio.CancelledError: As `start`.
        """
        check_wait(wait)
        for pause in pauses(wait):
            try:
                return await cls.start(load, *args, **kwargs)
            except BusyError:
                await asyncio.sleep(pause)
        return await cls.start(load, *args, **kwargs)

    async def run(
        self,
        core: Core[T],
        blob_id: BlobId | None = None,
        give_up: Callable[[T], Core[None]] | None = None,
    ) -> T:
        """Run a coroutine of the core to its end; an error names the blob that is given.

        `give_up` gets the result when the caller was cancelled.
        """
        try:
            return await self._driver.run(core, give_up)
        except BlobstoreError as error:
            error.at(blob=blob_id)
            raise

    async def open(self, core: Core[BlobState], blob_id: BlobId | None = None) -> BlobState:
        """Run a coroutine of the core that opens a blob; if the caller is gone, it is closed."""
        return await self.run(core, blob_id, lambda state: close_blob(self.core, state))

    def check_loop(self) -> None:
        """Refuse another event loop than the store's.

        Raises:
            RuntimeError: It is another one, or none is running.
        """
        self._driver.check_loop()

    async def in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function that may wait for a device."""
        self.check_loop()
        result: T = await self.io.threads.start(_call, function, args, kwargs)
        return result

    # The end

    async def unload(self) -> None:
        """Unload the store, unless a blob is open.

        Raises:
            BusyError, DeviceError: As `blobstore.store.lifecycle.unload`.
        """
        try:
            await self.run(lifecycle.unload(self.core))
        finally:
            if self.core.is_closed:
                self._close_devices()

    async def close(self) -> None:
        """Close all blobs, also those whose handles were lost, and unload the store.

        Raises:
            DeviceError, PoisonedError: As `blobstore.store.lifecycle.close_store`.
        """
        try:
            self._detach_all()
            await self.run(lifecycle.close_store(self.core))
        finally:
            self.core.mark_closed()
            self._close_devices()

    async def destroy(self) -> None:
        """Make the device hold no store any more.

        Raises:
            BusyError, DeviceError: As `blobstore.store.lifecycle.destroy`.
        """
        try:
            await self.run(lifecycle.destroy(self.core))
        finally:
            if self.core.is_closed:
                self._close_devices()

    def _close_devices(self) -> None:
        self._driver.close()
        super()._close_devices()


def _call(function: Callable[..., T], args: Any, kwargs: Any) -> T:
    return function(*args, **kwargs)
