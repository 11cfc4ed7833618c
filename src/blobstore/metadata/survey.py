"""Plain blobs, all at once: what recovery can say of them without following each (FORMAT 4).

A plain blob's root says everything in one page: flags, a few attributes, perhaps
a parent, and its extents: runs, a table of one page or of absent ones, or nothing.
Most blobs are plain, snapshots and clones too, and thousands of them are looked at
with a few array operations while their pages are in the cache. Whatever is not
exactly so is left for `read_blob`, which says what is wrong.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple, TypeAlias, cast

import numpy as np
from bitarray import bitarray

from blobstore.alloc.leaves import UNALLOCATED
from blobstore.format.descriptors import (
    EXTENT_PAGE,
    FLAGS,
    FLAGS_SIZE,
    HAS_EXTENT_TABLE,
    HAS_INTERNAL_XATTRS,
    HEADER,
    INTERNAL_XATTR,
    KNOWN_DATA_RO,
    KNOWN_MD_RO,
    THIN_PROV,
    XATTR,
    XATTR_OVERHEAD,
    Flags,
    decode_name,
)
from blobstore.format.geometry import BLOB_ID_BASE, Geometry
from blobstore.format.page import HEAD, PAGE_SIZE
from blobstore.format.root import TAIL_OFFSET, encode_sector_head
from blobstore.metadata.blob_state import ABSENT_PAGE, SNAP
from blobstore.metadata.columns import (
    BODY_END,
    ENTRY,
    Chunk,
    Entries,
    Flagged,
    Ids,
    Numbers,
    Records,
    are_heads,
    are_last,
    has_repeats,
    have_right_checksums,
    joined,
    parts_of,
    records_at,
)
from blobstore.metadata.extent_pages import ExtentPages
from blobstore.metadata.plain_extents import PlainExtents, plain_extents
from blobstore.metadata.spans import mark_entries
from blobstore.units import BlobId, PageIndex

_FLAGS: Final = np.dtype(
    [
        ("kind", "u1"), ("length", "<u4"),
        ("invalid", "<u8"), ("data_ro", "<u8"), ("md_ro", "<u8"),
    ]
)  # fmt: skip
"""The first descriptor of a plain root."""

_XATTR_HEAD: Final = np.dtype(
    [("kind", "u1"), ("length", "<u4"), ("name", "<u2"), ("value", "<u2")]
)

_ATTRIBUTES_MAX: Final = 8
"""A blob with more attributes is not plain."""

_PARENT: Final = np.dtype([("name", "S4"), ("id", "<u8")])
NO_PARENT: Final = 0
"""No blob has this id; a root that names it as its parent is left to be read."""

_SECTOR_MARK: Final = np.frombuffer(
    encode_sector_head(BlobId(0))[HEAD.size : HEAD.size + HEADER.size], dtype=np.uint8
)
NO_LEAF: Final = -1
"""Where the clusters begin of a blob that owns none."""
assert _FLAGS.itemsize == FLAGS_SIZE
assert _XATTR_HEAD.itemsize == XATTR_OVERHEAD
assert _PARENT.itemsize == len(SNAP) + _PARENT["id"].itemsize


class PlainRoot(NamedTuple):
    """What the root of a plain blob says that has no more clusters than one leaf, or owns none.

    `root` is that page; `parent` is 0 where there is none; `kind` that of its extents'
    descriptor, or of padding, and `pair_count` how many runs or entries that has; `end`
    is where the descriptors end in the page. `page` is its only extent page, or 0;
    `leaf_start` where its clusters are among those of all, or -1 where it owns none,
    and `owned_count` how many of them are there.
    """

    root: PageIndex
    invalid: int
    data_ro: int
    md_ro: int
    parent: BlobId
    kind: int
    cluster_count: int
    pair_count: int
    end: int
    page: PageIndex
    leaf_start: int
    owned_count: int


PlainRow: TypeAlias = tuple[
    PageIndex, int, int, int, BlobId, int, int, int, int, PageIndex, int, int
]
"""The fields of a `PlainRoot`: the collector of garbage does not go through such a tuple."""

plain_root_of: Final = cast(Callable[[PlainRow], PlainRoot], partial(tuple.__new__, PlainRoot))


class PlainRoots(NamedTuple):
    """Plain roots by their place, and the clusters of those that own some, one after the other."""

    by_root: Mapping[int, PlainRow]
    entries: Entries


NO_ROOTS: Final = PlainRoots({}, np.empty(0, dtype=ENTRY))


class Plain(NamedTuple):
    """What one plain blob says of itself, its content left out."""

    flags: Flags
    parent_id: BlobId | None
    cluster_count: int


@dataclass(frozen=True, slots=True)
class PlainBlobs:
    """The roots of plain blobs, and all pages and clusters they own; none has two owners.

    The clusters are a mask: as numbers they would take as much memory as the store
    is large. `flags`, `parents` and `counts` (of clusters) have one entry for each root.
    """

    roots: Numbers
    pages: Numbers
    clusters: bitarray
    flags: Records
    parents: Ids
    counts: Numbers

    def parent_ids(self) -> Iterator[tuple[BlobId, BlobId]]:
        """Yield (blob, parent) for every clone."""
        return _parent_ids(self.roots, self.parents)

    def related(self, others: Ids) -> Iterator[tuple[BlobId, Plain]]:
        """Yield the blobs that name another, or are named by one, or are among `others`."""
        ids = (self.roots + BLOB_ID_BASE).astype(np.uint64)
        is_named = np.isin(ids, np.concatenate((self.parents, others)))
        for at in np.flatnonzero(is_named | (self.parents != NO_PARENT)).tolist():
            flags, parent = self.flags[at], int(self.parents[at])
            yield (
                BlobId(int(ids[at])),
                Plain(
                    Flags(int(flags["invalid"]), int(flags["data_ro"]), int(flags["md_ro"])),
                    None if parent == NO_PARENT else BlobId(parent),
                    int(self.counts[at]),
                ),
            )


@dataclass(slots=True)
class Survey:
    """What was seen of plain blobs so far: roots, and the extent pages they may name.

    An extent page may belong to a blob that is not plain; all of it is kept that
    means something. Who wants the blobs themselves, and not only what they own,
    has attributes kept too.
    """

    keeps_attributes: bool = False
    attributes: dict[int, dict[str, bytes]] = field(default_factory=dict)
    roots: list[Numbers] = field(default_factory=list)
    flags: list[Records] = field(default_factory=list)
    extents: list[PlainExtents] = field(default_factory=list)
    parents: list[Ids] = field(default_factory=list)
    ends: list[Numbers] = field(default_factory=list)
    extent_pages: ExtentPages = field(default_factory=ExtentPages)

    def add_roots(self, chunk: Chunk, rows: Numbers, *, first: int) -> Flagged:
        """Take the plain ones among roots with right checksums; tell which they are."""
        if not len(rows):
            return np.zeros(0, dtype=np.bool_)
        start = _start_of_descriptors(chunk, rows)
        flags = records_at(chunk, rows, start, _FLAGS)
        names: dict[int, dict[bytes, slice]] = {}
        place, is_plain, parents = _skip_attributes(chunk, rows, start + FLAGS_SIZE, names)
        extents, has_plain = plain_extents(chunk, rows, place, is_thin=_are_thin(flags))
        is_plain &= _are_plain_flags(flags, parents) & are_last(chunk, rows) & has_plain
        extents = extents.those(is_plain)
        self.roots.append(rows[is_plain] + first)
        self.flags.append(flags[is_plain])
        self.extents.append(extents)
        self.parents.append(parents[is_plain])
        self.ends.append(place[is_plain] + extents.sizes)
        if self.keeps_attributes:
            for at, attributes in names.items():
                page = chunk[rows[at]].data
                self.attributes[first + int(rows[at])] = {
                    decode_name(name): bytes(page[value]) for name, value in attributes.items()
                }
        return is_plain

    def named_pages(self, geometry: Geometry) -> Numbers:
        """Return the extent pages that the roots name, ascending, each once."""
        named = joined([extents.pages for extents in self.extents])
        pages: Numbers = np.unique(named[(named != ABSENT_PAGE) & (named < geometry.md_len)])
        return pages

    def plain_roots(self, geometry: Geometry) -> PlainRoots:
        """Return the roots of which all is known: what they own fits into one leaf, and is sound.

        A page that several of them name is none of theirs: who is wrong is not for here.
        """
        flags = np.concatenate(self.flags or [np.empty(0, dtype=_FLAGS)])
        parents = np.concatenate(self.parents or [np.empty(0, dtype=np.uint64)])
        extents = PlainExtents.joined(self.extents)
        are_bare = extents.are_bare()
        in_runs, run_entries = extents.short_runs(geometry, are_bare)
        in_pages, counts, page_entries = self._in_pages(geometry, extents, _are_thin(flags))
        counts = np.where(in_pages, counts, extents.counts)
        owners = np.concatenate((np.flatnonzero(in_runs), np.flatnonzero(in_pages)))
        starts = np.full(len(flags), NO_LEAF)
        starts[owners] = np.cumsum(counts[owners]) - counts[owners]
        chosen = are_bare | in_runs | in_pages
        entries = np.concatenate((run_entries.astype(ENTRY), page_entries))
        owned = np.zeros(len(flags), dtype=np.int64)
        if len(owners):
            owned[owners] = np.add.reduceat(entries != UNALLOCATED, starts[owners], dtype=np.int64)
        columns = (
            joined(self.roots), flags["invalid"], flags["data_ro"], flags["md_ro"], parents,
            extents.kinds, counts, extents.pair_counts, joined(self.ends), extents.pages,
            starts, owned,
        )  # fmt: skip
        numbers = [column[chosen].tolist() for column in columns]
        return PlainRoots(dict(zip(numbers[0], zip(*numbers, strict=True), strict=True)), entries)

    def _in_pages(
        self, geometry: Geometry, extents: PlainExtents, are_thin: Flagged
    ) -> tuple[Flagged, Numbers, Entries]:
        """Tell whose one extent page is known and sound; how many clusters it has, and which."""
        pages, page_counts = self.extent_pages.numbers(), self.extent_pages.counts()
        order = np.argsort(pages)
        places = np.searchsorted(pages[order], extents.pages)
        is_known = (extents.pages != ABSENT_PAGE) & (places < len(pages))
        places = order[np.where(is_known, places, 0)] if len(pages) else places
        is_known[is_known] = pages[places[is_known]] == extents.pages[is_known]
        is_known[is_known] = _are_single(extents.pages[is_known])

        owner = np.flatnonzero(is_known)
        entries = parts_of(self.extent_pages.entries(), page_counts, places[owner])
        owners = np.repeat(owner, page_counts[places[owner]])
        is_hole = entries == UNALLOCATED
        is_outside = (entries < geometry.md_clusters) | (entries >= geometry.total_clusters)
        is_known[owners[np.where(is_hole, ~are_thin[owners], is_outside)]] = False
        counts = np.zeros(len(extents.pages), dtype=np.int64)
        counts[owner] = page_counts[places[owner]]
        return is_known, counts, entries[is_known[owners]]

    def add_extent_pages(self, chunk: Chunk, rows: Numbers, *, first: int) -> Flagged:
        """Take those extent pages with right checksums that can be a plain blob's only one."""
        return self.extent_pages.add(chunk, rows, first=first)

    def add_extent_pages_of(self, chunk: Chunk, rows: Numbers, *, first: int) -> None:
        """Take those of some pages that can be a plain blob's only extent page."""
        rows = rows[are_heads(chunk, rows) & (chunk[rows, HEAD.size] == EXTENT_PAGE)]
        self.add_extent_pages(chunk, rows[have_right_checksums(chunk, rows)], first=first)

    def extent_page(self, number: int) -> bytes | None:
        """Return a page that was taken, as good as it was: what follows its end is left out."""
        return self.extent_pages.content(number)

    def sound_roots(self) -> Numbers:
        """Return all roots that were taken, whatever their extents came to."""
        return joined(self.roots)

    def parent_ids(self) -> Iterator[tuple[BlobId, BlobId]]:
        """Yield (blob, parent) for every clone among the roots that were taken."""
        for roots, parents in zip(self.roots, self.parents, strict=True):
            yield from _parent_ids(roots, parents)

    def plain_blobs(self, geometry: Geometry) -> PlainBlobs | None:
        """Put roots and extent pages together; None when two name the same page or cluster."""
        pages = self.extent_pages.numbers()
        place_of = np.full(geometry.md_len, -1, dtype=np.int64)
        place_of[pages] = np.arange(len(pages))

        extents = PlainExtents.joined(self.extents)
        named = extents.pages
        is_absent = named == ABSENT_PAGE
        is_there = ~is_absent & (named < geometry.md_len)
        places = np.where(is_there, place_of[np.where(is_there, named, 0)], -1)
        is_plain = is_absent | (places >= 0)
        is_plain &= ~extents.runs.are_impossible(geometry, len(named))
        roots, extents = joined(self.roots)[is_plain], extents.those(is_plain)
        places = places[is_plain]
        if has_repeats(np.concatenate((roots, extents.pages[places >= 0]))):
            return None
        flags = np.concatenate(self.flags or [np.empty(0, dtype=_FLAGS)])[is_plain]
        parents = np.concatenate(self.parents or [np.empty(0, dtype=np.uint64)])[is_plain]
        counts = extents.counts
        counts[places >= 0] = self.extent_pages.counts()[places[places >= 0]]
        clusters = bitarray(geometry.total_clusters, endian="little")
        are_right, in_pages = self._mark_entries(geometry, clusters, places, _are_thin(flags))
        in_runs = extents.runs.owned_count()
        if in_runs > geometry.data_clusters:
            return None
        extents.runs.mark(clusters)
        if clusters.count() != in_pages + in_runs:  # one of them was marked twice
            return None
        roots, has_page = roots[are_right], are_right & (places >= 0)
        return PlainBlobs(
            roots,
            np.concatenate((roots, extents.pages[has_page])),
            clusters,
            flags[are_right],
            parents[are_right],
            counts[are_right],
        )

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
            mark_entries(clusters, owned)
            owned_count += len(owned)
        return are_right, owned_count


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


