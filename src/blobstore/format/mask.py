"""The three masks that a clean store carries: used pages, clusters, blob ids (FORMAT 3)."""

import struct
from typing import Final

from bitarray import bitarray

from blobstore.errors import CorruptError
from blobstore.operations import Buffer
from blobstore.units import ceil_div

MASK_PAGES: Final = 0
MASK_CLUSTERS: Final = 1
MASK_BLOB_IDS: Final = 2

_HEAD: Final = struct.Struct("<BI")  # type, length in bits
MASK_HEAD_SIZE: Final = _HEAD.size
assert MASK_HEAD_SIZE == 5


def mask_bytes(bit_count: int) -> int:
    """Return how many bytes a mask of `bit_count` bits takes."""
    return MASK_HEAD_SIZE + ceil_div(bit_count, 8)


def mask_pages(bit_count: int, page_size: int) -> int:
    """Return how many pages a mask of `bit_count` bits takes."""
    return ceil_div(mask_bytes(bit_count), page_size)


def encode_mask(kind: int, bits: bitarray, region_bytes: int) -> bytes:
    """Return the mask as it stands in its region, padded with zeroes."""
    data = _HEAD.pack(kind, len(bits)) + bitarray(bits, endian="little").tobytes()
    if len(data) > region_bytes:
        raise AssertionError(f"mask {kind}: {len(data)} bytes do not fit into {region_bytes}")
    return data.ljust(region_bytes, b"\0")


def decode_mask(
    data: Buffer, *, kind: int, bit_count: int, region_bytes: int | None = None
) -> bitarray:
    """Return the first `bit_count` bits of a mask.

    `data` may be just as much of the region as these bits take.

    Raises:
        CorruptError: Another type of mask, or a length that its region cannot hold.
    """
    found_kind, length = _HEAD.unpack_from(data)
    if found_kind != kind:
        raise CorruptError(f"mask {kind}: type {found_kind}, expected {kind}")
    room = ((region_bytes or len(data)) - MASK_HEAD_SIZE) * 8
    if length > room:
        raise CorruptError(f"mask {kind}: {length} bits, but its region holds {room}")
    if length < bit_count:
        raise CorruptError(f"mask {kind}: {length} bits, expected at least {bit_count}")
    bits = bitarray(endian="little")
    bits.frombytes(bytes(data[MASK_HEAD_SIZE : MASK_HEAD_SIZE + ceil_div(bit_count, 8)]))
    del bits[bit_count:]
    return bits
