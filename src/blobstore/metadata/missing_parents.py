"""Parents that clones name and that are no blobs: lost roots (CRASH-SAFETY 4).

A clone tells that its parent was a blob, whatever the parent's page holds now: a snapshot is erased
only after the root of its clone is durable that no longer names it. Often nothing else tells: a
snapshot keeps the pages of its origin, which carry the origin's id.
"""

from collections.abc import Iterable

from bitarray import bitarray

from blobstore.format.geometry import BLOB_ID_BASE, Geometry
from blobstore.units import BlobId, PageIndex


def missing_parents(
    geometry: Geometry, parents: Iterable[BlobId], used_ids: bitarray
) -> list[PageIndex]:
    """Return the root pages of parents that are no blobs, ascending.

    An id outside the region has no page, and no new blob can get it.
    """
    end = BLOB_ID_BASE + geometry.md_len
    named = bitarray(geometry.md_len, endian="little")
    named[[parent - BLOB_ID_BASE for parent in set(parents) if BLOB_ID_BASE <= parent < end]] = True
    return [PageIndex(root) for root in (named & ~used_ids).search(True)]
