"""The file device: an image file, used through the page cache (CRASH-SAFETY 3, "In Python").

Owns the file's descriptor and its lock. `flush` is `fdatasync`; creating and
growing are made durable by `fsync`. Nothing here ever changes the file's size
except `create` and `resize`: bounds are checked before each write.
"""

import contextlib
import errno
import fcntl
import os
import stat
import threading
import warnings
import weakref
from collections.abc import Sequence
from typing import Final, Self, TypeAlias

from blobstore.device.base import SECTOR_SIZE, Device, buffer_length, byte_views, checked_size
from blobstore.device.fallocate import PUNCH_HOLE, ZERO_RANGE, fallocate
from blobstore.errors import (
    BusyError,
    DeviceError,
    ExistsError,
    InvalidArgumentError,
    NotFoundError,
)
from blobstore.operations import Buffer
from blobstore.units import KIB, MIB

Path: TypeAlias = str | os.PathLike[str]

_IOV_MAX: Final = os.sysconf("SC_IOV_MAX")
_ZEROES: Final = bytes(MIB)

# Up to here zeroes are written: as fast as asking the file system, and the
# range keeps its reserved space where zeroing can only be had by a hole.
_WRITTEN_ZEROES_MAX: Final = 64 * KIB

# A pipe must not make `open` wait for its other end; cleared once it is open.
_OPEN_FLAGS: Final = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK

_NEVER_SUPPORTED: Final = frozenset((errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV))
_NOT_THIS_RANGE: Final = frozenset((errno.EINVAL,))  # a block device and an unaligned range


class FileDevice(Device):
    """An image file, or a block device, locked while it is open.

    A writer holds an exclusive `flock`, a reader a shared one. The lock belongs
    to this one opening of the file, so it also excludes others in this process.
    """

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
            name=name,
            size_bytes=_ask_size(descriptor, name),
            block_size=block_size,
            atomic_write_size=atomic_write_size,
            read_only=read_only,
            unmap_zeroes=True,
        )
        self._descriptor = descriptor
        self._owner = os.getpid()
        self._refused_modes: set[int] = set()
        _open_devices.add(self)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        read_only: bool = False,
        atomic_write_size: int = SECTOR_SIZE,
        block_size: int = SECTOR_SIZE,
    ) -> Self:
        """Open and lock what exists.

        Raises:
            NotFoundError: No such file.
            BusyError: Somebody has it open, and one of both for writing.
            InvalidArgumentError: Neither a file nor a block device, or a bad block size.
            DeviceError: The host refused.
        """
        with _fork_lock:
            descriptor = _open_locked(path, os.O_RDONLY if read_only else os.O_RDWR)
            return cls._adopt(
                descriptor,
                name=os.fspath(path),
                read_only=read_only,
                atomic_write_size=atomic_write_size,
                block_size=block_size,
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
    ) -> Self:
        """Make a sparse file of `size` bytes, and open it for writing.

        Without `exclusive` a file that exists is given that size, and keeps its
        content up to there. A file made here is removed when the rest fails.

        Durability: The file, its name and its size are durable on return.

        Raises:
            ExistsError: It exists, and `exclusive` was asked for.
            BusyError: It exists, and somebody has it open.
            InvalidArgumentError: The size is negative, or what exists is no file.
            DeviceError: The host refused.
        """
        checked_size(size, name=os.fspath(path))
        is_new = False
        try:
            with _fork_lock:
                descriptor, is_new = _create_locked(path, exclusive=exclusive)
                device = cls._adopt(
                    descriptor,
                    name=os.fspath(path),
                    read_only=False,
                    atomic_write_size=atomic_write_size,
                    block_size=block_size,
                )
            device._settle(size, path)
        except BaseException:
            if is_new:
                os.unlink(path)
            raise
        return device

    @classmethod
    def _adopt(
        cls,
        descriptor: int,
        *,
        name: str,
        read_only: bool,
        atomic_write_size: int,
        block_size: int,
    ) -> Self:
        try:
            return cls(
                descriptor,
                name=name,
                read_only=read_only,
                atomic_write_size=atomic_write_size,
                block_size=block_size,
            )
        except BaseException:
            os.close(descriptor)
            raise

    def _settle(self, size: int, path: Path) -> None:
        """Give a created file its size, and make its name durable."""
        try:
            self.resize(size)
            _sync_directory_of(path)
        except BaseException:
            self.close()
            raise

    # The measures

    @property
    def fast_descriptor(self) -> int | None:
        return None if self._closed else self._descriptor

    def refresh_size(self) -> int:
        self.check_open()
        self._set_size(_ask_size(self._descriptor, self.name))
        return self.size_bytes

    def resize(self, size: int) -> None:
        self.check_resize(size)
        try:
            os.ftruncate(self._descriptor, size)
            os.fsync(self._descriptor)
        except OSError as error:
            raise _failure(f"{self.name}: resize to {size}", error) from error
        finally:
            self.refresh_size()

    def allocate(self, offset: int, length: int) -> None:
        """Reserve host space for the range; zeroing by holes or `unmap` would give it back."""
        self.check_write(offset, length)
        if length == 0:
            return
        try:
            os.posix_fallocate(self._descriptor, offset, length)
        except OSError as error:
            if error.errno != errno.ENODEV:  # a block device has its space
                raise self._request_failure("allocate", offset, length, error) from error

    # Reading and writing: one call in nearly all cases, the rest in `_rest`

    def read(self, offset: int, length: int) -> bytes:
        self.check_read(offset, length)
        try:
            data = os.pread(self._descriptor, length, offset)
        except OSError as error:
            raise self._request_failure("read", offset, length, error) from error
        if len(data) == length:
            return data
        rest = bytearray(length - len(data))
        self._read_rest(offset + len(data), [memoryview(rest)])
        return data + rest

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        first = buffers
        if len(buffers) == 1:
            length = buffers[0].nbytes
        else:
            length = buffer_length(buffers)
            first = buffers[:_IOV_MAX]
        if not 0 <= offset <= self._read_limit - length:
            self._refuse_read(offset, length)
        try:
            done = os.preadv(self._descriptor, first, offset)
        except OSError as error:
            raise self._request_failure("read", offset, length, error) from error
        if done != length:
            self._read_rest(offset + done, _views_after(byte_views(buffers), done))

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        first = buffers
        if len(buffers) == 1:
            buffer = buffers[0]
            length = buffer.nbytes if type(buffer) is memoryview else len(buffer)
        else:
            length = buffer_length(buffers)
            first = buffers[:_IOV_MAX]
        if not 0 <= offset <= self._write_limit - length:
            self._refuse_write(offset, length)
        try:
            done = os.pwritev(self._descriptor, first, offset)
        except OSError as error:
            raise self._request_failure("write", offset, length, error) from error
        if done != length:
            self._write_rest(offset + done, _views_after(byte_views(buffers), done))

    def _read_rest(self, offset: int, views: list[memoryview]) -> None:
        while views:
            try:
                done = os.preadv(self._descriptor, views[:_IOV_MAX], offset)
            except OSError as error:
                raise self._request_failure("read", offset, buffer_length(views), error) from error
            if done == 0:
                raise self._ended_early(offset, buffer_length(views))
            offset += done
            views = _views_after(views, done)

    def _write_rest(self, offset: int, views: list[memoryview]) -> None:
        while views:
            try:
                done = os.pwritev(self._descriptor, views[:_IOV_MAX], offset)
            except OSError as error:
                raise self._request_failure("write", offset, buffer_length(views), error) from error
            if done == 0:
                raise DeviceError(
                    f"{self.name}: write at {offset}: 0 bytes written, "
                    f"expected {buffer_length(views)}"
                )
            offset += done
            views = _views_after(views, done)

    def _ended_early(self, offset: int, length: int) -> DeviceError:
        """Say that the file is shorter than it was: zeroes in its place would be a lie."""
        found = _ask_size(self._descriptor, self.name)
        return DeviceError(
            f"{self.name}: read of {length} bytes at {offset}: "
            f"file of {found} bytes found, expected {self.size_bytes}"
        )

    def _request_failure(self, what: str, offset: int, length: int, error: OSError) -> DeviceError:
        return _failure(f"{self.name}: {what} of {length} bytes at {offset}", error)

    # Zeroes

    def write_zeroes(self, offset: int, length: int) -> None:
        self.check_write(offset, length)
        if length <= _WRITTEN_ZEROES_MAX or not (
            self._try_fallocate(ZERO_RANGE, offset, length)
            or self._try_fallocate(PUNCH_HOLE, offset, length)
        ):
            self._write_zero_bytes(offset, length)

    def unmap(self, offset: int, length: int) -> None:
        self.check_write(offset, length)
        if length and not self._try_fallocate(PUNCH_HOLE, offset, length):
            self._write_zero_bytes(offset, length)

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

    def _write_zero_bytes(self, offset: int, length: int) -> None:
        end = offset + length
        while offset < end:
            part = min(end - offset, len(_ZEROES))
            self.write(offset, [memoryview(_ZEROES)[:part]])
            offset += part

    # Durability

    def flush(self) -> None:
        """Make every completed write durable, by `fdatasync`.

        After a failure the kernel forgets which pages it could not write, and
        the next flush may succeed without them: the caller must not try again.
        """
        self.check_open()
        if self.read_only:
            return
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise _failure(f"{self.name}: flush", error) from error

    # The end

    def close(self) -> None:
        with _fork_lock:
            if self._closed:
                return
            super().close()
            self._unlock()
            try:
                os.close(self._descriptor)
            except OSError as error:
                raise _failure(f"{self.name}: close", error) from error

    def _unlock(self) -> None:
        """Unlock before closing: a child between fork and exec has a copy that would stay locked.

        Not in a forked child: it shares the lock with its parent, to whom it belongs.
        """
        if os.getpid() == self._owner:
            with contextlib.suppress(OSError):  # closing unlocks as well
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and hasattr(self, "_descriptor"):
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self.close()


