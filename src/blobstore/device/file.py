"""The file device: an image file (CRASH-SAFETY 3, "In Python").

Creating and growing are made durable by `fsync`. Nothing here ever changes the
file's size except `create` and `resize`.
"""

import errno
import os
import stat
from typing import ClassVar, Final

from blobstore.device.base import SECTOR_SIZE, checked_size
from blobstore.device.descriptor import DescriptorDevice
from blobstore.device.direct import DirectRequests
from blobstore.device.fallocate import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, fallocate
from blobstore.device.forking import fork_lock
from blobstore.device.opening import Path, failure, open_locked, sync_directory_of
from blobstore.errors import ExistsError, InvalidArgumentError, IsDirectoryError

_NEVER_SUPPORTED: Final = frozenset((errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV))
_NOT_THIS_RANGE: Final = frozenset((errno.EINVAL,))


class FileDevice(DescriptorDevice):
    """An image file, through the page cache unless direct I/O is asked for."""

    _KIND: ClassVar[str] = "file"
    is_sparse: ClassVar[bool] = True

    def __init__(
        self,
        descriptor: int,
        *,
        name: str,
        read_only: bool = False,
        atomic_write_size: int = SECTOR_SIZE,
        block_size: int = SECTOR_SIZE,
    ) -> None:
        """Take over an open and locked descriptor; `open` and `create` are the way to get here."""
        super().__init__(
            descriptor,
            name=name,
            block_size=block_size,
            atomic_write_size=atomic_write_size,
            read_only=read_only,
            unmap_zeroes=True,
            zeroing_unit=1,
        )
        self._refused_modes: set[int] = set()

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        read_only: bool = False,
        atomic_write_size: int = SECTOR_SIZE,
        block_size: int = SECTOR_SIZE,
        direct: bool = False,
    ) -> "FileDevice":
        """Open and lock what exists; with `direct` past the page cache.

        Raises:
            NotFoundError: No such file.
            BusyError: The file is open elsewhere, and one of both for writing.
            InvalidArgumentError: Not a file, a bad block size, or a size that direct
                I/O cannot reach the end of.
            UnsupportedError: The file system has no direct I/O.
            DeviceError: The host refused.
        """
        with fork_lock:
            descriptor = _open_file(path, os.O_RDONLY if read_only else os.O_RDWR)
            return _adopt(
                descriptor,
                name=os.fspath(path),
                read_only=read_only,
                atomic_write_size=atomic_write_size,
                block_size=block_size,
                direct=direct,
            )

    @classmethod
    def create(
        cls,
        path: Path,
        size: int,
        *,
        exclusive: bool = True,
        atomic_write_size: int = SECTOR_SIZE,
        block_size: int = SECTOR_SIZE,
        direct: bool = False,
    ) -> "FileDevice":
        """Make a sparse file of `size` bytes, and open it for writing.

        Without `exclusive` a file that exists is given that size, and keeps its
        content up to there. A file made here is removed when the rest fails.

        Durability: The file, its name and its size are durable on return.

        Raises:
            ExistsError: It exists, and `exclusive` was asked for.
            BusyError: The file exists and is open elsewhere.
            InvalidArgumentError: The size is negative, or what exists is no file.
            UnsupportedError: The file system has no direct I/O.
            DeviceError: The host refused.
        """
        checked_size(size, name=os.fspath(path))
        is_new = False
        try:
            with fork_lock:
                descriptor, is_new = _create_file(path, exclusive=exclusive)
                device = _adopt(
                    descriptor,
                    name=os.fspath(path),
                    read_only=False,
                    atomic_write_size=atomic_write_size,
                    block_size=block_size,
                    direct=direct,
                )
            device._settle(size, path)
        except BaseException:
            if is_new:
                os.unlink(path)
            raise
        return device

    def _settle(self, size: int, path: Path) -> None:
        """Give a created file its size, and make its name durable."""
        try:
            self.resize(size)
            sync_directory_of(path)
        except BaseException:
            self.close()
            raise

    # The measures

    def resize(self, size: int) -> None:
        self.check_resize(size)
        try:
            os.ftruncate(self._descriptor, size)
            os.fsync(self._descriptor)
        except OSError as error:
            raise failure(f"{self.name}: resize to {size}", error) from error
        finally:
            self.refresh_size()

    def allocate(self, offset: int, length: int) -> None:
        """Reserve host space for the range; zeroing by holes or `unmap` would release it.

        Raises:
            DeviceFullError: There is no space.
            DeviceError: The host failed.
        """
        self.check_write(offset, length)
        if length == 0 or self._next(os.SEEK_HOLE, offset) >= offset + length:
            return
        try:
            fallocate(self._descriptor, KEEP_SIZE, offset, length)
        except OSError as error:
            if error.errno in _NEVER_SUPPORTED:
                return  # such a file system cannot promise space
            raise self._request_failure("allocate", offset, length, error) from error

    def next_data(self, offset: int) -> int:
        self.check_open()
        return self._next(os.SEEK_DATA, offset) if offset < self.size_bytes else offset

    def _next(self, what: int, offset: int) -> int:
        """Return where the next data or hole begins; a host that cannot tell sees data alone."""
        try:
            return os.lseek(self._descriptor, offset, what)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return self.size_bytes
            return offset

    # Zeroes

    def _ask_zeroes(self, offset: int, length: int) -> bool:
        return self._try_fallocate(ZERO_RANGE, offset, length) or self._try_fallocate(
            PUNCH_HOLE, offset, length
        )

    def _ask_unmap(self, offset: int, length: int) -> bool:
        return self._try_fallocate(PUNCH_HOLE, offset, length)

    def _try_fallocate(self, mode: int, offset: int, length: int) -> bool:
        """Do it the file system's way, or say that it has none."""
        if mode in self._refused_modes:
            return False
        try:
            fallocate(self._descriptor, mode, offset, length)
        except OSError as error:
            if error.errno in _NEVER_SUPPORTED:
                self._refused_modes.add(mode)
            elif error.errno not in _NOT_THIS_RANGE:
                raise self._request_failure("zeroing", offset, length, error) from error
            return False
        return True


