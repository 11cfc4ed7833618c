"""Clusters drawn as cells: their number in a cell, its owner, and its letter and colour."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Final, Generic, TypeVar

from blobstore import BlobId
from blobstore.cli.picture.ownership_map import HOLE, OwnershipMap, Reader, Run, Source, Use
from blobstore.units import ceil_div

T = TypeVar("T")

COLOURS: Final = (
    "#4c8dd6", "#e8873a", "#4fa86b", "#c95f9b", "#8f78d2", "#b3871b",
    "#3aa6a6", "#d65c5c", "#7f9c3f", "#a5744c", "#5f7fa8", "#b06fd0",
)  # fmt: skip
"""Told apart by most eyes, on light and on dark ground; more blobs than these share colours."""
OTHER_COLOUR: Final = "#8b949e"

_LOOKED_AT_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class Cell(Generic[T]):
    """Some neighbouring clusters: the owner of most of them, and whether it owns all."""

    owner: T
    whole: bool


def clusters_per_cell(cluster_count: int, cell_count: int) -> int:
    """Return the power of two of clusters with which the cells suffice."""
    needed = max(1, ceil_div(cluster_count, cell_count))
    return 1 << (needed - 1).bit_length()


def cells_of(runs: Sequence[Run], *, per_cell: int) -> "list[Cell[BlobId | Use]]":
    """Cut the device into cells; one with anything in it is not drawn as free."""
    cells: list[Cell[BlobId | Use]] = []
    counts: Counter[BlobId | Use] = Counter()
    filled = 0
    for run in runs:
        left = run.count
        while left:
            part = min(left, per_cell - filled)
            if filled == 0 and left >= per_cell:  # no loop over every cluster of a large run
                whole, left = divmod(left, per_cell)
                cells += [Cell(run.owner, True)] * whole
                continue
            counts[run.owner] += part
            filled, left = filled + part, left - part
            if filled == per_cell:
                cells.append(_cell(counts))
                counts.clear()
                filled = 0
    return [*cells, _cell(counts)] if counts else cells


def _cell(counts: "Counter[BlobId | Use]") -> "Cell[BlobId | Use]":
    return Cell(_most_but(Use.FREE, counts), len(counts) == 1)


def _most_but(nothing: T, counts: "Counter[T]") -> T:
    """Return the owner of most; `nothing` only if there is no other."""
    return max(counts, key=lambda each: (each != nothing, counts[each]))


def strip_of(
    reader: Reader, blob_id: BlobId, cluster_count: int, *, cell_count: int
) -> "list[Cell[Source]]":
    """Return a blob from start to end, by the owners of what it reads; samples, if large."""
    per_cell = max(1, ceil_div(cluster_count, cell_count))
    cells: list[Cell[Source]] = []
    for start in range(0, cluster_count, per_cell):
        end = min(start + per_cell, cluster_count)
        step = max(1, (end - start) // _LOOKED_AT_MAX)
        counts = Counter(reader.source_of(blob_id, index) for index in range(start, end, step))
        cells.append(Cell(_most_but(HOLE, counts), len(counts) == 1))
    return cells


@dataclass(frozen=True, slots=True)
class Key:
    """A blob's letter and colour."""

    letter: str
    colour: str


OTHER: Final = Key("*", OTHER_COLOUR)
"""What all blobs share for which there was no letter."""


def keys_of(ownership: OwnershipMap) -> dict[BlobId, Key]:
    """Give letters and colours, in the order of the tree; if too many, to those that own most."""
    owned = {blob_id: blob.allocated_clusters for blob_id, blob in ownership.blobs.items()}
    largest = sorted(owned, key=lambda blob_id: (-owned[blob_id], blob_id))
    chosen = set(largest[: len(ascii_uppercase)])
    order = [branch.blob_id for branch in ownership.tree if branch.blob_id in chosen]
    keys = {
        blob_id: Key(ascii_uppercase[number], COLOURS[number % len(COLOURS)])
        for number, blob_id in enumerate(order)
    }
    return {branch.blob_id: keys.get(branch.blob_id, OTHER) for branch in ownership.tree}
