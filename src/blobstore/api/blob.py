"""An open blob, for programs that block: a disk of bytes with attributes."""

import os
import threading
import weakref
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from blobstore.blob import attributes, seek
from blobstore.blob import read as blob_read
from blobstore.blob import resize as blob_resize
from blobstore.blob import write as blob_write
from blobstore.errors import ClosedError, NotFoundError
from blobstore.locks import IDLE, Channel
from blobstore.metadata.blob_state import BlobState
from blobstore.operations import Buffer, Core
from blobstore.store.blobs import close_blob
from blobstore.store.describe import BlobInfo, describe_blob
from blobstore.units import BlobId, ceil_div, parse_size

if TYPE_CHECKING:
    from blobstore.api.blobstore import Blobstore

T = TypeVar("T")

_NO_LEAVES: Final[list[Any]] = []
_NO_DESCRIPTOR: Final = -1


class Channels:
    """The calling threads' channels of one store: each says that its thread is in the fast lane."""

    def __init__(self, registered: list[Channel]) -> None:
        self._registered = registered
        self._local = threading.local()

    def mine(self) -> Channel:
        """Return the calling thread's channel."""
        try:
            channel: Channel = self._local.channel
        except AttributeError:
            channel = Channel()
            self._local.channel = channel
            self._registered.append(channel)
        return channel


class Xattrs(MutableMapping[str, bytes]):
    """A blob's extended attributes, in their order on disk.

    Changes are durable with the blob's next `sync_md`, `flush` or `close`.
    """

    def __init__(self, blob: "Blob") -> None:
        self._blob = blob

    def __getitem__(self, name: str) -> bytes:
        try:
            return self._blob.get_xattr(name)
        except NotFoundError:
            raise KeyError(name) from None

    def __setitem__(self, name: str, value: bytes) -> None:
        self._blob.set_xattr(name, value)

    def __delitem__(self, name: str) -> None:
        try:
            self._blob.remove_xattr(name)
        except NotFoundError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._blob.info().xattrs))

    def __len__(self) -> int:
        return len(self._blob.info().xattrs)

    def __repr__(self) -> str:
        return f"Xattrs({dict(self)!r})"


