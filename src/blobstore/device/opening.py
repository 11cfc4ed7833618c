"""Opening what a device stands on: the descriptor, its kind and its lock.

Errors of the host become those of this package here, with its reason and errno.
"""

import errno
import fcntl
import os
import time
from collections.abc import Callable
from typing import Final, TypeAlias

from blobstore.device.lock_holder import advice_on, describe_holder
from blobstore.errors import (
    AccessError,
    BlobstoreError,
    BusyError,
    DeviceError,
    DeviceFullError,
    ExistsError,
    InvalidArgumentError,
    IsDirectoryError,
    NotDirectoryError,
    PathNotFoundError,
)

Path: TypeAlias = str | os.PathLike[str]

# A pipe must not make `open` wait for its other end; cleared once it is open.
_OPEN_FLAGS: Final = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_LOOK_AGAIN_S: Final = 0.005

_FAILURES: Final[dict[int, type[DeviceError]]] = {
    errno.EACCES: AccessError,
    errno.EPERM: AccessError,
    errno.ENOTDIR: NotDirectoryError,
    errno.ENOSPC: DeviceFullError,
    errno.EDQUOT: DeviceFullError,
}


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
        raise open_failure(os.fspath(path), "open", error) from error
    except ValueError as error:
        raise InvalidArgumentError(f"{os.fspath(path)!r}: not a path") from error


def open_failure(name: str, what: str, error: OSError) -> BlobstoreError:
    """Say why a file or device could not be opened, made or read; the class is Python's as well."""
    match error.errno:
        case errno.ENOENT:
            found: BlobstoreError = PathNotFoundError("no such file or directory")
        case errno.EEXIST:
            found = ExistsError("exists")
        case errno.EISDIR:
            found = IsDirectoryError("a directory")
        case errno.EAGAIN:
            found = BusyError("leased to another process")
        case errno.EBUSY:
            found = BusyError("mounted, or claimed by somebody else")
        case _:
            found = failure(what, error)
    return found.at(store=name)


def _lock(descriptor: int, path: Path, *, exclusive: bool, patience_s: float) -> None:
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    give_up_at = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() >= give_up_at:
                raise _in_use(descriptor, path, exclusive=exclusive) from error
        except OSError as error:
            raise failure(f"{os.fspath(path)}: lock", error) from error
        time.sleep(_LOOK_AGAIN_S)


def _in_use(descriptor: int, path: Path, *, exclusive: bool) -> BusyError:
    wanted, holder = "writing" if exclusive else "reading", describe_holder(descriptor)
    error = BusyError(f"cannot be opened for {wanted}: in use by {holder}")
    advice = advice_on(holder, changes=exclusive)
    if advice is not None:
        error.add_note(advice)
    return error.at(store=os.fspath(path))


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
    """Say what failed, with the host's reason and errno; the class is Python's as well."""
    code = error.errno or errno.EIO
    return _FAILURES.get(code, DeviceError)(f"{what}: {os.strerror(code)}", errno=code)
