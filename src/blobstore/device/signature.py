"""The signatures of foreign content: the magic numbers of common disk formats.

Pure: the caller supplies the reading. The absence of a signature proves nothing.
A signature that is found is reason enough to leave the device alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from blobstore.units import KIB, MIB

Read: TypeAlias = Callable[[int, int], bytes]
"""Takes an offset and a length that lie inside the device."""


BLOBSTORE: Final = "a blobstore"

SIGNATURES_SPAN: Final = MIB
"""All signatures lie in the first or the last bytes of a device, this many at each end."""


@dataclass(frozen=True, slots=True)
class Magic:
    """Bytes at a place; a negative offset counts from the end."""

    name: str
    offset: int
    value: bytes


_MAGICS: Final = (
    Magic(BLOBSTORE, 0, b"SPDKBLOB"),
    Magic("a qcow2 image", 0, b"QFI\xfb"),
    Magic("a LUKS volume", 0, b"LUKS\xba\xbe"),
    Magic("an xfs file system", 0, b"XFSB"),
    Magic("a squashfs file system", 0, b"hsqs"),
    Magic("a BlueStore device", 0, b"bluestore block device"),
    Magic("an NTFS file system", 3, b"NTFS    "),
    Magic("an exFAT file system", 3, b"EXFAT   "),
    Magic("a FAT file system", 54, b"FAT1"),
    Magic("a FAT file system", 82, b"FAT32   "),
    Magic("a GPT partition table", 512, b"EFI PART"),
    Magic("a GPT partition table", 4096, b"EFI PART"),
    Magic("a GPT partition table (its backup)", -512, b"EFI PART"),
    Magic("a GPT partition table (its backup)", -4096, b"EFI PART"),
    Magic("a bcache device", 4096 + 24, bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")),
    Magic("an ext2, ext3 or ext4 file system", KIB + 0x38, b"\x53\xef"),
    Magic("an f2fs file system", KIB, b"\x10\x20\xf5\xf2"),
    Magic("an mdraid member", 0, b"\xfc\x4e\x2b\xa9"),
    Magic("an mdraid member", 4 * KIB, b"\xfc\x4e\x2b\xa9"),
    Magic("a LUKS volume (its second header)", 16 * KIB, b"SKUL\xba\xbe"),
    Magic("an ISO 9660 file system", 32 * KIB + 1, b"CD001"),
    Magic("a btrfs file system", 64 * KIB + 0x40, b"_BHRfS_M"),
    *(Magic("an LVM physical volume", sector * 512, b"LABELONE") for sector in range(4)),
    *(
        Magic("swap space", page * KIB - 10, value)
        for page in (4, 8, 16, 32, 64)
        for value in (b"SWAPSPACE2", b"SWAP-SPACE", b"S1SUSPEND\0")
    ),
    # Comes last: boot sectors of file systems carry it as well.
    Magic("an MBR partition table or a boot sector", 510, b"\x55\xaa"),
)

_MDRAID: Final = b"\xfc\x4e\x2b\xa9"
_MDRAID_BIG_ENDIAN: Final = b"\xa9\x2b\x4e\xfc"

_ZFS_LABEL_SIZE: Final = 256 * KIB
_ZFS_UBERBLOCKS_AT: Final = 128 * KIB
_ZFS_UBERBLOCKS: Final = (b"\x0c\xb1\xba\0\0\0\0\0", b"\0\0\0\0\0\xba\xb1\x0c")


def find_signature(read: Read, size: int) -> str | None:
    """Name what the device holds, as in "holds a blobstore"; None if nothing is known."""
    for magic in _MAGICS:
        offset = magic.offset + (size if magic.offset < 0 else 0)
        if _holds(read, size, offset, magic.value):
            return magic.name
    if _is_mdraid(read, size):
        return "an mdraid member"
    return "a ZFS pool's member" if _is_zfs(read, size) else None


def _holds(read: Read, size: int, offset: int, value: bytes) -> bool:
    return 0 <= offset <= size - len(value) and read(offset, len(value)) == value


def _is_mdraid(read: Read, size: int) -> bool:
    """Look near the end, where versions 0.90 and 1.0 keep their super block."""
    old = (size & ~(64 * KIB - 1)) - 64 * KIB
    new = ((size >> 9) - 16 & ~7) << 9
    return any(
        _holds(read, size, at, value)
        for at in (old, new)
        for value in (_MDRAID, _MDRAID_BIG_ENDIAN)
    )


def _is_zfs(read: Read, size: int) -> bool:
    """Look for an uberblock in the first two labels; they are a KiB or more apart."""
    for label in (0, _ZFS_LABEL_SIZE):
        at = label + _ZFS_UBERBLOCKS_AT
        if at + _ZFS_UBERBLOCKS_AT <= size:
            area = read(at, _ZFS_UBERBLOCKS_AT)
            if any(
                area[start : start + 8] in _ZFS_UBERBLOCKS for start in range(0, len(area), KIB)
            ):
                return True
    return False
