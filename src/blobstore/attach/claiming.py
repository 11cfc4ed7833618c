"""The claim on a block device that `detach` ends: a mounted device is refused."""

import contextlib
import errno
import os
from collections.abc import Iterator

from blobstore.errors import BusyError, DeviceError


@contextlib.contextmanager
def claimed(path: str, *, flush: bool) -> Iterator[int]:
    """Open a device, flush it if asked, and claim it: it cannot be mounted inside the `with`.

    Raises:
        BusyError: It is mounted, or is part of something else.
        DeviceError: It could not be flushed, or what the `with` did with it failed.
    """
    try:
        device = os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise BusyError(f"{path}: in use, such as mounted") from error
        raise DeviceError(f"{path}: {error.strerror}", errno=error.errno) from error
    try:
        if flush:
            os.fsync(device)
        yield device
    except OSError as error:
        raise DeviceError(f"{path}: {error.strerror}", errno=error.errno) from error
    finally:
        os.close(device)