def _are_single(numbers: Numbers) -> Flagged:
    """Tell which of the numbers are there only once."""
    _values, places, times = np.unique(numbers, return_inverse=True, return_counts=True)
    are_single: Flagged = times[places] == 1
    return are_single


def _parent_ids(roots: Numbers, parents: Ids) -> Iterator[tuple[BlobId, BlobId]]:
    clones = np.flatnonzero(parents != NO_PARENT)
    ids: list[BlobId] = (roots[clones] + BLOB_ID_BASE).tolist()
    parent_ids: list[BlobId] = parents[clones].tolist()
    return zip(ids, parent_ids, strict=True)


def _start_of_descriptors(chunk: Chunk, rows: Numbers) -> Numbers:
    """Return where the roots' first descriptors are, whatever their layout."""
    marks = chunk[rows, HEAD.size : HEAD.size + HEADER.size]
    is_sector = (marks == _SECTOR_MARK).all(axis=1)
    start: Numbers = np.where(is_sector, TAIL_OFFSET, HEAD.size)
    return start


def _skip_attributes(
    chunk: Chunk, rows: Numbers, places: Numbers, names: dict[int, dict[bytes, slice]]
) -> tuple[Numbers, Flagged, Ids]:
    """Return where the attributes end that begin at these places, if they are sound; and parents.

    Of internal attributes only a parent's id is sound here. Of the others `names`
    tells, for each row that has some, where their values are.
    """
    is_sound = np.ones(len(rows), dtype=np.bool_)
    parents = np.full(len(rows), NO_PARENT, dtype=np.uint64)
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
        is_sound[inner] &= is_parent & (parents[inner] == NO_PARENT) & (found["id"] != NO_PARENT)
        parents[inner] = found["id"]
        for at in np.flatnonzero(is_attribute & ~is_internal).tolist():
            start = int(places[at]) + XATTR_OVERHEAD
            text = chunk[rows[at], start : start + int(name[at])].tobytes()
            known = names.setdefault(at, {})
            if text in known or b"\0" in text:
                is_sound[at] = False
            known[text] = slice(start + int(name[at]), int(ends[at]))
        places = np.where(is_attribute, ends, places)
    return places, is_sound, parents


def _are_plain_flags(flags: Records, parents: Ids) -> Flagged:
    """Tell which flags are known, and announce internal attributes exactly where there are some."""
    is_announced = flags["invalid"] & np.uint64(HAS_INTERNAL_XATTRS) != 0
    known = np.uint64(THIN_PROV | HAS_EXTENT_TABLE | HAS_INTERNAL_XATTRS)
    are_plain: Flagged = (
        (flags["kind"] == FLAGS)
        & (flags["length"] == FLAGS_SIZE - HEADER.size)
        & (flags["invalid"] & ~known == 0)
        & (is_announced == (parents != NO_PARENT))
        & (flags["data_ro"] & ~np.uint64(KNOWN_DATA_RO) == 0)
        & (flags["md_ro"] & ~np.uint64(KNOWN_MD_RO) == 0)
    )
    return are_plain


def _are_thin(flags: Records) -> Flagged:
    are_thin: Flagged = flags["invalid"] & np.uint64(THIN_PROV) != 0
    return are_thin
