"""Addresses: from what a person writes to an open device."""

import os
import re
from typing import Final

from blobstore.device.base import SECTOR_SIZE, Device
from blobstore.device.block import BlockDevice, is_block_device
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
    direct: bool = False,
) -> Device:
    """Open what `address` names.

    A path is a file or a block device; ``memory:`` and ``memory:64MiB`` are new
    memory devices, 64 MiB where no size is given. A file with a colon in its
    name is written ``./name`` or given as a `pathlib.Path`. Sizes that are not
    given are the block device's own, and 512 for the rest. `direct` goes past
    the page cache.

    Raises:
        UnsupportedError: The address is of a kind this build does not know, or
            has no direct I/O.
        InvalidArgumentError: The address or a size is malformed.
        NotFoundError: No such file.
        BusyError: It is open elsewhere, and one of both for writing; or the block
            device is mounted or part of something else.
        DeviceError: The host refused.
    """
    match = _SCHEME.fullmatch(address) if isinstance(address, str) else None
    if match is None:
        return _open_path(
            address,
            read_only=read_only,
            atomic_write_size=atomic_write_size,
            block_size=block_size,
            direct=direct,
        )
    if match[1] != "memory":
        raise UnsupportedError(
            f"{address}: no devices of kind {match[1]!r} (a file of this name: ./{address})"
        )
    if direct:
        raise UnsupportedError(f"{address}: memory has no direct I/O")
    return MemoryDevice(
        parse_size(match[2]) if match[2] else _MEMORY_SIZE,
        _or_sector(block_size),
        atomic_write_size=_or_sector(atomic_write_size),
        read_only=read_only,
        name=str(address),
    )


def _open_path(
    path: str | os.PathLike[str],
    *,
    read_only: bool,
    atomic_write_size: int | None,
    block_size: int | None,
    direct: bool,
) -> Device:
    if is_block_device(path):
        return BlockDevice.open(
            path,
            read_only=read_only,
            atomic_write_size=atomic_write_size,
            block_size=block_size,
            direct=direct,
        )
    return FileDevice.open(
        path,
        read_only=read_only,
        atomic_write_size=_or_sector(atomic_write_size),
        block_size=_or_sector(block_size),
        direct=direct,
    )


def _or_sector(size: int | None) -> int:
    return SECTOR_SIZE if size is None else size
