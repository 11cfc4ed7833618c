"""The header of a qcow2 image: the disk's size, where its tables are, and which files it names.

All numbers are big-endian. Version 2 ends after 72 bytes, version 3 says how long it is.
Extensions follow (type, length, content padded to 8 bytes), then the backing file's name.
"""

import os
import struct
from dataclasses import dataclass
from typing import Final

from blobstore.cli.files import open_to_read
from blobstore.errors import InvalidArgumentError
from blobstore.units import MIB, ceil_div

MAGIC: Final = b"QFI\xfb"
HEAD: Final = struct.Struct(">4sIQIIQIIQQIIQ")
"""Magic, version, backing name's offset and size, cluster bits, disk size, encryption, L1's length
and offset, refcount table's offset and clusters, number of internal snapshots and their offset."""
FEATURES: Final = struct.Struct(">QQQII")
"""Incompatible, compatible and autoclear features, width of refcounts as a power, header length."""
EXTENSION: Final = struct.Struct(">II")
BACKING_FORMAT: Final = 0xE2792ACA
assert (HEAD.size, FEATURES.size) == (72, 32)

ENTRY_SIZE: Final = 8
WITH_FEATURES: Final = 3  # the first version that has them
_EXTERNAL_DATA: Final = 1 << 2
_EXTENDED_ENTRIES: Final = 1 << 4
_CLUSTER_BITS: Final = range(9, 22)
_L1_SIZE_MAX: Final = 32 * MIB
_NAME_SIZE_MAX: Final = 1023
_SEARCHED: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Header:
    """What the header says; `backing` is the name of the backing file as it stands there."""

    cluster_bits: int
    disk_size: int
    l1_count: int
    l1_offset: int
    has_extended_entries: bool
    has_external_data: bool
    is_encrypted: bool
    snapshot_count: int
    backing: str | None
    backing_format: str | None

    @property
    def cluster_size(self) -> int:
        """The size of a cluster of the image in bytes."""
        return 1 << self.cluster_bits

    @property
    def entries_per_table(self) -> int:
        """How many clusters a table of the second level names."""
        return self.cluster_size // (ENTRY_SIZE << self.has_extended_entries)


def read_header(descriptor: int, *, path: str) -> Header:
    """Read the header of an image.

    Raises:
        InvalidArgumentError: It is no qcow2 image, or the header makes no sense.
    """
    head = os.pread(descriptor, _SEARCHED, 0)
    if len(head) < HEAD.size + ENTRY_SIZE or not head.startswith(MAGIC):
        raise InvalidArgumentError(f"{path}: not a qcow2 image")
    fields = HEAD.unpack_from(head)
    _magic, version, name_at, name_size, bits, disk_size, encryption, l1_count, l1_offset = fields[
        :9
    ]
    snapshot_count = fields[11]
    features = FEATURES.unpack_from(head.ljust(HEAD.size + FEATURES.size, b"\0"), HEAD.size)
    incompatible = features[0] if version >= WITH_FEATURES else 0
    length = features[4] if version >= WITH_FEATURES else HEAD.size
    header = Header(
        bits,
        disk_size,
        l1_count,
        l1_offset,
        has_extended_entries=bool(incompatible & _EXTENDED_ENTRIES),
        has_external_data=bool(incompatible & _EXTERNAL_DATA),
        is_encrypted=bool(encryption),
        snapshot_count=snapshot_count,
        backing=_name_in(head, name_at, name_size, path) if name_at else None,
        backing_format=_backing_format(head, length),
    )
    _check(header, path)
    return header


def snapshot_count(path: str) -> int:
    """Return how many snapshots are inside an image.

    Raises:
        As `read_header`, and `open_to_read`.
    """
    with open_to_read(path) as descriptor:
        return read_header(descriptor, path=path).snapshot_count


def _check(header: Header, path: str) -> None:
    if header.cluster_bits not in _CLUSTER_BITS or header.l1_count * ENTRY_SIZE > _L1_SIZE_MAX:
        raise InvalidArgumentError(f"{path}: a qcow2 image with an invalid header")
    spans = ceil_div(header.disk_size, header.cluster_size * header.entries_per_table)
    if header.l1_count < spans:
        raise InvalidArgumentError(f"{path}: a qcow2 image whose table is too small for its disk")


def _name_in(head: bytes, at: int, size: int, path: str) -> str:
    name = head[at : at + size]
    if not 0 < size <= _NAME_SIZE_MAX or len(name) != size or b"\0" in name:
        raise InvalidArgumentError(f"{path}: a qcow2 image with an invalid header")
    return os.fsdecode(name)


def _backing_format(head: bytes, at: int) -> str | None:
    """Return the format that the extension for it names; each step moves on, so it ends."""
    while at + EXTENSION.size <= len(head):
        kind, size = EXTENSION.unpack_from(head, at)
        at += EXTENSION.size
        if not kind:
            return None
        if kind == BACKING_FORMAT:
            return head[at : at + size].decode("ascii", "replace")
        at += ceil_div(size, 8) * 8
    return None