# Opening


def _open_locked(path: Path, flags: int) -> int:
    """Open, refuse what is no device, lock."""
    descriptor = _open(path, flags)
    try:
        _check_kind(descriptor, path)
        os.set_blocking(descriptor, True)
        _lock(descriptor, path, exclusive=flags & os.O_ACCMODE != os.O_RDONLY)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _create_locked(path: Path, *, exclusive: bool) -> tuple[int, bool]:
    """Return the descriptor, and whether the file is new."""
    try:
        return _open_locked(path, os.O_RDWR | os.O_CREAT | os.O_EXCL), True
    except ExistsError:
        if exclusive:
            raise
    return _open_locked(path, os.O_RDWR), False


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | _OPEN_FLAGS, 0o666)
    except FileNotFoundError as error:
        raise NotFoundError(f"{os.fspath(path)}: no such file or directory") from error
    except FileExistsError as error:
        raise ExistsError(f"{os.fspath(path)}: exists") from error
    except IsADirectoryError as error:
        raise InvalidArgumentError(f"{os.fspath(path)}: a directory") from error
    except BlockingIOError as error:
        raise BusyError(f"{os.fspath(path)}: leased to another process") from error
    except OSError as error:
        raise _failure(f"{os.fspath(path)}: open", error) from error
    except ValueError as error:
        raise InvalidArgumentError(f"{os.fspath(path)!r}: not a path") from error


def _check_kind(descriptor: int, path: Path) -> None:
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise InvalidArgumentError(f"{os.fspath(path)}: neither a file nor a block device")


def _lock(descriptor: int, path: Path, *, exclusive: bool) -> None:
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        wanted = "writing" if exclusive else "reading"
        raise BusyError(
            f"{os.fspath(path)}: cannot be opened for {wanted}: in use, here or by another process"
        ) from error
    except OSError as error:
        raise _failure(f"{os.fspath(path)}: lock", error) from error


def _ask_size(descriptor: int, name: str) -> int:
    """Ask by seeking to the end, which works for block devices too."""
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    except OSError as error:
        raise _failure(f"{name}: size", error) from error


def _sync_directory_of(path: Path) -> None:
    directory = os.path.dirname(os.path.abspath(path))
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _failure(f"{directory}: sync", error) from error


def _failure(what: str, error: OSError) -> DeviceError:
    """Say what failed, with the host's reason and errno."""
    code = error.errno or errno.EIO
    return DeviceError(f"{what}: {os.strerror(code)}", errno=code)


def _views_after(views: list[memoryview], done: int) -> list[memoryview]:
    """Drop the first `done` bytes, and empty views with them."""
    rest: list[memoryview] = []
    for view in views:
        if done < len(view):
            rest.append(view[done:])
        done = max(0, done - len(view))
    return rest


# Forking. A child's copy of a descriptor would write beside the parent, and keep
# the file in use: the child closes it. No fork happens while a file is opened
# and not yet known here, nor while it is half closed.

_open_devices: Final[weakref.WeakSet[FileDevice]] = weakref.WeakSet()
_fork_lock: Final = threading.RLock()


def _close_in_child() -> None:
    try:
        for device in list(_open_devices):
            device.close()
    finally:
        _fork_lock.release()


os.register_at_fork(
    before=_fork_lock.acquire,
    after_in_parent=_fork_lock.release,
    after_in_child=_close_in_child,
)
