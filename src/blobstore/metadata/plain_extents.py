"""The extents of plain blobs, all at once: the last descriptor of their root (FORMAT 4).

It is a table that names one page, or only absent ones, or none; or runs; or
there is nothing, and the mark that ends the descriptors follows at once.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Self

import numpy as np
from bitarray import bitarray

from blobstore.alloc.leaves import LEAF_SHIFT, LEAF_SIZE, UNALLOCATED
from blobstore.format.descriptors import (
    EXTENT_TABLE,
    HEADER,
    PADDING,
    PAIR_SIZE,
    RUNS,
    TABLE_HEAD_SIZE,
)
from blobstore.format.geometry import Geometry
from blobstore.format.pairs import PackedPairs
from blobstore.metadata.blob_state import ABSENT_PAGE
from blobstore.metadata.columns import (
    BODY_END,
    ENTRY,
    Chunk,
    Entries,
    Flagged,
    Numbers,
    Records,
    bytes_at,
    joined,
    records_at,
    steps,
)
from blobstore.metadata.read import MAX_CLUSTERS
from blobstore.metadata.spans import mark_spans

_HEADER: Final = np.dtype([("kind", "u1"), ("length", "<u4")])
_TABLE: Final = np.dtype([("cluster_count", "<u8"), ("page", "<u4"), ("repeat", "<u4")])
_TABLE_LENGTH: Final = TABLE_HEAD_SIZE - HEADER.size + PAIR_SIZE
_EMPTY_LENGTH: Final = TABLE_HEAD_SIZE - HEADER.size
_RUNS_MAX: Final = 16
"""A blob with more runs is not plain: as columns they take more memory than in their page."""
assert _HEADER.itemsize == HEADER.size
assert _TABLE.itemsize == _TABLE_LENGTH


class Runs(NamedTuple):
    """Runs of many blobs: whose it is, its first cluster or 0, and how many."""

    owners: Numbers
    firsts: Numbers
    counts: Numbers

    def those(self, chosen: Flagged) -> "Runs":
        """Return the runs of some blobs, which are numbered anew."""
        are_theirs = chosen[self.owners]
        numbers = np.cumsum(chosen) - 1
        return Runs(
            numbers[self.owners[are_theirs]], self.firsts[are_theirs], self.counts[are_theirs]
        )

    def per_blob(self, values: Numbers, blob_count: int) -> Numbers:
        """Add up a value of every run for each blob."""
        sums: Numbers = np.bincount(self.owners, values, blob_count).astype(np.int64)
        return sums

    def are_impossible(self, geometry: Geometry, blob_count: int) -> Flagged:
        """Tell which blobs have a run outside of the data, or more clusters than there are."""
        is_own = self.firsts != UNALLOCATED
        ends = self.firsts + self.counts
        is_outside = (self.firsts < geometry.md_clusters) | (ends > geometry.total_clusters)
        owned = self.per_blob(np.where(is_own, self.counts, 0), blob_count)
        are_wrong: Flagged = owned > geometry.data_clusters
        are_wrong[self.owners[is_own & is_outside]] = True
        return are_wrong

    def owned_count(self) -> int:
        """Return how many clusters there are in all."""
        return int(self.counts[self.firsts != UNALLOCATED].sum())

    def mark(self, clusters: bitarray) -> None:
        """Set the bits of all clusters."""
        is_own = self.firsts != UNALLOCATED
        mark_spans(clusters, self.firsts[is_own], self.counts[is_own])

    def entries(self) -> Numbers:
        """Return all clusters, and 0 for those that are not there, one run after the other."""
        firsts = np.repeat(self.firsts, self.counts)
        entries: Numbers = np.where(firsts == UNALLOCATED, UNALLOCATED, firsts + steps(self.counts))
        return entries


class LeafRuns(NamedTuple):
    """The clusters of several blobs, one after the other, as runs; none is of two blobs.

    `places` tells for the start of each blob's clusters, and for the end of all, how
    many runs there are before it.
    """

    pairs: PackedPairs
    places: Mapping[int, int]

    @classmethod
    def of(cls, entries: Entries, starts: Sequence[int]) -> Self:
        """Join neighbouring clusters, and unallocated ones, as long as no blob starts."""
        clusters = entries.astype(np.int64)
        before, here = clusters[:-1], clusters[1:]
        begins = np.ones(len(clusters), dtype=np.bool_)
        begins[1:] = np.where(before == UNALLOCATED, here != UNALLOCATED, here != before + 1)
        begins[starts] = True
        at = np.flatnonzero(begins)
        counts = np.diff(at, append=len(clusters))
        ends = [*starts, len(clusters)]
        pairs = PackedPairs()
        pairs.append_encoded(np.column_stack([clusters[at], counts]).astype(ENTRY).tobytes())
        return cls(
            pairs,
            dict(zip(ends, np.searchsorted(at, ends).tolist(), strict=True)),
        )

    def between(self, start: int, end: int) -> PackedPairs:
        """Return the runs of the blob whose clusters begin and end there."""
        return self.pairs.part(self.places[start], self.places[end])


class PlainExtents(NamedTuple):
    """The extents of roots, one entry for each.

    `pages` are the only extent pages, or 0; `counts` how many clusters a blob has
    that has none; `pair_counts` how many runs or entries of a table; `sizes` how
    many bytes the descriptor takes.
    """

    kinds: Numbers
    pages: Numbers
    counts: Numbers
    pair_counts: Numbers
    sizes: Numbers
    runs: Runs

    @classmethod
    def joined(cls, parts: Sequence["PlainExtents"]) -> Self:
        """Return the parts as one."""
        starts = np.cumsum([0, *(len(part.kinds) for part in parts)])
        owners = [part.runs.owners + start for part, start in zip(parts, starts, strict=False)]
        return cls(
            joined([part.kinds for part in parts]),
            joined([part.pages for part in parts]),
            joined([part.counts for part in parts]),
            joined([part.pair_counts for part in parts]),
            joined([part.sizes for part in parts]),
            Runs(
                joined(owners),
                joined([part.runs.firsts for part in parts]),
                joined([part.runs.counts for part in parts]),
            ),
        )

    def those(self, chosen: Flagged) -> "PlainExtents":
        """Return the extents of some of the roots."""
        return PlainExtents(
            self.kinds[chosen],
            self.pages[chosen],
            self.counts[chosen],
            self.pair_counts[chosen],
            self.sizes[chosen],
            self.runs.those(chosen),
        )

    def are_bare(self) -> Flagged:
        """Tell which blobs own neither a page nor a cluster."""
        are_bare: Flagged = self.pages == ABSENT_PAGE
        are_bare[self.runs.owners[self.runs.firsts != UNALLOCATED]] = False
        return are_bare

    def short_runs(self, geometry: Geometry, are_bare: Flagged) -> tuple[Flagged, Numbers]:
        """Tell which blobs own runs that fit into one leaf, and return these, as entries."""
        is_short = ~are_bare & (self.pages == ABSENT_PAGE) & (self.counts <= LEAF_SIZE)
        is_short &= ~self.runs.are_impossible(geometry, len(self.pages))
        return is_short, self.runs.those(is_short).entries()


def plain_extents(
    chunk: Chunk, rows: Numbers, places: Numbers, *, is_thin: Flagged
) -> tuple[PlainExtents, Flagged]:
    """Take the descriptors at these places of pages, and tell which are plain extents.

    Thick blobs have no holes, and runs are not empty.
    """
    is_inside = places + HEADER.size <= BODY_END
    head = records_at(chunk, rows, np.where(is_inside, places, 0), _HEADER)
    kinds, lengths = head["kind"].astype(np.int64), head["length"].astype(np.int64)
    ends = places + HEADER.size + lengths
    is_inside &= ends + HEADER.size <= BODY_END
    lengths, ends = np.where(is_inside, lengths, 0), np.where(is_inside, ends, 0)
    is_inside &= ~bytes_at(chunk, rows, ends, HEADER.size).any(axis=1)

    is_table = is_inside & (kinds == EXTENT_TABLE)
    is_run = is_inside & (kinds == RUNS) & (lengths > 0) & (lengths % PAIR_SIZE == 0)
    is_run &= lengths <= _RUNS_MAX * PAIR_SIZE
    pages, counts, are_plain = _tables(chunk, rows, places, lengths, is_thin=is_thin)
    are_plain &= is_table
    runs = _runs(chunk, rows, places, np.where(is_run, lengths // PAIR_SIZE, 0))
    totals = runs.per_blob(runs.counts, len(rows))
    is_run &= totals <= MAX_CLUSTERS
    is_hole = runs.firsts == UNALLOCATED
    is_run[runs.owners[(runs.counts == 0) | (is_hole & ~is_thin[runs.owners])]] = False
    is_nothing = (head["kind"] == PADDING) & (head["length"] == 0) & is_inside

    extents = PlainExtents(
        kinds,
        np.where(is_table, pages, ABSENT_PAGE),
        np.where(is_table, counts, totals),
        np.where(is_table, (lengths - _EMPTY_LENGTH) // PAIR_SIZE, lengths // PAIR_SIZE),
        np.where(is_nothing, 0, HEADER.size + lengths),
        runs,
    )
    return extents, are_plain | is_run | is_nothing


def _tables(
    chunk: Chunk, rows: Numbers, places: Numbers, lengths: Numbers, *, is_thin: Flagged
) -> tuple[Numbers, Numbers, Flagged]:
    """Return the page that each table names, how many clusters there are without, and if it is so.

    A table of absent pages has as many clusters as it says, or as fit.
    """
    starts = np.minimum(places + HEADER.size, BODY_END - _TABLE_LENGTH)
    table = records_at(chunk, rows, starts, _TABLE)
    is_empty = lengths == _EMPTY_LENGTH
    repeats: Records = table["repeat"].astype(np.int64)
    pages: Numbers = np.where(is_empty, ABSENT_PAGE, table["page"]).astype(np.int64)
    promised = np.minimum(table["cluster_count"], np.uint64(MAX_CLUSTERS)).astype(np.int64)
    counts: Numbers = np.where(is_empty, 0, np.minimum(repeats * LEAF_SIZE, promised))
    is_possible = is_thin & (repeats >= 1) & (repeats <= MAX_CLUSTERS >> LEAF_SHIFT)
    is_plain = np.where(table["page"] == ABSENT_PAGE, is_possible, repeats == 1)
    are_plain: Flagged = is_empty | ((lengths == _TABLE_LENGTH) & is_plain)
    return pages, counts, are_plain


def _runs(chunk: Chunk, rows: Numbers, places: Numbers, run_counts: Numbers) -> Runs:
    """Take so many runs from each of the descriptors at these places."""
    owners = np.repeat(np.arange(len(rows)), run_counts)
    starts = places[owners] + HEADER.size + PAIR_SIZE * steps(run_counts)
    pairs = np.ascontiguousarray(bytes_at(chunk, rows[owners], starts, PAIR_SIZE)).view("<u4")
    return Runs(owners, pairs[:, 0].astype(np.int64), pairs[:, 1].astype(np.int64))
