"""An open blob, for programs that block: a disk of bytes with attributes."""

from collections.abc import Callable, Mapping, Sequence
from io import BufferedRandom, BufferedReader
from types import TracebackType
from typing import Any, Literal, ParamSpec, Self, TypeVar, overload

from blobstore.api.arguments import (
    buffers_of,
    bytes_of,
    check_callback,
    id_of,
    integer_of,
    named_xattrs_of,
    size_of,
    text_of,
    value_of,
    writable_bytes_of,
    wrong_type,
)
from blobstore.api.external import ReadableBlob, registered
from blobstore.api.fast_path import FastPath
from blobstore.api.file import BlobFile, FileObject, ReadMode, UpdateMode, open_file
from blobstore.api.session import Session
from blobstore.api.xattrs import Xattrs
from blobstore.blob import attributes, seek
from blobstore.blob import read as blob_read
from blobstore.blob import resize as blob_resize
from blobstore.blob import write as blob_write
from blobstore.device.base import Device
from blobstore.drivers import interrupts
from blobstore.errors import BlobstoreError, ClosedError, InvalidArgumentError, naming
from blobstore.metadata.blob_state import BlobState
from blobstore.operations import Buffer, Core
from blobstore.store.describe import BlobInfo, describe_blob
from blobstore.store.inflate import decouple, inflate
from blobstore.store.names import name_in
from blobstore.store.open_blobs import close_blob
from blobstore.store.relations import set_external_parent, set_parent
from blobstore.store.rollback import roll_back
from blobstore.store.shallow_copy import shallow_copy
from blobstore.store.snapshots import create_open_clone, create_open_snapshot
from blobstore.units import BlobId, ceil_div

P = ParamSpec("P")
T = TypeVar("T")


