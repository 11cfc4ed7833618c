"""Addresses: from what a person writes to an open device."""

import os
import re
from typing import Final

from blobstore.device.base import SECTOR_SIZE, Device
from blobstore.device.file import FileDevice
from blobstore.device.memory import MemoryDevice
from blobstore.errors import UnsupportedError
from blobstore.units import MIB, parse_size

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", re.DOTALL)
_MEMORY_SIZE: Final = 64 * MIB


def open_device(
    address: str | os.PathLike[str],
    *,
    read_only: bool,
    atomic_write_size: int | None = None,
    block_size: int | None = None,
) -> Device:
    """Open what `address` names.

    A path is a file or a block device; ``memory:`` and ``memory:64MiB`` are new
    memory devices, 64 MiB where no size is given. A file with a colon in its
    name is written ``./name`` or given as a `pathlib.Path`.

    Raises:
        UnsupportedError: The address is of a kind this build does not know.
        InvalidArgumentError: The address or a size is malformed.
        NotFoundError: No such file.
        BusyError: Somebody has it open, and one of both for writing.
        DeviceError: The host refused.
    """
    atomic = SECTOR_SIZE if atomic_write_size is None else atomic_write_size
    block = SECTOR_SIZE if block_size is None else block_size
    match = _SCHEME.fullmatch(address) if isinstance(address, str) else None
    if match is None:
        return FileDevice.open(
            address, read_only=read_only, atomic_write_size=atomic, block_size=block
        )
    if match[1] != "memory":
        raise UnsupportedError(
            f"{address}: no devices of kind {match[1]!r} (a file of this name: ./{address})"
        )
    return MemoryDevice(
        parse_size(match[2]) if match[2] else _MEMORY_SIZE,
        block,
        atomic_write_size=atomic,
        read_only=read_only,
        name=str(address),
    )
