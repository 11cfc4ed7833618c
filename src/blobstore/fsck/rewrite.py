"""Rewriting a blob's metadata, whole, from what is known of it.

Repair runs on a medium that is not the device yet, so nothing here is in an
order: the pages are put together, and all of them are written.
"""

from collections.abc import Sequence
from typing import Final

from blobstore.format.chain import pack_chain
from blobstore.format.checksum import crc32c
from blobstore.format.descriptors import (
    EXTERNAL_SNAPSHOT,
    HAS_EXTENT_TABLE,
    HAS_INTERNAL_XATTRS,
    Flags,
    Xattr,
)
from blobstore.format.geometry import Geometry
from blobstore.format.page import NO_PAGE, PAGE_SIZE, MetadataPage
from blobstore.format.root import Layout, encode_sector_head, encode_sector_tail
from blobstore.fsck.free import FreePages
from blobstore.fsck.parsed_blob import ParsedBlob
from blobstore.metadata.blob_state import EXTERNAL
from blobstore.operations import Copy, Write
from blobstore.units import BlobId, ClusterIndex, PageIndex

_UNALLOCATED: Final = 0


async def rewrite_blob(
    geometry: Geometry,
    layout: Layout,
    blob: ParsedBlob,
    free_pages: FreePages,
    *,
    keeps_table: bool = False,
) -> None:
    """Write root and chain.

    With `keeps_table` the extent pages stay; otherwise the blob gets run-length
    extents, which take as few pages as any kind.

    Raises:
        NoSpaceError: There are not enough free pages (ENOMEM); nothing was written.
    """
    table = (blob.cluster_count, blob.table) if keeps_table and blob.table is not None else None
    bodies = pack_chain(
        flags=_flags_of(blob, has_table=table is not None),
        xattrs=_xattrs_of(blob),
        runs=runs_with_holes(blob),
        table=table,
        root_capacity=layout.capacity,
    )
    pages = free_pages.take(len(bodies) - 1)
    links = [*pages, NO_PAGE]
    for number, (page, body) in enumerate(zip(pages, bodies[1:], strict=True), 1):
        content = MetadataPage(blob.blob_id, number, body, links[number]).encode()
        await Write(geometry.page_offset(page), content)
    root = _encode_root(layout, blob.blob_id, bodies[0], links[0])
    await Write(geometry.page_offset(blob.root), root)


def _encode_root(layout: Layout, blob_id: BlobId, body: bytes, next_page: PageIndex) -> bytes:
    if layout is Layout.COMPACT:
        return MetadataPage(blob_id, 0, body, next_page).encode()
    head = encode_sector_head(blob_id)
    return head + encode_sector_tail(body, next_page=next_page, head_crc=crc32c(head))


def _flags_of(blob: ParsedBlob, *, has_table: bool) -> Flags:
    """Return the flags, with those that follow from the rest."""
    invalid = blob.flags.invalid & ~(HAS_EXTENT_TABLE | HAS_INTERNAL_XATTRS | EXTERNAL_SNAPSHOT)
    if blob.internal_xattrs:
        invalid |= HAS_INTERNAL_XATTRS
    if EXTERNAL in blob.internal_xattrs:
        invalid |= EXTERNAL_SNAPSHOT
    if has_table:
        invalid |= HAS_EXTENT_TABLE
    return Flags(invalid, blob.flags.data_ro, blob.flags.md_ro)


def _xattrs_of(blob: ParsedBlob) -> list[Xattr]:
    own = [Xattr(name, value) for name, value in blob.xattrs.items()]
    internal = [Xattr(name, value, True) for name, value in blob.internal_xattrs.items()]
    return own + internal


def runs_with_holes(blob: ParsedBlob) -> list[tuple[int, int]]:
    """Return the blob's run-length extents; what has no cluster is unallocated."""
    runs: list[tuple[int, int]] = []
    at = 0
    for index, cluster, count in blob.segments:
        if index > at:
            runs.append((_UNALLOCATED, index - at))
        runs.append((cluster, count))
        at = index + count
    if at < blob.cluster_count:
        runs.append((_UNALLOCATED, blob.cluster_count - at))
    return runs


async def zero_pages(geometry: Geometry, pages: Sequence[PageIndex]) -> None:
    """Make metadata pages empty."""
    for page in pages:
        await Write(geometry.page_offset(page), bytes(PAGE_SIZE))


async def copy_cluster(geometry: Geometry, *, source: int, target: int) -> None:
    """Copy what a cluster holds to another one."""
    from_offset = geometry.cluster_offset(ClusterIndex(source))
    to_offset = geometry.cluster_offset(ClusterIndex(target))
    await Copy(from_offset, to_offset, geometry.cluster_size)
