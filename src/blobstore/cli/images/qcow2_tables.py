"""The tables of a qcow2 image: is all that they name in the file?

qemu-img reads what lies beyond the end of a file as zeroes, so that an image
that was cut short converts without an error, and without its data. The image's
two levels of tables are walked first. The first (L1) names tables of the second
(L2), whose entries name clusters; all numbers are big-endian.
"""

import os
import sys
from array import array
from collections.abc import Iterator
from typing import Final

from blobstore.cli.images.qcow2_header import ENTRY_SIZE, Header, read_header
from blobstore.errors import InvalidArgumentError

_OFFSET_MASK: Final = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED: Final = 1 << 62
_READS_AS_ZEROES: Final = 1
_SECTOR_SIZE: Final = 512
_SUBCLUSTERS: Final = 32  # what an extended entry tells apart


def check_whole(descriptor: int, *, path: str) -> None:
    """Refuse an image whose file is shorter than what its tables name.

    Raises:
        InvalidArgumentError: It is, or the header is invalid.
    """
    header = read_header(descriptor, path=path)
    file_size = os.lseek(descriptor, 0, os.SEEK_END)
    needed = max(_ends(descriptor, header, file_size), default=0)
    if needed > file_size:
        raise InvalidArgumentError(
            f"{path}: a qcow2 image that is cut short or damaged: {file_size} bytes, "
            f"its tables name byte {needed - 1}"
        )


def _ends(descriptor: int, header: Header, file_size: int) -> Iterator[int]:
    """Yield where what the image needs ends in the file; a table that is cut off is not read."""
    l1_end = header.l1_offset + header.l1_count * ENTRY_SIZE
    yield l1_end
    if l1_end > file_size:
        return
    tables = _read_numbers(descriptor, header.l1_offset, header.l1_count)
    span = header.entries_per_table << header.cluster_bits
    for first, entry in zip(range(0, header.disk_size, span), tables, strict=False):
        offset = entry & _OFFSET_MASK
        if not offset:
            continue
        end = offset + header.cluster_size
        yield end
        if end <= file_size:
            yield from _data_ends(descriptor, header, offset, first)


def _data_ends(descriptor: int, header: Header, offset: int, first: int) -> Iterator[int]:
    """Yield where the clusters of a table of the second level end; `first` is on the disk."""
    numbers = _read_numbers(descriptor, offset, header.cluster_size // ENTRY_SIZE)
    step = 1 + header.has_extended_entries
    for index, entry in enumerate(numbers[::step]):
        at = first + (index << header.cluster_bits)
        if at >= header.disk_size:
            return
        if entry & _COMPRESSED:
            yield _compressed_end(entry, header.cluster_bits)
            continue
        length = min(header.cluster_size, header.disk_size - at)
        if header.has_extended_entries:
            length = min(length, _filled(numbers[index * step + 1], header.cluster_size))
        elif entry & _READS_AS_ZEROES:
            length = 0
        if entry & _OFFSET_MASK and length:
            yield (entry & _OFFSET_MASK) + length


def _filled(bitmap: int, cluster_size: int) -> int:
    """Return where the last part of a cluster with data ends: the lower bits say which have."""
    return (bitmap & 0xFFFF_FFFF).bit_length() * cluster_size // _SUBCLUSTERS


def _compressed_end(entry: int, cluster_bits: int) -> int:
    """Return the first byte of a compressed cluster's last sector, and one: more is not sure."""
    offset_bits = 62 - (cluster_bits - 8)
    offset = entry & ((1 << offset_bits) - 1)
    sectors_more = (entry & ~_COMPRESSED & ((1 << 63) - 1)) >> offset_bits
    if not sectors_more:
        return offset + 1
    return (offset & -_SECTOR_SIZE) + sectors_more * _SECTOR_SIZE + 1


def _read_numbers(descriptor: int, offset: int, count: int) -> "array[int]":
    numbers = array("Q", os.pread(descriptor, count * ENTRY_SIZE, offset))
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers
