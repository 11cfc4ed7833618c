"""Addresses: from what a person writes to an open device.

Devices that reach over a network are in modules of their own, which `_KINDS` names. They are
imported when an address needs one: they cost every other start nothing, and the NBD client can
use layers that stand on devices.
"""

import os
import re
from importlib import import_module
from typing import Final, Protocol

from blobstore.device.base import SECTOR_SIZE, Device
from blobstore.device.block import BlockDevice, is_block_device
from blobstore.device.file import FileDevice
from blobstore.device.memory import MemoryDevice
from blobstore.errors import UnsupportedError
from blobstore.units import MIB, parse_size

_NBD: Final = "blobstore.nbd.client_device:open_nbd"
_KINDS: Final = {
    "memory": "blobstore.device.address:open_memory",
    "nbd": _NBD,
    "nbds": _NBD,
    "nbd+unix": _NBD,
    "nbds+unix": _NBD,
    "rbd": "blobstore.device.rbd_image:open_rbd",
}
"""Which function of which module opens addresses that begin so."""

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", re.DOTALL)
_MEMORY_SIZE: Final = 64 * MIB


class _Opener(Protocol):
    def __call__(
        self,
        address: str,
        *,
        read_only: bool,
        atomic_write_size: int | None,
        block_size: int | None,
        direct: bool,
    ) -> Device: ...


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
    memory devices, 64 MiB where no size is given. ``nbd://host/export`` and
    ``nbd+unix:///export?socket=path`` are exports of NBD servers, encrypted with
    ``nbds``. ``rbd:pool/image`` is an image of Ceph. A file with a colon in its
    name is written ``./name`` or given as a `pathlib.Path`. Sizes that are not given
    are the device's own, and 512 where it has none. `direct` goes past the page cache.

    Raises:
        UnsupportedError: The address is of a kind this build does not know, or
            has no direct I/O.
        InvalidArgumentError: The address or a size is malformed.
        NotFoundError: No such file, or no such export.
        ReadOnlyError: An export cannot be written to.
        BusyError: It is open elsewhere, and one of both for writing; or the block
            device is mounted or part of something else.
        DeviceError: The host refused.
    """
    if isinstance(address, str) and (match := _SCHEME.fullmatch(address)):
        return _opener(address, match[1])(
            address,
            read_only=read_only,
            atomic_write_size=atomic_write_size,
            block_size=block_size,
            direct=direct,
        )
    return _open_path(
        address,
        read_only=read_only,
        atomic_write_size=atomic_write_size,
        block_size=block_size,
        direct=direct,
    )


def is_address(source: str) -> bool:
    """Tell whether a text is an address of its own kind, and no path."""
    return _SCHEME.fullmatch(source) is not None


def _opener(address: str, kind: str) -> _Opener:
    if kind not in _KINDS:
        raise UnsupportedError(
            f"{address}: no devices of kind {kind!r} (a file of this name: ./{address})"
        )
    module, _, name = _KINDS[kind].partition(":")
    found: _Opener = getattr(import_module(module), name)
    return found


def open_memory(
    address: str,
    *,
    read_only: bool,
    atomic_write_size: int | None,
    block_size: int | None,
    direct: bool,
) -> Device:
    """Make a new memory device of the size that the address gives."""
    if direct:
        raise UnsupportedError(f"{address}: memory has no direct I/O")
    size = address.partition(":")[2]
    return MemoryDevice(
        parse_size(size) if size else _MEMORY_SIZE,
        _or_sector(block_size),
        atomic_write_size=_or_sector(atomic_write_size),
        read_only=read_only,
        name=address,
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
