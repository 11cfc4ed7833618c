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

_ADVICE: Final = {"qcow2": "--format qcow2 imports the disk in it"}
_OTHER_ADVICE: Final = "qemu-img can convert it to raw"


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
            f"{path}: a {found} image: {_ADVICE.get(found, _OTHER_ADVICE)}, "
            "--format raw the file as it is"
        )
