"""Every error the package raises: the class says the kind, `errno` is the original's.

All of them are `OSError`s, so that file objects, `shutil`, `tarfile` and an `except
OSError` treat a store as they treat a file. `errno`, `strerror` and `filename` mean what
they mean there. Where Python has a class of its own for a kind of error, the class here
is one of those as well: a missing path is a `FileNotFoundError`, a missing blob is not.

Messages are lower-case facts, *place: found, expected*. The code that finds something
wrong names the page or the blob. The store is named where the error leaves the core
(`BlobstoreError.at`): the core does not know what its device is called.
"""

import errno as _errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Final, Self, TypeVar

_ANY_STORE: Final = "store: "


_Error = TypeVar("_Error", bound="BlobstoreError")


class BlobstoreError(OSError):
    """The base of all errors of this package.

    Attributes:
        errno: The positive errno the original answers in the same situation.
        strerror: What is wrong, in one line, without the store's name.
        filename: The store, by the name of its device, such as a path; or the other
            file that is to blame. None where there is none.
        blob: The id of the blob that this is about, or None.
        request: The number of the request of a batch that this is about, or None.
    """

    default_errno: ClassVar[int] = _errno.EIO

    errno: int
    strerror: str
    filename: str | None
    blob: int | None = None
    request: int | None = None

    def __init__(self, message: str, *, errno: int | None = None) -> None:
        super().__init__(self.default_errno if errno is None else errno, message)

    @property
    def message(self) -> str:
        """What is wrong and where, in one line: the store, the blob, and `strerror`."""
        places = [] if self.filename is None else [self.filename]
        if self.blob is not None and not _names_blob(self.strerror, self.blob):
            places.append(f"blob {self.blob:#x}")
        if self.request is not None:
            places.append(f"request {self.request}")
        return ": ".join([*places, self.strerror])

    @property
    def errno_name(self) -> str:
        """The symbolic name of `errno`, such as ``ENOSPC``."""
        return _errno.errorcode.get(self.errno, str(self.errno))

    def at(
        self, *, store: str | None = None, blob: int | None = None, request: int | None = None
    ) -> Self:
        """Name the store, the blob and the request of a batch, where they are not known yet.

        Returns the error itself.

        The first caller that names a store is right: an error of another store's blob,
        which a clone reads, stays that store's.
        """
        if store is not None and self.filename is None:
            self.filename = store
            self.strerror = _without_store(self.strerror, store)
        if self.blob is None:
            self.blob = blob
        if self.request is None:
            self.request = request
        return self

    def without_traceback(self) -> Self:
        """Return the same error without the traceback and what that keeps alive."""
        again = _rebuild(type(self), self.errno, self.strerror, self.filename)
        again.blob, again.request = self.blob, self.request
        return again

    def __str__(self) -> str:
        return self.message

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r})"

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle: `OSError` would call the class with an errno first."""
        return _rebuild, (type(self), self.errno, self.strerror, self.filename), self.__dict__


def _rebuild(kind: type[_Error], errno: int, strerror: str, filename: str | None) -> _Error:
    """Make an error without calling its class, whose arguments may be others."""
    error = kind.__new__(kind)
    OSError.__init__(error, errno, strerror)
    error.filename = filename
    return error


@contextmanager
def naming(*, store: str | None = None, blob: int | None = None) -> Iterator[None]:
    """Name the store and the blob in every error that leaves the `with`, as `BlobstoreError.at`."""
    try:
        yield
    except BlobstoreError as error:
        error.at(store=store, blob=blob)
        raise


def _names_blob(text: str, blob: int) -> bool:
    return re.search(rf"\bblob {blob:#x}\b", text) is not None


def _without_store(text: str, store: str) -> str:
    """Take the store's name away where it begins a message, or one that this one quotes."""
    text = text.removeprefix(_ANY_STORE)
    return re.sub(rf"(^|: ){re.escape(store)}: ", r"\1", text)


class NoSpaceError(BlobstoreError):
    """No cluster (ENOSPC) or no metadata page (ENOMEM) is left for what was asked."""

    default_errno = _errno.ENOSPC


class CorruptError(BlobstoreError):
    """Bytes on the device are not what they must be: EILSEQ for a store, EINVAL for a blob."""

    default_errno = _errno.EILSEQ


class WrongTypeError(BlobstoreError):
    """The store's type is not the one the caller expects."""

    default_errno = _errno.ENXIO


class ReadOnlyError(BlobstoreError, PermissionError):
    """The blob, the store or the device may not be changed."""

    default_errno = _errno.EPERM


class BusyError(BlobstoreError):
    """In use: open, locked by another user, under another operation, or with clones."""

    default_errno = _errno.EBUSY


class NotFoundError(BlobstoreError, LookupError):
    """No such blob, attribute or super blob.

    Only for a path it is a `FileNotFoundError`: whoever makes a store where there is none
    must not do so because a blob in it is missing.
    """

    default_errno = _errno.ENOENT


class PathNotFoundError(NotFoundError, FileNotFoundError):
    """There is no file or device of this name."""


class ExistsError(BlobstoreError, FileExistsError):
    """It is there already."""

    default_errno = _errno.EEXIST


class InvalidArgumentError(BlobstoreError, ValueError):
    """An argument that can never be right for this store or blob."""

    default_errno = _errno.EINVAL


class IsDirectoryError(InvalidArgumentError, IsADirectoryError):
    """A directory stands where a file or device is expected."""

    default_errno = _errno.EISDIR


class ClosedError(BlobstoreError, ValueError):
    """The handle was closed; a `ValueError`, as for any closed file of Python's."""

    default_errno = _errno.EBADF


class UnsupportedError(BlobstoreError):
    """The device or this build cannot do what was asked."""

    default_errno = _errno.ENOTSUP


class DeviceError(BlobstoreError):
    """The device failed; raised `from` the `OSError` where there was one."""

    default_errno = _errno.EIO


class AccessError(DeviceError, PermissionError):
    """The operating system does not let this process at the file or device (EACCES, EPERM)."""

    default_errno = _errno.EACCES


class NotDirectoryError(DeviceError, NotADirectoryError):
    """A part of a path is a file where a directory is expected."""

    default_errno = _errno.ENOTDIR


class DeviceFullError(NoSpaceError, DeviceError):
    """What stands below the device has no space: a full file system, a quota (ENOSPC, EDQUOT)."""

    default_errno = _errno.ENOSPC


class PoisonedError(DeviceError):
    """An earlier failure left it unknown what is on the device: only reads go on."""
