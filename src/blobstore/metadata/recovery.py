"""Recovery: what a store that was not unloaded holds (CRASH-SAFETY 4, FORMAT 6).

The masks of a store that was not unloaded cannot be trusted. The roots say what is in use:
whatever a root names, through its chain and its extent pages, is in use, and nothing else is. So
the region is read once, in large pieces. Pages that name a place in the region are kept, and every
root is followed. Nearly all blobs have a single page; these are decoded in batches.

A page with a wrong checksum can be a root that was never completed, one that was deleted on
purpose, or one that is lost. The first two own nothing. The last is **quarantined**: which clusters
it owns cannot be known, so its id and page stay taken, and the store takes no changes. The same
holds for every root that cannot be followed to its end. If two blobs claim one place, the one that
comes first keeps it. The order of roots decides, so then nothing decoded in batches counts.

Nothing is written. What must change on the device is collected in a `RecoveryPlan`, which the
first change carries out before anything else: a store that is only read stays as it is, and a
second power failure finds what the first one left.
"""

import errno
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
from bitarray import bitarray

from blobstore.errors import BlobstoreError, CorruptError
from blobstore.format.descriptors import EXTENT_PAGE
from blobstore.format.geometry import BLOB_ID_BASE, Geometry, blob_id_of
from blobstore.format.page import HEAD, NO_PAGE, PAGE_SIZE, TAIL, has_right_crc, wrong_crc
from blobstore.format.root import is_tombstone, is_torn_conversion, is_uncommitted
from blobstore.metadata.batch_decoding import BatchDecoder, SinglePageBlobs
from blobstore.metadata.blob_reader import Revisits, read_blob
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.page_arrays import (
    Chunk,
    Numbers,
    are_heads,
    are_roots,
    empty_pages,
    have_right_checksums,
)
from blobstore.metadata.page_reader import Fetch, PageReader
from blobstore.metadata.recovered import Recovered, quarantine, take_clusters, take_pages
from blobstore.metadata.store_state import RecoveryPlan
from blobstore.operations import NextData, ReadInto
from blobstore.units import PageIndex, ceil_div

_CHUNK_BYTES: Final = 1 << 21


@dataclass(slots=True)
class Scan:
    """What the region holds: every page that can belong to a blob, and which look like roots.

    Of pages that batch decoding understood, only what they say is kept.
    """

    pages: dict[int, bytes] = field(default_factory=dict)
    roots: list[PageIndex] = field(default_factory=list)
    strangers: list[PageIndex] = field(default_factory=list)
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


async def recover(geometry: Geometry) -> Recovered:
    """Rebuild the masks from the chains.

    One bad blob is listed in `errors`; everything else is found all the same.
    Single-page blobs are taken all at once, unless one place has two owners: which of
    them is the bad one depends on their order.
    """
    scan = await scan_region(geometry)
    torn = RecoveryPlan()
    copies = restore_torn_roots(scan, torn)
    decoded = scan.decoder.single_page_blobs(geometry)
    found = await _follow_roots(geometry, scan, torn, decoded)
    if decoded is not None and len(decoded.roots) and found.is_contested:
        found = await _follow_roots(geometry, scan, torn, None)
    for stranger in scan.strangers:
        if not found.used_pages[stranger] and stranger not in copies:
            found.plan.copies.append(stranger)
    return found


