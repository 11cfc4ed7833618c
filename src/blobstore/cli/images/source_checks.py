"""Is the whole disk in the one file of an image? qemu-img does not ask.

qemu-img reads zeroes instead of what is missing: the end of a file that was cut short, and the
parent of an image that holds only differences (we let qemu-img open one file alone).
"""

import os
import struct
import sys
from array import array
from collections.abc import Iterator
from typing import Final

from blobstore.cli.files import size_of
from blobstore.cli.images.formats import VHD_FOOTER_SIZE, VHD_MAGIC, check_format
from blobstore.cli.images.qcow2_header import read_header
from blobstore.cli.images.qcow2_tables import check_whole
from blobstore.errors import InvalidArgumentError
from blobstore.units import ceil_div

_VMDK_HEAD: Final = struct.Struct("<4sIIQQQQIQQ")
"""Magic, version, flags, and in sectors: capacity, grain, the descriptor's offset and size.

Then the entries of a grain table, and in sectors: the offsets of the redundant and of the grain
directory, which names the grain tables, whose entries (4 bytes) name the grains."""
_VMDK_DIRECTORY_AT_END: Final = (1 << 64) - 1
_VMDK_DIRECTORY_MAX: Final = 1 << 23
_VMDK_TABLE_MAX: Final = 512
_VDI_LAYOUT: Final = struct.Struct("<I28xIIII")
_VDI_LAYOUT_OFFSET: Final = 0x158
"""Where the data begin; after 28 bytes a block's size and what is before it, and the numbers
of blocks and of allocated blocks. The data of allocated blocks follow each other."""
_ENTRY_SIZE: Final = 4
assert (_VMDK_HEAD.size, _VDI_LAYOUT.size, array("I").itemsize) == (64, 48, _ENTRY_SIZE)
_SECTOR_SIZE: Final = 512
_VMDK_DESCRIPTOR_MAX: Final = 1 << 20
_VMDK_PARENT: Final = b"parentFileNameHint"
_VHD_TYPE: Final = struct.Struct(">I")
_VHD_TYPE_OFFSET: Final = 60
_VHD_DIFFERENCING: Final = 4


def check_source(descriptor: int, path: str, image_format: str) -> None:
    """Refuse an image that is cut short, or that needs other files.

    Only the backing file of a qcow2 image is no reason: it can be imported before the image.

    Raises:
        InvalidArgumentError: It is, or it is of another format.
    """
    check_format(descriptor, image_format, path=path)
    if image_format == "qcow2":
        _check_qcow2(descriptor, path)
    elif image_format == "vmdk":
        _check_vmdk(descriptor, path)
    elif image_format == "vpc":
        _check_vhd(descriptor, path)
    elif image_format == "vdi":
        _check_vdi(descriptor, path)


def _check_qcow2(descriptor: int, path: str) -> None:
    header = read_header(descriptor, path=path)
    if header.is_encrypted:
        raise InvalidArgumentError(
            f"{path}: encrypted, expected no encryption; qemu-img convert decrypts it with its key"
        )
    if header.has_external_data:
        raise InvalidArgumentError(f"{path}: its data are in another file, which is not opened")
    check_whole(descriptor, path=path)


def _check_vmdk(descriptor: int, path: str) -> None:
    head = os.pread(descriptor, _VMDK_HEAD.size, 0).ljust(_VMDK_HEAD.size, b"\0")
    magic, _version, _flags, capacity, grain, start, count, entries, _copy, directory = (
        _VMDK_HEAD.unpack(head)
    )
    if magic.startswith(b"#") or (magic == b"KDMV" and not capacity):
        raise InvalidArgumentError(
            f"{path}: its data are in another file, which is not opened; "
            "qemu-img convert makes one file of it"
        )
    if _VMDK_PARENT in _vmdk_descriptor(descriptor, start, count):
        raise InvalidArgumentError(
            f"{path}: needs another file; qemu-img convert makes one file of both"
        )
    if magic == b"KDMV" and directory != _VMDK_DIRECTORY_AT_END:
        tables = ceil_div(capacity, max(1, grain * entries))
        if entries <= _VMDK_TABLE_MAX and tables <= _VMDK_DIRECTORY_MAX:  # qemu-img refuses others
            ends = _vmdk_ends(descriptor, directory * _SECTOR_SIZE, tables, entries)
            _check_end(descriptor, path, "vmdk", max(ends))


def _vmdk_ends(descriptor: int, directory: int, tables: int, entries: int) -> Iterator[int]:
    """Yield where the tables end, and where the first sectors of the last grains do.

    The last grain of a disk may be short, and compressed grains are.
    """
    yield directory + tables * _ENTRY_SIZE
    for sector in _numbers(descriptor, directory, tables):
        if sector:
            table = _numbers(descriptor, sector * _SECTOR_SIZE, entries)
            yield sector * _SECTOR_SIZE + entries * _ENTRY_SIZE
            last = max(table, default=0)
            yield last * _SECTOR_SIZE + (1 if last > 1 else 0)  # 1 is a grain of zeroes


def _numbers(descriptor: int, offset: int, count: int) -> "array[int]":
    """Read numbers of 4 bytes; those that the file does not have are left out."""
    is_inside = offset < size_of(descriptor)  # an offset can be too large for a system call
    data = os.pread(descriptor, count * _ENTRY_SIZE, offset) if is_inside else b""
    numbers = array("I", data[: len(data) - len(data) % _ENTRY_SIZE])
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _check_vdi(descriptor: int, path: str) -> None:
    head = os.pread(descriptor, _VDI_LAYOUT.size, _VDI_LAYOUT_OFFSET).ljust(_VDI_LAYOUT.size, b"\0")
    data_at, block_size, block_extra, _blocks, allocated = _VDI_LAYOUT.unpack(head)
    _check_end(descriptor, path, "vdi", data_at + allocated * (block_size + block_extra))


def _check_end(descriptor: int, path: str, image_format: str, needed: int) -> None:
    size = size_of(descriptor)
    if size < needed:
        raise InvalidArgumentError(
            f"{path}: a {image_format} image that is cut short: {size} bytes, "
            f"expected {needed} or more"
        )


def _vmdk_descriptor(descriptor: int, start: int, count: int) -> bytes:
    """Return the text that describes the disk; `start` and `count` are sectors."""
    if max(start, count) * _SECTOR_SIZE > sys.maxsize // 2:
        return b""
    size = min(count * _SECTOR_SIZE, _VMDK_DESCRIPTOR_MAX)
    return os.pread(descriptor, size, start * _SECTOR_SIZE)


def _check_vhd(descriptor: int, path: str) -> None:
    footer = os.pread(descriptor, VHD_FOOTER_SIZE, max(0, size_of(descriptor) - VHD_FOOTER_SIZE))
    if not footer.startswith(VHD_MAGIC) or len(footer) < VHD_FOOTER_SIZE:
        raise InvalidArgumentError(f"{path}: a vpc image that is cut short: no footer at the end")
    (kind,) = _VHD_TYPE.unpack_from(footer, _VHD_TYPE_OFFSET)
    if kind == _VHD_DIFFERENCING:
        raise InvalidArgumentError(f"{path}: needs another file, expected a VHD that is whole")