class Blob(FastPath):
    """An open blob. Offsets, lengths and sizes are bytes.

    Any number of threads may use it at once. Written data is durable after
    `flush`; requests of one owned cluster take a fast path.
    """

    __slots__ = ("__weakref__", "_open", "_session")

    def __init__(self, session: Session, state: BlobState) -> None:
        super().__init__(session, state)
        self._session = session
        self._open = True
        session.handles.add(self)

    # What it is

    @property
    def id(self) -> BlobId:
        """The blob's id in its store."""
        return self._state.blob_id

    @property
    def size(self) -> int:
        """The size in bytes, a multiple of the cluster size."""
        return self._state.clusters.count * self._cluster_size

    @property
    def closed(self) -> bool:
        """Whether this handle was closed."""
        return not self._open

    @property
    def name(self) -> str | None:
        """The attribute ``name`` as text, without padding; None if there is none.

        Raises:
            ClosedError: The blob or the store was closed.
        """
        return self._call(lambda: name_in(self._state.xattrs))

    @property
    def read_only(self) -> bool:
        """Whether the data or the metadata may not be changed; `data_read_only` tells which.

        Raises:
            ClosedError: The blob or the store was closed.
        """
        return self._call(lambda: self._state.md_read_only)  # so it is where the data is

    @property
    def data_read_only(self) -> bool:
        """Whether the data may not be changed, and so the metadata neither.

        Raises:
            ClosedError: The blob or the store was closed.
        """
        return self._call(lambda: self._state.data_read_only)

    @property
    def degraded(self) -> bool:
        """Whether an external snapshot that the blob can read from is not registered.

        Reading what it does not hold itself fails then, with ENOTSUP.

        Raises:
            ClosedError: The blob or the store was closed.
        """
        return self._call(lambda: self._state.is_degraded)

    @property
    def external(self) -> "Device | ReadableBlob | None":
        """What is registered for the external snapshot that this blob is a clone of, or None.

        For a path it is the device that the store has opened.

        Raises:
            ClosedError: The blob or the store was closed.
        """
        return registered(self._call(lambda: self._state.external))

    @property
    def xattrs(self) -> Xattrs:
        """The extended attributes, as a mapping."""
        return Xattrs(self)

    @property
    def info(self) -> BlobInfo:
        """What the blob is now, with changes that are not durable yet.

        Raises:
            ClosedError: The blob or the store was closed.
        """
        return self._call(describe_blob, self._core, self._state)

    def extents(self) -> list[tuple[int, int, bool]]:
        """Return (offset, length, allocated) of the blob's parts in bytes, in order.

        Unallocated parts read as the parent, or as zeroes.

        Raises:
            ClosedError: The blob or the store was closed.
        """
        parts: list[tuple[int, int, bool]] = []
        at = 0
        for first, count in self.info.extents:
            length = count * self._cluster_size
            allocated = first != 0
            if parts and parts[-1][2] == allocated:
                parts[-1] = (parts[-1][0], parts[-1][1] + length, allocated)
            else:
                parts.append((at, length, allocated))
            at += length
        return parts

    def next_allocated(self, offset: int) -> int | None:
        """Return the first byte from `offset` on that the blob itself holds, or None.

        Raises:
            InvalidArgumentError: The offset is negative.
            ClosedError: The blob or the store was closed.
        """
        size, start = self._cluster_size, integer_of(offset, "offset")
        return self._call(seek.next_boundary, self._state, size, start, allocated=True)

    def next_unallocated(self, offset: int) -> int | None:
        """Return the first byte from `offset` on that the blob itself does not hold, or None.

        Raises:
            As `next_allocated`.
        """
        size, start = self._cluster_size, integer_of(offset, "offset")
        return self._call(seek.next_boundary, self._state, size, start, allocated=False)

    def next_data(self, offset: int) -> int | None:
        """Return the first byte from `offset` on that the blob or a parent holds, or None.

        An external snapshot may have data anywhere.

        Raises:
            As `next_allocated`.
        """
        start = self._cluster_at(offset)
        index = self._call(seek.next_data, self._state, start)
        return None if index is None else max(offset, index * self._cluster_size)

    def next_hole(self, offset: int) -> int:
        """Return the first byte from `offset` on that neither the blob nor a parent holds.

        Such bytes read as zeroes. The end of the blob counts as a hole.

        Raises:
            As `next_allocated`.
        """
        start = self._cluster_at(offset)
        index = self._call(seek.next_hole, self._state, start)
        return min(max(offset, index * self._cluster_size), self.size)

    def _cluster_at(self, offset: int) -> int:
        if integer_of(offset, "offset") < 0:
            raise self._named(InvalidArgumentError(f"offset {offset}: negative"))
        return offset // self._cluster_size

    # Data

    def _read_fully(self, view: memoryview, offset: int) -> None:
        self._run(blob_read.read_into(self._core, self._state, view, offset))

    def _write_fully(self, view: memoryview, offset: int) -> None:
        self._run(blob_write.write(self._core, self._state, view, offset))

    def readv(self, buffers: Sequence[Any], offset: int = 0) -> int:
        """Fill several writable buffers one after the other; return the number of bytes.

        Raises:
            As `read`.
        """
        at = start = integer_of(offset, "offset")
        for view in buffers_of(buffers, writable_bytes_of):
            at += self.read_into(view, at)
        return at - start

    def writev(self, buffers: Sequence[Buffer], offset: int = 0) -> int:
        """Write several buffers one after the other; return the number of bytes.

        Durability: with the next `flush`, unless the store was opened with `write_through`.

        Raises:
            As `write`.
        """
        return self.write(b"".join(buffers_of(buffers, bytes_of)), offset)

    def write_zeroes(self, offset: int, length: int) -> None:
        """Make `length` bytes at `offset` read as zeroes; they are allocated afterwards.

        Durability: with the next `flush`, unless the store was opened with `write_through`.

        Raises:
            As `write`.
        """
        start, count = integer_of(offset, "offset"), integer_of(length, "length")
        self._run(blob_write.write_zeroes(self._core, self._state, start, count))

    def unmap(self, offset: int, length: int) -> None:
        """Deallocate `length` bytes at `offset`; what was allocated there reads as zeroes.

        A whole cluster of a thin blob without parent becomes a hole. A clone keeps its
        clusters, full of zeroes: a hole would show the parent. Where it has none it goes on
        reading the parent.

        Durability: with the blob's next flush.

        Raises:
            As `write`.
        """
        start, count = integer_of(offset, "offset"), integer_of(length, "length")
        self._run(blob_write.unmap(self._core, self._state, start, count))

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
            As `flush`.
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
        """
        count = ceil_div(size_of(size), self._cluster_size)
        self._run(blob_resize.resize(self._core, self._state, count))

    def get_xattr(self, name: str) -> bytes:
        """Return an attribute's value.

        Raises:
            NotFoundError: There is no such attribute.
        """
        key = text_of(name, "name")
        return self._call(attributes.get_xattr, self._state, key)

    def set_xattr(self, name: str, value: Buffer) -> None:
        """Set an attribute.

        Durability: with the next `sync_md`, `flush` or `close`.

        Raises:
            NoSpaceError: It does not fit into a page, or no page is left (ENOMEM).
            ReadOnlyError: The blob's metadata is read-only.
        """
        key, content = text_of(name, "name"), value_of(value)
        self._run(attributes.set_xattr(self._core, self._state, key, content))

    def remove_xattr(self, name: str) -> None:
        """Remove an attribute.

        Durability: with the next `sync_md`, `flush` or `close`.

        Raises:
            NotFoundError: There is no such attribute.
            ReadOnlyError: The blob's metadata is read-only.
        """
        key = text_of(name, "name")
        self._run(attributes.remove_xattr(self._core, self._state, key))

    def set_read_only(self) -> None:
        """Make the blob read-only for good; this takes effect with the next `sync_md`.

        Durability: with the next `sync_md`, `flush` or `close`.

        Raises:
            ReadOnlyError: The store is read-only.
            NoSpaceError: No metadata page is left for it (ENOMEM).
        """
        self._run(attributes.set_read_only(self._core, self._state))

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
        core = create_open_snapshot(self._core, self._state, named_xattrs_of(name, xattrs))
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
        """
        core = create_open_clone(self._core, self.id, named_xattrs_of(name, xattrs))
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
        """
        self._run(decouple(self._core, self._state))

    def set_parent(self, parent_id: int) -> None:
        """Make this thin blob a clone of a snapshot of its size.

        Durability: on return.

        Raises:
            NotFoundError: There is no such snapshot.
            InvalidArgumentError: The two do not fit.
            ExistsError: It is its parent already.
        """
        self._run(set_parent(self._core, self._state, id_of(parent_id, "parent_id")))

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
        self._run(roll_back(self._core, self._state, id_of(snapshot_id, "snapshot_id")))

    def set_external_parent(self, external_id: bytes) -> None:
        """Make this thin blob a clone of an external snapshot that the store knows.

        Durability: on return.

        Raises:
            NotFoundError: Nothing is registered for that id.
            InvalidArgumentError: The two do not fit.
            ExistsError: It is its parent already.
        """
        wanted = value_of(external_id, "external_id")
        self._run(set_external_parent(self._core, self._state, wanted))

    def shallow_copy(
        self, target: Device, progress: Callable[[int, int], None] | None = None
    ) -> int:
        """Write this read-only blob's own clusters to the same places of another device.

        What the blob reads from its parents is left alone. `progress` is
        called with the clusters copied, and to copy. Returns how many there were.

        Raises:
            ReadOnlyError: The blob can be written to (EPERM).
            InvalidArgumentError: The target is smaller, or its block does not fit.
            DeviceError: One of the two devices failed.
        """
        if not isinstance(target, Device):
            raise wrong_type("target", target, expected="a Device")
        check_callback("progress", progress)
        return self._run(shallow_copy(self._core, self._state, target, progress))

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

    def __repr__(self) -> str:
        state = f"{self.size} bytes" if self._open else "closed"
        return f"<Blob {self.id:#x} {state}>"

    def _named(self, error: BlobstoreError) -> BlobstoreError:
        return error.at(store=self._session.device.name, blob=self.id)

    def _check_open(self) -> None:
        if not self._open:
            raise self._named(ClosedError("closed"))

    def _run(self, core: Core[T]) -> T:
        if not self._open:
            core.close()
        self._check_open()
        return self._session.run(core, self.id)

    def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self._check_open()
        try:
            return self._session.call(function, *args, **kwargs)
        except BlobstoreError as error:
            error.at(blob=self.id)
            raise

    def _clear(self, offset: int, length: int) -> None:
        self._run(blob_write.clear(self._core, self._state, offset, length))
