"""One blob in memory: the content of its metadata, and which part is not on disk yet."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from types import MappingProxyType
from typing import Final, NamedTuple, cast, overload

from blobstore.alloc.extent_map import ExtentMap
from blobstore.alloc.leaves import LEAF_SHIFT, NO_LEAVES, SparseLeaves
from blobstore.alloc.reservation import Need
from blobstore.format.attribute_pages import AttributePages
from blobstore.format.chain import ChainSize
from blobstore.format.descriptors import (
    CLEAR_METHOD_MASK,
    EXTERNAL_SNAPSHOT,
    HAS_EXTENT_TABLE,
    HAS_INTERNAL_XATTRS,
    KNOWN_DATA_RO,
    KNOWN_MD_RO,
    READ_ONLY,
    RUNS_HEAD_SIZE,
    TABLE_HEAD_SIZE,
    THIN_PROV,
    Flags,
    Xattr,
)
from blobstore.format.root import Layout, RootState
from blobstore.operations import ExternalSource
from blobstore.units import BlobId, PageIndex

ABSENT_PAGE: Final = 0
"""In an extent table: no page there. Page 0 can hold a root, never an extent page."""

_LARGEST_FULL: Final = 64
_SPARSE_SHARE: Final = 16
"""A longer table is sparse if fewer than one page in this many is there. A page that is kept by
its number takes as much memory as a dozen pages in a row."""

_NO_PAGES: Final[Mapping[int, int]] = MappingProxyType({})

SNAP: Final = "SNAP"
SNAPSHOT_IN_PROGRESS: Final = "SNAPTMP"
SNAPSHOT_REMOVAL: Final = "SNAPRM"
EXTERNAL: Final = "EXTSNAP"


class SparsePages(Sequence[int]):
    """An extent table in which few pages are there; it takes memory for those alone.

    `present` are the pages by their number, ascending; it never changes.
    """

    __slots__ = ("_count", "present")

    def __init__(self, count: int, present: Mapping[int, int] = _NO_PAGES) -> None:
        self._count = count
        self.present = present

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        entries = table_entries(self._count, self.present)
        return chain.from_iterable(repeat(page, count) for page, count in entries)

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...

    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        chosen = range(self._count)[index]
        if isinstance(chosen, int):
            return self.present.get(chosen, ABSENT_PAGE)
        present = {chosen.index(n): page for n, page in self.present.items() if n in chosen}
        return SparsePages(len(chosen), dict(sorted(present.items())))


def extent_table_of(count: int, present: Mapping[int, int]) -> Sequence[int]:
    """Return the extent table of `count` pages in which these are there, by their number."""
    if len(present) == count:
        return tuple(map(present.__getitem__, range(count)))
    sparse = SparsePages(count, dict(sorted(present.items())) if present else _NO_PAGES)
    is_sparse = not present or count > max(_LARGEST_FULL, _SPARSE_SHARE * len(present))
    return sparse if is_sparse else tuple(all_pages(sparse))


def all_pages(pages: Sequence[int]) -> list[int]:
    """Return an extent table as a list, as fast as lists are made."""
    if not isinstance(pages, SparsePages):
        return [*pages]
    listed = [ABSENT_PAGE] * len(pages)
    for number, page in pages.present.items():
        listed[number] = page
    return listed


def present_pages(pages: Sequence[int]) -> Mapping[int, int]:
    """Return the pages of an extent table that are there, by their number, ascending."""
    if isinstance(pages, SparsePages):
        return pages.present
    return {number: page for number, page in enumerate(pages) if page != ABSENT_PAGE}


def table_entries(count: int, present: Mapping[int, int]) -> list[tuple[int, int]]:
    """Return the (page, count) on disk that say which of `count` pages are there."""
    entries: list[tuple[int, int]] = []
    at = 0
    for number in sorted(present):
        if at < number:
            entries.append((ABSENT_PAGE, number - at))
        entries.append((present[number], 1))
        at = number + 1
    if at < count:
        entries.append((ABSENT_PAGE, count - at))
    return entries


class Cost(NamedTuple):
    """What a change adds to a blob's metadata at most.

    Runs or table entries, extent pages that are new, and extent pages that are
    there and have to be written again.
    """

    pairs: int = 0
    new_leaves: int = 0
    rewritten_leaves: int = 0


NO_COST: Final = Cost()

NO_ATTRIBUTES: Final[Mapping[str, bytes]] = MappingProxyType({})
"""Shared by all blobs without attributes of a kind."""


@dataclass(slots=True, eq=False)
class BlobState:
    """A blob, as the core works on it.

    `root`, `chain`, `extent_pages` and `disk_count` (of clusters) say what is
    on disk; everything else is what should be, dirty or not. `extent_pages` is
    None for a blob with run-length extents, never changed in place, and long: a
    caller that needs the pages that are there uses `present_pages`.
    `pin_count` counts open clones; `frozen_count` operations that writers wait for.
    `inherited` are clusters of ancestors that the blob reads, as far as they were looked up
    (`StoreState.remember_inherited`). `external` is what an external snapshot's id stands for,
    if the caller has said so.
    `cut_runs` of clusters and `cut_extent_pages` were given up by a shrink, and wait for
    the commit that says so.
    `pair_bound` is at least the number of runs or table entries to write;
    `leaves_in_round` are being written and not durable yet.
    """

    blob_id: BlobId
    root: PageIndex
    root_state: RootState
    flags: Flags = field(default_factory=Flags)
    xattrs: Mapping[str, bytes] = field(default_factory=lambda: NO_ATTRIBUTES)
    internal_xattrs: Mapping[str, bytes] = field(default_factory=lambda: NO_ATTRIBUTES)
    clusters: ExtentMap = field(default_factory=ExtentMap)
    extent_pages: Sequence[int] | None = None
    chain: Sequence[PageIndex] = ()
    parent: "BlobState | None" = None
    external: ExternalSource | None = None

    unknown_kinds: Sequence[int] = ()
    open_count: int = 0
    pin_count: int = 0
    data_read_only: bool = False
    md_read_only: bool = False

    is_root_dirty: bool = False
    is_committing: bool = False
    leaves_in_round: Collection[int] = ()
    cut_runs: Sequence[tuple[int, int]] = ()
    cut_extent_pages: Sequence[int] = ()
    inherited: SparseLeaves = field(default_factory=lambda: NO_LEAVES)
    frozen_count: int = 0
    size_before_extents: ChainSize | None = None
    attribute_pages: AttributePages | None = None
    pair_bound: int = 0
    disk_count: int = 0

    @property
    def is_dirty(self) -> bool:
        """Tell whether the metadata on disk differs from what is here."""
        return self.is_root_dirty or bool(self.clusters.dirty_leaves)

    @property
    def is_durable(self) -> bool:
        """Tell whether the metadata on disk is what is here, and no write of it is under way.

        What a round writes is no longer dirty while the round is in progress.
        """
        return not (self.is_dirty or self.is_committing)

    @property
    def is_thin(self) -> bool:
        """Tell whether clusters may be unallocated."""
        return bool(self.flags.invalid & THIN_PROV)

    @property
    def has_external_parent(self) -> bool:
        """Tell whether the parent lives outside the store."""
        return bool(self.flags.invalid & EXTERNAL_SNAPSHOT)

    @property
    def is_degraded(self) -> bool:
        """Tell whether the blob reads from an external snapshot that is not known."""
        blob: BlobState | None = self
        while blob is not None:
            if blob.has_external_parent and blob.external is None:
                return True
            blob = blob.parent
        return False

    @property
    def clear_method(self) -> int:
        """How released clusters are cleared: 0 default, 1 none, 2 unmap, 3 zeroes."""
        return self.flags.md_ro & CLEAR_METHOD_MASK

    @property
    def parent_id(self) -> BlobId | None:
        """The snapshot that this blob is a clone of.

        The flag of an external snapshot decides: a `SNAP` beside it is stale (FORMAT 5).
        """
        value = self.internal_xattrs.get(SNAP)
        if value is None or self.has_external_parent:
            return None
        return BlobId(int.from_bytes(value, "little"))

    @property
    def marker(self) -> tuple[str, BlobId] | None:
        """The internal attribute and the partner of an unfinished snapshot operation."""
        for name in (SNAPSHOT_IN_PROGRESS, SNAPSHOT_REMOVAL):
            if name in self.internal_xattrs:
                return name, BlobId(int.from_bytes(self.internal_xattrs[name], "little"))
        return None

    @property
    def metadata_pages(self) -> list[PageIndex]:
        """All pages on disk but the root: the chain, then the extent pages."""
        pages = self.extent_pages
        if pages is None:
            return list(self.chain)
        named: Iterable[int] = pages.present.values() if type(pages) is SparsePages else pages
        found = cast(list[PageIndex], [page for page in named if page != ABSENT_PAGE])
        return [*self.chain, *found] if self.chain else found

    @property
    def present_pages(self) -> Mapping[int, int]:
        """The extent pages that are there, by their number in the table, ascending."""
        return present_pages(self.extent_pages or ())

    def apply_read_only_flags(self, on_disk: Flags) -> None:
        """Let the flags that are on disk take effect."""
        unknown_data = on_disk.data_ro & ~KNOWN_DATA_RO
        unknown_md = on_disk.md_ro & ~KNOWN_MD_RO
        self.data_read_only = bool(on_disk.data_ro & READ_ONLY or unknown_data)
        self.md_read_only = self.data_read_only or bool(unknown_md)

    def flags_to_write(self) -> Flags:
        """Return the flags with the bits that follow from the rest."""
        invalid = self.flags.invalid & ~(HAS_INTERNAL_XATTRS | HAS_EXTENT_TABLE)
        if self.internal_xattrs:
            invalid |= HAS_INTERNAL_XATTRS
        if self.extent_pages is not None:
            invalid |= HAS_EXTENT_TABLE
        return Flags(invalid, self.flags.data_ro, self.flags.md_ro)

    def take_derived_flags(self, written: Flags) -> None:
        """Take over those flags of a round that followed from the rest: they are on disk now."""
        derived = HAS_INTERNAL_XATTRS | HAS_EXTENT_TABLE
        invalid = self.flags.invalid & ~derived | written.invalid & derived
        self.flags = Flags(invalid, self.flags.data_ro, self.flags.md_ro)

    def xattrs_to_write(self) -> list[Xattr]:
        """Return all attributes in their order on disk."""
        return [*self._own_attributes(), *self._internal_attributes()]

    def _own_attributes(self) -> Iterator[Xattr]:
        return (Xattr(name, value) for name, value in self.xattrs.items())

    def _internal_attributes(self) -> Iterator[Xattr]:
        return (Xattr(name, value, True) for name, value in self.internal_xattrs.items())

    def change_xattr(self, name: str, value: bytes | None, layout: Layout) -> None:
        """Set an attribute, or remove it; a new value keeps the old one's place.

        The first change makes the attributes the blob's own: blobs without any share them.
        """
        if self.attribute_pages is None:
            capacity = layout.capacity
            self.attribute_pages = AttributePages(self._own_attributes(), root_capacity=capacity)
            self.xattrs = dict(self.xattrs)
        xattrs = cast(dict[str, bytes], self.xattrs)
        if value is None:
            del xattrs[name]
            self.attribute_pages.remove(name)
        else:
            xattrs[name] = value
            self.attribute_pages.put(Xattr(name, value))
        self.size_before_extents = None

    def put_back_xattrs(self, xattrs: Mapping[str, bytes]) -> None:
        """Undo changes of attributes: these are what they were."""
        self.xattrs = xattrs
        self.measure_exactly()

    def measure_exactly(self) -> None:
        """Lay the attributes out again, instead of relying on a bound, when it is asked for."""
        self.attribute_pages = self.size_before_extents = None

    def touch_attributes(self) -> None:
        """Note that flags or attributes changed."""
        self.is_root_dirty = True
        self.size_before_extents = None

    def put_internal(self, name: str, value: bytes) -> None:
        """Set an internal attribute; one that is there keeps its place."""
        self.internal_xattrs = {**self.internal_xattrs, name: value}

    def drop_internal(self, name: str) -> None:
        """Remove an internal attribute, if it is there."""
        left = {other: value for other, value in self.internal_xattrs.items() if other != name}
        self.internal_xattrs = left or NO_ATTRIBUTES

    def set_parent(self, parent_id: BlobId | None, external_id: bytes | None = None) -> None:
        """Set the parent of this blob: a snapshot, an external snapshot, or none.

        An attribute that exists already keeps its place.
        """
        if parent_id is None:
            self.drop_internal(SNAP)
        else:
            self.put_internal(SNAP, parent_id.to_bytes(8, "little"))
        invalid = self.flags.invalid & ~EXTERNAL_SNAPSHOT
        if external_id is None:
            self.drop_internal(EXTERNAL)
        else:
            self.put_internal(EXTERNAL, external_id)
            invalid |= EXTERNAL_SNAPSHOT
        self.flags = Flags(invalid, self.flags.data_ro, self.flags.md_ro)
        self.touch_attributes()

    @property
    def external_id(self) -> bytes | None:
        """The id of the external snapshot that this blob is a clone of."""
        return self.internal_xattrs.get(EXTERNAL) if self.has_external_parent else None

    def chain_pages_bound(self, layout: Layout, pair_count: int) -> int:
        """Return how many pages a chain with `pair_count` runs or table entries takes, at most."""
        size = self.size_before_extents
        if size is None:
            size = self._size_of_xattrs(layout).with_more(self._internal_attributes())
            self.size_before_extents = size
        head = RUNS_HEAD_SIZE if self.extent_pages is None else TABLE_HEAD_SIZE
        return size.pages_with_pairs(pair_count, head_size=head)

    def _size_of_xattrs(self, layout: Layout) -> ChainSize:
        if self.attribute_pages is not None:
            return self.attribute_pages.size
        return ChainSize.before_extents(self._own_attributes(), root_capacity=layout.capacity)

    def allocation_cost(self, indices: Iterable[int]) -> Cost:
        """Return what allocating (or releasing) these places can add to what is dirty already."""
        if self.extent_pages is None:
            return Cost(pairs=2 * sum(1 for _ in indices))
        leaves = {index >> LEAF_SHIFT for index in indices} - self.clusters.dirty_leaves
        new_count = sum(self.extent_pages[leaf] == ABSENT_PAGE for leaf in leaves)
        return Cost(2 * new_count, new_count, len(leaves) - new_count)

    def need(self, layout: Layout, cost: Cost) -> Need:
        """Return the metadata pages that persisting the blob can take.

        `cost` comes on top of what `pair_bound` and the dirty leaves say already.
        Of extent pages that are rewritten, two at a time need room for a copy.
        """
        chain = self.chain_pages_bound(layout, self.pair_bound + cost.pairs) - 1
        needs_copy = layout is Layout.SECTOR and self.root_state.needs_copy
        copies = len(self.chain) + (1 if needs_copy else 0)
        added, rewritten = cost.new_leaves, cost.rewritten_leaves
        if self.extent_pages is not None:
            dirty = self.clusters.dirty_leaves.union(self.leaves_in_round)
            there = sum(1 for leaf in dirty if self._page_of(leaf))
            rewritten += there
            added += len(dirty) - there
        lasting = added + max(0, chain - len(self.chain))
        return Need(lasting=lasting, passing=copies + min(2, rewritten))

    def _page_of(self, leaf: int) -> int:
        pages = self.extent_pages or ()
        return pages[leaf] if leaf < len(pages) else ABSENT_PAGE
