"""The operations of every open store, with or without named blobs, for programs that block."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from blobstore.api.arguments import check_callback, value_of
from blobstore.api.blob import Blob
from blobstore.api.external import External, open_external
from blobstore.api.session import Session
from blobstore.api.source import traits_of
from blobstore.api.store_handle import StoreHandle
from blobstore.errors import BlobstoreError, PoisonedError
from blobstore.metadata.blob_state import BlobState
from blobstore.store import lifecycle
from blobstore.store.describe import BlobInfo, StoreInfo
from blobstore.store.grow import grow_open
from blobstore.store.listing import Listing

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class OpenStore(StoreHandle):
    """The part of an open store that does not ask what its blobs are called."""

    _session: Session

    # Blobs

    def list_blobs(self) -> Iterator[BlobInfo]:
        """Yield every blob's description, in the order of the ids.

        A blob that cannot be opened is among them, and its `error` says why. Some are
        looked at ahead: a blob may have been changed or deleted since.

        Raises:
            ClosedError: The store was closed, also if that happens before the end.
        """
        with self._listing() as listing:
            while described := self._session.run(listing.describe()):
                for info in described:
                    if info.error is not None:
                        info.error.at(store=self.device_name, blob=info.blob_id)
                    yield info

    def iter_blobs(
        self, on_error: Callable[[BlobstoreError], object] | None = None
    ) -> Iterator[Blob]:
        """Yield every blob in the order of the ids, each open until the next one is asked for.

        Parents stay open until the end, so that a chain is read once in all. If a blob
        cannot be opened, `on_error` is called with the error, whose `blob` is the id, and
        the iteration goes on. Without `on_error` the error is raised, and ends it.

        Raises:
            BlobstoreError: A blob cannot be opened, as `open_blob`.
            ClosedError: The store was closed, also if that happens before the end.
        """
        check_callback("on_error", on_error)
        with self._listing() as listing:
            while (found := self._session.run(listing.open())) is not None:
                blob_id, state = found
                if isinstance(state, BlobstoreError):
                    error = state.at(store=self.device_name, blob=blob_id)
                    if on_error is None:
                        raise error
                    on_error(error)
                    continue
                with self._handle(state) as blob:
                    yield blob

    @contextmanager
    def _listing(self) -> Iterator[Listing]:
        """Have a listing that ends with the store, if not before."""
        listings, listing = self._session.listings, self._session.call(Listing, self._core)
        listings.add(listing)
        try:
            yield listing
        finally:
            if listing in listings:
                listings.discard(listing)
                self._session.run(listing.close())

    def _handle(self, state: BlobState) -> Blob:
        """Return what the user gets of an open blob."""
        return Blob(self._session, state)

    def read_many(
        self,
        blobs: Iterable[Blob],
        offsets: "npt.ArrayLike",
        length: int,
        out: Any = None,
    ) -> "npt.NDArray[np.uint8]":
        """Read `length` bytes of `blobs[i]` at `offsets[i]`, for many requests together.

        The blobs are open ones of this store; each may be there many times. Everything else
        is as in `Blob.read_many`.

        Raises:
            InvalidArgumentError: Not as many blobs as offsets, or one of another store. Also
                as `Blob.read_many`.
            DeviceError: The device failed. The error's `request` is the number of the request.
        """
        from blobstore.api import batches  # every other start is faster without NumPy

        places = batches.offsets_of(offsets)
        parts = batches.parts_of(blobs, len(places), self._core)
        rows = batches.rows_to_fill(out, len(places), length)
        batches.read(parts, places, rows)
        return rows

    # The whole

    def register_external(self, external_id: bytes, what: External | None) -> None:
        """Say what an external snapshot's id stands for: a path, a device, another store's blob.

        Clones of it that are open see it at once; None means that it is not there any more.
        Nothing that is named inside the store itself is ever opened. What is opened here is
        closed with the store.

        Raises:
            InvalidArgumentError: It is read in larger blocks than the store.
        """
        name = value_of(external_id, "external_id")
        source, opened = (None, None) if what is None else open_external(what)
        self._session.register_external(name, source, opened)

    def flush(self) -> None:
        """Make all that was written to any open blob durable.

        Durability: on return.

        Raises:
            DeviceError: The device failed; the store is poisoned.
        """
        self._session.run(lifecycle.flush_store(self._core))

    def grow(self) -> StoreInfo:
        """Use all of a device that has grown since.

        Durability: on return.

        Raises:
            CorruptError: The device is smaller than the store.
            NoSpaceError: The cluster mask has no room for as many clusters.
        """
        self._session.run(grow_open(self._core, self._session.device.refresh_size()))
        return self.info

    def dump(self) -> bytes:
        """Return the metadata on the device as text, as the original prints it.

        Raises:
            BlobstoreError: As `iter_dump`.
        """
        return b"".join(self.iter_dump())

    def iter_dump(self) -> Iterator[bytes]:
        """Yield the text of `dump` piece by piece.

        Raises:
            ClosedError: The store was closed.
            DeviceError: The device failed.
        """
        from blobstore.store.dump import Dumping  # every other start is faster without

        dumping = Dumping(traits_of(self._session.device))
        while (text := self._session.run(dumping.read())) is not None:
            yield text

    def unload(self) -> None:
        """Leave the store clean, and end it. Calling it again does nothing.

        Durability: everything is durable on return.

        Raises:
            BusyError: A blob is open; nothing happened. `close` closes all blobs, also one
                whose handle the caller did not get because of Ctrl-C.
            DeviceError: The device failed; the store stays dirty and is ended all the same.
        """
        if not self.closed:
            self._session.unload()

    def close(self) -> None:
        """Close all blobs, then unload. Calling it again does nothing.

        Durability: everything is durable on return.

        Raises:
            DeviceError: The device failed; everything is let go all the same.
            PoisonedError: The store had become unusable: it was let go as it was, and
                what was not durable by then is lost.
        """
        if not self.closed:
            self._session.close()

    def destroy(self) -> None:
        """Make the device hold no store any more, and close this one.

        Durability: on return.

        Raises:
            BusyError: A blob is open.
            ReadOnlyError: The store is read-only.
            DeviceError: The device failed.
        """
        self._session.destroy()

    def __enter__(self) -> Self:
        self._session.check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except PoisonedError:
            if error is None:  # otherwise what is on its way says why
                raise
