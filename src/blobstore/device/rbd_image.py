"""An image of Ceph RBD as a device.

**One writer.** A writer takes the image's exclusive lock. Ceph's own rule is that a client gives
the lock away when another one wants to write. A lock that is acquired by hand is kept, so a
second writer is refused, on whatever host it runs. If the holder dies, the cluster notices
within its watch timeout (30 s by default). A writer that comes meanwhile waits, and then gets the
lock. The cluster shuts the dead client out, so nothing that it had on its way reaches the image
later. A reader takes no lock, and is refused while there is a writer that lives.

**Flush.** librbd keeps writes in memory. Its flush returns when all writes that were completed
before are in the cluster.

**Many requests.** librbd runs requests of several threads at once, and splits a large one over
the objects that it touches. Its calls do not hold the GIL. The thread that asks waits in librbd,
which is asynchronous below. `aio_read` and `aio_write` call back on a thread of librbd instead,
which then needs the GIL, and wakes the thread that asked: a 4 KiB write at depth 4 takes 82 us
instead of 42, a read 284 us instead of 160. For 1 MiB both take the same time.

**Forking.** A child has none of librbd's threads, and closing the image there would wait for them
for ever. The child only forgets the image.
"""

import ctypes
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Final

from blobstore.device.base import SECTOR_SIZE, Device, buffer_length, byte_views
from blobstore.device.bounce import Cursor
from blobstore.device.forking import fork_lock, open_devices
from blobstore.device.rbd_cluster import Cluster, RbdAddress, ceph_failures
from blobstore.errors import (
    AccessError,
    BusyError,
    DeviceError,
    ReadOnlyError,
    UnsupportedError,
)
from blobstore.operations import Buffer
from blobstore.units import GIB

_PHYSICAL_BLOCK: Final = 4096  # of BlueStore
_AT_ONCE: Final = GIB


class RbdDevice(Device):
    """An image; an unmapped range may read as anything, as librbd skips parts of objects."""

    needs_undo_path: ClassVar[bool] = True

    def __init__(
        self,
        cluster: Cluster,
        image: Any,
        *,
        name: str,
        read_only: bool,
        block_size: int = SECTOR_SIZE,
        atomic_write_size: int = SECTOR_SIZE,
    ) -> None:
        """Take over an open image; `open` is the way to get here."""
        super().__init__(
            name=name,
            size_bytes=image.size(),
            block_size=block_size,
            physical_block_size=max(block_size, _PHYSICAL_BLOCK),
            atomic_write_size=atomic_write_size,
            read_only=read_only,
        )
        self._cluster = cluster
        self._image = image
        self._owner = os.getpid()
        open_devices.add(self)

    @classmethod
    def open(
        cls,
        address: RbdAddress,
        *,
        name: str,
        read_only: bool = False,
        block_size: int = SECTOR_SIZE,
        atomic_write_size: int = SECTOR_SIZE,
    ) -> "RbdDevice":
        """Open an image, for writing with its exclusive lock.

        Raises:
            UnsupportedError: Ceph's Python modules are missing, or the image has no exclusive lock.
            NotFoundError: No such configuration, pool or image.
            BusyError: Another client writes to the image.
            InvalidArgumentError: A bad block size.
            AccessError, DeviceError: The cluster refused, or does not answer.
        """
        cluster = Cluster(address, name)
        try:
            if read_only:
                _refuse_writer(cluster, name)
            image = cluster.open_image(name, read_only=read_only)
            try:
                if not read_only:
                    _lock(cluster.rbd, image, name)
                return cls(
                    cluster,
                    image,
                    name=name,
                    read_only=read_only,
                    block_size=block_size,
                    atomic_write_size=atomic_write_size,
                )
            except BaseException:
                image.close()
                raise
        except BaseException:
            cluster.close()
            raise

    # The measures

    def refresh_size(self) -> int:
        self.check_open()
        self._set_size(self._ask_size())
        return self.size_bytes

    def _ask_size(self) -> int:
        """Ask again; a read-only image is not told of changes, so it is opened again."""
        if not self.read_only:
            with ceph_failures(self.name, "size"):
                size: int = self._image.stat()["size"]
            return size
        image = self._cluster.open_image(self.name, read_only=True)
        try:
            size = image.size()
        finally:
            image.close()
        return size

    def resize(self, size: int) -> None:
        self.check_resize(size)
        try:
            with ceph_failures(self.name, f"resize to {size}"):
                self._image.resize(size)
        finally:
            self.refresh_size()

    # Reading and writing

    def read(self, offset: int, length: int) -> bytes:
        self.check_read(offset, length)
        if not length:
            return b""
        with ceph_failures(self.name, f"read of {length} bytes at {offset}"):
            data: bytes = self._image.read(offset, length)
        if len(data) != length:
            raise DeviceError(
                f"{self.name}: read of {length} bytes at {offset}: "
                f"image of {self._image.size()} bytes found, expected {self.size_bytes}"
            )
        return data

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        views = byte_views(buffers)
        data = memoryview(self.read(offset, buffer_length(views)))
        if len(views) == 1:
            views[0][:] = data
        elif data:
            Cursor(views).drain(data)

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        length = buffer_length(buffers)
        self.check_write(offset, length)
        if not length:
            return
        first = buffers[0]
        data = first if len(buffers) == 1 and type(first) is bytes else b"".join(buffers)
        with ceph_failures(self.name, f"write of {length} bytes at {offset}"):
            self._image.write(data, offset)

    def write_zeroes(self, offset: int, length: int) -> None:
        self.check_write(offset, length)
        for at, size in _pieces(offset, length):
            with ceph_failures(self.name, f"zeroing of {size} bytes at {at}"):
                self._image.write_zeroes(at, size)

    def unmap(self, offset: int, length: int) -> None:
        self.check_write(offset, length)
        for at, size in _pieces(offset, length):
            with ceph_failures(self.name, f"unmap of {size} bytes at {at}"):
                self._image.discard(at, size)

    # Durability

    def flush(self) -> None:
        """Make every completed write durable: it is in the cluster, as often as its pool keeps it.

        Durability: on return.

        Raises:
            DeviceError: The cluster failed, or has shut this client out.
            ClosedError: The device was closed.
        """
        self.check_open()
        if not self.read_only:
            with ceph_failures(self.name, "flush"):
                self._image.flush()

    # The end

    def close(self) -> None:
        with fork_lock:
            if self._closed:
                return
            super().close()
            image, cluster = self._image, self._cluster
            del self._image, self._cluster
            if os.getpid() != self._owner:
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(image))  # it must never be finalized
                return
        try:
            with ceph_failures(self.name, "close"):
                image.close()
        finally:
            cluster.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and hasattr(self, "_owner"):
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self.close()


