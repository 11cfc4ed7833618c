"""The tables of a qcow2 image: is all that they name in the file?

qemu-img reads what lies beyond the end of a file as zeroes, so that an image
that was cut short converts without an error, and without its data. The image's
two levels of tables are walked first. The first (L1) names tables of the second
(L2), whose entries name clusters; all numbers are big-endian.
"""

import os
import struct
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from blobstore.errors import InvalidArgumentError
from blobstore.units import MIB, ceil_div

_HEAD: Final = struct.Struct(">4sIQIIQIIQ")
"""Magic, version, backing file's offset and size, cluster bits, size, encryption, L1's length and
offset."""
_FEATURES: Final = struct.Struct(">Q")
_FEATURES_OFFSET: Final = 72
_EXTENDED_ENTRIES: Final = 1 << 4
_WITH_FEATURES: Final = 3  # the first version that has them
assert _HEAD.size == 48

_CLUSTER_BITS: Final = range(9, 22)
_L1_SIZE_MAX: Final = 32 * MIB
_ENTRY_SIZE: Final = 8
_OFFSET_MASK: Final = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED: Final = 1 << 62
_READS_AS_ZEROES: Final = 1
_SECTOR_SIZE: Final = 512


@dataclass(frozen=True, slots=True)
class _Layout:
    """What the header says."""

    cluster_bits: int
    disk_size: int
    l1_count: int
    l1_offset: int
    has_extended_entries: bool

    @property
    def cluster_size(self) -> int:
        return 1 << self.cluster_bits

    @property
    def entries_per_table(self) -> int:
        return self.cluster_size // (_ENTRY_SIZE << self.has_extended_entries)


def check_whole(descriptor: int, *, path: str) -> None:
    """Refuse an image whose file is shorter than what its tables name.

    Raises:
        InvalidArgumentError: It is, or the header is invalid.
    """
    layout = _read_layout(descriptor, path)
    file_size = os.fstat(descriptor).st_size
    needed = max(_ends(descriptor, layout, file_size), default=0)
    if needed > file_size:
        raise InvalidArgumentError(
            f"{path}: a qcow2 image that is cut short: {file_size} bytes, expected {needed} or more"
        )


def _read_layout(descriptor: int, path: str) -> _Layout:
    head = os.pread(descriptor, _FEATURES_OFFSET + _FEATURES.size, 0)
    _magic, version, _at, _size, bits, disk_size, _crypt, l1_count, l1_offset = _HEAD.unpack_from(
        head
    )
    (features,) = _FEATURES.unpack_from(head, _FEATURES_OFFSET)
    extended = version >= _WITH_FEATURES and bool(features & _EXTENDED_ENTRIES)
    layout = _Layout(bits, disk_size, l1_count, l1_offset, extended)
    if bits not in _CLUSTER_BITS or l1_count * _ENTRY_SIZE > _L1_SIZE_MAX:
        raise InvalidArgumentError(f"{path}: a qcow2 image with an invalid header")
    if l1_count < ceil_div(disk_size, layout.cluster_size * layout.entries_per_table):
        raise InvalidArgumentError(f"{path}: a qcow2 image whose table is too small for its disk")
    return layout


def _ends(descriptor: int, layout: _Layout, file_size: int) -> Iterator[int]:
    """Yield where what the image needs ends in the file; a table that is cut off is not read."""
    l1_end = layout.l1_offset + layout.l1_count * _ENTRY_SIZE
    yield l1_end
    if l1_end > file_size:
        return
    tables = _read_numbers(descriptor, layout.l1_offset, layout.l1_count)
    span = layout.entries_per_table << layout.cluster_bits
    for first, entry in zip(range(0, layout.disk_size, span), tables, strict=False):
        offset = entry & _OFFSET_MASK
        if not offset:
            continue
        end = offset + layout.cluster_size
        yield end
        if end <= file_size:
            yield from _data_ends(descriptor, layout, offset, first)


def _data_ends(descriptor: int, layout: _Layout, offset: int, first: int) -> Iterator[int]:
    """Yield where the clusters of a table of the second level end; `first` is on the disk."""
    numbers = _read_numbers(descriptor, offset, layout.cluster_size // _ENTRY_SIZE)
    step = 1 + layout.has_extended_entries
    for index, entry in enumerate(numbers[::step]):
        at = first + (index << layout.cluster_bits)
        if at >= layout.disk_size:
            return
        if entry & _COMPRESSED:
            yield _compressed_end(entry, layout.cluster_bits)
        elif entry & _OFFSET_MASK and (layout.has_extended_entries or not entry & _READS_AS_ZEROES):
            yield (entry & _OFFSET_MASK) + min(layout.cluster_size, layout.disk_size - at)


def _compressed_end(entry: int, cluster_bits: int) -> int:
    """Return the first byte of a compressed cluster's last sector, and one: more is not sure."""
    offset_bits = 62 - (cluster_bits - 8)
    offset = entry & ((1 << offset_bits) - 1)
    sectors_more = (entry & ~_COMPRESSED & ((1 << 63) - 1)) >> offset_bits
    if not sectors_more:
        return offset + 1
    return (offset & -_SECTOR_SIZE) + sectors_more * _SECTOR_SIZE + 1


def _read_numbers(descriptor: int, offset: int, count: int) -> "array[int]":
    numbers = array("Q", os.pread(descriptor, count * _ENTRY_SIZE, offset))
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers
