"""What the methods of stores and of volumes share: finding both, and answering errors."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from blobstore.errors import BlobstoreError
from blobstore.rpc.failures import failed, number_of, refused
from blobstore.rpc.protocol import INVALID_PARAMS
from blobstore.rpc.stores import LoadedStore, VolumeBdev
from blobstore.rpc.target import Target

NAME_MAX: Final = 63


@contextmanager
def answering(code: int = INVALID_PARAMS) -> Iterator[None]:
    """Answer an error of the library with its errno, as one that was found later."""
    try:
        yield
    except BlobstoreError as error:
        raise failed(number_of(error), code=code) from error


def is_name(name: str) -> bool:
    """Tell whether a new store or volume can have the name: 1 to 63 bytes."""
    return 0 < len(name.encode()) <= NAME_MAX


def store_of(target: Target, uuid: str | None, name: str | None) -> LoadedStore:
    """Return the store that is given by its uuid or its name.

    Raises:
        RpcError: Both or neither are given (EINVAL), or there is none (ENODEV).
    """
    if (uuid is None) == (name is None):
        raise refused(errno.EINVAL)
    found = target.stores.of_uuid(uuid) if uuid is not None else target.stores.named(name or "")
    if found is None or found.is_going:
        raise refused(errno.ENODEV)
    return found


def volume_of(target: Target, name: str) -> VolumeBdev:
    """Return the device of a volume by any of its names.

    Raises:
        RpcError: There is none, or it is degraded (ENODEV).
    """
    found = target.table.find(name)
    if not isinstance(found, VolumeBdev) or found.is_going:
        raise refused(errno.ENODEV)
    return found