def open_rbd(
    address: str,
    *,
    read_only: bool,
    atomic_write_size: int | None,
    block_size: int | None,
    direct: bool,
) -> RbdDevice:
    """Open what an address names, as `blobstore.device.address.open_device` asks for it.

    Raises:
        UnsupportedError: Direct I/O is asked for. Also what `RbdDevice.open` raises.
    """
    if direct:
        raise UnsupportedError(f"{address}: an image has no direct I/O")
    return RbdDevice.open(
        RbdAddress.parse(address),
        name=address,
        read_only=read_only,
        block_size=SECTOR_SIZE if block_size is None else block_size,
        atomic_write_size=SECTOR_SIZE if atomic_write_size is None else atomic_write_size,
    )


def _pieces(offset: int, length: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of pieces that librbd takes at once: less than 2 GiB."""
    for at in range(offset, offset + length, _AT_ONCE):
        yield at, min(_AT_ONCE, offset + length - at)


def _refuse_writer(cluster: Cluster, name: str) -> None:
    """Refuse to read while another client writes.

    An image that is opened read-only does not tell who has its lock. A user who may only read
    cannot open it otherwise, and does not learn it.

    Raises:
        BusyError: A client that lives holds the lock.
    """
    try:
        image = cluster.open_image(name, read_only=False)
    except AccessError:
        return
    try:
        holder = _living_holder(image, name) if _has_lock(cluster.rbd, image, name) else ""
    finally:
        image.close()
    if holder:
        raise BusyError(f"{name}: cannot be opened for reading: in use by {holder}")


def _lock(rbd: Any, image: Any, name: str) -> None:
    """Take the exclusive lock, and keep it.

    Raises:
        UnsupportedError: The image has none.
        BusyError: Another client holds it.
    """
    if not _has_lock(rbd, image, name):
        raise UnsupportedError(
            f"{name}: the image has no exclusive lock (rbd feature enable ... exclusive-lock)"
        )
    try:
        with ceph_failures(name, "lock"):
            image.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)
    except (ReadOnlyError, BusyError) as error:  # what a holder that keeps the lock answers
        holder = _living_holder(image, name) or "another client"
        message = f"{name}: cannot be opened for writing: in use by {holder}"
        raise BusyError(message) from error


def _has_lock(rbd: Any, image: Any, name: str) -> bool:
    with ceph_failures(name, "features"):
        return bool(image.features() & rbd.RBD_FEATURE_EXCLUSIVE_LOCK)


def _living_holder(image: Any, name: str) -> str:
    """Name the client that holds the exclusive lock, as `rbd lock list` shows it; empty for none.

    A holder that died is not among those that watch the image, after a while.
    """
    with ceph_failures(name, "lock"):
        holders = [owner["owner"] for owner in image.lock_get_owners()]
        watching = {watcher["addr"] for watcher in image.watchers_list()}
    living = [holder for holder in holders if holder in watching]
    return f"the Ceph client at {living[0]}" if living else ""
