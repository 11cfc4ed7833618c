"""Signatures are found where they belong, and nowhere else."""

import pytest

from blobstore.api.blobstore import Blobstore
from blobstore.device.memory import MemoryDevice
from blobstore.device.signature import SIGNATURES_SPAN, find_signature
from blobstore.errors import ExistsError
from blobstore.units import KIB, MIB

SIZE = 8 * MIB + 40 * KIB

SIGNATURES = {
    "blobstore": ("a blobstore", 0, b"SPDKBLOB"),
    "mbr": ("MBR partition table", 510, b"\x55\xaa"),
    "gpt": ("GPT partition table", 512, b"EFI PART"),
    "gpt, 4096": ("GPT partition table", 4096, b"EFI PART"),
    "gpt backup": ("its backup", SIZE - 512, b"EFI PART"),
    "gpt backup, 4096": ("its backup", SIZE - 4096, b"EFI PART"),
    "ext": ("ext4", 1024 + 56, b"\x53\xef"),
    "xfs": ("xfs", 0, b"XFSB"),
    "btrfs": ("btrfs", 65600, b"_BHRfS_M"),
    "f2fs": ("f2fs", 1024, b"\x10\x20\xf5\xf2"),
    "ntfs": ("NTFS", 3, b"NTFS    "),
    "fat16": ("FAT", 54, b"FAT16   "),
    "fat32": ("FAT", 82, b"FAT32   "),
    "lvm": ("LVM", 512, b"LABELONE"),
    "lvm, fourth sector": ("LVM", 1536, b"LABELONE"),
    "md 0.90": ("mdraid", SIZE // 65536 * 65536 - 65536, b"\xfc\x4e\x2b\xa9"),
    "md 0.90, big endian": ("mdraid", SIZE // 65536 * 65536 - 65536, b"\xa9\x2b\x4e\xfc"),
    "md 1.0": ("mdraid", (SIZE // 512 - 16) // 8 * 8 * 512, b"\xfc\x4e\x2b\xa9"),
    "md 1.1": ("mdraid", 0, b"\xfc\x4e\x2b\xa9"),
    "md 1.2": ("mdraid", 4096, b"\xfc\x4e\x2b\xa9"),
    "swap": ("swap space", 4086, b"SWAPSPACE2"),
    "swap, 64 KiB pages": ("swap space", 65526, b"SWAPSPACE2"),
    "luks": ("LUKS", 0, b"LUKS\xba\xbe"),
    "luks, second header": ("LUKS", 16384, b"SKUL\xba\xbe"),
    "zfs": ("ZFS", 128 * KIB + 5 * KIB, b"\x0c\xb1\xba\x00\x00\x00\x00\x00"),
    "zfs, big endian, second label": ("ZFS", 384 * KIB, b"\x00\x00\x00\x00\x00\xba\xb1\x0c"),
    "iso": ("ISO 9660", 32769, b"CD001"),
    "qcow2": ("qcow2", 0, b"QFI\xfb"),
}


@pytest.mark.parametrize("kind", SIGNATURES)
def test_a_signature_is_found_named_and_keeps_a_new_store_away(kind: str) -> None:
    name, offset, magic = SIGNATURES[kind]
    device = MemoryDevice(SIZE)
    device.write(offset, [magic])
    assert name in (find_signature(device.read, SIZE) or "")
    with pytest.raises(ExistsError, match=name):
        Blobstore.create(device)


@pytest.mark.parametrize("kind", SIGNATURES)
def test_overwriting_leaves_no_trace_of_a_signature(kind: str) -> None:
    _, offset, magic = SIGNATURES[kind]
    device = MemoryDevice(SIZE)
    device.write(offset, [magic])
    with Blobstore.create(device, overwrite=True, cluster_size="64KiB", clear="none"):
        assert find_signature(device.read, SIZE) == "a blobstore"
        if magic != b"SPDKBLOB":
            assert device.read(offset, len(magic)) != magic


def test_an_overwrite_that_is_refused_erases_nothing() -> None:
    device = MemoryDevice(SIZE)
    device.write(510, [b"\x55\xaa"])
    content = device.read(0, SIZE)
    with pytest.raises(ValueError, match="cluster"):
        Blobstore.create(device, overwrite=True, cluster_size=5000)
    assert (device.closed, content[510:512]) == (True, b"\x55\xaa")


def test_content_without_signature_keeps_a_new_store_away() -> None:
    device = MemoryDevice(SIZE)
    device.write(5000, [b"x"])
    with pytest.raises(ExistsError, match="holds data, expected zeroes"):
        Blobstore.create(device)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 4096, 70_000, 300_000])
@pytest.mark.parametrize("fill", [0, 0xDD, 0xFF])
def test_small_devices_have_no_signature_and_are_not_read_past_their_end(
    size: int, fill: int
) -> None:
    device = MemoryDevice(size, fill=fill)
    assert find_signature(device.read, size) is None


def test_all_that_is_looked_at_lies_at_the_two_ends() -> None:
    size = 64 * MIB
    looked_at: list[tuple[int, int]] = []

    def read(offset: int, length: int) -> bytes:
        looked_at.append((offset, offset + length))
        return bytes(length)

    assert find_signature(read, size) is None
    assert all(
        end <= SIGNATURES_SPAN or start >= size - SIGNATURES_SPAN for start, end in looked_at
    )