class DirectFileDevice(DirectRequests, FileDevice):
    """An image file past the page cache; its size is a multiple of the unit of direct I/O."""

    def __init__(
        self,
        descriptor: int,
        *,
        name: str,
        read_only: bool,
        atomic_write_size: int,
        block_size: int,
    ) -> None:
        self._start_direct(descriptor, name)
        super().__init__(
            descriptor,
            name=name,
            read_only=read_only,
            atomic_write_size=atomic_write_size,
            block_size=block_size,
        )
        self._zeroing_unit = self._unit


def _adopt(
    descriptor: int,
    *,
    name: str,
    read_only: bool,
    atomic_write_size: int,
    block_size: int,
    direct: bool,
) -> FileDevice:
    kind = DirectFileDevice if direct else FileDevice
    try:
        return kind(
            descriptor,
            name=name,
            read_only=read_only,
            atomic_write_size=atomic_write_size,
            block_size=block_size,
        )
    except BaseException:
        os.close(descriptor)
        raise


def _open_file(path: Path, flags: int) -> int:
    return open_locked(path, flags, _check_is_file)


def _create_file(path: Path, *, exclusive: bool) -> tuple[int, bool]:
    """Return the descriptor, and whether the file is new."""
    try:
        return _open_file(path, os.O_RDWR | os.O_CREAT | os.O_EXCL), True
    except ExistsError:
        if exclusive:
            raise
    return _open_file(path, os.O_RDWR), False


def _check_is_file(descriptor: int, path: Path) -> None:
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISBLK(mode):
        raise InvalidArgumentError(f"{os.fspath(path)}: a block device, expected a file")
    if stat.S_ISDIR(mode):
        raise IsDirectoryError("a directory").at(store=os.fspath(path))
    if not stat.S_ISREG(mode):
        raise InvalidArgumentError(f"{os.fspath(path)}: neither a file nor a block device")
