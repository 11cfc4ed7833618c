"""One open store: what it and its blobs share."""

import os
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final, ParamSpec, Protocol, TypeVar

from blobstore.api.pins import ThreadPins
from blobstore.device.base import Device
from blobstore.drivers import interrupts
from blobstore.drivers.blocking import BlockingDriver
from blobstore.errors import BlobstoreError, ClosedError
from blobstore.metadata.store_state import StoreState
from blobstore.operations import Core, ExternalSource
from blobstore.store import lifecycle
from blobstore.store.listing import Listing
from blobstore.store.relations import register_external
from blobstore.units import BlobId

P = ParamSpec("P")
T = TypeVar("T")


class Handle(Protocol):
    """An open blob, as the end of its store sees it."""

    def detach(self) -> None:
        """Refuse requests from now on; the core is not told."""


class StepDriver(Protocol):
    """What every driver offers; it runs coroutines besides, each in its own way."""

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function of the core in one step, beside no other."""


class OpenSession:
    """The store's state in the core, and what ends with the store: the same for every driver.

    `handles` are the open blobs, `listings` those under way, `externals` the devices that
    were opened for external snapshots.
    """

    _driver: StepDriver

    def __init__(self, device: Device, core: StoreState) -> None:
        self.device = device
        self.core = core
        self.handles: set[Handle] = set()
        self.listings: set[Listing] = set()
        self.externals: list[Device] = []
        _sessions.add(self)

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function of the core in one step: the core does nothing else meanwhile.

        Raises:
            ClosedError: The store was closed.
        """
        self.check_open()
        return self._driver.call(function, *args, **kwargs)

    def check_open(self) -> None:
        """Raise `ClosedError` when the store was closed."""
        if self.core.is_closed:
            raise ClosedError("store: closed").at(store=self.device.name)

    def register_external(
        self, external_id: bytes, source: ExternalSource | None, opened: Device | None
    ) -> None:
        """Say what an external snapshot's id stands for, None for nothing.

        `opened` is closed with the store, or at once if this fails. It is not closed when the
        id stands for something else later: reads of it may be in flight.

        Raises:
            InvalidArgumentError: It is read in larger blocks than the store.
            ClosedError: The store was closed.
        """
        with ExitStack() as unused:
            if opened is not None:
                unused.callback(opened.close)
            self.call(self._register_external, external_id, source, opened)
            unused.pop_all()

    def _register_external(
        self, external_id: bytes, source: ExternalSource | None, opened: Device | None
    ) -> None:
        register_external(self.core, external_id, source)
        if opened is not None:
            self.externals.append(opened)

    def forget(self, handle: Handle) -> bool:
        """Take a handle out of those that are open; return whether it was among them."""
        try:
            self.handles.remove(handle)
        except KeyError:
            return False
        return True

    def abandon(self) -> None:
        """Be closed, with all blobs, without touching the device: it is another process's."""
        self.core.mark_closed()
        self._detach_all()

    def _detach_all(self) -> None:
        self.listings.clear()
        for handle in list(self.handles):
            handle.detach()
        self.handles.clear()

    def _close_devices(self) -> None:
        """Close them all, the store's own first, also when one fails."""
        with ExitStack() as devices:
            for device in (*reversed(self.externals), self.device):
                devices.callback(device.close)


class Session(OpenSession):
    """One open store under the blocking driver: what `Blobstore` and its blobs share."""

    _driver: BlockingDriver

    def __init__(self, device: Device, core: StoreState) -> None:
        super().__init__(device, core)
        self.pins = ThreadPins(core.epochs.pins)
        self._driver = BlockingDriver(device)
        self._driver.protect(core.mark_unusable)

    def run(self, core: Core[T], blob_id: BlobId | None = None) -> T:
        """Run a coroutine of the core to its end; an error names the blob that is given."""
        try:
            return self._driver.run(core)
        except BlobstoreError as error:
            error.at(blob=blob_id)
            raise

    def unload(self) -> None:
        """Unload the store, unless a blob is open.

        Raises:
            BusyError, DeviceError: As `blobstore.store.lifecycle.unload`.
        """
        with interrupts.Held():
            try:
                self.run(lifecycle.unload(self.core))
            finally:
                if self.core.is_closed:
                    self._close_devices()

    def close(self) -> None:
        """Close all blobs, also those whose handles were lost, and unload the store.

        Raises:
            DeviceError, PoisonedError: As `blobstore.store.lifecycle.close_store`.
        """
        with interrupts.Held():
            try:
                self._detach_all()
                self.run(lifecycle.close_store(self.core))
            finally:
                self.core.mark_closed()
                self._close_devices()

    def destroy(self) -> None:
        """Make the device hold no store any more.

        Raises:
            BusyError, DeviceError: As `blobstore.store.lifecycle.destroy`.
        """
        with interrupts.Held():
            self.run(lifecycle.destroy(self.core))
            self._close_devices()


# Forking. In a child the descriptors are closed, and other files may have got their
# numbers. The threads that could complete requests in flight do not exist in the child either:
# nothing may wait for them.

_sessions: Final["weakref.WeakSet[OpenSession]"] = weakref.WeakSet()


def _abandon_all() -> None:
    for session in list(_sessions):
        session.abandon()


os.register_at_fork(after_in_child=_abandon_all)
