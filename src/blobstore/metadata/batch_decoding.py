"""Batch decoding: thousands of roots are decoded with a few array operations (FORMAT 4).

Recovery needs this speed. A region of 100,000 pages must be read about as fast as the device
delivers it, and `read_blob` takes longer for one root than the device for ten. Batch decoding
handles *single-page* blobs: their root holds flags, a few attributes, perhaps a parent, and an
extent table that names one page, or absent ones, or none. Nearly all blobs have this form,
snapshots and clones too.

Batch decoding never reports an error. Every blob of another form is left to `read_blob`, and as
soon as two blobs share a place, all blobs are. `read_blob` is the one reader that reports errors
and the blobs that have them. So a mistake here could at worst decode less than is possible. A test
compares both readers on thousands of damaged stores.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from bitarray import bitarray

from blobstore.alloc.leaves import LEAF_SHIFT, LEAF_SIZE, UNALLOCATED
from blobstore.format.descriptors import (
    EXTENT_TABLE,
    FLAGS,
    FLAGS_SIZE,
    HAS_EXTENT_TABLE,
    HAS_INTERNAL_XATTRS,
    HEADER,
    INTERNAL_XATTR,
    KNOWN_DATA_RO,
    KNOWN_MD_RO,
    PADDING,
    PAIR_SIZE,
    TABLE_HEAD_SIZE,
    THIN_PROV,
    XATTR,
    XATTR_OVERHEAD,
    Flags,
)
from blobstore.format.geometry import BLOB_ID_BASE, Geometry
from blobstore.format.page import HEAD, PAGE_SIZE
from blobstore.format.root import TAIL_OFFSET
from blobstore.metadata.blob_reader import MAX_CLUSTERS
from blobstore.metadata.blob_state import ABSENT_PAGE, SNAP
from blobstore.metadata.extent_page_arrays import ExtentPages
from blobstore.metadata.page_arrays import (
    BODY_END,
    SECTOR_MARK,
    Chunk,
    Entries,
    Flagged,
    Ids,
    Numbers,
    Records,
    are_last,
    bytes_at,
    has_repeats,
    records_at,
)
from blobstore.units import BlobId

_FLAGS: Final = np.dtype(
    [
        ("kind", "u1"), ("length", "<u4"),
        ("invalid", "<u8"), ("data_ro", "<u8"), ("md_ro", "<u8"),
    ]
)  # fmt: skip
"""The first descriptor of the root of a single-page blob."""
_XATTR_HEAD: Final = np.dtype(
    [("kind", "u1"), ("length", "<u4"), ("name", "<u2"), ("value", "<u2")]
)
_PARENT: Final = np.dtype([("name", "S4"), ("id", "<u8")])
_HEADER: Final = np.dtype([("kind", "u1"), ("length", "<u4")])
_TABLE: Final = np.dtype([("cluster_count", "<u8"), ("page", "<u4"), ("repeat", "<u4")])
_EMPTY_LENGTH: Final = TABLE_HEAD_SIZE - HEADER.size
_TABLE_LENGTH: Final = _EMPTY_LENGTH + PAIR_SIZE
assert _FLAGS.itemsize == FLAGS_SIZE
assert _XATTR_HEAD.itemsize == XATTR_OVERHEAD
assert _PARENT.itemsize == len(SNAP) + _PARENT["id"].itemsize
assert _HEADER.itemsize == HEADER.size
assert _TABLE.itemsize == _TABLE_LENGTH

_ROOT: Final = np.dtype(
    [
        ("root", "<i8"), ("invalid", "<u8"), ("data_ro", "<u8"), ("md_ro", "<u8"),
        ("parent", "<u8"), ("page", "<i8"), ("count", "<i8"),
    ]
)  # fmt: skip
"""What a root says: `page` is its only extent page, or 0, `count` how many clusters then."""

_ATTRIBUTES_MAX: Final = 8
"""A blob with more attributes is read by itself."""

_NO_PARENT: Final = 0
"""No blob has this id; a root that names it as its parent is left to be read."""

_BIT: Final = np.array([1 << bit for bit in range(8)], dtype=np.uint8)


class RootSummary(NamedTuple):
    """What one single-page blob says of itself, its content left out."""

    flags: Flags
    parent_id: BlobId | None
    cluster_count: int


@dataclass(frozen=True, slots=True)
class SinglePageBlobs:
    """Single-page blobs, and all pages and clusters they own; none has two owners.

    The clusters are a mask: as numbers they would take as much memory as the store
    is large.
    """

    records: Records
    pages: Numbers
    clusters: bitarray

    @property
    def roots(self) -> Numbers:
        """The root pages."""
        roots: Numbers = self.records["root"]
        return roots

    def parent_ids(self) -> Iterator[tuple[BlobId, BlobId]]:
        """Yield (blob, parent) for every clone."""
        return _parent_ids(self.records)

    def related(self, others: Ids) -> Iterator[tuple[BlobId, RootSummary]]:
        """Yield the blobs that name another, or are named by one, or are among `others`."""
        ids, parents = (self.roots + BLOB_ID_BASE).astype(np.uint64), self.records["parent"]
        is_wanted = np.isin(ids, np.concatenate((parents, others))) | (parents != _NO_PARENT)
        for record in self.records[is_wanted]:
            root, invalid, data_ro, md_ro, parent, _page, count = record.tolist()
            parent_id = None if parent == _NO_PARENT else BlobId(parent)
            summary = RootSummary(Flags(invalid, data_ro, md_ro), parent_id, count)
            yield BlobId(BLOB_ID_BASE + root), summary


@dataclass(slots=True)
class BatchDecoder:
    """What was decoded so far: roots of single-page blobs, and extent pages they may name.

    An extent page may belong to a blob of another kind; all of it is kept that means something.
    """

    extent_pages: ExtentPages = field(default_factory=ExtentPages)
    _parts: list[Records] = field(default_factory=list)

    @property
    def records(self) -> Records:
        """All roots that were taken, whatever their extents came to."""
        return np.concatenate(self._parts or [np.empty(0, dtype=_ROOT)])

    def add_roots(self, chunk: Chunk, rows: Numbers, *, first: int) -> Flagged:
        """Take those of single-page blobs among roots with right checksums; tell which they are."""
        if not len(rows):
            return np.zeros(0, dtype=np.bool_)
        start = _start_of_descriptors(chunk, rows)
        flags = records_at(chunk, rows, start, _FLAGS)
        places, is_single, parents = _skip_attributes(chunk, rows, start + FLAGS_SIZE)
        pages, counts, has_table = _tables(chunk, rows, places, are_thin=_are_thin(flags))
        is_single &= _are_known_flags(flags, parents) & are_last(chunk, rows) & has_table
        found = np.empty(len(rows), dtype=_ROOT)
        for name in ("invalid", "data_ro", "md_ro"):
            found[name] = flags[name]
        found["root"], found["parent"] = rows + first, parents
        found["page"], found["count"] = pages, counts
        self._parts.append(found[is_single])
        return is_single

    def parent_ids(self) -> Iterator[tuple[BlobId, BlobId]]:
        """Yield (blob, parent) for every clone among the roots that were taken."""
        return _parent_ids(self.records)

    def single_page_blobs(self, geometry: Geometry) -> SinglePageBlobs | None:
        """Put roots and extent pages together; None when two name the same page or cluster."""
        known = self.extent_pages.numbers()
        place_of = np.full(geometry.md_len, -1, dtype=np.int64)
        place_of[known] = np.arange(len(known))
        records = self.records
        has_page = records["page"] != ABSENT_PAGE
        is_inside = records["page"] < geometry.md_len
        places = np.where(is_inside, place_of[np.where(is_inside, records["page"], 0)], -1)
        is_whole = ~has_page | (places >= 0)
        records, places, has_page = records[is_whole], places[is_whole], has_page[is_whole]
        if has_repeats(np.concatenate((records["root"], records["page"][has_page]))):
            return None
        records["count"][has_page] = self.extent_pages.counts()[places[has_page]]
        places = np.where(has_page, places, -1)
        clusters = bitarray(geometry.total_clusters, endian="little")
        are_right, owned_count = self._mark_entries(geometry, clusters, places, _are_thin(records))
        if clusters.count() != owned_count:  # one of them was marked twice
            return None
        pages = records["page"][are_right & has_page]
        records = records[are_right]
        return SinglePageBlobs(records, np.concatenate((records["root"], pages)), clusters)

    def _mark_entries(
        self, geometry: Geometry, clusters: bitarray, places: Numbers, are_thin: Flagged
    ) -> tuple[Flagged, int]:
        """Mark what blobs own in extent pages, unless one of its clusters cannot be.

        `places` says where among all extent pages is each blob's; -1 is nowhere.
        Which blobs have no such cluster is returned, and how many these own.
        """
        are_right = np.ones(len(places), dtype=np.bool_)
        owner_of = np.full(len(self.extent_pages.numbers()), -1)
        owner_of[places[places >= 0]] = np.flatnonzero(places >= 0)
        start = owned_count = 0
        for counts, entries in self.extent_pages.pieces():
            owners, start = owner_of[start : start + len(counts)], start + len(counts)
            is_owned = owners >= 0
            if not is_owned.any():
                continue
            has_hole, is_outside, is_hole = _look_at_entries(geometry, counts, entries)
            is_wrong = is_outside | (has_hole & ~are_thin[owners])
            are_right[owners[is_owned & is_wrong]] = False
            owned = entries[np.repeat(is_owned & ~is_wrong, counts) & ~is_hole]
            _mark(clusters, owned)
            owned_count += len(owned)
        return are_right, owned_count


def _mark(bits: bitarray, entries: Entries) -> None:
    """Set one bit for each of the entries, in any order."""
    content = np.frombuffer(memoryview(bits), dtype=np.uint8)
    np.bitwise_or.at(content, (entries >> 3).astype(np.intp), _BIT[entries & 7])


def _look_at_entries(
    geometry: Geometry, counts: Numbers, entries: Entries
) -> tuple[Flagged, Flagged, Flagged]:
    """Tell which pages have holes, and which clusters outside of the data; and where holes are."""
    starts = np.cumsum(counts) - counts
    is_hole = entries == UNALLOCATED
    is_outside = (entries < geometry.md_clusters) | (entries >= geometry.total_clusters)
    is_outside &= ~is_hole
    has_hole, has_outside = (
        np.logical_or.reduceat(are_so, starts) for are_so in (is_hole, is_outside)
    )
    return has_hole, has_outside, is_hole


def _parent_ids(records: Records) -> Iterator[tuple[BlobId, BlobId]]:
    clones = records[records["parent"] != _NO_PARENT]
    ids: list[BlobId] = (clones["root"] + BLOB_ID_BASE).tolist()
    parent_ids: list[BlobId] = clones["parent"].tolist()
    return zip(ids, parent_ids, strict=True)


def _start_of_descriptors(chunk: Chunk, rows: Numbers) -> Numbers:
    """Return where the roots' first descriptors are, whatever their layout."""
    marks = chunk[rows, HEAD.size : HEAD.size + HEADER.size]
    is_sector = (marks == SECTOR_MARK).all(axis=1)
    start: Numbers = np.where(is_sector, TAIL_OFFSET, HEAD.size)
    return start


