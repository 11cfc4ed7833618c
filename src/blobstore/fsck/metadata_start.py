"""Where a store's metadata begins, as its root pages say (FORMAT 1, 2). Pure.

A root page says where it lies: with the id ``0x1_0000_0000 | M`` at page P the
metadata begins at page P - M. All roots of a store agree on that place and on the
size of a page; pages of other stores, which a blob may hold, agree on another.
A place is likely if an empty store of some cluster size would have its metadata there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from blobstore.format.geometry import DEFAULT_PAGE_SIZE
from blobstore.format.mask import mask_pages
from blobstore.format.page import PAGE_SIZE
from blobstore.format.super_block import SuperBlock
from blobstore.fsck.evidence import Evidence
from blobstore.metadata.page_arrays import Flagged, Numbers

_UNITS: Final = tuple(1 << power for power in range(9))
"""Sizes of metadata pages, in 4096 bytes."""

_FIRST_START: Final = 3  # after the super block and two masks
_LARGEST_CLUSTER: Final = 1 << 31


@dataclass(frozen=True, slots=True)
class LayoutHints:
    """What the caller knows of a layout: bytes, and pages of the store's own size."""

    cluster_size: int | None = None
    md_start: int | None = None
    md_pages: int | None = None

    def __bool__(self) -> bool:
        return (self.cluster_size, self.md_start, self.md_pages) != (None, None, None)

    def agree_with(self, block: SuperBlock) -> bool:
        """Tell whether a super block says the same."""
        wanted = (self.cluster_size, self.md_start, self.md_pages)
        found = (block.cluster_size, block.md_start, block.md_len)
        return all(want is None or want == have for want, have in zip(wanted, found, strict=True))


NO_HINTS: Final = LayoutHints()


@dataclass(frozen=True, slots=True)
class MetadataStart:
    """Where root pages say that the metadata begins, in pages of `page_size` bytes."""

    page_size: int
    md_start: int
    root_count: int

    @property
    def unit(self) -> int:
        """The size of a page in places of 4096 bytes."""
        return self.page_size // PAGE_SIZE


def roots_in_place(evidence: Evidence, start: MetadataStart) -> Flagged:
    """Tell of each page whether it is a root that says that the metadata begins there."""
    in_place: Flagged = evidence.places == (start.md_start + evidence.roots) * start.unit
    return in_place & evidence.can_be_root


def metadata_starts(
    evidence: Evidence, hints: LayoutHints, device_size: int
) -> list[MetadataStart]:
    """Return the places that most roots agree on; several only if as many agree on each."""
    votes = [
        vote
        for unit in _UNITS
        if unit * PAGE_SIZE <= device_size and not (hints.cluster_size or 0) % (unit * PAGE_SIZE)
        for vote in _votes(evidence, hints, unit, device_size)
    ]
    best = max((rank for rank, _start in votes), default=None)
    found = [start for rank, start in votes if rank == best]
    if not found and hints.md_start is not None:
        return [MetadataStart(DEFAULT_PAGE_SIZE, hints.md_start, 0)]
    return found


_Rank = tuple[bool, int, int, int]


def _votes(
    evidence: Evidence, hints: LayoutHints, unit: int, device_size: int
) -> Iterator[tuple[_Rank, MetadataStart]]:
    """Yield each place that roots speak for, with its rank; of pages of this size only the best."""
    is_root = evidence.can_be_root & (evidence.places % unit == 0)
    sound = evidence.places[is_root] // unit - evidence.roots[is_root]
    is_torn = evidence.torn_places % unit == 0
    torn = evidence.torn_places[is_torn] // unit - evidence.torn_roots[is_torn]
    starts, counts = np.unique(np.concatenate((sound, torn)), return_counts=True)
    sound_counts = np.searchsorted(np.sort(sound), starts, side="right")
    sound_counts -= np.searchsorted(np.sort(sound), starts, side="left")
    is_possible = starts >= _FIRST_START if hints.md_start is None else starts == hints.md_start
    grades = _grades(starts, unit * PAGE_SIZE, device_size)
    order = np.lexsort((counts, grades, sound_counts, grades > 0, is_possible))[::-1]
    best: _Rank | None = None
    for at in order.tolist():
        rank = bool(grades[at] > 0), int(sound_counts[at]), int(grades[at]), int(counts[at])
        best = best or rank
        if not is_possible[at] or rank != best:
            return
        yield rank, MetadataStart(unit * PAGE_SIZE, int(starts[at]), int(counts[at]))


def _grades(starts: Numbers, page_size: int, device_size: int) -> Numbers:
    """Return how likely metadata begins there: 2 by default, 1 if asked for, 0 never.

    Masks of as many pages as some power of two as a cluster size needs come before it.
    """
    grades = np.zeros(len(starts), dtype=np.int64)
    if not len(starts):
        return grades
    for cluster_size in powers_of_two(page_size, device_size):
        clusters = mask_pages(device_size // cluster_size, page_size)
        rest = starts - 1 - clusters
        is_longer = (rest > 0) & (rest % 2 == 0) & (rest // 2 <= clusters)
        pages = (starts - 1) // 3
        is_equal = (pages * 3 == starts - 1) & (pages >= clusters)
        is_equal &= (pages - 1) * page_size * 8 * page_size <= device_size
        grades[is_longer | is_equal] = np.maximum(grades[is_longer | is_equal], 1)
        grades[starts == 1 + 3 * clusters] = 2
        grades[starts == 1 + 2 * clusters] = np.maximum(grades[starts == 1 + 2 * clusters], 1)
    return grades


def powers_of_two(page_size: int, device_size: int) -> Iterator[int]:
    """Yield the usual cluster sizes, from one page up to the whole device."""
    cluster_size = page_size
    while cluster_size <= min(device_size, _LARGEST_CLUSTER):
        yield cluster_size
        cluster_size *= 2
