"""What a disk server asks of an open blob, apart from its content: which blob owns which range.

Ranges are (offset, length, value) in bytes, in order and without gaps from the offset that was
asked for. One call looks at a limited number of clusters, so that it never holds the store's lock
for long: the ranges can end before the end that was asked for, and the caller asks again.
"""

from collections.abc import Callable
from itertools import islice
from typing import Final, TypeAlias

from blobstore.api.blob import Blob
from blobstore.blob import seek
from blobstore.blob.changed_runs import changed_runs
from blobstore.errors import InvalidArgumentError, NotFoundError
from blobstore.metadata.blob_state import BlobState
from blobstore.store.names import name_in
from blobstore.units import BlobId, ceil_div

NOT_HELD: Final = seek.NOT_HELD
"""The depth of a range that reads as zeroes."""

_CLUSTERS_MAX: Final = 1 << 15
RANGES_MAX: Final = 1024
"""How many ranges are returned at most, unless a lower limit is given."""

Ranges: TypeAlias = list[tuple[int, int, int]]


def depths(blob: Blob, offset: int, length: int, *, limit: int = RANGES_MAX) -> Ranges:
    """Return how deep in the chain of parents each part of a range is held, at most `limit` parts.

    1 is the blob itself, 2 its parent, and so on; `NOT_HELD` is zeroes. An external snapshot
    counts as one more parent, which holds all of its range.

    Raises:
        InvalidArgumentError: The range reaches beyond the blob.
        ClosedError: The blob or the store was closed.
    """

    def runs(state: BlobState, places: range) -> list[tuple[int, int]]:
        return list(islice(seek.depth_runs(state, places.start, places.stop), limit))

    return _ranges(blob, runs, offset, length, limit)


def changes(
    blob: Blob, ancestor: BlobId, offset: int, length: int, *, limit: int = RANGES_MAX
) -> Ranges:
    """Return which parts of a range can differ from an ancestor (1) and which cannot (0).

    The maps alone are looked at: a cluster that was written with what it held counts as changed.

    Raises:
        NotFoundError: No ancestor has the id.
        InvalidArgumentError: The range reaches beyond the blob.
        ClosedError: The blob or the store was closed.
    """

    def runs(state: BlobState, places: range) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        end = places.start
        for run in changed_runs(state, _ancestor_of(state, ancestor), places):
            if run.first > end:
                found.append((run.first, 0))
            end = max(end, run.first + run.place_count)
            found.append((end, 1))
        return [*found, (places.stop, 0)]

    return _ranges(blob, runs, offset, length, limit)


def _ancestor_of(state: BlobState, wanted: BlobId) -> BlobState:
    owner = state.parent
    while owner is not None and owner.blob_id != wanted:
        owner = owner.parent
    if owner is None:
        raise NotFoundError(f"blob {state.blob_id:#x}: {wanted:#x} is no ancestor of it")
    return owner


def ancestors(blob: Blob) -> list[tuple[BlobId, str | None]]:
    """Return the (id, name) of the blob's parent, of its parent, and so on.

    Raises:
        ClosedError: The blob or the store was closed.
    """
    return blob._call(_ancestors, blob._state)


def _ancestors(state: BlobState) -> list[tuple[BlobId, str | None]]:
    found: list[tuple[BlobId, str | None]] = []
    owner = state.parent
    while owner is not None:
        found.append((owner.blob_id, name_in(owner.xattrs)))
        owner = owner.parent
    return found


def clear(blob: Blob, offset: int, length: int) -> None:
    """Make a range read as zeroes; holes stay, and become more, where nothing shows through.

    Durability: with the blob's next `flush`.

    Raises:
        BlobstoreError: As `Blob.write_zeroes`.
    """
    blob._clear(offset, length)


Runs: TypeAlias = Callable[[BlobState, range], list[tuple[int, int]]]
"""(the end of a run, what is said of its clusters), in order, for clusters of a blob."""


def _ranges(blob: Blob, runs: Runs, offset: int, length: int, limit: int) -> Ranges:
    """Turn what is said of clusters into ranges of bytes, neighbours with one value merged."""
    if length <= 0 or not 0 <= offset <= blob.size - length:
        raise InvalidArgumentError(f"{length} bytes at {offset}: outside of {blob.size} bytes")
    size = blob._cluster_size
    first, last = offset // size, ceil_div(offset + length, size)
    last = min(last, first + _CLUSTERS_MAX)
    ranges: Ranges = []
    at = offset
    for index, value in blob._call(runs, blob._state, range(first, last)):
        end = min(index * size, last * size, offset + length)
        if end <= at:
            continue
        if ranges and ranges[-1][2] == value:
            ranges[-1] = (ranges[-1][0], end - ranges[-1][0], value)
        elif len(ranges) == limit:
            break
        else:
            ranges.append((at, end - at, value))
        at = end
    return ranges
