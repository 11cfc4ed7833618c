"""A store, for programs that block."""

from collections.abc import Callable, Iterator, Mapping
from typing import Self, overload

from blobstore.api import core_calls
from blobstore.api.arguments import blob_name_of, check_callback, id_of, optional, value_of
from blobstore.api.blob import Blob
from blobstore.api.open_store import OpenStore
from blobstore.api.session import Session
from blobstore.api.source import Source, opened_device, traits_of
from blobstore.api.store_opening import create_store, load_store, new_store_options
from blobstore.drivers.blocking import BlockingDriver
from blobstore.store.blobs import ClearMethod
from blobstore.store.grow import grow_closed
from blobstore.store.init import DEFAULT_CLUSTER_SIZE, Clear
from blobstore.store.names import find_blob
from blobstore.units import BlobId


class Blobstore(OpenStore):
    """An open store of blobs. Leaving its `with` closes all blobs and unloads it clean.

    Any number of threads may use it at once; processes may not: a writer
    holds the device alone.
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
    ) -> Self:
        """Make a store, and open it.

        With `size` a file that is not there is made, one that is there gets
        that size. `max_size` is what the store can be grown to later: it gets the
        room in its masks for that, and a metadata page for each cluster, as far as
        these take no more than a quarter of the device. `atomic_write_size` 4096
        says that the device never tears such a write, and gives the original's
        compact layout. `direct` goes past the page cache.

        Durability: on return. A crash leaves no store, or an empty one.

        Raises:
            ExistsError: The device holds something, and `overwrite` was not given.
            InvalidArgumentError: Sizes that do not fit each other.
            NoSpaceError: The device is too small, or for its metadata (ENOMEM).
            BusyError: The device is open elsewhere, is mounted, or is part of something else,
                still after `wait` seconds.
            UnsupportedError: There is no direct I/O there.
        """
        options = new_store_options(
            cluster_size=cluster_size,
            max_size=max_size,
            md_pages=md_pages,
            md_page_size=md_page_size,
            bstype=bstype,
            clear=clear,
        )
        loaded = create_store(
            source,
            options,
            size=size,
            block_size=block_size,
            overwrite=overwrite,
            atomic_write_size=atomic_write_size,
            direct=direct,
            write_through=write_through,
        )
        return cls(Session(*loaded))

    @classmethod
    def open(
        cls,
        source: Source,
        *,
        read_only: bool = False,
        bstype: bytes | None = None,
        force_recovery: bool = False,
        force: bool = False,
        on_blob: Callable[[Blob], object] | None = None,
        atomic_write_size: int | None = None,
        direct: bool = False,
        write_through: bool = False,
        mapped: bool = False,
        wait: float = 0.0,
    ) -> Self:
        """Open a store; one that was not unloaded is recovered in memory first.

        `bstype` is compared with the store's type; None or zeroes fit every
        one. `force` keeps the store writable although a blob is in quarantine.
        `on_blob` is called with every blob that can be opened, in the order of the
        ids, each open for as long as the call takes; an exception of its closes the
        store. `direct` goes past the page cache. `mapped`, with `read_only`, maps the device into
        memory: `Blob.view` shows it without a copy, and `read_many` copies from it. A device that
        is in use is tried again for `wait` seconds.

        Raises:
            CorruptError: There is no store, or one that makes no sense (EILSEQ).
            WrongTypeError: It is of another type (ENXIO).
            BusyError: The device is open elsewhere, is mounted, or is part of something else,
                still after `wait` seconds.
            UnsupportedError: There is no direct I/O there, or the device cannot be mapped.
            InvalidArgumentError: `mapped` without `read_only`; a negative `wait`.
        """
        check_callback("on_blob", on_blob)
        loaded = load_store(
            source,
            bstype=optional(value_of, bstype, "bstype"),
            read_only=read_only,
            force_recovery=force_recovery,
            force=force,
            atomic_write_size=atomic_write_size,
            direct=direct,
            write_through=write_through,
            mapped=mapped,
            wait=wait,
        )
        store = cls(Session(*loaded))
        if on_blob is not None:
            store._call_with_each(on_blob)
        return store

    def _call_with_each(self, on_blob: Callable[[Blob], object]) -> None:
        try:
            for blob in self.iter_blobs(on_error=lambda _error: None):
                on_blob(blob)
        except BaseException:
            self.close()
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
    ) -> Blob:
        """Create a blob of `size` bytes, rounded up to whole clusters, and open it.

        `name` is its attribute ``name``. Several blobs of a store may have the same one: to
        refuse it would mean to read the root of every blob. `find` tells whether one has it.

        Durability: on return.

        Raises:
            NoSpaceError: No metadata page (ENOMEM), or not enough clusters (ENOSPC).
        """
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
        return Blob(self._session, self._session.run(core))

    def find(self, name: str) -> BlobId:
        """Return the id of the one blob whose attribute ``name`` is this.

        The root of every blob is read: 10,000 take about 0.1 s. An attribute counts as
        soon as it is set, durable or not. NUL bytes at its end do not count.

        Raises:
            NotFoundError: No blob has the name.
            InvalidArgumentError: Several blobs have it (ENOTUNIQ); the message lists their ids.
        """
        return self._session.run(find_blob(self._core, blob_name_of(name)))

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
        core = core_calls.open_blob(self._core, blob_id, name)
        return Blob(self._session, self._session.run(core, optional(id_of, blob_id, "blob_id")))

    def delete_blob(self, blob_id: int) -> None:
        """Delete a blob that is not open; a snapshot with one clone is merged into it.

        Durability: on return.

        Raises:
            NotFoundError: There is no such blob.
            BusyError: It is open, has several clones, or is under another such operation.
            CorruptError: It cannot be read; or a blob that cannot be read may be its clone.
            ReadOnlyError: The store is read-only.
            NoSpaceError: Its clone's metadata cannot be written beside the old; nothing changed.
        """
        self._session.run(core_calls.delete_blob(self._core, blob_id), id_of(blob_id))

    # The whole

    def set_super_blob(self, blob_id: int | None) -> None:
        """Set the application's entry blob, or clear it; the id is not checked.

        Durability: on return.

        Raises:
            ReadOnlyError: The store is read-only.
            DeviceError: The device failed; the store is poisoned.
        """
        self._session.run(core_calls.set_super_blob(self._core, blob_id))

    def set_type(self, bstype: bytes) -> None:
        """Change the store's type, at most 16 bytes.

        Durability: with the super block's next write, at the latest when the store is closed.

        Raises:
            InvalidArgumentError: It is longer than 16 bytes.
            ReadOnlyError: The store is read-only.
        """
        self._session.run(core_calls.set_type(self._core, bstype))


def grow(source: Source, *, atomic_write_size: int | None = None) -> int:
    """Grow a closed, clean store to its device's size; return the size in bytes.

    A device that was given stays open.

    Durability: on return.

    Raises:
        BlobstoreError: The store is dirty (EIO).
        NoSpaceError: The cluster mask has no room for as many clusters.
        NotFoundError: There is no such file.
        BusyError: It is open elsewhere.
        CorruptError: It holds no store, or one that makes no sense.
    """
    with opened_device(source, read_only=False, atomic_write_size=atomic_write_size) as device:
        return BlockingDriver(device).run(grow_closed(traits_of(device))).size_bytes


def dump(source: Source) -> bytes:
    """Return a device's metadata as text, as the original prints it, whatever state it is in.

    Raises:
        BlobstoreError: As `iter_dump`.
    """
    return b"".join(iter_dump(source))


def iter_dump(source: Source) -> Iterator[bytes]:
    """Yield the text of `dump` piece by piece: it can be sixty times as long as the metadata.

    A device that was given stays open.

    Raises:
        NotFoundError: There is no such file.
        BusyError: Another process has it open for writing.
        DeviceError: It cannot be opened, or not be read.
    """
    from blobstore.store.dump import Dumping  # every other start is faster without

    with opened_device(source, read_only=True) as device:
        driver, dumping = BlockingDriver(device), Dumping(traits_of(device))
        while (text := driver.run(dumping.read())) is not None:
            yield text
