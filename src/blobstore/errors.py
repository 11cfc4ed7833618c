"""Every error the package raises: the class says the kind, `errno` is the original's.

Messages are lower-case facts, *place: found, expected*. All errors pickle, and
are `OSError`s in spirit only: they carry an `errno` but no file name.
"""

import errno as _errno
from typing import ClassVar, Self


class BlobstoreError(Exception):
    """The base of all errors of this package.

    Attributes:
        errno: The positive errno the original answers in the same situation.
        message: What is wrong and where, one line.
    """

    default_errno: ClassVar[int] = _errno.EIO

    def __init__(self, message: str, *, errno: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.errno = self.default_errno if errno is None else errno

    @property
    def errno_name(self) -> str:
        """The symbolic name of `errno`, such as ``ENOSPC``."""
        return _errno.errorcode.get(self.errno, str(self.errno))

    def anew(self) -> Self:
        """Return the same error without the traceback and what that keeps alive."""
        return type(self)(self.message, errno=self.errno)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.errno))


def _rebuild(kind: type[BlobstoreError], message: str, errno: int) -> BlobstoreError:
    return kind(message, errno=errno)


class NoSpaceError(BlobstoreError):
    """No cluster (ENOSPC) or no metadata page (ENOMEM) is left for what was asked."""

    default_errno = _errno.ENOSPC


class CorruptError(BlobstoreError):
    """Bytes on the device are not what they must be: EILSEQ for a store, EINVAL for a blob."""

    default_errno = _errno.EILSEQ


class WrongTypeError(BlobstoreError):
    """The store's type is not the one the caller expects."""

    default_errno = _errno.ENXIO


class ReadOnlyError(BlobstoreError):
    """The blob, the store or the device may not be changed."""

    default_errno = _errno.EPERM


class BusyError(BlobstoreError):
    """In use: open, locked by somebody else, under another operation, or with clones."""

    default_errno = _errno.EBUSY


class NotFoundError(BlobstoreError, LookupError):
    """No such blob, attribute or super blob."""

    default_errno = _errno.ENOENT


class ExistsError(BlobstoreError):
    """It is there already."""

    default_errno = _errno.EEXIST


class InvalidArgumentError(BlobstoreError, ValueError):
    """An argument that can never be right for this store or blob."""

    default_errno = _errno.EINVAL


class ClosedError(BlobstoreError):
    """The handle was closed."""

    default_errno = _errno.EBADF


class UnsupportedError(BlobstoreError):
    """The device or this build cannot do what was asked."""

    default_errno = _errno.ENOTSUP


class DeviceError(BlobstoreError):
    """The device failed; raised `from` the `OSError` where there was one."""

    default_errno = _errno.EIO


class PoisonedError(DeviceError):
    """An earlier failure left it unknown what is on the device: only reads go on."""
