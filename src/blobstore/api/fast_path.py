"""The fast path: reads and writes of one known cluster, without a step of the core.

Nearly all requests touch a single cluster that the blob owns. For these the full path (a
coroutine, the driver, the store's lock) would cost several times the system call. The fast
path checks the bounds, looks the cluster up in the blob's map, and calls `preadv` or `pwrite`.
A read of a clone goes on to the clusters of ancestors that the clone has read before
(`StoreState.remember_inherited`). Everything else takes the full path: holes, ranges over
several clusters, copy-on-write, and every error, because the full path reports it. A property
test shows that both paths are equal.

The danger is that a cluster is freed, and becomes another blob's, between the lookup and the
system call. Epoch-based reclamation (`blobstore.epochs`) rules that out. A request pins the
epoch *before* it looks at anything that can change. Whoever frees a cluster, freezes a blob
or closes the device changes what requests look at first, and then waits for a grace period:
every request that has looked before has ended by then.

There is one lookup, in `_transfer`, for all requests and all kinds of devices. What differs is
the call at the end: a function with the signature of `os.pread`, `os.preadv` or `os.pwrite`,
and the target that it is called on. A device with a file descriptor is called by these very
functions. A device that must be asked for every byte (direct I/O, memory) is its own target.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final

from blobstore.alloc.leaves import LEAF_MASK, LEAF_SHIFT
from blobstore.api.arguments import bytes_of, integer_of, writable_bytes_of, wrong_type
from blobstore.api.session import Session
from blobstore.device.base import Device
from blobstore.epochs import UNPINNED
from blobstore.errors import BlobstoreError, InvalidArgumentError
from blobstore.metadata.blob_state import BlobState
from blobstore.operations import Buffer

_NO_LEAVES: Final[list[Any]] = []
"""A map without clusters. Whoever looks into it takes the full path."""


class FastPath(ABC):
    """Reading and writing an open blob; `Blob` adds the full path and everything else.

    `_leaves` is the blob's map. It stays one object while the handle is open; a closed
    handle has an empty one, which turns the fast path off without a check.
    """

    __slots__ = (
        "_cluster_size",
        "_core",
        "_device",
        "_epochs",
        "_leaves",
        "_pins",
        "_pread",
        "_preadv",
        "_pwrite",
        "_state",
        "_target",
    )

    def __init__(self, session: Session, state: BlobState) -> None:
        self._core = session.core
        self._state = state
        self._cluster_size = session.core.geometry.cluster_size
        self._epochs = session.core.epochs
        self._pins = session.pins
        self._leaves = state.clusters.leaves
        self._device = session.device
        descriptor = session.device.fast_descriptor
        self._target: Any = session.device if descriptor is None else descriptor
        self._pread: Call = _read if descriptor is None else os.pread
        self._preadv: Call = _read_into if descriptor is None else os.preadv
        self._pwrite: Call = _write if descriptor is None else os.pwrite
        if session.core.write_through:
            self._pwrite = _none  # the full path flushes

    def read(self, length: int, offset: int = 0) -> bytes:
        """Return `length` bytes at `offset`.

        Raises:
            InvalidArgumentError: The range reaches beyond the blob.
            DeviceError: The device failed.
        """
        data: bytes | None = self._transfer(self._pread, length, length, offset, False)
        if data is not None and len(data) == length:
            return data
        self._check_length(integer_of(length, "length"))
        buffer = bytearray(length)
        self._read_fully(memoryview(buffer), integer_of(offset, "offset"))
        return bytes(buffer)

    def read_into(self, buffer: Any, offset: int = 0) -> int:
        """Fill a writable, contiguous buffer from `offset`; return its length in bytes.

        Raises:
            BlobstoreError: As `read`.
        """
        try:
            length = len(buffer) if buffer.__class__ is bytearray else memoryview(buffer).nbytes
        except TypeError:
            raise wrong_type("buffer", buffer, expected="a writable buffer") from None
        if self._transfer(self._preadv, (buffer,), length, offset, False) == length:
            return length
        self._read_fully(writable_bytes_of(buffer), integer_of(offset, "offset"))
        return length

    def write(self, data: Buffer, offset: int = 0) -> int:
        """Write `data` at `offset`; return its length in bytes.

        Durability: with the next `flush`, unless the store was opened with `write_through`.

        Raises:
            InvalidArgumentError: The range reaches beyond the blob.
            ReadOnlyError: The blob or the store is read-only.
            NoSpaceError: No cluster is left for an unallocated part; nothing changed.
            DeviceError: The device failed; the range holds anything.
        """
        try:
            length = len(data) if data.__class__ is bytes else memoryview(data).nbytes
        except TypeError:
            raise wrong_type("data", data, expected="a bytes-like object") from None
        if self._transfer(self._pwrite, data, length, offset, True) == length:
            return length
        self._write_fully(bytes_of(data), integer_of(offset, "offset"))
        return length

    def _transfer(self, call: "Call", data: Any, length: int, offset: int, is_write: bool) -> Any:
        """Make the call at the place of a range that lies in one cluster.

        Returns what the call returns. None where the full path is needed: no such cluster, or
        the call failed.
        """
        pin = self._pins.mine
        # First the pin, then every look at what may change, never the other way round.
        pin.epoch = self._epochs.current
        try:
            leaves = self._leaves
            if is_write:
                core, state = self._core, self._state
                if (
                    core.poison is not None
                    or core.read_only_reason
                    or state.data_read_only
                    or state.frozen_count
                ):
                    return None
            size = self._cluster_size
            index = offset // size
            start = offset - index * size
            # A negative index would find a leaf from the end.
            if index >= 0 and start + length <= size:
                cluster = leaves[index >> LEAF_SHIFT][index & LEAF_MASK]
                if not cluster and not is_write:
                    # Second, never first: what was remembered ends before a map loses a place.
                    cluster = self._state.inherited[index >> LEAF_SHIFT][index & LEAF_MASK]
                if cluster:
                    return call(self._target, data, cluster * size + start)
        except (IndexError, OSError, TypeError, BufferError):
            pass  # beyond the end, a failed device, a wrong type: the full path says so
        finally:
            # An interrupt is raised after a call, so inside `try`: the pin is always released.
            pin.epoch = UNPINNED
        return None

    def _takes_writes(self) -> bool:
        """Tell whether writes may take the fast path now; `_transfer` spells this out."""
        core, state = self._core, self._state
        is_refused = core.poison is not None or core.read_only_reason or state.data_read_only
        return not (is_refused or state.frozen_count)

    def _leave_fast_path(self) -> None:
        """Send every request that begins from now on to the full path."""
        self._leaves = _NO_LEAVES

    def _check_length(self, length: int) -> None:
        """Refuse to read what cannot be there, before there is memory for it.

        Raises:
            InvalidArgumentError: The blob has no such length.
        """
        size = self._state.clusters.count * self._cluster_size
        if not 0 <= length <= size:
            raise self._named(InvalidArgumentError(f"read of {length} bytes, it has {size}"))

    @abstractmethod
    def _named(self, error: BlobstoreError) -> BlobstoreError:
        """Name the store and the blob in an error, and return the error."""

    @abstractmethod
    def _read_fully(self, view: memoryview, offset: int) -> None:
        """Fill the view by the full path."""

    @abstractmethod
    def _write_fully(self, view: memoryview, offset: int) -> None:
        """Write the view by the full path."""


Call = Callable[[Any, Any, int], Any]
"""(target, data, offset): what `os.pread`, `os.preadv` and `os.pwrite` have in common."""


def _read(device: Device, length: int, offset: int) -> bytes:
    return device.read(offset, length)


def _read_into(device: Device, buffers: tuple[Any], offset: int) -> int:
    view = writable_bytes_of(buffers[0])
    device.read_into(offset, (view,))
    return len(view)


def _none(_target: Any, _data: Any, _offset: int) -> None:
    return None


def _write(device: Device, data: Buffer, offset: int) -> int:
    view = bytes_of(data)
    device.write(offset, (view,))
    return len(view)
