"""Lost roots that their page does not show any more (CRASH-SAFETY 4).

After a dirty stop a page whose header does not name its own place is free, unless no power failure
can have left it. Then it is damaged, and the blob that lived there may be lost. Two things tell
that a blob lived there: the mask of used ids, which the last unload wrote (a blob deleted since
then has left a tombstone or zeroes, and no damage), and sound pages with that id.
"""

from collections.abc import Container

from bitarray import bitarray

from blobstore.errors import BlobstoreError
from blobstore.format.geometry import Geometry, blob_id_of
from blobstore.format.mask import MASK_BLOB_IDS
from blobstore.metadata.masks import read_mask
from blobstore.metadata.region_scan import Scan, orphan_pages
from blobstore.units import PageIndex


async def lost_roots(
    geometry: Geometry, scan: Scan, used_pages: bitarray, copies: Container[PageIndex]
) -> list[PageIndex]:
    """Return the damaged pages in which a blob's root was, ascending.

    The mask is read only where there is a damaged page, so a sound store pays nothing.
    """
    if not scan.impossible:
        return []
    ids = await ids_at_last_unload(geometry)
    owners = set(orphan_pages(scan, used_pages, copies).values())
    return [page for page in scan.impossible if ids[page] or blob_id_of(page) in owners]


async def ids_at_last_unload(geometry: Geometry) -> bitarray:
    """Return the mask of used ids as it stands; of one that cannot be used, no bit is set."""
    region = geometry.used_blob_ids
    nothing = bitarray(geometry.md_len, endian="little")
    if not region.length:
        return nothing
    try:
        return await read_mask(geometry, region, kind=MASK_BLOB_IDS, bit_count=geometry.md_len)
    except BlobstoreError:
        return nothing