class Blob:
    """An open blob. Offsets, lengths and sizes are bytes.

    Any number of threads may use it at once. Written data is durable after
    `flush`; requests of one owned cluster take a fast lane.
    """

    def __init__(self, store: "Blobstore", state: BlobState) -> None:
        self._store = store
        self._state = state
        self._open = True
        core = store.state
        self._core = core
        self._cluster_size = core.geometry.cluster_size
        self._in_flight = core.in_flight
        self._channel = store.channels.mine
        self._leaves = state.clusters.leaves
        descriptor = store.device.fast_descriptor
        self._descriptor = _NO_DESCRIPTOR if descriptor is None else descriptor
        if descriptor is None:
            self._leaves = _NO_LEAVES
        self._writable_leaves = _NO_LEAVES if core.write_through else self._leaves
        _handles.add(self)

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
    def xattrs(self) -> Xattrs:
        """The extended attributes, as a mapping."""
        return Xattrs(self)

    def info(self) -> BlobInfo:
        """Return what the blob is now, changes included that are not durable yet."""
        self._check_open()
        return describe_blob(self._core, self._state)

    def extents(self) -> list[tuple[int, int, bool]]:
        """Return (offset, length, allocated) of the blob's parts in bytes, in order.

        Unallocated parts read as the parent, or as zeroes.
        """
        parts: list[tuple[int, int, bool]] = []
        at = 0
        for first, count in self.info().extents:
            length = count * self._cluster_size
            allocated = first != 0
            if parts and parts[-1][2] == allocated:
                parts[-1] = (parts[-1][0], parts[-1][1] + length, allocated)
            else:
                parts.append((at, length, allocated))
            at += length
        return parts

    def next_allocated(self, offset: int) -> int | None:
        """Return the first byte from `offset` on that the blob itself holds, or None."""
        self._check_open()
        return seek.next_boundary(self._state, self._cluster_size, offset, allocated=True)

    def next_unallocated(self, offset: int) -> int | None:
        """Return the first byte from `offset` on that the blob itself does not hold, or None."""
        self._check_open()
        return seek.next_boundary(self._state, self._cluster_size, offset, allocated=False)

    # Data

    def read(self, length: int, offset: int = 0) -> bytes:
        """Return `length` bytes at `offset`.

        Raises:
            InvalidArgumentError: The range reaches beyond the blob.
            DeviceError: The device failed.
        """
        buffer = bytearray(length)
        self.read_into(buffer, offset)
        return bytes(buffer)

    def read_into(self, buffer: Any, offset: int = 0) -> int:
        """Fill a writable, contiguous buffer from `offset`; return its length in bytes.

        Raises:
            As `read`.
        """
        length = len(buffer) if buffer.__class__ is bytearray else memoryview(buffer).nbytes
        channel = self._channel()
        channel.mark = self._in_flight.epoch
        try:
            index, start = divmod(offset, self._cluster_size)
            if index >= 0 and start + length <= self._cluster_size:
                cluster = self._leaves[index >> 9][index & 511]
                if cluster:
                    place = cluster * self._cluster_size + start
                    if os.preadv(self._descriptor, (buffer,), place) == length:
                        return length
        except (IndexError, OSError):
            pass  # the full path says what is wrong
        finally:
            channel.mark = IDLE
        self._run(blob_read.read_into(self._core, self._state, _bytes_of(buffer), offset))
        return length

    def readv(self, buffers: Sequence[Any], offset: int = 0) -> int:
        """Fill several buffers one after the other; return the number of bytes."""
        at = offset
        for buffer in buffers:
            at += self.read_into(buffer, at)
        return at - offset

    def write(self, data: Buffer, offset: int = 0) -> int:
        """Write `data` at `offset`; return its length in bytes.

        Durability: with the next `flush`, unless the store was opened with `write_through`.

        Raises:
            InvalidArgumentError: The range reaches beyond the blob.
            ReadOnlyError: The blob or the store is read-only.
            NoSpaceError: No cluster is left for an unallocated part; nothing changed.
            DeviceError: The device failed; the range holds anything.
        """
        length = len(data) if data.__class__ is bytes else memoryview(data).nbytes
        channel = self._channel()
        channel.mark = self._in_flight.epoch
        try:
            index, start = divmod(offset, self._cluster_size)
            if (
                index >= 0
                and start + length <= self._cluster_size
                and self._core.poison is None
                and not self._state.data_read_only
            ):
                cluster = self._writable_leaves[index >> 9][index & 511]
                if cluster:
                    place = cluster * self._cluster_size + start
                    if os.pwritev(self._descriptor, (data,), place) == length:
                        return length
        except (IndexError, OSError):
            pass  # the full path says what is wrong
        finally:
            channel.mark = IDLE
        self._run(blob_write.write(self._core, self._state, _bytes_of(data), offset))
        return length

    def writev(self, buffers: Sequence[Buffer], offset: int = 0) -> int:
        """Write several buffers one after the other; return the number of bytes."""
        joined = b"".join(buffers)
        return self.write(joined, offset)

    def write_zeroes(self, offset: int, length: int) -> None:
        """Make the range read as zeroes; it is allocated afterwards.

        Raises:
            As `write`.
        """
        self._run(blob_write.write_zeroes(self._core, self._state, offset, length))

    def unmap(self, offset: int, length: int) -> None:
        """Give the range back; what was allocated in it reads as zeroes.

        A whole cluster of a thin blob without parent becomes a hole.

        Raises:
            As `write`.
        """
        self._run(blob_write.unmap(self._core, self._state, offset, length))

    def flush(self) -> None:
        """Make all that was written to the blob durable, data and metadata.

        Raises:
            DeviceError: The device failed; the store is poisoned.
        """
        self._run(blob_write.flush_blob(self._core, self._state))

    def sync_md(self) -> None:
        """Make size, attributes and allocations durable; the original's name for `flush`."""
        self.flush()

    # Metadata

    def resize(self, size: int | str) -> None:
        """Give the blob `size` bytes, rounded up to whole clusters.

        Durability: with the next `sync_md`, `flush` or `close`.

        Raises:
            NoSpaceError: Not enough clusters or metadata pages; nothing changed.
            ReadOnlyError: The blob's metadata is read-only.
        """
        count = ceil_div(parse_size(size), self._cluster_size)

        async def resize() -> None:
            async with self._core.mutex:
                await blob_resize.resize(self._core, self._state, count)

        self._run(resize())

    def get_xattr(self, name: str) -> bytes:
        """Return an attribute's value.

        Raises:
            NotFoundError: There is no such attribute.
        """
        self._check_open()
        return attributes.get_xattr(self._state, name)

    def set_xattr(self, name: str, value: Buffer) -> None:
        """Set an attribute.

        Durability: with the next `sync_md`, `flush` or `close`.

        Raises:
            NoSpaceError: It does not fit into a page, or no page is left (ENOMEM).
            ReadOnlyError: The blob's metadata is read-only.
        """
        self._change(lambda: attributes.set_xattr(self._core, self._state, name, bytes(value)))

    def remove_xattr(self, name: str) -> None:
        """Remove an attribute.

        Raises:
            NotFoundError: There is no such attribute.
        """
        self._change(lambda: attributes.remove_xattr(self._core, self._state, name))

    def set_read_only(self) -> None:
        """Make the blob read-only for good; it takes effect with the next `sync_md`."""
        self._change(lambda: attributes.set_read_only(self._core, self._state))

    def _change(self, change: Callable[[], None]) -> None:
        async def locked() -> None:
            async with self._core.mutex:
                change()

        self._run(locked())

    # The end

    def close(self) -> None:
        """Close this handle; what is dirty becomes durable. Calling it again does nothing.

        Raises:
            DeviceError: The metadata could not be written; the store is poisoned.
        """
        if not self._open:
            return
        self._leave_lane()
        self._open = False
        self._store.forget(self)
        self._store.run(close_blob(self._core, self._state))

    def _leave_lane(self) -> None:
        self._leaves = self._writable_leaves = _NO_LEAVES

    def __enter__(self) -> Self:
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

    def _check_open(self) -> None:
        if not self._open:
            raise ClosedError(f"blob {self.id:#x}: closed")

    def _run(self, core: Core[T]) -> T:
        if not self._open:
            core.close()
            self._check_open()
        return self._store.run(core)


_handles: "weakref.WeakSet[Blob]" = weakref.WeakSet()


def _leave_all_lanes() -> None:
    """In a forked child the descriptors are closed, and their numbers may be anybody's."""
    for handle in list(_handles):
        handle._leave_lane()


os.register_at_fork(after_in_child=_leave_all_lanes)


def _bytes_of(buffer: Any) -> memoryview:
    view = memoryview(buffer)
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")
