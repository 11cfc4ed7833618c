"""A store, for programs that block."""

import os
import weakref
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Final, Self, TypeVar, overload

from blobstore.api.arguments import blob_name_of, id_of, named_xattrs_of, value_of
from blobstore.api.blob import Blob
from blobstore.api.device_lane import DeviceBlob
from blobstore.api.external import External, open_external
from blobstore.api.pins import ThreadPins
from blobstore.api.source import (
    Source,
    device_to_fill,
    erase_signature,
    is_missing_file,
    open_source,
    traits_of,
)
from blobstore.device.base import Device
from blobstore.drivers.blocking import BlockingDriver
from blobstore.errors import BlobstoreError, PoisonedError, naming
from blobstore.format.super_block import SUPER_BLOCK_FIELDS
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.load import known_ids, load
from blobstore.metadata.store_state import DeviceTraits, StoreState
from blobstore.operations import Core
from blobstore.store import lifecycle
from blobstore.store.blobs import BlobOptions, ClearMethod, create_open_blob
from blobstore.store.delete import delete_blob
from blobstore.store.describe import BlobInfo, StoreInfo, describe_store
from blobstore.store.dump import Dumping
from blobstore.store.grow import grow_closed, grow_open
from blobstore.store.init import (
    DEFAULT_CLUSTER_SIZE,
    Clear,
    InitOptions,
    init_store,
    padded_type,
    plan_store,
)
from blobstore.store.listing import Listing
from blobstore.store.names import find_blob, open_named_blob
from blobstore.store.opening import open_blob
from blobstore.store.relations import register_external
from blobstore.units import BlobId, ceil_div, parse_size

T = TypeVar("T")

_COMPACT: Final = 4096


