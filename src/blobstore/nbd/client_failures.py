"""What goes wrong between this client and a server, as errors of this package."""

import errno
import os
import socket
import ssl
from typing import Final

from blobstore.errors import (
    AccessError,
    BlobstoreError,
    DeviceError,
    DeviceFullError,
    NotFoundError,
    PathNotFoundError,
)
from blobstore.nbd.client_negotiation import NbdRefusedError
from blobstore.nbd.client_transmission import Call
from blobstore.nbd.constants import OptionReply, WireError
from blobstore.nbd.negotiation import NbdProtocolError

_REFUSALS: Final[dict[int, type[BlobstoreError]]] = {
    OptionReply.UNKNOWN: NotFoundError,
    OptionReply.POLICY: AccessError,
    OptionReply.TLS_REQUIRED: AccessError,
}
_OPENING: Final[dict[int | None, type[BlobstoreError]]] = {
    errno.ENOENT: PathNotFoundError,
    errno.EACCES: AccessError,
    errno.EPERM: AccessError,
}
_ANSWERS: Final[dict[int, type[BlobstoreError]]] = {
    WireError.PERM: AccessError,
    WireError.NO_SPACE: DeviceFullError,
}


def describe_failure(error: BaseException) -> tuple[int, str]:
    """Return the errno and the reason of what ended a connection."""
    match error:
        case NbdProtocolError():
            return errno.EPROTO, f"the server does not keep to the protocol: {error}"
        case ssl.SSLCertVerificationError():
            return errno.EACCES, f"TLS: {error.verify_message}"
        case ssl.SSLError():
            return errno.EPROTO, f"TLS: {error.reason or error}"
        case socket.gaierror():
            return errno.EHOSTUNREACH, error.strerror or str(error)
        case BlockingIOError() | TimeoutError():
            return errno.ETIMEDOUT, "the server does not answer in time"
        case OSError():
            number = error.errno or errno.EIO
            reason = os.strerror(number) if error.errno else str(error)
            return number, f"{error.filename}: {reason}" if error.filename else reason
    return errno.EIO, f"interrupted by {type(error).__name__}"


def opening_failure(name: str, error: Exception) -> BlobstoreError:
    """Say why there is no connection."""
    if isinstance(error, NbdRefusedError):
        return _REFUSALS.get(error.kind, DeviceError)(f"{name}: {error}")
    number, reason = describe_failure(error)
    found = DeviceError if isinstance(error, ssl.SSLError) else _OPENING.get(number, DeviceError)
    return found(f"{name}: connect: {reason}", errno=number)


def answered_failure(name: str, what: str, call: Call) -> BlobstoreError:
    """Say what the server answered to a request that failed.

    A number that is not in the protocol counts as EIO: it means whatever the server's system
    means by it.
    """
    known = call.error in WireError._value2member_map_
    number = call.error if known else errno.EIO
    where = (
        f"{name}: {what} of {call.length} bytes at {call.offset}"
        if call.length
        else (f"{name}: {what}")
    )
    words = f" ({call.reason})" if call.reason else "" if known else f" (error {call.error})"
    kind = _ANSWERS.get(number, DeviceError)
    return kind(f"{where}: the server answers: {os.strerror(number)}{words}", errno=number)
