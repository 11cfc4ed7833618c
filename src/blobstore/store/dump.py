"""Printing a device's metadata as the original's dump does, whatever state it is in."""

from typing import Final

from bitarray import bitarray

from blobstore.format.dump import DumpPlan, dump_mask, dump_page, dump_super_block
from blobstore.format.page import PAGE_SIZE
from blobstore.format.super_block import SUPER_BLOCK_SIZE, MaskRegion
from blobstore.metadata.store_state import DeviceTraits
from blobstore.operations import Read
from blobstore.units import PageIndex

_CHUNK_BYTES: Final = 1 << 20


async def dump_store(traits: DeviceTraits) -> bytes:
    """Return the dump of what is on the device; it is not loaded for that."""
    head = await Read(0, min(SUPER_BLOCK_SIZE, traits.size_bytes))
    page = head.ljust(SUPER_BLOCK_SIZE, b"\0")
    plan = DumpPlan.of(page)
    text = [dump_super_block(page)]
    if plan is not None:
        text += await _dump_pages(traits, plan)
    return b"".join(text)


async def _dump_pages(traits: DeviceTraits, plan: DumpPlan) -> list[bytes]:
    used_pages = await _read_mask(traits, plan, plan.used_pages)
    used_ids = await _read_mask(traits, plan, plan.used_blob_ids)
    text: list[bytes] = []
    step = max(1, _CHUNK_BYTES // plan.page_size)
    for first in range(0, len(used_pages), step):
        count = min(step, len(used_pages) - first)
        data = await Read(plan.page_offset(PageIndex(first)), count * plan.page_size)
        for index in range(first, first + count):
            at = (index - first) * plan.page_size
            text.append(
                dump_page(
                    PageIndex(index),
                    data[at : at + PAGE_SIZE],
                    plan=plan,
                    block_size=traits.block_size,
                    in_used_pages=bool(used_pages[index]),
                    in_used_ids=bool(used_ids[index]),
                )
            )
    return text


async def _read_mask(traits: DeviceTraits, plan: DumpPlan, region: MaskRegion) -> bitarray:
    offset, length = plan.mask_range(region, device_size=traits.size_bytes)
    data = await Read(offset, length) if length else b""
    return dump_mask(data, bit_count=plan.page_count(traits.size_bytes))