class Blobstore:
    """An open store. Leaving its `with` closes all blobs and unloads it clean.

    Any number of threads may use it at once; processes may not: a writer
    holds the device alone.
    """

    def __init__(self, device: Device, driver: BlockingDriver, state: StoreState) -> None:
        self.device = device
        self.state = state
        self.pins = ThreadPins(state.epochs.pins)
        self._driver = driver
        self._handles: set[Blob] = set()
        self._listings: set[Listing] = set()
        self._externals: list[Device] = []
        _stores.add(self)

    # Making and opening

    @classmethod
    def create(
        cls,
        source: Source,
        *,
        size: int | str | None = None,
        cluster_size: int | str = DEFAULT_CLUSTER_SIZE,
        block_size: int | None = None,
        md_pages: int | None = None,
        md_page_size: int | str | None = None,
        bstype: bytes = b"",
        clear: Clear | str = Clear.UNMAP,
        overwrite: bool = False,
        atomic_write_size: int | None = None,
        direct: bool = False,
        write_through: bool = False,
    ) -> Self:
        """Make a store, and open it.

        With `size` a file that is not there is made, one that is there gets
        that size. `atomic_write_size` 4096 says that the device never tears
        such a write, and gives the original's compact layout. `direct` goes
        past the page cache.

        Durability: on return. A crash leaves no store, or an empty one.

        Raises:
            ExistsError: The device holds something, and `overwrite` was not given.
            InvalidArgumentError: Sizes that do not fit each other.
            NoSpaceError: The device is too small, or for its metadata (ENOMEM).
            BusyError: Somebody else has it open, or it is mounted or part of something else.
            UnsupportedError: There is no direct I/O there.
        """
        options = InitOptions(
            cluster_size=parse_size(cluster_size),
            md_pages=md_pages,
            md_page_size=None if md_page_size is None else parse_size(md_page_size),
            bstype=padded_type(bstype),
            clear=Clear(clear),
        )
        wanted = None if size is None else parse_size(size)
        is_new = size is not None and is_missing_file(source)
        device = device_to_fill(
            source, wanted, block_size, atomic_write_size, overwrite, is_new, direct
        )
        try:
            traits = replace(
                traits_of(device), size_bytes=device.size_bytes if wanted is None else wanted
            )
            geometry = plan_store(traits, options)
            driver = BlockingDriver(device)
            if device.size_bytes != traits.size_bytes:
                device.resize(traits.size_bytes)
            erase_signature(device)
            state = driver.run(init_store(traits, options))
            device.allocate(0, geometry.metadata_end)
        except BaseException as error:
            device.close()
            if is_new:
                os.unlink(device.name)
            if isinstance(error, BlobstoreError):
                error.at(store=device.name)
            raise
        state.write_through = write_through
        return cls(device, driver, state)

    @classmethod
    def open(
        cls,
        source: Source,
        *,
        read_only: bool = False,
        bstype: bytes | None = None,
        force_recovery: bool = False,
        force: bool = False,
        atomic_write_size: int | None = None,
        direct: bool = False,
        write_through: bool = False,
    ) -> Self:
        """Open a store; one that was not unloaded is recovered in memory first.

        `bstype` is compared with the store's type; None or zeroes fit every
        one. `force` keeps the store writable although a blob is in quarantine.
        `direct` goes past the page cache.

        Raises:
            CorruptError: There is no store, or one that makes no sense (EILSEQ).
            WrongTypeError: It is of another type (ENXIO).
            BusyError: Somebody else has it open, or it is mounted or part of something else.
            UnsupportedError: There is no direct I/O there.
        """
        device = open_source(
            source, read_only=read_only, atomic_write_size=atomic_write_size, direct=direct
        )
        try:
            driver = BlockingDriver(device)
            state = driver.run(
                load(
                    traits_of(device),
                    bstype=None if bstype is None else padded_type(bstype),
                    read_only=read_only or device.read_only,
                    force_recovery=force_recovery,
                    forced=force,
                )
            )
        except BaseException:
            device.close()
            raise
        state.write_through = write_through
        return cls(device, driver, state)

    # What it is

    @property
    def info(self) -> StoreInfo:
        """What the store is now."""
        with self._named():
            self.state.check_open()
        return describe_store(self.state)

    @property
    def cluster_size(self) -> int:
        """The size of a cluster in bytes."""
        return self.state.geometry.cluster_size

    @property
    def free_clusters(self) -> int:
        """How many clusters a write can still get."""
        return self.state.free_clusters

    @property
    def closed(self) -> bool:
        """Whether the store was unloaded, closed or destroyed."""
        return self.state.is_closed

    @property
    def read_only(self) -> bool:
        """Whether nothing can be changed: opened so, or a blob is in quarantine."""
        return self.state.read_only

    @property
    def errors(self) -> dict[BlobId, BlobstoreError]:
        """The blobs that loading put into quarantine, and why."""
        store = self.device.name
        return {
            blob_id: error.anew().at(store=store, blob=blob_id)
            for blob_id, error in self.state.errors.items()
        }

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
    ) -> Blob:
        """Create a blob of `size` bytes, rounded up to whole clusters, and open it.

        `name` is its attribute ``name``. Several blobs of a store may have the same one.

        Durability: on return.

        Raises:
            NoSpaceError: No metadata page (ENOMEM), or not enough clusters (ENOSPC).
        """
        options = BlobOptions(
            cluster_count=ceil_div(parse_size(size), self.cluster_size),
            thin=thin or external_snapshot is not None,
            extent_table=extent_table,
            clear_method=ClearMethod(clear_method),
            xattrs=named_xattrs_of(name, xattrs),
            external_id=None if external_snapshot is None else value_of(external_snapshot),
        )
        return self._handle(self.run(create_open_blob(self.state, options)))

    def find(self, name: str) -> BlobId:
        """Return the id of the one blob whose attribute ``name`` is this.

        The root of every blob is read: 10,000 take about 0.1 s. An attribute counts as
        soon as it is set, durable or not. NUL bytes at its end do not count.

        Raises:
            NotFoundError: No blob has the name.
            InvalidArgumentError: Several blobs have it (ENOTUNIQ); the message lists their ids.
        """
        return self.run(find_blob(self.state, blob_name_of(name)))

    @overload
    def open_blob(self, blob_id: int) -> Blob: ...

    @overload
    def open_blob(self, *, name: str) -> Blob: ...

    def open_blob(self, blob_id: int | None = None, *, name: str | None = None) -> Blob:
        """Open a blob by its id or name; the same blob may be open any number of times.

        Raises:
            NotFoundError: There is no such blob, or its parent is missing.
            InvalidArgumentError: Several blobs have the name (ENOTUNIQ).
            CorruptError: It cannot be read.
        """
        if name is None:
            wanted = id_of(blob_id)
            return self._handle(self.run(open_blob(self.state, wanted), wanted))
        if blob_id is not None:
            raise TypeError("open_blob: expected a blob's id or its name, got both")
        return self._handle(self.run(open_named_blob(self.state, blob_name_of(name))))

    def _handle(self, blob: BlobState) -> Blob:
        kind = Blob if self.device.fast_descriptor is not None else DeviceBlob
        handle = kind(self, blob)
        self._handles.add(handle)
        return handle

    def register_external(self, external_id: bytes, what: External | None) -> None:
        """Say what an external snapshot's id stands for: a path, a device, another store's blob.

        Clones of it that are open see it at once; None takes it back. Nothing
        that is named inside the store itself is ever opened.

        Raises:
            InvalidArgumentError: It is read in larger blocks than the store.
        """
        name = value_of(external_id)
        source, opened = (None, None) if what is None else open_external(what)
        try:
            with self._named():
                register_external(self.state, name, source)
        except BlobstoreError:
            if opened is not None:
                opened.close()
            raise
        if opened is not None:
            self._externals.append(opened)

    def delete_blob(self, blob_id: int) -> None:
        """Delete a blob that nobody has open; a snapshot with one clone is merged into it.

        Durability: on return.

        Raises:
            NotFoundError: There is no such blob.
            BusyError: It is open, or has several clones.
        """
        wanted = id_of(blob_id)
        self.run(delete_blob(self.state, wanted), wanted)

    def blob_ids(self) -> list[BlobId]:
        """Return the ids of all blobs, ascending, those included that cannot be opened."""
        with self._named():
            self.state.check_open()
        return known_ids(self.state)

    def list_blobs(self) -> Iterator[BlobInfo | tuple[BlobId, BlobstoreError]]:
        """Yield every blob's description, or its id and why it cannot be opened.

        Some are looked at ahead: a blob may have been changed or deleted since.
        """
        with self._listing() as listing:
            while described := self.run(listing.describe()):
                for blob_id, found in described:
                    if isinstance(found, BlobstoreError):
                        yield blob_id, found.at(store=self.device.name, blob=blob_id)
                    else:
                        yield found

    def iter_blobs(self) -> Iterator[tuple[BlobId, Blob | BlobstoreError]]:
        """Yield every blob's id, and the blob, open until the next one, or why it does not open.

        Parents stay open until the end, so that a chain is read once in all.
        """
        with self._listing() as listing:
            while (found := self.run(listing.open())) is not None:
                blob_id, state = found
                if isinstance(state, BlobstoreError):
                    yield blob_id, state.at(store=self.device.name, blob=blob_id)
                    continue
                with self._handle(state) as blob:
                    yield blob_id, blob

    @contextmanager
    def _listing(self) -> Iterator[Listing]:
        """Have a listing that ends with the store, if not before."""
        with self._named():
            listing = Listing(self.state)
        self._listings.add(listing)
        try:
            yield listing
        finally:
            if listing in self._listings:
                self._listings.discard(listing)
                self.run(listing.close())

    # The whole

    @property
    def super_blob(self) -> BlobId:
        """The application's entry blob.

        Raises:
            NotFoundError: None is set.
        """
        with self._named():
            return lifecycle.get_super_blob(self.state)

    def set_super_blob(self, blob_id: int | None) -> None:
        """Set the application's entry blob, or clear it; the id is not checked.

        Durability: on return.
        """
        wanted = None if blob_id is None else id_of(blob_id)
        self.run(lifecycle.set_super_blob(self.state, wanted))

    def set_type(self, bstype: bytes) -> None:
        """Change the store's type in memory; durable with the super block's next write."""
        with self._named():
            lifecycle.set_type(self.state, bstype)

    def flush(self) -> None:
        """Make all that was written to any open blob durable.

        Raises:
            DeviceError: The device failed; the store is poisoned.
        """
        self.run(lifecycle.flush_store(self.state))

    def grow(self) -> StoreInfo:
        """Use all of a device that has grown since.

        Durability: on return.

        Raises:
            CorruptError: The device is smaller than the store.
            NoSpaceError: The cluster mask has no room for as many clusters.
        """
        self.run(grow_open(self.state, self.device.refresh_size()))
        return self.info

    def dump(self) -> bytes:
        """Return the metadata on the device as text, as the original prints it."""
        return b"".join(self.iter_dump())

    def iter_dump(self) -> Iterator[bytes]:
        """Yield the text of `dump` piece by piece."""
        dumping = Dumping(_traits_for_dump(self.device))
        while (text := self.run(dumping.read())) is not None:
            yield text

    def unload(self) -> None:
        """Leave the store clean, and end it.

        Raises:
            BusyError: A blob is open; nothing happened.
            DeviceError: The device failed; the store stays dirty and is ended all the same.
        """
        if self.closed:
            return
        try:
            self.run(lifecycle.unload(self.state))
        finally:
            if self.state.is_closed:
                self._close_devices()

    def close(self) -> None:
        """Close all blobs, then unload. Calling it again does nothing.

        Raises:
            DeviceError: The device failed; everything is let go all the same.
            PoisonedError: The store had become unusable: it was let go as it was, and
                what was not durable by then is lost.
        """
        if self.closed:
            return
        try:
            self._close_handles()
            with self._named():
                self.state.check_usable()
            self.unload()
        finally:
            self.state.is_closed = True
            self._close_devices()

    def destroy(self) -> None:
        """Make the device hold no store any more.

        Raises:
            BusyError: A blob is open.
        """
        self.run(lifecycle.destroy(self.state))
        self._close_devices()

    def _close_devices(self) -> None:
        for device in (self.device, *self._externals):
            device.close()

    def _close_handles(self) -> None:
        failure: BlobstoreError | None = None
        for listing in list(self._listings):
            self.run(listing.close())
        for handle in list(self._handles):
            try:
                handle.close()
            except BlobstoreError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def abandon(self) -> None:
        """Be closed, with all blobs, without touching the device: it is another process's."""
        self.state.is_closed = True
        self._listings.clear()
        for handle in self._handles:
            handle.abandon()

    def forget(self, handle: Blob) -> None:
        """Take note that a handle was closed."""
        self._handles.discard(handle)

    def run(self, core: Core[T], blob: BlobId | None = None) -> T:
        """Run a coroutine of the core; an untyped exception in it poisons the store.

        An error names the store, and the blob that is given.
        """
        try:
            return self._driver.run(core)
        except BlobstoreError as error:
            error.at(blob=blob)
            raise
        except BaseException as error:
            self.state.poison = self.state.poison or error
            raise

    def _named(self) -> AbstractContextManager[None]:
        return naming(store=self.device.name)

    def __enter__(self) -> Self:
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
        return f"<Blobstore {self.device.name!r}{' closed' if self.closed else ''}>"


