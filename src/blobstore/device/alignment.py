"""What direct I/O asks of offsets, lengths and memory, as the kernel tells it.

statx(2) with `STATX_DIOALIGN` says so since Linux 6.1; Python has no such call
yet, so it is made by ctypes. Where the answer is missing, the logical block of
the disk below the file system is asked for, and a page is right everywhere else.
"""

import ctypes
import functools
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

_AT_EMPTY_PATH: Final = 0x1000
_STATX_DIOALIGN: Final = 0x2000
_STATX_SIZE: Final = 256
_MASK: Final = struct.Struct("I")
_DIO_ALIGN: Final = struct.Struct("II")  # memory, offset
_DIO_ALIGN_AT: Final = 152

_PAGE: Final = 4096


@dataclass(frozen=True, slots=True)
class Alignment:
    """Direct I/O takes multiples of these: bytes of memory addresses, of offsets and lengths."""

    memory: int
    offset: int


def alignment_of(descriptor: int) -> Alignment | None:
    """Ask what direct I/O on a file or block device needs; None where it has none."""
    told = _statx_alignment(descriptor)
    if told is None:
        block = _logical_block_below(os.fstat(descriptor))
        return Alignment(memory=block, offset=block)
    memory, offset = told
    return Alignment(memory, offset) if offset else None


def _statx_alignment(descriptor: int) -> tuple[int, int] | None:
    call = _libc_statx()
    answer = ctypes.create_string_buffer(_STATX_SIZE)
    if call is None or call(descriptor, b"", _AT_EMPTY_PATH, _STATX_DIOALIGN, answer) != 0:
        return None
    if not _MASK.unpack_from(answer)[0] & _STATX_DIOALIGN:
        return None
    memory, offset = _DIO_ALIGN.unpack_from(answer, _DIO_ALIGN_AT)
    return memory, offset


def _logical_block_below(status: os.stat_result) -> int:
    """Look it up in sysfs, where a partition's queue is its disk's."""
    number = status.st_rdev or status.st_dev
    place = f"/sys/dev/block/{os.major(number)}:{os.minor(number)}"
    for queue in (f"{place}/queue", f"{place}/../queue"):
        try:
            with open(f"{queue}/logical_block_size", encoding="ascii") as file:
                return int(file.read())
        except OSError:
            continue
    return _PAGE


@functools.cache
def _libc_statx() -> Callable[..., int] | None:
    call: Any = getattr(ctypes.CDLL(None, use_errno=True), "statx", None)
    if call is None:
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p)
    call.restype = ctypes.c_int
    found: Callable[..., int] = call
    return found
