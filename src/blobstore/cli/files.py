"""The files that `import` reads and `export` writes: locked, never a store in use, never a link.

The store itself is locked while it is open, so that neither command can
meet its own store under the name of FILE.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from blobstore import BlobstoreError, BusyError, DeviceError, ExistsError, InvalidArgumentError

_FLAGS: Final = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK  # a pipe must not make us wait


@contextmanager
def open_to_read(path: str) -> Iterator[int]:
    """Open a file or block device for reading; nobody writes it as a store meanwhile.

    Raises:
        BusyError: It is a store that somebody has open for writing.
        InvalidArgumentError: It is of another kind.
    """
    descriptor = os.open(path, os.O_RDONLY | _FLAGS)
    try:
        _check_kind(descriptor, path)
        _lock(descriptor, path, fcntl.LOCK_SH)
        yield descriptor
    finally:
        os.close(descriptor)


def size_of(descriptor: int) -> int:
    """Return the size of a file or block device in bytes."""
    return os.lseek(descriptor, 0, os.SEEK_END)


def data_ranges(descriptor: int, size_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of what is no hole."""
    at = 0
    while at < size_bytes:
        start = _seek(descriptor, at, os.SEEK_DATA, otherwise=at)
        if start is None:
            return
        end = _seek(descriptor, start, os.SEEK_HOLE, otherwise=size_bytes)
        at = size_bytes if end is None else min(end, size_bytes)
        yield start, at


def _seek(descriptor: int, at: int, whence: int, *, otherwise: int) -> int | None:
    """Seek; None behind the last data, `otherwise` where holes are not known."""
    try:
        return os.lseek(descriptor, at, whence)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            return otherwise
        raise


def read_exactly(descriptor: int, length: int, offset: int, *, path: str) -> bytes:
    """Read a part of a file that has it.

    Raises:
        DeviceError: The file is shorter than it was.
    """
    data = os.pread(descriptor, length, offset)
    if len(data) != length:
        raise DeviceError(f"{path}: {len(data)} bytes at {offset}, expected {length}")
    return data


@contextmanager
def open_to_write(path: str, *, overwrite: bool) -> Iterator[int]:
    """Make a file, or empty one when told to overwrite; a new one is removed if the body fails.

    Durability: The content is durable when the body has ended.

    Raises:
        ExistsError: It exists, and `overwrite` was not given.
        BlobstoreError: It is a symbolic link (ELOOP).
        BusyError: It is a store that somebody has open.
        InvalidArgumentError: It is neither a file nor a block device.
    """
    refuse_link(path)
    descriptor, is_new = _open_target(path, overwrite=overwrite)
    try:
        _check_kind(descriptor, path)
        _lock(descriptor, path, fcntl.LOCK_EX)
        if not is_block_device(descriptor):
            os.ftruncate(descriptor, 0)
        yield descriptor
        os.fsync(descriptor)
    except BaseException:
        if is_new:
            with suppress(OSError):
                os.unlink(path)
        raise
    finally:
        os.close(descriptor)


def refuse_link(path: str) -> None:
    """Refuse a symbolic link, whatever it leads to.

    Raises:
        BlobstoreError: It is one (ELOOP).
    """
    if os.path.islink(path):
        raise _link_error(path)


def _open_target(path: str, *, overwrite: bool) -> tuple[int, bool]:
    flags = os.O_WRONLY | os.O_NOFOLLOW | _FLAGS
    try:
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666), True
    except FileExistsError as error:
        if not overwrite:
            raise ExistsError(f"{path}: exists; --yes overwrites it") from error
    try:
        return os.open(path, flags), False
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _link_error(path) from error
        raise


def _link_error(path: str) -> BlobstoreError:
    return BlobstoreError(f"{path}: a symbolic link, which is not followed", errno=errno.ELOOP)


def is_block_device(descriptor: int) -> bool:
    """Say whether this is a device, which has no holes and keeps its size."""
    return stat.S_ISBLK(os.fstat(descriptor).st_mode)


def _check_kind(descriptor: int, path: str) -> None:
    if not (stat.S_ISREG(os.fstat(descriptor).st_mode) or is_block_device(descriptor)):
        raise InvalidArgumentError(f"{path}: neither a file nor a block device")
    os.set_blocking(descriptor, True)


def _lock(descriptor: int, path: str, kind: int) -> None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BusyError(f"{path}: a store that is open") from error
