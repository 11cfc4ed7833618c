"""How much of what a blob shows is its parents'."""

from collections.abc import Iterable

from blobstore import BlobId, BlobInfo
from blobstore.cli.picture.ownership_map import OwnershipMap

_Ranges = list[tuple[int, int]]
"""(start, end) in clusters of a blob, ascending, with gaps between them."""


def inherited_clusters(ownership: OwnershipMap) -> dict[BlobId, int]:
    """Return for each blob how many clusters it reads from blobs above it in the tree.

    A parent is before its clones in the tree, so only the ranges of one path from the root
    are in memory.
    """
    found: dict[BlobId, int] = {}
    path: list[_Ranges] = []
    for branch in ownership.tree:
        del path[branch.depth :]
        blob = ownership.blobs[branch.blob_id]
        above = path[-1] if path else []
        held = _union([*_own_ranges(blob), *_cut(above, blob.cluster_count)])
        found[branch.blob_id] = sum(end - start for start, end in held) - blob.allocated_clusters
        path.append(held)
    return found


def _own_ranges(blob: BlobInfo) -> Iterable[tuple[int, int]]:
    at = 0
    for first, count in blob.extents:
        if first != 0:
            yield at, at + count
        at += count


def _cut(ranges: _Ranges, end_max: int) -> Iterable[tuple[int, int]]:
    return ((start, min(end, end_max)) for start, end in ranges if start < end_max)


def _union(ranges: _Ranges) -> _Ranges:
    merged: _Ranges = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
