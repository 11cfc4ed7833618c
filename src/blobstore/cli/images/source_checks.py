"""Is the whole disk in the one file of an image? qemu-img does not ask.

qemu-img reads zeroes instead of what is missing: the end of a file that was cut short, and the
parent of an image that holds only differences (we let qemu-img open one file alone).
"""

import os
import struct
import sys
from typing import Final

from blobstore.cli.files import size_of
from blobstore.cli.images.formats import VHD_FOOTER_SIZE, VHD_MAGIC, check_format
from blobstore.cli.images.qcow2_header import read_header
from blobstore.cli.images.qcow2_tables import check_whole
from blobstore.errors import InvalidArgumentError

_VMDK_HEAD: Final = struct.Struct("<4sIIQQQQ")
"""Magic, version, flags, and in sectors: capacity, grain, the descriptor's offset and size."""
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
    magic, _version, _flags, capacity, _grain, start, count = _VMDK_HEAD.unpack(head)
    if magic.startswith(b"#") or (magic == b"KDMV" and not capacity):
        raise InvalidArgumentError(
            f"{path}: its data are in another file, which is not opened; "
            "qemu-img convert makes one file of it"
        )
    if _VMDK_PARENT in _vmdk_descriptor(descriptor, start, count):
        raise InvalidArgumentError(
            f"{path}: needs another file; qemu-img convert makes one file of both"
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
