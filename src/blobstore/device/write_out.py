"""Large writes are written out while more is written: sync_file_range(2), which `os` lacks.

The host keeps what was written in memory, and begins to write it out late. A flush after
gigabytes then waits for all of them, while the disk was idle before. Nothing depends on this
call: only a flush makes anything durable, and a host without it does as it always did.
"""

import ctypes
import functools
from collections.abc import Callable
from typing import Any, Final

from blobstore.units import MIB

_PORTION: Final = 64 * MIB
_BEGIN: Final = 2
"""Begin to write all that is in memory, and wait for nothing."""


class WriteOut:
    """Counts what is written to one file, and has it written out in portions."""

    __slots__ = ("_descriptor", "_waiting")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waiting = 0

    def add(self, length: int) -> None:
        """Take note of a large write that has ended."""
        self._waiting += length
        if self._waiting >= _PORTION:
            self._waiting = 0
            call = _libc_sync_file_range()
            if call is not None:
                call(self._descriptor, 0, 0, _BEGIN)  # a failure is the next flush's


@functools.cache
def _libc_sync_file_range() -> Callable[[int, int, int, int], int] | None:
    call: Any = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if call is None:
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    call.restype = ctypes.c_int
    found: Callable[[int, int, int, int], int] = call
    return found
