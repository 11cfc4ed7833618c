"""The files that `import` reads and `export` writes: locked, never a store in use, never a link.

The store itself is locked while it is open, so that neither command can
meet its own store under the name of FILE.
"""

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

from blobstore import (
    BlobstoreError,
    BusyError,
    DeviceError,
    ExistsError,
    InvalidArgumentError,
    IsDirectoryError,
)
from blobstore.cli.interruption import leaving, uninterrupted
from blobstore.device.lock_holder import advice_on, describe_holder
from blobstore.device.opening import sync_directory_of

_FLAGS: Final = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK  # a pipe must not make us wait
_NAME_KEPT_MAX: Final = 100  # a temporary name must not be too long where the name is not
_NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@contextmanager
def open_to_read(path: str) -> Iterator[int]:
    """Open a file or block device for reading; a store cannot be changed meanwhile.

    Raises:
        BusyError: It is a store that is open for writing.
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


def data_ranges(descriptor: int, size_bytes: int, *, start: int = 0) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of what is no hole from `start` on."""
    at = start
    while at < size_bytes:
        begin = _seek(descriptor, at, os.SEEK_DATA, otherwise=at)
        if begin is None:
            return
        end = _seek(descriptor, begin, os.SEEK_HOLE, otherwise=size_bytes)
        at = size_bytes if end is None else min(end, size_bytes)
        yield begin, at


def _seek(descriptor: int, at: int, whence: int, *, otherwise: int) -> int | None:
    """Seek; None after the last data, `otherwise` where holes are not known."""
    try:
        return os.lseek(descriptor, at, whence)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            return otherwise
        raise


def read_exactly(descriptor: int, length: int, offset: int, *, path: str) -> bytearray:
    """Read a part of a file that has it.

    Raises:
        DeviceError: The file is shorter than it was.
    """
    buffer = bytearray(length)
    fill_exactly(descriptor, buffer, offset, path=path)
    return buffer


def fill_exactly(descriptor: int, buffer: bytearray, offset: int, *, path: str) -> None:
    """Fill a buffer with a part of a file that has it.

    Raises:
        DeviceError: The file is shorter than it was.
    """
    found = os.preadv(descriptor, [buffer], offset)
    if found != len(buffer):
        raise DeviceError(f"{path}: {found} bytes at {offset}, expected {len(buffer)}")


def write_all(descriptor: int, buffer: bytes | memoryview, offset: int) -> None:
    """Write all of it at `offset`."""
    data = memoryview(buffer)
    while data:
        done = os.pwrite(descriptor, data, offset)
        data, offset = data[done:], offset + done


@contextmanager
def open_to_write(path: str, *, overwrite: bool) -> Iterator[int]:
    """Write a file under a temporary name; it gets its own when the body has ended.

    A body that fails leaves what was there as it was. A block device is written in place.

    Durability: The content is durable when the body has ended.

    Raises:
        ExistsError: It exists, and `overwrite` was not given.
        IsDirectoryError: It is a directory.
        BlobstoreError: It is a symbolic link (ELOOP).
        BusyError: It is a store that is open.
        InvalidArgumentError: It is neither a file nor a block device.
    """
    refuse_link(path)
    with _naming_file(path), locked_target(path, overwrite=overwrite) as old:
        if old is not None and is_block_device(old):
            with leaving(f"{path} holds a part of it: export again"):
                yield old
                os.fsync(old)
        else:
            with _temporary_file(path, old) as (temporary, descriptor):
                yield descriptor
                os.fsync(descriptor)
                give_name(temporary, path, overwrite=overwrite)


@contextmanager
def _naming_file(path: str) -> Iterator[None]:
    """Let the system's error say which file it is about, such as one that does not fit."""
    try:
        yield
    except BlobstoreError:
        raise
    except OSError as error:
        if error.filename is None:
            error.filename = path
        raise


