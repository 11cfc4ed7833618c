"""The formats of disk images that begin with a signature; a raw image has none."""

import os
import struct
from typing import Final

from blobstore.errors import InvalidArgumentError

_HEAD_SIZE: Final = 512
_VDI_OFFSET: Final = 64

_SIGNATURES: Final = (
    ("qcow2", 0, b"QFI\xfb"),
    ("vmdk", 0, b"KDMV"),  # one file
    ("vmdk", 0, b"COWD"),  # ESX
    ("vmdk", 0, b"# Disk DescriptorFile"),  # text that names the files with the data
    ("vhdx", 0, b"vhdxfile"),
    ("vdi", _VDI_OFFSET, struct.pack("<I", 0xBEDA107F)),
)
assert all(at + len(magic) <= _HEAD_SIZE for _name, at, magic in _SIGNATURES)

FORMATS: Final = ("raw", "qcow2", "vmdk", "vhdx", "vdi")
"""The formats that are read and written; all but raw and the writing of qcow2 need qemu-img."""


def image_format(descriptor: int) -> str | None:
    """Return the format that a file's signature names, None for all others."""
    head = os.pread(descriptor, _HEAD_SIZE, 0)
    for name, at, magic in _SIGNATURES:
        if head[at : at + len(magic)] == magic:
            return name
    return None


def refuse_image(descriptor: int, *, path: str) -> None:
    """Refuse a file that is hardly meant byte for byte.

    Raises:
        InvalidArgumentError: It has the signature of a format that is not raw.
    """
    found = image_format(descriptor)
    if found is not None:
        raise InvalidArgumentError(
            f"{path}: a {found} image: --format {found} imports the disk in it, "
            "--format raw the file as it is"
        )


def check_format(descriptor: int, expected: str, *, path: str) -> None:
    """Refuse a file that has not the signature of its format.

    Raises:
        InvalidArgumentError: It has another one, or none.
    """
    found = image_format(descriptor)
    if found != expected and expected != "raw":
        raise InvalidArgumentError(f"{path}: no {expected} image, expected its signature")
