"""The masks on the device: read when a store is clean, written when it becomes so (FORMAT 3)."""

from typing import Any

from bitarray import bitarray

from blobstore.format.geometry import Geometry
from blobstore.format.mask import decode_mask, encode_mask, mask_bytes
from blobstore.format.page import PAGE_SIZE
from blobstore.format.super_block import MaskRegion
from blobstore.operations import Operation, Read, Write, WriteZeroes
from blobstore.units import ceil_div


def bytes_used(geometry: Geometry, region: MaskRegion, bit_count: int) -> int:
    """Return how much of its region a mask takes, in whole pages of 4096 bytes.

    A region may be far larger than its mask. The rest of the region is not needed.
    """
    wanted = ceil_div(mask_bytes(bit_count), PAGE_SIZE) * PAGE_SIZE
    return min(wanted, geometry.region_bytes(region))


async def read_mask(
    geometry: Geometry, region: MaskRegion, *, kind: int, bit_count: int
) -> bitarray:
    """Read a mask.

    Raises:
        CorruptError: Another type of mask, or a length that its region cannot hold.
    """
    data = await Read(geometry.region_offset(region), bytes_used(geometry, region, bit_count))
    size = geometry.region_bytes(region)
    return decode_mask(data, kind=kind, bit_count=bit_count, region_bytes=size)


def mask_writes(
    geometry: Geometry, region: MaskRegion, *, kind: int, bits: bitarray
) -> list[Operation[Any]]:
    """Return the writes that make a region hold a mask, and zeroes after the mask."""
    offset, size = geometry.region_offset(region), geometry.region_bytes(region)
    used = bytes_used(geometry, region, len(bits))
    writes: list[Operation[Any]] = [Write(offset, encode_mask(kind, bits, used))]
    if size > used:
        writes.append(WriteZeroes(offset + used, size - used))
    return writes
