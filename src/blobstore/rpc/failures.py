"""The ways in which a method fails, as a client can tell them apart.

A call is *refused* at once with the negative errno as its code, or it *fails* later
with a generic code and the errno's text. Which of the two it is belongs to the wire:
scripts depend on it.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from blobstore.errors import BlobstoreError
from blobstore.rpc.protocol import INTERNAL_ERROR, INVALID_PARAMS, RpcError


def refused(number: int, message: str | None = None) -> RpcError:
    """Return the answer to a call that is refused at once."""
    return RpcError(-number, message or os.strerror(number))


@contextmanager
def refusing() -> Iterator[None]:
    """Answer an error of the library with its errno, as a call that is refused at once."""
    try:
        yield
    except BlobstoreError as error:
        raise refused(number_of(error)) from error


def failed(number: int, *, code: int = INVALID_PARAMS) -> RpcError:
    """Return the answer to a call that failed after it began."""
    return RpcError(code, os.strerror(number))


def undecodable(
    code: int = INTERNAL_ERROR, message: str = "spdk_json_decode_object failed"
) -> RpcError:
    """Return the answer to a call whose parameters do not decode."""
    return RpcError(code, message)


def number_of(error: OSError) -> int:
    """Return the errno of an error, as the original would answer it."""
    if isinstance(error, BlobstoreError) and error.errno == errno.ENOTUNIQ:
        return errno.EEXIST
    return error.errno or errno.EIO
