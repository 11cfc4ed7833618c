"""Orphan pages: what is left of a blob whose root is lost, found by the id that pages carry."""

from collections.abc import Iterable

import numpy as np

from blobstore.errors import CorruptError
from blobstore.format.descriptors import (
    EXTENT_PAGE,
    XATTR,
    decode_extent_page,
    decode_xattr,
    split_descriptors,
)
from blobstore.format.geometry import Geometry
from blobstore.format.page import BODY_SIZE, HEAD
from blobstore.fsck.extent_checks import add_entries
from blobstore.fsck.parsed_blob import ParsedBlob
from blobstore.metadata.blob_reader import MAX_CLUSTERS


def adopt_orphan_pages(geometry: Geometry, blob: ParsedBlob, pages: Iterable[bytes]) -> int:
    """Take from pages with the blob's id what they say; return how many said something.

    Extent pages name their place in the blob; attributes stand for themselves.
    Run-length extents do not say where they belong, and are left out.
    """
    extents: dict[int, bytes] = {}
    adopted = 0
    for data in pages:
        found = list(_descriptors(data))
        adopted += bool(found)
        for kind, view in found:
            if kind == XATTR:
                _take_xattr(blob, view)
            elif kind == EXTENT_PAGE:
                _take_extents(extents, view)
    for first in sorted(extents):
        _add(geometry, blob, first, extents[first])
    return adopted


def _descriptors(data: bytes) -> Iterable[tuple[int, memoryview]]:
    found: list[tuple[int, memoryview]] = []
    try:
        found.extend(
            split_descriptors(data[HEAD.size : HEAD.size + BODY_SIZE], place="orphan page")
        )
    except CorruptError:
        return []
    return found


def _take_xattr(blob: ParsedBlob, view: memoryview) -> None:
    try:
        xattr = decode_xattr(view, internal=False, place="orphan page")
    except CorruptError:
        return
    if xattr.name and "\0" not in xattr.name:
        blob.xattrs.setdefault(xattr.name, xattr.value)


def _take_extents(extents: dict[int, bytes], view: memoryview) -> None:
    try:
        content = decode_extent_page(view, place="orphan page")
    except CorruptError:
        return
    extents.setdefault(content.first, content.clusters)


def _add(geometry: Geometry, blob: ParsedBlob, first: int, clusters: bytes) -> None:
    """Add an extent page's clusters, if they follow what there is already."""
    entries = np.frombuffer(clusters, dtype="<u4")
    if first < blob.cluster_count or first + len(entries) > MAX_CLUSTERS:
        return
    is_inside = (entries >= geometry.md_clusters) & (entries < geometry.total_clusters)
    add_entries(blob.segments, np.where(is_inside, entries, 0), first)
    blob.cluster_count = first + len(entries)
