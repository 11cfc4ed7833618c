"""Printing a device's metadata as the original's dump does, whatever state it is in."""

from typing import Final

from bitarray import bitarray

from blobstore.format.dump_text import DumpPlan, dump_mask, dump_page, dump_super_block
from blobstore.format.page import PAGE_SIZE
from blobstore.format.super_block import SUPER_BLOCK_SIZE, MaskRegion
from blobstore.metadata.store_state import DeviceTraits
from blobstore.operations import NextData, Read
from blobstore.units import PageIndex

_CHUNK_BYTES: Final = 1 << 17
"""A page can be dumped as sixty times as much text."""

_SUPER_BLOCK: Final = -1


class Dumping:
    """The text of a device's metadata, piece by piece: it can be far longer than that.

    The store is not loaded for that. Addresses are counted in the store's io units: an image
    file does not say which blocks the device had that it was written on.
    """

    def __init__(self, traits: DeviceTraits) -> None:
        self._traits = traits
        self._plan: DumpPlan | None = None
        self._used_pages = self._used_ids = bitarray()
        self._next = _SUPER_BLOCK

    async def read(self) -> bytes | None:
        """Return the next piece, or None at the end."""
        if self._next == _SUPER_BLOCK:
            self._next = 0
            return await self._begin()
        while self._plan is not None and self._next < len(self._used_pages):
            text = await self._pages(self._plan)
            if text:
                return text
        return None

    async def _begin(self) -> bytes:
        head = await Read(0, min(SUPER_BLOCK_SIZE, self._traits.size_bytes))
        page = head.ljust(SUPER_BLOCK_SIZE, b"\0")
        self._plan = plan = DumpPlan.of(page)
        if plan is not None:
            self._used_pages = await _read_mask(self._traits, plan, plan.used_pages)
            self._used_ids = await _read_mask(self._traits, plan, plan.used_blob_ids)
        return dump_super_block(page)

    async def _pages(self, plan: DumpPlan) -> bytes:
        """Return the text of the next pages; those that are in a hole and marked free have none."""
        first = await self._next_with_text(plan)
        count = min(max(1, _CHUNK_BYTES // plan.page_size), len(self._used_pages) - first)
        self._next = first + count
        data = await Read(plan.page_offset(PageIndex(first)), count * plan.page_size)
        return b"".join(
            dump_page(
                PageIndex(first + number),
                data[number * plan.page_size : number * plan.page_size + PAGE_SIZE],
                plan=plan,
                block_size=plan.io_unit_size or self._traits.block_size,
                in_used_pages=bool(self._used_pages[first + number]),
                in_used_ids=bool(self._used_ids[first + number]),
            )
            for number in range(count)
        )

    async def _next_with_text(self, plan: DumpPlan) -> int:
        """Return the next page that is not in a hole, or that a mask says is in use."""
        first, count = self._next, len(self._used_pages)
        at, end = plan.page_offset(PageIndex(first)), plan.page_offset(PageIndex(count))
        data = first + (await NextData(at, end) - at) // plan.page_size
        marked = (bits.find(1, first) for bits in (self._used_pages, self._used_ids))
        return min(data, count, *(page for page in marked if page >= 0))


async def _read_mask(traits: DeviceTraits, plan: DumpPlan, region: MaskRegion) -> bitarray:
    offset, length = plan.mask_range(region, device_size=traits.size_bytes)
    data = await Read(offset, length) if length else b""
    return dump_mask(data, bit_count=plan.page_count(traits.size_bytes))
