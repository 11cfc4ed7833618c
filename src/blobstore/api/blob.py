"""An open blob, for programs that block: a disk of bytes with attributes."""

from collections.abc import Callable, Mapping, Sequence
from io import BufferedRandom, BufferedReader
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

from blobstore.api import core_calls
from blobstore.api.arguments import buffers_of, bytes_of, integer_of, writable_bytes_of
from blobstore.api.blob_file import BlobFile, FileObject, ReadMode, UpdateMode, open_file
from blobstore.api.blob_handle import BlobHandle
from blobstore.api.fast_path import FastPath
from blobstore.api.session import Session
from blobstore.api.xattrs import Xattrs
from blobstore.blob import attributes
from blobstore.blob import read as blob_read
from blobstore.blob import write as blob_write
from blobstore.device.base import Device
from blobstore.drivers import interrupts
from blobstore.errors import naming
from blobstore.metadata.blob_state import BlobState
from blobstore.operations import Buffer, Core
from blobstore.store.inflate import decouple, inflate
from blobstore.store.open_blobs import close_blob

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

T = TypeVar("T")


class Blob(BlobHandle, FastPath):
    """An open blob. Offsets, lengths and sizes are bytes.

    Any number of threads may use it at once. Written data is durable after
    `flush`; requests of one owned cluster take a fast path.
    """

    __slots__ = ("__weakref__", "_open", "_session")

    _session: Session

    def __init__(self, session: Session, state: BlobState) -> None:
        super().__init__(session, state)
        self._session = session
        self._open = True
        session.handles.add(self)

    @property
    def xattrs(self) -> Xattrs:
        """The extended attributes, as a mapping."""
        return Xattrs(self)

    # Data

    def _read_fully(self, view: memoryview, offset: int) -> None:
        self._run(blob_read.read_into(self._core, self._state, view, offset))

    def _write_fully(self, view: memoryview, offset: int) -> None:
        self._run(blob_write.write(self._core, self._state, view, offset))

    def readv(self, buffers: Sequence[Any], offset: int = 0) -> int:
        """Fill several writable buffers one after the other; return the number of bytes.

        Raises:
            BlobstoreError: As `read`.
        """
        at = start = integer_of(offset, "offset")
        for view in buffers_of(buffers, writable_bytes_of):
            at += self.read_into(view, at)
        return at - start

    def writev(self, buffers: Sequence[Buffer], offset: int = 0) -> int:
        """Write several buffers one after the other; return the number of bytes.

        Durability: with the next `flush`, unless the store was opened with `write_through`.

        Raises:
            BlobstoreError: As `write`.
        """
        return self.write(b"".join(buffers_of(buffers, bytes_of)), offset)

    def read_many(
        self, offsets: "npt.ArrayLike", length: int, out: Any = None
    ) -> "npt.NDArray[np.uint8]":
        """Read `length` bytes at each of many offsets, together.

        The requests are performed in any order, on an io_uring where that is faster.

        Args:
            offsets: Integers in one dimension, such as a NumPy array; in any order.
            length: How many bytes each request reads.
            out: A writable, contiguous buffer for all rows, such as the array of an earlier
                call; None for a new one, which direct I/O takes as it is.

        Returns:
            An array of bytes of the shape (number of offsets, length), which is `out`'s memory.

        Raises:
            InvalidArgumentError: A range reaches beyond the blob, or `out` has another size;
                nothing was read.
            DeviceError: The device failed. The error's `request` is the number of the request.
        """
        from blobstore.api import batches  # every other start is faster without NumPy

        places = batches.offsets_of(offsets)
        rows = batches.rows_to_fill(out, len(places), length)
        batches.read([batches.Part(self)], places, rows)
        return rows

    def write_many(self, offsets: "npt.ArrayLike", data: Any) -> int:
        """Write a row of bytes at each of many offsets, together; return the number of bytes.

        The requests are performed in any order, on an io_uring where that is faster. Where
        they overlap, the blob holds the bytes of any of them.

        Args:
            offsets: Integers in one dimension, such as a NumPy array; in any order.
            data: A contiguous buffer with one row for each offset, such as an array of bytes
                of the shape (number of offsets, length).

        Durability: with the next `flush`, unless the store was opened with `write_through`.

        Raises:
            InvalidArgumentError: A range reaches beyond the blob, or `data` is not as many rows;
                nothing was written.
            ReadOnlyError, NoSpaceError, DeviceError: As `write`. The error's `request` is the
                number of the request; others may have been written.
        """
        from blobstore.api import batches

        places = batches.offsets_of(offsets)
        rows = batches.rows_to_write(data, len(places))
        batches.write(self, places, rows)
        if self._core.write_through:
            self.flush()
        return rows.nbytes

    def write_zeroes(self, offset: int, length: int) -> None:
        """Make `length` bytes at `offset` read as zeroes; they are allocated afterwards.

        Durability: with the next `flush`, unless the store was opened with `write_through`.

        Raises:
            BlobstoreError: As `write`.
        """
        self._run(core_calls.write_zeroes(self._core, self._state, offset, length))

    def unmap(self, offset: int, length: int) -> None:
        """Deallocate `length` bytes at `offset`; what was allocated there reads as zeroes.

        A whole cluster of a thin blob without parent becomes a hole. A clone keeps its
        clusters, full of zeroes: a hole would show the parent. Where it has none it goes on
        reading the parent.

        Durability: with the blob's next flush.

        Raises:
            BlobstoreError: As `write`.
        """
        self._run(core_calls.unmap(self._core, self._state, offset, length))

    def flush(self) -> None:
        """Make all that was written to the blob durable, data and metadata.

        Durability: on return.

        Raises:
            DeviceError: The device failed; the store is poisoned.
            ClosedError: The blob or the store was closed.
        """
        self._run(blob_write.flush_blob(self._core, self._state))

    def sync_md(self) -> None:
        """Make size, attributes and allocations durable; the original's name for `flush`.

        Durability: on return.

        Raises:
            BlobstoreError: As `flush`.
        """
        self.flush()

    @overload
    def open(self, mode: ReadMode = "rb", buffering: Literal[-1] = -1) -> BufferedReader: ...

    @overload
    def open(self, mode: UpdateMode, buffering: Literal[-1] = -1) -> BufferedRandom: ...

    @overload
    def open(self, mode: ReadMode | UpdateMode = "rb", *, buffering: Literal[0]) -> BlobFile: ...

    @overload
    def open(self, mode: str = "rb", buffering: int = -1) -> FileObject: ...

    def open(self, mode: str = "rb", buffering: int = -1) -> FileObject:
        """Return a file object on this blob, which works until the file or the blob is closed.

        `mode` is ``rb`` or ``r+b``; `buffering` is the buffer's size in bytes, -1 for a
        good one, 0 for none. The size is the blob's: a write stops at the end, and beyond
        it is `NoSpaceError`. The guide, docs/guide-files.md, has the rest.

        Durability: `flush` and `close` of a file object hand bytes to the blob; the blob's
        own `flush` makes them durable.

        Raises:
            InvalidArgumentError: Not such a mode or buffer.
            ReadOnlyError: ``r+b``, and the blob or the store is read-only.
        """
        self._check_open()
        with naming(store=self._session.device.name, blob=self.id):
            return open_file(self, self._clear, self._named, mode, buffering)

    # Metadata

    def resize(self, size: int | str) -> None:
        """Give the blob `size` bytes, rounded up to whole clusters.

        Durability: with the next `sync_md`, `flush` or `close`.

        Raises:
            NoSpaceError: Not enough clusters or metadata pages; nothing changed.
            ReadOnlyError: The blob's metadata is read-only.
            BusyError: The blob is under an operation such as `snapshot` or `inflate`.
        """
        self._run(core_calls.resize(self._core, self._state, size))

    def set_xattr(self, name: str, value: Buffer) -> None:
        """Set an attribute.

        Durability: with the next `sync_md`, `flush` or `close`.

        Raises:
            NoSpaceError: It does not fit into a page, or no page is left (ENOMEM).
            ReadOnlyError: The blob's metadata is read-only.
        """
        self._run(core_calls.set_xattr(self._core, self._state, name, value))

    def remove_xattr(self, name: str) -> None:
        """Remove an attribute.

        Durability: with the next `sync_md`, `flush` or `close`.

        Raises:
            NotFoundError: There is no such attribute.
            ReadOnlyError: The blob's metadata is read-only.
        """
        self._run(core_calls.remove_xattr(self._core, self._state, name))

    def set_read_only(self) -> None:
        """Make the blob read-only for good; this takes effect with the next `sync_md`.

        Durability: with the next `sync_md`, `flush` or `close`.

        Raises:
            ReadOnlyError: The store is read-only.
            NoSpaceError: No metadata page is left for it (ENOMEM).
        """
        self._run(attributes.set_read_only(self._core, self._state))

    def set_attributes(
        self,
        xattrs: Mapping[str, Buffer | None] | None = None,
        *,
        name: str | None = None,
        read_only: bool = False,
    ) -> None:
        """Change attributes, the name and read-only together, by one write.

        The value None removes an attribute, if it is there. `read_only` makes the blob
        read-only for good.

        Durability: on return, with all that was written to the blob before. A crash leaves
        all of it as it was, or all changed.

        Raises:
            InvalidArgumentError: A name that cannot be.
            NoSpaceError: An attribute does not fit into a page, or no page is left (ENOMEM);
                nothing changed.
            ReadOnlyError: The blob's metadata is read-only.
        """
        core = core_calls.set_attributes(self._core, self._state, xattrs, name, read_only)
        self._run(core)

    # Relations

    def snapshot(
        self, name: str | None = None, *, xattrs: Mapping[str, bytes] | None = None
    ) -> "Blob":
        """Make a read-only snapshot of what the blob holds now, and return it, open.

        The blob goes on as the snapshot's clone. No data are copied. `name` is
        the snapshot's attribute ``name``.

        Durability: on return.

        Raises:
            InvalidArgumentError: The blob is read-only: clone it instead.
            NoSpaceError: Not enough metadata pages; nothing changed.
            BusyError: The blob is under another such operation.
        """
        core = core_calls.snapshot(self._core, self._state, name, xattrs)
        return Blob(self._session, self._run(core))

    def clone(
        self, name: str | None = None, *, xattrs: Mapping[str, bytes] | None = None
    ) -> "Blob":
        """Make a thin, writable clone of this snapshot or read-only blob, and return it, open.

        `name` is the clone's attribute ``name``.

        Durability: on return.

        Raises:
            InvalidArgumentError: The blob can be written to: snapshot it first.
            NoSpaceError: No metadata page is left.
            BusyError: The blob is under another such operation.
        """
        core = core_calls.clone(self._core, self._state, name, xattrs)
        return Blob(self._session, self._run(core))

    def inflate(self) -> None:
        """Give the blob all of its clusters; it is thick then, and no clone any more.

        Durability: on return.

        Raises:
            NoSpaceError: There are not as many clusters; nothing changed.
            BusyError: The blob is under another such operation.
        """
        self._run(inflate(self._core, self._state))

    def decouple(self) -> None:
        """Copy what the blob reads from its parent; the grandparent, if any, is its parent then.

        Durability: on return.

        Raises:
            InvalidArgumentError: The blob has no parent.
            NoSpaceError: There are not as many clusters; nothing changed.
            BusyError: The blob is under another such operation.
        """
        self._run(decouple(self._core, self._state))

    def set_parent(self, parent_id: int) -> None:
        """Make this thin blob a clone of a snapshot of its size.

        If it is a snapshot, its clones read the new parent, too, and `send` does not take it,
        nor a snapshot above it, as a base any more.

        Durability: on return.

        Raises:
            NotFoundError: There is no such snapshot.
            InvalidArgumentError: The two do not fit.
            ExistsError: It is its parent already.
            BusyError: One of the two is under another such operation.
        """
        self._run(core_calls.set_parent(self._core, self._state, parent_id))

    def rollback(self, snapshot_id: int) -> None:
        """Let the blob read as one of its snapshots again: its parent, or any other ancestor.

        What was written since is lost, unless a later snapshot has it: such snapshots stay, as a
        branch of their own. The blob gets the snapshot's size, and keeps its id, its attributes
        and its open handles.

        Durability: on return. A crash leaves the blob as it was, or as the snapshot is.

        Raises:
            InvalidArgumentError: The snapshot is no ancestor of the blob.
            ReadOnlyError: The blob or the store is read-only.
            NoSpaceError: No metadata page is left to write the blob's again; nothing changed.
            BusyError: One of the two is under another such operation.
        """
        self._run(core_calls.rollback(self._core, self._state, snapshot_id))

    def set_external_parent(self, external_id: bytes) -> None:
        """Make this thin blob a clone of an external snapshot that the store knows.

        Durability: on return.

        Raises:
            NotFoundError: Nothing is registered for that id.
            InvalidArgumentError: The two do not fit.
            ExistsError: It is its parent already.
            BusyError: The blob is under another such operation.
        """
        self._run(core_calls.set_external_parent(self._core, self._state, external_id))

    def shallow_copy(
        self, target: Device, progress: Callable[[int, int], None] | None = None
    ) -> int:
        """Write this read-only blob's own clusters to the same places of another device.

        What the blob reads from its parents is left alone. `progress` is
        called with the clusters copied, and to copy. Returns how many there were.

        Durability: on return.

        Raises:
            ReadOnlyError: The blob can be written to (EPERM).
            InvalidArgumentError: The target is smaller, or its block does not fit.
            BusyError: The blob is under another such operation.
            DeviceError: One of the two devices failed.
        """
        return self._run(core_calls.shallow_copy(self._core, self._state, target, progress))

    # The end

    def close(self) -> None:
        """Close this handle. Calling it again does nothing.

        Durability: metadata that was changed is durable on return.

        Raises:
            DeviceError: The metadata could not be written; the store is poisoned.
        """
        with interrupts.Held():
            if self._session.forget(self):
                self.detach()
                self._session.run(close_blob(self._core, self._state), self.id)

    def detach(self) -> None:
        """Refuse requests from now on; the store calls this at its end, and tells the core."""
        self._open = False
        self._leave_fast_path()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, core: Core[T]) -> T:
        if not self._open:
            core.close()
        self._check_open()
        return self._session.run(core, self.id)

    def _clear(self, offset: int, length: int) -> None:
        self._run(blob_write.clear(self._core, self._state, offset, length))
