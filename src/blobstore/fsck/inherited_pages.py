"""Extent pages that a lost snapshot had taken over from its origin.

A snapshot takes over the extent pages of the blob that it was taken of, and each page keeps the id
of that blob. If the root of the snapshot is lost, no chain leads to these pages any more. They are
likely to be the snapshot's if the blob they name reads that snapshot, and no other blob that lacks
clusters can have owned them. Where anything else is possible, nothing is taken.
"""

from itertools import chain

import numpy as np
from bitarray import bitarray

from blobstore.errors import CorruptError
from blobstore.format.descriptors import EXTENT_PAGE, decode_extent_page, split_descriptors
from blobstore.format.page import BODY_SIZE, HEAD
from blobstore.fsck.region_view import RegionView
from blobstore.units import BlobId, PageIndex


async def inherited_pages(view: RegionView, lost: BlobId) -> dict[PageIndex, bytes]:
    """Return the extent pages that are likely to be those of a blob whose root is lost.

    There are none if another blob lacks clusters, or if two of the pages contradict each other.
    """
    if _may_be_of_another(view, lost):
        return {}
    found: dict[PageIndex, bytes] = {}
    firsts: set[int] = set()
    owned = view.ownership.clusters.copy()
    for page, owner in view.orphans.items():
        if not (_reads(view, owner, lost) and _is_marked(view, page)):
            continue
        data = await view.fetch(page)
        extents = None if data is None else _extents_of(data)
        if data is None or extents is None:
            continue
        first, clusters = extents
        places = _places(view, clusters)
        if places is None or view.ownership.clusters[places].any():
            continue
        if first in firsts or len(set(places)) < len(places) or owned[places].any():
            return {}
        firsts.add(first)
        owned[places] = True
        found[page] = data
    return found


def _may_be_of_another(view: RegionView, lost: BlobId) -> bool:
    """Tell whether another blob lacks clusters: that one may be an ancestor of the lost one."""
    others = (blob.blob_id for blob in view.broken.values() if blob.lacks_clusters)
    return any(blob_id != lost for blob_id in chain(others, view.rootless))


def _reads(view: RegionView, blob_id: BlobId, lost: BlobId) -> bool:
    """Tell whether the parents of a sound blob lead to the lost one."""
    passed: set[BlobId] = set()
    at: BlobId | None = blob_id
    while at is not None and at not in passed:
        passed.add(at)
        info = view.relations.get(at)
        if info is None or not info.is_sure:
            return False
        if info.parent_id == lost:
            return True
        at = info.parent_id
    return False


def _is_marked(view: RegionView, page: PageIndex) -> bool:
    return view.masks is None or view.masks.pages is None or bool(view.masks.pages[page])


def _extents_of(data: bytes) -> tuple[int, bytes] | None:
    """Return the first place and the clusters of an extent page; None of any other page."""
    try:
        found = list(split_descriptors(data[HEAD.size : HEAD.size + BODY_SIZE], place="page"))
        if [kind for kind, _content in found] != [EXTENT_PAGE]:
            return None
        extents = decode_extent_page(found[0][1], place="page")
    except CorruptError:
        return None
    return extents.first, extents.clusters


def _places(view: RegionView, clusters: bytes) -> list[int] | None:
    """Return the allocated clusters; None if there are none, or if they cannot be data in use."""
    entries = np.frombuffer(clusters, dtype="<u4")
    places: list[int] = entries[entries != 0].tolist()
    geometry = view.geometry
    if not places or min(places) < geometry.md_clusters or max(places) >= geometry.total_clusters:
        return None
    used: bitarray | None = None if view.masks is None else view.masks.clusters
    return places if used is None or used[places].all() else None
