"""Where a blob's data is: the next cluster that it, or one of its parents, holds or does not."""

from collections.abc import Callable, Iterator
from typing import TypeAlias

from blobstore.errors import InvalidArgumentError, NotFoundError
from blobstore.metadata.blob_state import BlobState
from blobstore.units import BlobId

NOT_HELD = 0
"""The depth of clusters that read as zeroes."""

Run: TypeAlias = tuple[int, int]
"""(the first cluster after the run, what is said of all its clusters)."""


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

    Without one it is the number of the blob's clusters, or larger.
    """
    index = start
    while True:
        before = index
        owner: BlobState | None = blob
        while owner is not None and index < owner.clusters.count:
            index = _end_of_data(owner, index)
            owner = owner.parent
        if index == before:
            return index


def _end_of_data(owner: BlobState, start: int) -> int:
    hole = None if owner.has_external_parent else owner.clusters.find(start, allocated=False)
    return owner.clusters.count if hole is None else hole


def depth_runs(blob: BlobState, start: int, end: int) -> Iterator[Run]:
    """Yield how deep in the chain of parents the clusters from `start` to `end` are held.

    1 is the blob itself, 2 its parent, and so on; `NOT_HELD` is zeroes. An external snapshot
    counts as one more parent, which holds all of its range.
    """
    return _merged(lambda at, limit: _depth_run(blob, at, limit), start, end)


def _depth_run(blob: BlobState, at: int, limit: int) -> Run:
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


def changed_runs(blob: BlobState, base_id: BlobId, start: int, end: int) -> Iterator[Run]:
    """Yield which clusters from `start` to `end` can differ from an ancestor: 1, or 0 if not.

    A cluster can differ if the blob, or a parent between the two, holds it. Where one between
    them is shorter than the ancestor, the blob reads zeroes, and not what the ancestor holds.

    Raises:
        NotFoundError: No ancestor has the id.
    """
    above: list[BlobState] = []
    owner: BlobState | None = blob
    while owner is not None and owner.blob_id != base_id:
        above.append(owner)
        owner = owner.parent
    if owner is None or not above:
        raise NotFoundError(f"blob {blob.blob_id:#x}: {base_id:#x} is no ancestor of it")
    base = owner
    return _merged(lambda at, limit: _changed_run(above, base, at, limit), start, end)


def _changed_run(above: list[BlobState], base: BlobState, at: int, limit: int) -> Run:
    for owner in above:
        count = owner.clusters.count
        if at >= count:
            is_hidden = at < base.clusters.count
            return min(limit, base.clusters.count) if is_hidden else limit, int(is_hidden)
        limit = min(limit, count)
        if owner.clusters.get(at):
            return _boundary(owner, at, limit, allocated=False), 1
        limit = _boundary(owner, at, limit, allocated=True)
    return limit, 0


def _boundary(owner: BlobState, start: int, limit: int, *, allocated: bool) -> int:
    """Return the first cluster that is (or is not) allocated, `limit` if there is none before."""
    found = owner.clusters.find(start, allocated=allocated, end=limit)
    return limit if found is None else found


def _merged(next_run: Callable[[int, int], Run], start: int, end: int) -> Iterator[Run]:
    """Yield runs until `end`, neighbours of which the same is said as one."""
    at, said, last = start, None, start
    while at < end:
        last, value = next_run(at, end)
        if said is not None and value != said:
            yield at, said
        at, said = last, value
    if said is not None:
        yield last, said
