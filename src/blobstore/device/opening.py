"""Opening what a device stands on: the descriptor, its kind and its lock.

Errors of the host become those of this package here, with its reason and errno.
"""

import errno
import fcntl
import os
import time
from collections.abc import Callable
from typing import Final, TypeAlias

from blobstore.errors import (
    BlobstoreError,
    BusyError,
    DeviceError,
    ExistsError,
    InvalidArgumentError,
    NotFoundError,
)

Path: TypeAlias = str | os.PathLike[str]

# A pipe must not make `open` wait for its other end; cleared once it is open.
_OPEN_FLAGS: Final = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_LOOK_AGAIN_S: Final = 0.005


def open_locked(
    path: Path, flags: int, check_kind: Callable[[int, Path], None], *, patience_s: float = 0.0
) -> int:
    """Open, refuse what is not of the kind, lock: exclusively for writing.

    A lock that another holds is tried again for `patience_s` seconds.
    """
    descriptor = _open(path, flags)
    try:
        check_kind(descriptor, path)
        os.set_blocking(descriptor, True)
        exclusive = flags & os.O_ACCMODE != os.O_RDONLY
        _lock(descriptor, path, exclusive=exclusive, patience_s=patience_s)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | _OPEN_FLAGS, 0o666)
    except OSError as error:
        raise _open_failure(os.fspath(path), error) from error
    except ValueError as error:
        raise InvalidArgumentError(f"{os.fspath(path)!r}: not a path") from error


def _open_failure(name: str, error: OSError) -> BlobstoreError:
    match error.errno:
        case errno.ENOENT:
            return NotFoundError(f"{name}: no such file or directory")
        case errno.EEXIST:
            return ExistsError(f"{name}: exists")
        case errno.EISDIR:
            return InvalidArgumentError(f"{name}: a directory")
        case errno.EAGAIN:
            return BusyError(f"{name}: leased to another process")
        case errno.EBUSY:
            return BusyError(f"{name}: mounted, or claimed by somebody else")
        case _:
            return failure(f"{name}: open", error)


def _lock(descriptor: int, path: Path, *, exclusive: bool, patience_s: float) -> None:
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    give_up_at = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() >= give_up_at:
                raise _in_use(path, exclusive=exclusive) from error
        except OSError as error:
            raise failure(f"{os.fspath(path)}: lock", error) from error
        time.sleep(_LOOK_AGAIN_S)


def _in_use(path: Path, *, exclusive: bool) -> BusyError:
    wanted = "writing" if exclusive else "reading"
    return BusyError(
        f"{os.fspath(path)}: cannot be opened for {wanted}: in use, here or by another process"
    )


def sync_directory_of(path: Path) -> None:
    """Make the name of a new file durable.

    Raises:
        DeviceError: The host failed.
    """
    directory = os.path.dirname(os.path.abspath(path))
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise failure(f"{directory}: sync", error) from error


def failure(what: str, error: OSError) -> DeviceError:
    """Say what failed, with the host's reason and errno."""
    code = error.errno or errno.EIO
    return DeviceError(f"{what}: {os.strerror(code)}", errno=code)
