"""The one system call a file device needs and `os` does not offer: fallocate(2) with a mode.

`os.posix_fallocate` only reserves. Zeroing a range, or giving it back, without
writing every byte of it takes the modes, and those are reached by ctypes: part
of the standard library, with no compiler and no binding to install. libc is
looked up on first use, since most processes never zero a large range.
"""

import ctypes
import errno
import functools
import os
from collections.abc import Callable
from typing import Final

KEEP_SIZE: Final = 0x01
PUNCH_HOLE: Final = 0x02 | KEEP_SIZE
ZERO_RANGE: Final = 0x10 | KEEP_SIZE


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """Make the system call, again when a signal interrupted it.

    Raises:
        OSError: ENOSYS where the platform has no such call, or the call's own error.
    """
    call = _libc_fallocate()
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    while call(descriptor, mode, offset, length) != 0:
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))


@functools.cache
def _libc_fallocate() -> Callable[[int, int, int, int], int] | None:
    """Find the variant with 64-bit offsets; newer musl has it under the plain name alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    call = getattr(libc, "fallocate64", None) or getattr(libc, "fallocate", None)
    if call is None:
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    call.restype = ctypes.c_int
    found: Callable[[int, int, int, int], int] = call
    return found
