"""The operations of every open store, with or without named blobs, and how a store is opened."""

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Self

from blobstore.api.arguments import (
    check_callback,
    check_flags,
    integer_of,
    optional,
    size_of,
    value_of,
)
from blobstore.api.blob import Blob
from blobstore.api.external import External, open_external
from blobstore.api.session import Session
from blobstore.api.source import (
    Source,
    check_source,
    device_to_fill,
    erase_signature,
    is_missing_file,
    make_fit,
    open_source,
    traits_of,
)
from blobstore.device.base import Device
from blobstore.drivers.blocking import BlockingDriver
from blobstore.errors import BlobstoreError, PoisonedError
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.load_store import known_ids, load
from blobstore.metadata.store_state import StoreState
from blobstore.store import lifecycle
from blobstore.store.describe import BlobInfo, StoreInfo, describe_store
from blobstore.store.grow import grow_open
from blobstore.store.init import InitOptions, padded_type, plan_empty, write_empty
from blobstore.store.listing import Listing
from blobstore.store.relations import register_external
from blobstore.units import BlobId


def create_session(
    source: Source,
    options: InitOptions,
    *,
    size: int | str | None,
    block_size: int | None,
    overwrite: bool,
    atomic_write_size: int | None,
    direct: bool,
    write_through: bool,
    make_super_blob: Callable[[StoreState], Awaitable[BlobId]] | None = None,
) -> Session:
    """Make a store on what a source names, and open it; the arguments are `Blobstore.create`'s."""
    check_source(source)
    check_flags(overwrite=overwrite, direct=direct, write_through=write_through)
    wanted = optional(size_of, size, "size")
    block_size = optional(integer_of, block_size, "block_size")
    atomic_write_size = optional(integer_of, atomic_write_size, "atomic_write_size")
    is_new = size is not None and is_missing_file(source)
    device = device_to_fill(
        source, wanted, block_size, atomic_write_size, overwrite, is_new, direct
    )
    try:
        traits = replace(
            traits_of(device), size_bytes=device.size_bytes if wanted is None else wanted
        )
        core = plan_empty(traits, options, write_through=write_through)
        driver = BlockingDriver(device)
        make_fit(device, driver, core)
        erase_signature(device)
        driver.run(write_empty(core, options.clear, make_super_blob))
    except BaseException as error:
        device.close()
        if is_new:
            os.unlink(device.name)
        if isinstance(error, BlobstoreError):
            error.at(store=device.name)
        raise
    return Session(device, driver, core)


def load_session(
    source: Source,
    *,
    bstype: bytes | None,
    read_only: bool,
    force_recovery: bool,
    force: bool,
    atomic_write_size: int | None,
    direct: bool,
    write_through: bool,
) -> Session:
    """Open the store on what a source names; the arguments are `Blobstore.open`'s."""
    check_flags(force_recovery=force_recovery, force=force, write_through=write_through)
    device = open_source(
        source, read_only=read_only, atomic_write_size=atomic_write_size, direct=direct
    )
    try:
        driver = BlockingDriver(device)
        core = driver.run(
            load(
                traits_of(device),
                bstype=None if bstype is None else padded_type(bstype),
                read_only=read_only or device.read_only,
                force_recovery=force_recovery,
                forced=force,
                write_through=write_through,
            )
        )
    except BaseException:
        device.close()
        raise
    return Session(device, driver, core)


class OpenStore:
    """The part of an open store that does not ask what its blobs are called."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._core = session.core

    # What it is

    @property
    def info(self) -> StoreInfo:
        """What the store is now.

        Raises:
            ClosedError: The store was closed.
        """
        return self._session.call(describe_store, self._core)

    @property
    def device_name(self) -> str:
        """The name of the device that the store lives on, such as its path."""
        return self._session.device.name

    @property
    def cluster_size(self) -> int:
        """The size of a cluster in bytes."""
        return self._core.geometry.cluster_size

    @property
    def free_clusters(self) -> int:
        """How many clusters a write can still get."""
        return self._core.free_clusters

    @property
    def closed(self) -> bool:
        """Whether the store was unloaded, closed or destroyed."""
        return self._core.is_closed

    @property
    def read_only(self) -> bool:
        """Whether nothing can be changed: opened so, or a blob is in quarantine."""
        return self._core.read_only

    @property
    def errors(self) -> dict[BlobId, BlobstoreError]:
        """The blobs that loading put into quarantine, and why."""
        return {
            blob_id: error.without_traceback().at(store=self.device_name, blob=blob_id)
            for blob_id, error in self._core.errors.items()
        }

    @property
    def super_blob(self) -> BlobId:
        """The application's entry blob; a volume store's has its name and uuid.

        Raises:
            NotFoundError: None is set.
        """
        return self._session.call(lifecycle.get_super_blob, self._core)

    # Blobs

    def blob_ids(self) -> list[BlobId]:
        """Return the ids of all blobs, ascending, also of those that cannot be opened.

        Raises:
            ClosedError: The store was closed.
        """
        return self._session.call(known_ids, self._core)

    def list_blobs(self) -> Iterator[BlobInfo]:
        """Yield every blob's description, in the order of the ids.

        A blob that cannot be opened is among them, and its `error` says why. Some are
        looked at ahead: a blob may have been changed or deleted since.

        Raises:
            ClosedError: The store was closed, also if that happens before the end.
        """
        with self._listing() as listing:
            while described := self._session.run(listing.describe()):
                for blob_id, found in described:
                    if isinstance(found, BlobstoreError):
                        error = found.at(store=self.device_name, blob=blob_id)
                        yield BlobInfo.of_unopened(blob_id, error)
                    else:
                        yield found

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

    # The whole

    def register_external(self, external_id: bytes, what: External | None) -> None:
        """Say what an external snapshot's id stands for: a path, a device, another store's blob.

        Clones of it that are open see it at once; None takes it back. Nothing
        that is named inside the store itself is ever opened.

        Raises:
            InvalidArgumentError: It is read in larger blocks than the store.
        """
        name = value_of(external_id, "external_id")
        source, opened = (None, None) if what is None else open_external(what)
        try:
            self._session.call(register_external, self._core, name, source)
        except BlobstoreError:
            if opened is not None:
                opened.close()
            raise
        if opened is not None:
            self._session.externals.append(opened)

    def used_clusters(self) -> list[tuple[int, int]]:
        """Return the clusters in use as runs of (first, count), ascending.

        These are the metadata region's, those of all blobs, and those that are lost.

        Raises:
            ClosedError: The store was closed.
        """
        return self._session.call(lifecycle.used_clusters, self._core)

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
            As `iter_dump`.
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

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.device_name!r}{' closed' if self.closed else ''}>"


def device_below(store: OpenStore) -> Device:
    """Return the device that an open store lives on, for what looks at the store from below."""
    return store._session.device
