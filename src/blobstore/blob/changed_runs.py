"""What a blob shows that another one does not, found out by their maps alone.

A place of a blob shows a cluster: its own, or else that of the nearest ancestor that has one
there. Two blobs read the same at a place where both show the same cluster, or none. Where they
show different clusters they are taken for different. The content is never compared.

Only few leaves need a look. Below the nearest common ancestor both blobs show the same, unless a
blob above that is shorter hides it from one of the two. So the leaves that may differ are those
of the blobs above the common ancestor, and those at the places that only one of the two can see.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from blobstore.alloc.leaves import LEAF_SHIFT, LEAF_SIZE, leaves_for
from blobstore.metadata.blob_state import BlobState

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Shown = npt.NDArray[np.uint32]

_OUTSIDE: Final = 0xFFFF_FFFF
"""Stands for what an external snapshot holds; no store has a cluster of that number."""


class ChangedRun(NamedTuple):
    """Places that show something else than before; without data they show zeroes now."""

    first: int
    place_count: int
    has_data: bool


def changed_runs(
    blob: BlobState, base: BlobState | None, places: range | None = None
) -> list[ChangedRun]:
    """Return where a blob may read differently from another one, or from zeroes, in order.

    What lies beyond the end of one of them reads as zeroes. Both are open. With `places` only
    the leaves of these are looked at; the runs can reach beyond.
    """
    import numpy as np  # commands that compare nothing start without it

    outside_differs = base is not None and _outside_of(blob) != _outside_of(base)
    runs: list[ChangedRun] = []
    for number in _leaves_that_may_differ(blob, base):
        if places is not None and not _meets(number, places):
            continue
        new, old = _shown(blob, number), _shown(base, number)
        differs = new != old
        if outside_differs:
            differs |= new == _OUTSIDE
        kinds = differs.astype(np.int8) * (1 + (new != 0))
        for first, last in _stretches(kinds):
            if kinds[first]:
                _append(runs, (number << LEAF_SHIFT) + first, last - first, bool(kinds[first] == 2))
    return runs


def _meets(number: int, places: range) -> bool:
    """Tell whether a leaf has one of the places."""
    return places.start >> LEAF_SHIFT <= number < leaves_for(places.stop)


def _stretches(kinds: "npt.NDArray[np.int8]") -> Iterator[tuple[int, int]]:
    """Yield (first, end) of neighbours of one kind."""
    import numpy as np

    edges = [0, *(np.flatnonzero(kinds[1:] != kinds[:-1]) + 1).tolist(), len(kinds)]
    return pairwise(edges)


def _append(runs: list[ChangedRun], first: int, place_count: int, has_data: bool) -> None:
    """Append a run, or make the last one longer."""
    if runs and runs[-1].has_data == has_data:
        last = runs[-1]
        if last.first + last.place_count == first:
            first, place_count = last.first, last.place_count + place_count
            runs.pop()
    runs.append(ChangedRun(first, place_count, has_data))


def _shown(blob: BlobState | None, number: int) -> "Shown":
    """Return the cluster that each place of a leaf shows, or 0."""
    import numpy as np

    shown = np.zeros(LEAF_SIZE, dtype=np.uint32)
    limit, layer = LEAF_SIZE, blob
    while layer is not None:
        limit = min(limit, layer.clusters.count - (number << LEAF_SHIFT))
        if limit <= 0:
            break
        seen = shown[:limit]
        if layer.clusters.allocated_count:
            own = np.frombuffer(layer.clusters.entries(number), dtype=np.uint32)[:limit]
            np.copyto(seen, own, where=seen == 0)
        if layer.has_external_parent:
            seen[seen == 0] = _OUTSIDE
        if seen.all():
            break
        layer = layer.parent
    return shown


def _leaves_that_may_differ(blob: BlobState, base: BlobState | None) -> list[int]:
    """Return the numbers of the leaves to look at, in order."""
    blobs, bases = _lineage(blob), _lineage(base)
    known = set(bases)
    common = next((layer for layer in blobs if layer in known), None)
    above = [*_above(blobs, common), *_above(bases, common)]
    numbers: set[int] = set()
    for layer in above:
        numbers.update(layer.clusters.present_numbers())
    hidden = sorted((_limit(blobs, common), _limit(bases, common)))
    seen_by_one = range(hidden[0] >> LEAF_SHIFT, leaves_for(hidden[1]))
    if _outside_of(blob) != _outside_of(base):
        numbers.update(range(leaves_for(hidden[1])))
    elif hidden[0] == hidden[1]:
        pass
    elif _outside_of(blob) is not None:
        numbers.update(seen_by_one)
    elif common is not None:
        for layer in blobs[blobs.index(common) :]:
            numbers.update(n for n in layer.clusters.present_numbers() if n in seen_by_one)
    return sorted(numbers)


def _lineage(blob: BlobState | None) -> list[BlobState]:
    """Return a blob and its ancestors, from the top down."""
    found: list[BlobState] = []
    while blob is not None:
        found.append(blob)
        blob = blob.parent
    return found


def _above(lineage: list[BlobState], common: BlobState | None) -> list[BlobState]:
    return lineage if common is None else lineage[: lineage.index(common)]


def _limit(lineage: list[BlobState], common: BlobState | None) -> int:
    """Return the end of what can be seen of the common ancestor, or of what is outside."""
    down_to = len(lineage) if common is None else lineage.index(common) + 1
    return min((layer.clusters.count for layer in lineage[:down_to]), default=0)


def _outside_of(blob: BlobState | None) -> bytes | None:
    """Return the id of the external snapshot below a blob and its ancestors."""
    lineage = _lineage(blob)
    return lineage[-1].external_id if lineage else None
