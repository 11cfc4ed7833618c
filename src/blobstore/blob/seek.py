"""Where a blob's data is: the next cluster that it, or one of its parents, holds or does not."""

from collections.abc import Iterator
from typing import Final

from blobstore.errors import InvalidArgumentError
from blobstore.metadata.blob_state import BlobState

NOT_HELD: Final = 0
"""The depth of clusters that read as zeroes."""


def next_boundary(
    blob: BlobState, cluster_size: int, offset: int, *, allocated: bool
) -> int | None:
    """Return the first byte from `offset` on that lies in an (un)allocated cluster.

    Raises:
        InvalidArgumentError: A negative offset.
    """
    if offset < 0:
        raise InvalidArgumentError(f"blob {blob.blob_id:#x}: offset {offset}")
    index = blob.clusters.find(offset // cluster_size, allocated=allocated)
    return None if index is None else max(offset, index * cluster_size)


def next_data(blob: BlobState, start: int) -> int | None:
    """Return the first cluster from `start` on that the blob or a parent holds.

    As with reading, what lies beyond the end of one parent is not looked for in the next.
    An external snapshot may have data anywhere.
    """
    nearest: int | None = None
    limit = blob.clusters.count
    owner: BlobState | None = blob
    while owner is not None:
        limit = min(limit, owner.clusters.count)
        index = start if owner.has_external_parent else owner.clusters.find(start, allocated=True)
        if index is not None and index < limit:
            nearest = limit = index
        owner = owner.parent
    return nearest


def next_hole(blob: BlobState, start: int) -> int:
    """Return the first cluster from `start` on that neither the blob nor a parent holds.

    Without one it is the number of the blob's clusters. As with reading, what lies
    beyond the end of one parent is not looked for in the next.
    """
    index = start
    while True:
        before = index
        limit = blob.clusters.count
        owner: BlobState | None = blob
        while owner is not None and index < (limit := min(limit, owner.clusters.count)):
            index = min(limit, _end_of_data(owner, index))
            owner = owner.parent
        if index == before:
            return index


def _end_of_data(owner: BlobState, start: int) -> int:
    hole = None if owner.has_external_parent else owner.clusters.find(start, allocated=False)
    return owner.clusters.count if hole is None else hole


def depth_runs(blob: BlobState, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (end, depth) of runs: how deep in the chain of parents clusters are held.

    The runs go from `start` to `end`; each begins where the last one ended. 1 is the blob itself,
    2 its parent, and so on; `NOT_HELD` is zeroes. An external snapshot counts as one more
    parent, which holds all of its range.
    """
    at, said = start, None
    while at < end:
        last, depth = _depth_run(blob, at, end)
        if said is not None and depth != said:
            yield at, said
        at, said = last, depth
    if said is not None:
        yield at, said


def _depth_run(blob: BlobState, at: int, limit: int) -> tuple[int, int]:
    depth = 1
    owner: BlobState | None = blob
    while owner is not None and at < owner.clusters.count:
        limit = min(limit, owner.clusters.count)
        if owner.clusters.get(at):
            return _boundary(owner, at, limit, allocated=False), depth
        limit = _boundary(owner, at, limit, allocated=True)
        if owner.has_external_parent:
            return limit, depth + 1
        owner, depth = owner.parent, depth + 1
    return limit, NOT_HELD


def _boundary(owner: BlobState, start: int, limit: int, *, allocated: bool) -> int:
    """Return the first cluster that is (or is not) allocated, `limit` if there is none before."""
    found = owner.clusters.find(start, allocated=allocated, end=limit)
    return limit if found is None else found