def _skip_attributes(chunk: Chunk, rows: Numbers, places: Numbers) -> tuple[Numbers, Flagged, Ids]:
    """Return where the attributes end that begin at these places, if they are sound; and parents.

    Of internal attributes only a parent's id is sound here.
    """
    is_sound = np.ones(len(rows), dtype=np.bool_)
    parents = np.full(len(rows), _NO_PARENT, dtype=np.uint64)
    names: set[tuple[int, bytes]] = set()
    for _step in range(_ATTRIBUTES_MAX):
        head = records_at(chunk, rows, np.minimum(places, PAGE_SIZE - XATTR_OVERHEAD), _XATTR_HEAD)
        is_internal = head["kind"] == INTERNAL_XATTR
        is_attribute = is_sound & (is_internal | (head["kind"] == XATTR))
        if not is_attribute.any():
            break
        length = head["length"].astype(np.int64)
        name, value = head["name"].astype(np.int64), head["value"].astype(np.int64)
        ends = places + HEADER.size + length
        is_whole = (name + value + XATTR_OVERHEAD - HEADER.size == length) & (name > 0)
        is_whole &= ends <= BODY_END
        is_whole &= ~is_internal | (length == XATTR_OVERHEAD - HEADER.size + _PARENT.itemsize)
        is_sound &= ~is_attribute | is_whole
        is_attribute &= is_whole
        inner = np.flatnonzero(is_attribute & is_internal)
        found = records_at(chunk, rows[inner], places[inner] + XATTR_OVERHEAD, _PARENT)
        is_parent = (name[inner] == len(SNAP)) & (found["name"] == SNAP.encode())
        is_sound[inner] &= is_parent & (parents[inner] == _NO_PARENT) & (found["id"] != _NO_PARENT)
        parents[inner] = found["id"]
        for at in np.flatnonzero(is_attribute & ~is_internal).tolist():
            start = int(places[at]) + XATTR_OVERHEAD
            text = chunk[rows[at], start : start + int(name[at])].tobytes()
            if b"\0" in text or (at, text) in names:
                is_sound[at] = False
            names.add((at, text))
        places = np.where(is_attribute, ends, places)
    return places, is_sound, parents


