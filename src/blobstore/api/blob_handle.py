"""An open blob, as far as one step answers: the part that both colours share.

Nothing here waits for a device, so it reads alike in programs that block and under asyncio.
"""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from blobstore.api.arguments import integer_of, text_of, wrong_type
from blobstore.api.external import AwaitableBlob, ReadableBlob, registered
from blobstore.api.session import OpenSession
from blobstore.blob import attributes, seek
from blobstore.blob.changed_runs import changed_runs
from blobstore.blob.resolve import check_range, resolve_owner, split
from blobstore.device.base import Device
from blobstore.errors import (
    BlobstoreError,
    ClosedError,
    InvalidArgumentError,
    UnsupportedError,
)
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.store_state import StoreState
from blobstore.store.describe import BlobInfo, describe_blob
from blobstore.store.names import name_in
from blobstore.store.salvaged_mark import nearest_salvaged
from blobstore.units import BlobId

P = ParamSpec("P")
T = TypeVar("T")


class BlobHandle:
    """What is known of an open blob without waiting; `Blob` and `AsyncBlob` add the rest."""

    __slots__ = ()

    _core: StoreState
    _state: BlobState
    _cluster_size: int
    _session: OpenSession
    _open: bool

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
    def external(self) -> "Device | ReadableBlob | AwaitableBlob | None":
        """What is registered for the external snapshot that this blob is a clone of, or None.

        For a path it is the device that the store has opened.

        Raises:
            ClosedError: The blob or the store was closed.
        """
        return registered(self._call(lambda: self._state.external))

    @property
    def info(self) -> BlobInfo:
        """What the blob is now, with changes that are not durable yet.

        Raises:
            ClosedError: The blob or the store was closed.
        """
        return self._call(describe_blob, self._core, self._state)

    @property
    def nearest_salvaged(self) -> BlobId | None:
        """The blob itself, or its next ancestor, that a repair has salvaged; None if none was.

        What that blob has lost reads as zeroes, in this blob as well.

        Raises:
            ClosedError: The blob or the store was closed.
        """
        found = self._call(nearest_salvaged, self._state)
        return None if found is None else found.blob_id

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

    def view(self, offset: int, length: int) -> memoryview:
        """Return a read-only view of `length` bytes at `offset`, which lie in one cluster.

        The view shows the device itself, without a copy; a hole gives zeroes. The store must be
        open with `mapped=True`. The view stays usable after the blob and the store were closed,
        and then shows what anyone writes there later. A device that fails, or a file that gets
        shorter, while a view exists ends the process when the missing bytes are read (SIGBUS).

        Raises:
            InvalidArgumentError: The range reaches beyond the blob, or over several clusters.
            UnsupportedError: The store is not mapped, or an external snapshot is read there.
            DeviceError: The device is shorter than it was.
            ClosedError: The blob or the store was closed.
        """
        start, count = integer_of(offset, "offset"), integer_of(length, "length")
        return self._call(self._view, start, count)

    def _view(self, offset: int, length: int) -> memoryview:
        size = self._cluster_size
        check_range(self._state, size, offset, length)
        pieces = split(size, offset, length)
        if len(pieces) > 1:
            text = f"{length} bytes at {offset}: in {len(pieces)} clusters, expected one"
            raise InvalidArgumentError(text)
        index = offset // size
        cluster, clone = resolve_owner(self._core, self._state, index) if length else (0, None)
        if clone is not None:
            raise UnsupportedError(f"{length} bytes at {offset}: of an external snapshot")
        if not cluster:
            return memoryview(bytes(length))
        return self._session.device.view(offset + (cluster - index) * size, length)

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
            BlobstoreError: As `next_allocated`.
        """
        size, start = self._cluster_size, integer_of(offset, "offset")
        return self._call(seek.next_boundary, self._state, size, start, allocated=False)

    def next_data(self, offset: int) -> int | None:
        """Return the first byte from `offset` on that the blob or a parent holds, or None.

        An external snapshot may have data anywhere.

        Raises:
            BlobstoreError: As `next_allocated`.
        """
        start = self._cluster_at(offset)
        index = self._call(seek.next_data, self._state, start)
        return None if index is None else max(offset, index * self._cluster_size)

    def next_hole(self, offset: int) -> int:
        """Return the first byte from `offset` on that neither the blob nor a parent holds.

        Such bytes read as zeroes. The end of the blob counts as a hole.

        Raises:
            BlobstoreError: As `next_allocated`.
        """
        start = self._cluster_at(offset)
        index = self._call(seek.next_hole, self._state, start)
        return min(max(offset, index * self._cluster_size), self.size)

    def changed_ranges(self, base: "BlobHandle | None" = None) -> list[tuple[int, int, bool]]:
        """Return (offset, length, has_data) of the parts that can read differently from `base`.

        `base` is another open blob of the store, most often an older snapshot; without it, all
        zeroes. All are whole clusters, in order. A part without data reads as zeroes. The maps
        are compared and nothing is read: parts that hold the same bytes in different clusters
        count as different. Beyond the end of one of the two its part reads as zeroes.

        Raises:
            InvalidArgumentError: The other blob is one of another store.
            ClosedError: One of the two blobs or the store was closed.
        """
        runs = self._call(changed_runs, self._state, self._state_of(base))
        size = self._cluster_size
        return [(run.first * size, run.place_count * size, run.has_data) for run in runs]

    def _state_of(self, other: "BlobHandle | None") -> BlobState | None:
        """Return what the core knows of another blob of the same store."""
        if other is None:
            return None
        if not isinstance(other, BlobHandle):
            raise wrong_type("base", other, expected="a Blob")
        other._check_open()
        if other._session is not self._session:
            raise self._named(InvalidArgumentError("base: a blob of another store"))
        return other._state

    def _cluster_at(self, offset: int) -> int:
        if integer_of(offset, "offset") < 0:
            raise self._named(InvalidArgumentError(f"offset {offset}: negative"))
        return offset // self._cluster_size

    def get_xattr(self, name: str) -> bytes:
        """Return an attribute's value.

        Raises:
            NotFoundError: There is no such attribute.
        """
        key = text_of(name, "name")
        return self._call(attributes.get_xattr, self._state, key)

    def __repr__(self) -> str:
        state = f"{self.size} bytes" if self._open else "closed"
        return f"<{type(self).__name__} {self.id:#x} {state}>"

    def _named(self, error: BlobstoreError) -> BlobstoreError:
        return error.at(store=self._session.device.name, blob=self.id)

    def _check_open(self) -> None:
        if not self._open:
            raise self._named(ClosedError("closed"))

    def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self._check_open()
        try:
            return self._session.call(function, *args, **kwargs)
        except BlobstoreError as error:
            error.at(blob=self.id)
            raise
