"""The scan of the metadata region: every page that can belong to a blob (CRASH-SAFETY 4).

The region is read once, in large pieces. What a page is follows from its header alone: the
first sector of a page is written whole, so after a power failure it is zero or holds a header
that some program wrote there. A page of which that is not true is *impossible*. Only damage can
have made it.
"""

from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
from bitarray import bitarray

from blobstore.format.descriptors import EXTENT_PAGE
from blobstore.format.geometry import BLOB_ID_BASE, Geometry
from blobstore.format.page import HEAD, PAGE_SIZE, has_right_crc
from blobstore.metadata.batch_decoding import BatchDecoder
from blobstore.metadata.page_arrays import (
    Chunk,
    are_heads,
    are_impossible,
    are_roots,
    empty_pages,
    have_right_checksums,
)
from blobstore.operations import NextData, ReadInto
from blobstore.units import BlobId, PageIndex

_CHUNK_BYTES: Final = 1 << 21


@dataclass(slots=True)
class Scan:
    """What the region holds: every page that can belong to a blob, and which look like roots.

    Of pages that batch decoding understood, only what they say is kept. `impossible` are pages
    that no power failure can have left.
    """

    pages: dict[int, bytes] = field(default_factory=dict)
    roots: list[PageIndex] = field(default_factory=list)
    strangers: list[PageIndex] = field(default_factory=list)
    impossible: list[PageIndex] = field(default_factory=list)
    decoder: BatchDecoder = field(default_factory=BatchDecoder)


ReadRegion: TypeAlias = Callable[[int, memoryview], Awaitable[None]]
"""Fills a buffer from the device, from this offset on."""


async def _read_region(offset: int, buffer: memoryview) -> None:
    await ReadInto(offset, [buffer])


async def scan_region(geometry: Geometry, read_region: ReadRegion = _read_region) -> Scan:
    """Read the metadata region in large pieces, and keep what names a place in it.

    Holes are passed over: most of the region of a large store in a file can be one.
    """
    scan = Scan()
    step = max(1, _CHUNK_BYTES // geometry.page_size)
    buffer = empty_pages(min(step, geometry.md_len), geometry.page_size)
    first = await _next_page(geometry, 0)
    while first < geometry.md_len:
        chunk = buffer[: min(step, geometry.md_len - first)]
        await read_region(geometry.page_offset(PageIndex(first)), chunk.data.cast("B"))
        _sort_pages(geometry, scan, chunk, first)
        first = await _next_page(geometry, first + len(chunk))
    return scan


async def _next_page(geometry: Geometry, first: int) -> int:
    """Return the first page from this one on that is not in a hole, or the end of the region."""
    start = geometry.page_offset(PageIndex(0))
    end = geometry.page_offset(PageIndex(geometry.md_len))
    at = geometry.page_offset(PageIndex(first))
    return first if at >= end else (await NextData(at, end) - start) // geometry.page_size


def _sort_pages(geometry: Geometry, scan: Scan, chunk: Chunk, first: int) -> None:
    """Keep the pages of one piece whose header names a blob of this region."""
    wrong = np.flatnonzero(are_impossible(chunk, first=first, md_len=geometry.md_len))
    scan.impossible += [PageIndex(first + row) for row in wrong.tolist()]
    ids = chunk.view("<u8")[:, 0]
    rows = np.flatnonzero((ids >= BLOB_ID_BASE) & (ids < BLOB_ID_BASE + geometry.md_len))
    if not len(rows):
        return
    data = chunk.data.cast("B")
    is_right = have_right_checksums(chunk, rows)
    is_head, is_root = are_heads(chunk, rows), are_roots(chunk, rows, first=first)
    is_extent_page = is_head & ~is_root & (chunk[rows, HEAD.size] == EXTENT_PAGE)

    is_decoded = is_root & is_right
    is_decoded[is_decoded] = scan.decoder.add_roots(chunk, rows[is_decoded], first=first)
    is_known = is_extent_page & is_right
    is_known[is_known] = scan.decoder.extent_pages.add(chunk, rows[is_known], first=first)
    for row in rows[~(is_decoded | is_known)].tolist():
        scan.pages[first + row] = bytes(data[row * geometry.page_size :][:PAGE_SIZE])
    scan.roots += [PageIndex(first + row) for row in rows[is_root].tolist()]
    is_stranger = is_head & ~is_root & ~is_extent_page
    scan.strangers += [PageIndex(first + row) for row in rows[is_stranger].tolist()]


def orphan_pages(
    scan: Scan, used_pages: bitarray, copies: Container[PageIndex]
) -> dict[PageIndex, BlobId]:
    """Return the sound pages that nothing leads to, and the blob that each names.

    Copies of roots that a conversion made are none.
    """
    known = scan.decoder.extent_pages.numbers().tolist()
    roots = set(scan.roots)
    orphans: dict[PageIndex, BlobId] = {}
    for page in map(PageIndex, sorted({*scan.pages, *known})):
        if used_pages[page] or page in copies:
            continue
        data = scan.pages.get(page)
        if data is not None and (page in roots or not has_right_crc(data)):
            continue
        head = data or scan.decoder.extent_pages.head(page)
        assert head is not None
        orphans[page] = BlobId(HEAD.unpack_from(head)[0])
    return orphans