@contextmanager
def locked_target(path: str, *, overwrite: bool) -> Iterator[int | None]:
    """Lock what is to be overwritten for as long as the body runs; None if there is nothing."""
    if not os.path.lexists(path):
        yield None
        return
    refuse_directory(path)
    if not overwrite:
        raise ExistsError(f"{path}: exists; --yes overwrites it")
    descriptor = _open_existing(path)
    try:
        _check_kind(descriptor, path)
        _lock(descriptor, path, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _open_existing(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_NOFOLLOW | _FLAGS)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _link_error(path) from error
        if error.errno == errno.ENXIO:  # a pipe that no program reads
            raise _kind_error(path) from error
        raise


@contextmanager
def _temporary_file(path: str, old: int | None) -> Iterator[tuple[str, int]]:
    """Make a file beside `path`, with the rights of the one that it replaces; remove it at last."""
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name[:_NAME_KEPT_MAX]}.{secrets.token_hex(4)}.part")
    with ExitStack() as stack:
        with uninterrupted(), blaming(path):
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o666)
            stack.callback(_remove, temporary)
            stack.callback(os.close, descriptor)
        if old is not None:
            found = os.fstat(old)
            os.fchmod(descriptor, stat.S_IMODE(found.st_mode))
            with suppress(OSError):  # only root gives files away
                os.fchown(descriptor, found.st_uid, found.st_gid)
        yield temporary, descriptor


@contextmanager
def blaming(path: str) -> Iterator[None]:
    """Let an error about a temporary file, whose name means nothing to the user, name `path`."""
    try:
        yield
    except OSError as error:
        error.filename = path
        raise


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def give_name(temporary: str, path: str, *, overwrite: bool) -> None:
    """Let a file that is complete have its name; a link that took the name is not followed.

    Raises:
        ExistsError: There is something of that name by now, and `overwrite` was not given.
    """
    with leaving() as left, uninterrupted():
        if overwrite:
            os.replace(temporary, path)
        else:
            _link(temporary, path)
        left.what = f"{path} is complete"
        sync_directory_of(path)


def _link(temporary: str, path: str) -> None:
    """Rename, but never over anything."""
    try:
        os.link(temporary, path)
    except FileExistsError as error:
        raise ExistsError(f"{path}: exists; --yes overwrites it") from error
    except OSError as error:
        if error.errno not in _NO_LINKS or os.path.lexists(path):
            raise
        os.rename(temporary, path)


def refuse_directory(path: str) -> None:
    """Refuse a directory, which no `--yes` overwrites.

    Raises:
        IsDirectoryError: It is one.
    """
    if os.path.isdir(path):
        raise IsDirectoryError("a directory").at(store=path)


def refuse_link(path: str) -> None:
    """Refuse a symbolic link, whatever it leads to.

    Raises:
        BlobstoreError: It is one (ELOOP).
    """
    if os.path.islink(path):
        raise _link_error(path)


def refuse_block_device(path: str) -> None:
    """Refuse a block device: an image of a format ends somewhere, and gets its name at the end.

    Raises:
        InvalidArgumentError: It is one.
    """
    if os.path.exists(path) and stat.S_ISBLK(os.stat(path).st_mode):
        raise InvalidArgumentError(f"{path}: a block device, expected a file or --format raw")


def _link_error(path: str) -> BlobstoreError:
    return BlobstoreError(f"{path}: a symbolic link, which is not followed", errno=errno.ELOOP)


def is_block_device(descriptor: int) -> bool:
    """Say whether this is a device, which has no holes and keeps its size."""
    return stat.S_ISBLK(os.fstat(descriptor).st_mode)


def _check_kind(descriptor: int, path: str) -> None:
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        raise IsDirectoryError("a directory").at(store=path)
    if not (stat.S_ISREG(os.fstat(descriptor).st_mode) or is_block_device(descriptor)):
        raise _kind_error(path)
    os.set_blocking(descriptor, True)


def _kind_error(path: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{path}: neither a file nor a block device")


def _lock(descriptor: int, path: str, kind: int) -> None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = describe_holder(descriptor)
        busy = BusyError(f"{path}: a store that is open, in use by {holder}")
        if holder.startswith("process "):  # another one
            busy.add_note(advice_on(holder, changes=False) or "try again when it has ended")
        raise busy from error
