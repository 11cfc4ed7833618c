"""Recovery: what a store that was not unloaded holds (CRASH-SAFETY 4, FORMAT 6).

The metadata region is read once, in large pieces. Whatever can be a page of a
blob is kept; then every root is followed. Nothing is written: what must change
on the device is put down in the store's `Outcome`.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from bitarray import bitarray

from blobstore.errors import BlobstoreError, CorruptError
from blobstore.format.checksum import crc32c
from blobstore.format.descriptors import EXTENT_PAGE
from blobstore.format.geometry import BLOB_ID_BASE, Geometry, blob_id_of
from blobstore.format.page import CRC_OFFSET, HEAD, NO_PAGE, PAGE_SIZE, TAIL
from blobstore.format.root import is_tombstone, is_torn_conversion, is_uncommitted
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.read import Fetch, fetch_from_device, read_blob
from blobstore.metadata.store_state import Outcome
from blobstore.operations import ReadInto
from blobstore.units import BlobId, PageIndex

_CHUNK_BYTES: Final = 1 << 20
_EINVAL: Final = 22


@dataclass(slots=True)
class Recovered:
    """The masks as they follow from the chains, and all that loading must know beside them."""

    used_pages: bitarray
    used_clusters: bitarray
    used_ids: bitarray
    outcome: Outcome = field(default_factory=Outcome)
    parents: dict[BlobId, BlobId] = field(default_factory=dict)
    marked: dict[BlobId, BlobState] = field(default_factory=dict)
    errors: dict[BlobId, BlobstoreError] = field(default_factory=dict)


@dataclass(slots=True)
class Scan:
    """Every page of the region that can belong to a blob, and which of them look like roots."""

    pages: dict[int, bytes] = field(default_factory=dict)
    roots: list[PageIndex] = field(default_factory=list)
    strangers: list[PageIndex] = field(default_factory=list)


async def scan_region(geometry: Geometry) -> Scan:
    """Read the metadata region in large pieces, and keep what names a place in it."""
    scan = Scan()
    step = max(1, _CHUNK_BYTES // geometry.page_size)
    buffer = memoryview(bytearray(min(step, geometry.md_len) * geometry.page_size))
    for first in range(0, geometry.md_len, step):
        count = min(step, geometry.md_len - first)
        view = buffer[: count * geometry.page_size]
        await ReadInto(geometry.page_offset(PageIndex(first)), [view])
        _sort_pages(geometry, scan, view, first)
    return scan


def _sort_pages(geometry: Geometry, scan: Scan, view: memoryview, first: int) -> None:
    """Keep the pages of one piece whose header names a blob of this region."""
    heads = np.frombuffer(view, dtype="<u8").reshape(-1, geometry.page_size // 8)[:, :2]
    ids = heads[:, 0]
    plausible = (ids >= BLOB_ID_BASE) & (ids < BLOB_ID_BASE + geometry.md_len)
    for at in np.flatnonzero(plausible).tolist():
        offset = at * geometry.page_size
        data = bytes(view[offset : offset + PAGE_SIZE])
        blob_id, sequence, _reserved = HEAD.unpack_from(data)
        page = PageIndex(first + at)
        scan.pages[page] = data
        if sequence == 0:
            if blob_id == blob_id_of(page):
                scan.roots.append(page)
            elif data[HEAD.size] != EXTENT_PAGE:
                scan.strangers.append(page)


async def recover(geometry: Geometry) -> Recovered:
    """Rebuild the masks from the chains.

    One bad blob is listed in `errors`; everything else is found all the same.
    """
    scan = await scan_region(geometry)
    found = Recovered(
        used_pages=_zeroes(geometry.md_len),
        used_clusters=_zeroes(geometry.total_clusters),
        used_ids=_zeroes(geometry.md_len),
    )
    found.used_clusters[: geometry.md_clusters] = True
    from_device = fetch_from_device(geometry)

    async def fetch(page: PageIndex) -> bytes:
        data = scan.pages.get(page)
        return await from_device(page) if data is None else data

    copies = _restore_torn_roots(scan, found)
    for root in scan.roots:
        await _recover_root(geometry, found, root, scan.pages[root], fetch)
    for stranger in scan.strangers:
        if not found.used_pages[stranger] and stranger not in copies:
            found.outcome.copies.append(stranger)
    return found


def _zeroes(count: int) -> bitarray:
    return bitarray(count, endian="little")


def _restore_torn_roots(scan: Scan, found: Recovered) -> set[PageIndex]:
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
            found.outcome.restored.append((root, copy))
            found.outcome.copies.append(stranger)
            used.add(stranger)
    return used


def has_right_crc(page: bytes) -> bool:
    """Tell whether the page's checksum matches its content."""
    return int.from_bytes(page[CRC_OFFSET:], "little") == crc32c(memoryview(page)[:CRC_OFFSET])


async def _recover_root(
    geometry: Geometry, found: Recovered, root: PageIndex, data: bytes, fetch: Fetch
) -> None:
    blob_id = blob_id_of(root)
    if not has_right_crc(data):
        if is_uncommitted(data):
            return
        if is_tombstone(data):
            found.outcome.deleted.append(root)
            return
        _quarantine(found, blob_id, CorruptError(f"page {root}: a root with a wrong crc", errno=22))
        return
    if await _is_half_deleted(geometry, data, fetch):
        found.outcome.deleted.append(root)
        return
    try:
        state = await read_blob(geometry, blob_id, fetch)
        _refuse_unknown(state)
        _take_blob(found, state)
    except BlobstoreError as error:
        _quarantine(found, blob_id, error)


async def _is_half_deleted(geometry: Geometry, data: bytes, fetch: Fetch) -> bool:
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
            f"blob {state.blob_id:#x}: unknown descriptors {state.unknown_kinds}", errno=_EINVAL
        )


def _quarantine(found: Recovered, blob_id: BlobId, error: BlobstoreError) -> None:
    """Keep the id and the root page; what else the blob owns cannot be known."""
    root = blob_id - BLOB_ID_BASE
    found.used_pages[root] = True
    found.used_ids[root] = True
    found.errors[blob_id] = error


def _take_blob(found: Recovered, state: BlobState) -> None:
    """Mark what the blob owns; blobs in the middle of a snapshot operation wait."""
    found.used_ids[state.root] = True
    if state.parent_id is not None:
        found.parents[state.blob_id] = state.parent_id
    if state.marker is not None:
        found.marked[state.blob_id] = state
    else:
        take_pages(found, state)
        take_clusters(found, state)


def take_pages(found: Recovered, state: BlobState) -> None:
    """Mark the blob's metadata pages used.

    Raises:
        CorruptError: One of them belongs to another blob too.
    """
    pages = [state.root, *state.metadata_pages]
    if len(set(pages)) != len(pages) or found.used_pages[pages].any():
        raise CorruptError(
            f"blob {state.blob_id:#x}: a metadata page belongs to two places", errno=_EINVAL
        )
    found.used_pages[pages] = True


def take_clusters(found: Recovered, state: BlobState) -> None:
    """Mark the blob's clusters used.

    Raises:
        CorruptError: One of them belongs to another blob too.
    """
    clusters = state.clusters.allocated()
    if len(set(clusters)) != len(clusters) or found.used_clusters[clusters].any():
        raise CorruptError(
            f"blob {state.blob_id:#x}: owns a cluster that another place owns", errno=_EINVAL
        )
    found.used_clusters[clusters] = True
