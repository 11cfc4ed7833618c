"""The formats of disk images that have a signature; a raw image has none.

The signature is at the start of the file, or 64 bytes after the start (VDI). A VHD of a fixed size
has it only in its footer, the last 512 bytes.
"""

import os
import struct
from typing import Final

from blobstore.cli.files import size_of
from blobstore.errors import InvalidArgumentError

_HEAD_SIZE: Final = 512
_VDI_OFFSET: Final = 64
VHD_MAGIC: Final = b"conectix"
VHD_FOOTER_SIZE: Final = 512

_SIGNATURES: Final = (
    ("qcow", 0, b"QFI\xfb\0\0\0\1"),  # before qcow2, which has another number here
    ("qcow2", 0, b"QFI\xfb"),
    ("vmdk", 0, b"KDMV"),  # one file
    ("vmdk", 0, b"COWD"),  # ESX
    ("vmdk", 0, b"# Disk DescriptorFile"),  # text that names the files with the data
    ("vhdx", 0, b"vhdxfile"),
    ("vdi", _VDI_OFFSET, struct.pack("<I", 0xBEDA107F)),
    ("vpc", 0, VHD_MAGIC),
    ("qed", 0, b"QED\0"),
    ("parallels", 0, b"WithoutFreeSpace"),
    ("parallels", 0, b"WithouFreSpacExt"),
)
assert all(at + len(magic) <= _HEAD_SIZE for _name, at, magic in _SIGNATURES)

FORMATS: Final = ("raw", "qcow2", "vmdk", "vhdx", "vdi", "vpc")
"""The formats that are read and written; all but raw and the writing of qcow2 need qemu-img.

The names are those of qemu-img: vpc is VHD.
"""


_EXTENSIONS: Final = {".vhd": "vpc", **{f".{name}": name for name in FORMATS if name != "raw"}}


def format_of_extension(path: str) -> str | None:
    """Return the format that the extension of a file's name names, None if it names none."""
    _stem, extension = os.path.splitext(path)
    return _EXTENSIONS.get(extension.lower())


def image_format(descriptor: int) -> str | None:
    """Return the format that a file's signature names, None for all others."""
    head = os.pread(descriptor, _HEAD_SIZE, 0)
    for name, at, magic in _SIGNATURES:
        if head[at : at + len(magic)] == magic:
            return name
    footer = os.pread(descriptor, len(VHD_MAGIC), max(0, size_of(descriptor) - VHD_FOOTER_SIZE))
    return "vpc" if footer == VHD_MAGIC else None


def refuse_image(descriptor: int, *, path: str) -> None:
    """Refuse a file that is hardly meant byte for byte.

    Raises:
        InvalidArgumentError: It has the signature of a format that is not raw.
    """
    found = image_format(descriptor)
    if found is not None:
        how = f"--format {found} imports the disk in it"
        if found not in FORMATS:
            how = "`qemu-img convert` writes the disk in it to a raw file"
        raise InvalidArgumentError(
            f"{path}: a {found} image: {how}, --format raw imports the file as it is"
        )


def check_format(descriptor: int, expected: str, *, path: str) -> None:
    """Refuse a file that has not the signature of its format.

    Raises:
        InvalidArgumentError: It has another one, or none.
    """
    found = image_format(descriptor)
    if found != expected and expected != "raw":
        raise InvalidArgumentError(f"{path}: not a {expected} image, its signature is missing")