async def _follow_roots(
    geometry: Geometry, scan: Scan, torn: RecoveryPlan, decoded: SinglePageBlobs | None
) -> Recovered:
    """Take the single-page blobs that were decoded, and follow every other root."""
    found = Recovered(
        used_pages=_zeroes(geometry.md_len),
        used_clusters=_zeroes(geometry.total_clusters),
        used_ids=_zeroes(geometry.md_len),
    )
    found.used_clusters[: geometry.md_clusters] = True
    found.plan = RecoveryPlan(copies=list(torn.copies), restored=dict(torn.restored))
    taken: set[int] = set()
    if decoded is not None:
        found.used_ids |= _bits(decoded.roots, geometry.md_len)
        found.used_pages |= _bits(decoded.pages, geometry.md_len)
        found.used_clusters |= decoded.clusters
        found.parents.update(decoded.parent_ids())
        taken.update(decoded.roots.tolist())
    from_device = PageReader(geometry).fetch
    revisits = Revisits(geometry)

    async def fetch(page: PageIndex) -> bytes:
        data = scan.pages.get(page) or scan.decoder.extent_pages.content(page)
        return await from_device(page) if data is None else data

    for root in scan.roots:
        if root not in taken:
            await _recover_root(geometry, found, root, fetch, revisits)
    return found


def _zeroes(count: int) -> bitarray:
    return bitarray(count, endian="little")


def _bits(numbers: Numbers, count: int) -> bitarray:
    """Return a mask in which just these bits are set."""
    flags = np.zeros(ceil_div(count, 8) * 8, dtype=np.uint8)
    flags[numbers] = 1
    bits = bitarray(np.packbits(flags, bitorder="little").tobytes(), endian="little")
    del bits[count:]
    return bits


def restore_torn_roots(scan: Scan, plan: RecoveryPlan) -> set[PageIndex]:
    """Put copies in the place of roots that a conversion left torn.

    A copy is used only where its root is broken and could have come from it;
    all others are erased before the first change.
    """
    used: set[PageIndex] = set()
    for stranger in scan.strangers:
        copy = scan.pages[stranger]
        (blob_id,) = np.frombuffer(copy[:8], dtype="<u8").tolist()
        root = PageIndex(blob_id - BLOB_ID_BASE)
        torn = scan.pages.get(root)
        if torn is None or not has_right_crc(copy) or has_right_crc(torn):
            continue
        if not is_tombstone(torn) and is_torn_conversion(torn, copy):
            scan.pages[root] = copy
            plan.restored[root] = copy
            plan.copies.append(stranger)
            used.add(stranger)
    return used


async def _recover_root(
    geometry: Geometry, found: Recovered, root: PageIndex, fetch: Fetch, revisits: Revisits
) -> None:
    blob_id = blob_id_of(root)
    data = await fetch(root)
    if not has_right_crc(data):
        if is_uncommitted(data):
            return
        if is_tombstone(data):
            found.plan.deleted.append(root)
            return
        quarantine(found, blob_id, wrong_crc(data, at=root))
        return
    if await is_half_deleted(geometry, data, fetch):
        found.plan.deleted.append(root)
        return
    try:
        state = await read_blob(geometry, blob_id, fetch, revisits)
        _refuse_unknown(state)
        _take_blob(found, state)
    except BlobstoreError as error:
        quarantine(found, blob_id, error)


async def is_half_deleted(geometry: Geometry, data: bytes, fetch: Fetch) -> bool:
    """Tell whether the original was interrupted in deleting this blob.

    It zeroes the chain's pages first, so a root that leads to a page of zeroes
    is a delete to be finished.
    """
    next_page, _crc = TAIL.unpack_from(data, PAGE_SIZE - TAIL.size)
    if next_page == NO_PAGE or next_page >= geometry.md_len:
        return False
    return not any(await fetch(PageIndex(next_page)))


def _refuse_unknown(state: BlobState) -> None:
    if state.unknown_kinds:
        raise CorruptError(
            f"blob {state.blob_id:#x}: unknown descriptors {state.unknown_kinds}",
            errno=errno.EINVAL,
        )


def _take_blob(found: Recovered, state: BlobState) -> None:
    """Mark what the blob owns; blobs in the middle of a snapshot operation wait."""
    found.used_ids[state.root] = True
    if state.parent_id is not None:
        found.parents[state.blob_id] = state.parent_id
    if state.marker is not None:
        found.marked.add(state.blob_id)
    else:
        take_pages(found, state)
        take_clusters(found, state)
