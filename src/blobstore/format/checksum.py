"""CRC-32C over pages, and how to change bytes without changing it (FORMAT 2, 4)."""

import struct
from collections.abc import Callable
from typing import Final

from fastcrc import crc32

from blobstore.operations import Buffer

SECTOR_SIZE: Final = 512
"""The smallest write that a device is trusted to do whole."""

_BALANCE_OFFSET: Final = SECTOR_SIZE - 4
_U32: Final = struct.Struct("<I")


crc32c: Final[Callable[..., int]] = crc32.iscsi
"""(data, initial): the Castagnoli checksum of `data`, continued from the checksum `initial`."""


def balance_sector(found: Buffer, wanted: Buffer) -> bytes:
    """Return the sector that starts with `wanted` and has the checksum of `found`.

    The last four bytes are chosen so that a checksum over the sector and all
    that follows it stays right: one atomic write then changes the sector and
    leaves the checksum at the page's end alone.

    `found` is the whole sector as it is on the device, `wanted` at most 508
    bytes, continued with zeroes.
    """
    if len(found) != SECTOR_SIZE or len(wanted) > _BALANCE_OFFSET:
        raise AssertionError("a sector and its new content were expected")
    head = bytes(wanted).ljust(_BALANCE_OFFSET, b"\0")
    (tail,) = _U32.unpack_from(found, _BALANCE_OFFSET)
    constant = tail ^ crc32c(bytes(found[:_BALANCE_OFFSET]))
    return head + _U32.pack(constant ^ crc32c(head))