def _tables(
    chunk: Chunk, rows: Numbers, places: Numbers, *, are_thin: Flagged
) -> tuple[Numbers, Numbers, Flagged]:
    """Return the page that each table names, how many clusters there are without, and if it is so.

    The table is the last descriptor, or the end mark stands in its place. A table of absent
    pages has as many clusters as it says, or as fit; a thick blob has no absent pages.
    """
    is_inside = places + HEADER.size <= BODY_END
    head = records_at(chunk, rows, np.where(is_inside, places, 0), _HEADER)
    ends = places + HEADER.size + head["length"].astype(np.int64)
    is_inside &= ends + HEADER.size <= BODY_END
    is_inside &= ~bytes_at(chunk, rows, np.where(is_inside, ends, 0), HEADER.size).any(axis=1)
    is_table = is_inside & (head["kind"] == EXTENT_TABLE)
    is_nothing = is_inside & (head["kind"] == PADDING) & (head["length"] == 0)

    starts = np.minimum(places + HEADER.size, BODY_END - _TABLE_LENGTH)
    table = records_at(chunk, rows, starts, _TABLE)
    is_full = is_table & (head["length"] == _TABLE_LENGTH)
    is_empty = is_nothing | (is_table & (head["length"] == _EMPTY_LENGTH))
    pages = np.where(is_full, table["page"], ABSENT_PAGE).astype(np.int64)
    repeats = table["repeat"].astype(np.int64)
    promised = np.minimum(table["cluster_count"], np.uint64(MAX_CLUSTERS)).astype(np.int64)
    counts: Numbers = np.where(is_full, np.minimum(repeats * LEAF_SIZE, promised), 0)
    is_possible = are_thin & (repeats >= 1) & (repeats <= MAX_CLUSTERS >> LEAF_SHIFT)
    is_possible = np.where(pages == ABSENT_PAGE, is_possible, repeats == 1)
    return pages, counts, is_empty | (is_full & is_possible)


def _are_known_flags(flags: Records, parents: Ids) -> Flagged:
    """Tell which flags are known, and announce internal attributes exactly where there are some."""
    is_announced = flags["invalid"] & np.uint64(HAS_INTERNAL_XATTRS) != 0
    known = np.uint64(THIN_PROV | HAS_EXTENT_TABLE | HAS_INTERNAL_XATTRS)
    are_known: Flagged = (
        (flags["kind"] == FLAGS)
        & (flags["length"] == FLAGS_SIZE - HEADER.size)
        & (flags["invalid"] & ~known == 0)
        & (is_announced == (parents != _NO_PARENT))
        & (flags["data_ro"] & ~np.uint64(KNOWN_DATA_RO) == 0)
        & (flags["md_ro"] & ~np.uint64(KNOWN_MD_RO) == 0)
    )
    return are_known


def _are_thin(flags: Records) -> Flagged:
    are_thin: Flagged = flags["invalid"] & np.uint64(THIN_PROV) != 0
    return are_thin