def grow(source: Source, *, atomic_write_size: int | None = None) -> int:
    """Grow a closed, clean store to its device's size; return the size in bytes.

    Raises:
        BlobstoreError: The store is dirty (EIO).
        NoSpaceError: The cluster mask has no room for as many clusters.
    """
    with open_source(source, read_only=False, atomic_write_size=atomic_write_size) as device:
        return BlockingDriver(device).run(grow_closed(traits_of(device))).size_bytes


def dump(source: Source) -> bytes:
    """Return a device's metadata as text, as the original prints it, whatever state it is in."""
    return b"".join(iter_dump(source))


def iter_dump(source: Source) -> Iterator[bytes]:
    """Yield the text of `dump` piece by piece: it can be sixty times as long as the metadata."""
    with open_source(source, read_only=True, atomic_write_size=None) as device:
        driver, dumping = BlockingDriver(device), Dumping(_traits_for_dump(device))
        while (text := driver.run(dumping.read())) is not None:
            yield text


def _traits_for_dump(device: Device) -> DeviceTraits:
    """Take the block size that a dump counts addresses in from the super block.

    An image file does not say what blocks the device it was written on had.
    """
    traits = traits_of(device)
    if traits.size_bytes < SUPER_BLOCK_FIELDS.size:
        return traits
    io_unit_size = SUPER_BLOCK_FIELDS.unpack(device.read(0, SUPER_BLOCK_FIELDS.size))[16]
    return replace(traits, block_size=io_unit_size or traits.block_size)


_stores: "weakref.WeakSet[Blobstore]" = weakref.WeakSet()


def _abandon_all() -> None:
    """In a forked child the descriptors are closed, and their numbers may be anybody's.

    The threads that could end what they had in flight are not there either:
    nothing may wait for them.
    """
    for store in list(_stores):
        store.abandon()


os.register_at_fork(after_in_child=_abandon_all)
