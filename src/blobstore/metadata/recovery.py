"""Recovery: what a store that was not unloaded holds (CRASH-SAFETY 4, FORMAT 6).

The masks of a store that was not unloaded cannot be trusted. The roots say what is in use:
whatever a root names, through its chain and its extent pages, is in use, and nothing else is. So
the region is read once, in large pieces. Pages that name a place in the region are kept, and every
root is followed. Nearly all blobs have a single page; these are decoded in batches.

A page with a wrong checksum can be a root that was never completed, one that was deleted on
purpose, or one that is lost. The first two own nothing. The last is **quarantined**: which clusters
it owns cannot be known, so its id and page stay taken, and the store takes no changes. The same
holds for a root that was overwritten as a whole, if something else tells that it was there
(`lost_roots`), and for every root that cannot be followed to its end. If two blobs claim one place,
the one that comes first keeps it. The order of roots decides, so then nothing decoded in batches
counts.

Nothing is written. What must change on the device is collected in a `RecoveryPlan`, which the
first change carries out before anything else: a store that is only read stays as it is, and a
second power failure finds what the first one left.
"""

import errno

import numpy as np
from bitarray import bitarray

from blobstore.errors import BlobstoreError, CorruptError
from blobstore.format.geometry import BLOB_ID_BASE, Geometry, blob_id_of
from blobstore.format.page import NO_PAGE, PAGE_SIZE, TAIL, has_right_crc, wrong_crc
from blobstore.format.root import is_tombstone, is_torn_conversion, is_uncommitted
from blobstore.metadata.batch_decoding import SinglePageBlobs
from blobstore.metadata.blob_reader import Revisits, read_blob
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.lost_roots import lost_roots
from blobstore.metadata.page_arrays import Numbers
from blobstore.metadata.page_reader import Fetch, PageReader
from blobstore.metadata.recovered import Recovered, quarantine, take_clusters, take_pages
from blobstore.metadata.region_scan import Scan, scan_region
from blobstore.metadata.store_state import RecoveryPlan
from blobstore.units import PageIndex, ceil_div


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
    for root in await lost_roots(geometry, scan, found.used_pages, copies):
        error = CorruptError(
            f"page {root}: a root page that was overwritten, and not by a power failure",
            errno=errno.EINVAL,
        )
        quarantine(found, blob_id_of(root), error)
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
