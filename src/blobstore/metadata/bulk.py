"""Reading many blobs: pages near the last one come in pieces, plain roots all at once.

Of plain blobs the survey knows all that their roots say, and what they own where
that is no more than one leaf of clusters. Chains of thousands of them are as good
as read with their pages.
"""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Final

import numpy as np

from blobstore.alloc.cluster_map import ClusterMap
from blobstore.alloc.leaves import LEAF_SIZE
from blobstore.errors import DeviceError
from blobstore.format.descriptors import (
    EXTENT_TABLE,
    HAS_EXTENT_TABLE,
    PADDING,
    READ_ONLY,
    shared_flags,
)
from blobstore.format.geometry import Geometry, root_of
from blobstore.format.page import HEAD, PAGE_SIZE
from blobstore.format.root import TAIL_OFFSET, RootState, compact_state, root_state_of
from blobstore.metadata.blob_state import (
    ABSENT_PAGE,
    NO_ATTRIBUTES,
    SNAP,
    AbsentPages,
    BlobState,
)
from blobstore.metadata.columns import Chunk, Entries, Numbers, are_roots, have_right_checksums
from blobstore.metadata.plain_extents import LeafRuns
from blobstore.metadata.read import Revisits, read_blob
from blobstore.metadata.survey import NO_LEAF, PlainRoot, Survey
from blobstore.operations import Read
from blobstore.units import BlobId, PageIndex

_CREDIT: Final = 2
"""How many pages may come in pieces for each one that is asked for."""
_LEAST_COUNT: Final = 4
_LARGEST_COUNT: Final = 1024
_LARGEST_BYTES: Final = 1 << 22
_SURVEYED_FROM: Final = 32
_KEPT_PIECES: Final = 4
_GAP: Final = 4
"""Extent pages with no more pages than this between them are read together."""


@dataclass(frozen=True)
class _Piece:
    """Neighbouring pages of the region, from `first` up to `end`, and the plain roots in it.

    `entries` are the clusters of those that own some, one after the other.
    """

    first: int = 0
    end: int = 0
    data: bytes = b""
    roots: Mapping[int, PlainRoot] = field(default_factory=dict)
    entries: Entries = field(default_factory=lambda: np.empty(0, dtype=np.uint32))
    attributes: Mapping[int, Mapping[str, bytes]] = field(default_factory=dict)

    @cached_property
    def leaves(self) -> "array[int]":
        """The entries as they are in a leaf."""
        return array("I", self.entries.tobytes())

    @cached_property
    def runs(self) -> LeafRuns:
        """The entries as runs."""
        starts = [plain.leaf_start for plain in self.roots.values() if plain.leaf_start != NO_LEAF]
        return LeafRuns.of(self.entries, starts)


_NO_PIECE: Final = _Piece()


class BulkReader:
    """Reads blobs that are wanted one after the other, most often neighbours.

    Pieces come when a page is asked for that is near one of the last, and grow with
    the number of pages that were: no more than twice as many are read, and a few
    pieces. They are kept for a while, so no blob may be changed meanwhile. Once a piece
    could not be read, pages are asked for one by one: where a device fails it is slow.
    """

    __slots__ = (
        "_asked", "_credit", "_geometry", "_instead", "_missed", "_most", "_piece", "_pieces",
    )  # fmt: skip

    def __init__(
        self,
        geometry: Geometry,
        instead: Mapping[PageIndex, bytes],
        *,
        near: PageIndex | None = None,
    ) -> None:
        """Read a store with this geometry; the pages in `instead` are not as on the device.

        Who wants to go through all of the region says `near` which page that begins.
        """
        self._geometry = geometry
        self._instead = instead
        self._piece = _NO_PIECE
        self._pieces: list[_Piece] = []
        self._missed: list[int] = [] if near is None else [near - 1]
        self._most = max(1, min(_LARGEST_COUNT, _LARGEST_BYTES // geometry.page_size))
        self._asked = -1
        self._credit = 0 if near is None else 2 * self._most

    async def read(self, blob_id: BlobId, revisits: Revisits | None = None) -> BlobState:
        """Read a blob as `read_blob` does.

        Raises:
            NotFoundError, CorruptError: As `read_blob`.
        """
        plain = await self.plain(blob_id)
        if plain is None or (revisits and not may_read(plain, blob_id, revisits)):
            return await read_blob(self._geometry, blob_id, self.fetch, revisits)
        return self._state_of(blob_id, plain)

    def read_plain(self, blob_id: BlobId, revisits: Revisits | None = None) -> BlobState | None:
        """Return a blob that is plain, if it is among those that were seen last."""
        root = root_of(blob_id)
        plain = self._piece.roots.get(root)
        if plain is None or (revisits and not may_read(plain, blob_id, revisits)):
            return None
        self._credit += _CREDIT if plain.leaf_start == NO_LEAF else 2 * _CREDIT
        return self._state_of(blob_id, plain)

    async def plain(self, blob_id: BlobId) -> PlainRoot | None:
        """Return what the blob's root says, if that was seen at once with its neighbours'."""
        root = root_of(blob_id)
        self._count(root)
        if not (self._piece.first <= root < self._piece.end or await self._is_near(root)):
            return None
        plain = self._piece.roots.get(root)
        if plain is not None and plain.page != ABSENT_PAGE:
            self._credit += _CREDIT
        return plain

    def xattrs(self, blob_id: BlobId) -> Mapping[str, bytes]:
        """Return the attributes of the blob that was just found to be plain."""
        return self._piece.attributes.get(root_of(blob_id), NO_ATTRIBUTES)

    def extents(self, plain: PlainRoot) -> list[tuple[int, int]]:
        """Return the runs of the blob that was just found to be plain, and owns some."""
        return self._piece.runs.between(plain.leaf_start, plain.leaf_start + plain.cluster_count)

    def clusters(self, plain: PlainRoot) -> list[int]:
        """Return the clusters of the blob that was just found to be plain, and owns some."""
        return [cluster for cluster in self._leaf(plain) if cluster]

    async def fetch(self, page: PageIndex) -> bytes:
        """Return a page of the region."""
        if page in self._instead:
            return self._instead[page]
        self._count(page)
        if await self._is_near(page):
            return self._page(page)
        return await Read(self._geometry.page_offset(page), PAGE_SIZE)

    def _count(self, page: int) -> None:
        """Note that a page is asked for; twice in a row is once."""
        if page != self._asked:
            self._asked = page
            self._credit += _CREDIT

    def _page(self, page: int) -> bytes:
        at = (page - self._piece.first) * self._geometry.page_size
        return self._piece.data[at : at + PAGE_SIZE]

    async def _is_near(self, page: PageIndex) -> bool:
        """Make the piece with the page the present one, if there is one or can be."""
        if self._piece.first <= page < self._piece.end:
            return True
        for piece in self._pieces:
            if piece.first <= page < piece.end:
                self._piece = piece
                return True
        return 0 <= page < self._geometry.md_len and await self._read_piece(page)

    async def _read_piece(self, page: PageIndex) -> bool:
        """Read the page with others, if one of the last that were missed is near."""
        if self._most == 1:
            return False
        last = next((missed for missed in self._missed if abs(page - missed) <= self._most), None)
        if last is None:
            self._missed = [page, *self._missed[: _KEPT_PIECES - 1]]
            return False
        if last == page:
            return False
        self._missed[self._missed.index(last)] = page
        count = min(self._credit // 2, self._most)  # the other half is for their extent pages
        if count < _LEAST_COUNT:
            return False
        first = page if page > last else max(0, page - count + 1)
        data = await self._read_pages(first, min(first + count, self._geometry.md_len))
        if data is None:
            return False
        self._piece = await self._look_at(data, first)
        self._pieces = [self._piece, *self._pieces[: _KEPT_PIECES - 1]]
        return True

    async def _read_pages(self, first: int, end: int) -> bytes | None:
        """Read neighbouring pages for nobody in particular, if the device does."""
        self._credit -= end - first
        length = (end - first) * self._geometry.page_size
        try:
            return await Read(self._geometry.page_offset(PageIndex(first)), length)
        except DeviceError:
            self._most = 1
            return None

    async def _look_at(self, data: bytes, first: int) -> _Piece:
        """Make a piece of pages; in one that is large enough, plain roots are looked for."""
        chunk = np.frombuffer(data, dtype=np.uint8).reshape(-1, self._geometry.page_size)
        end = first + len(chunk)
        if len(chunk) < _SURVEYED_FROM:
            return _Piece(first, end, data)
        survey = Survey(keeps_attributes=True)
        rows = np.arange(len(chunk))
        if self._instead:
            rows = rows[~np.isin(rows + first, list(self._instead))]
        rows = rows[are_roots(chunk, rows, first=first)]
        survey.add_roots(chunk, rows[have_right_checksums(chunk, rows)], first=first)
        await self._add_extent_pages(survey, chunk, first)
        found = survey.plain_roots(self._geometry)
        return _Piece(first, end, data, found.by_root, found.entries, survey.attributes)

    async def _add_extent_pages(self, survey: Survey, chunk: Chunk, first: int) -> None:
        """Let the survey see the extent pages that the roots name, here or elsewhere."""
        named = survey.named_pages(self._geometry)
        if self._instead:
            named = named[~np.isin(named, list(self._instead))]
        are_here = (named >= first) & (named < first + len(chunk))
        survey.add_extent_pages_of(chunk, named[are_here] - first, first=first)
        for pages in _neighbours(named[~are_here], most=max(1, self._most // _GAP)):
            start, end = int(pages[0]), int(pages[-1]) + 1
            if len(pages) < _LEAST_COUNT or self._credit < end - start or self._most == 1:
                continue
            data = await self._read_pages(start, end)
            if data is not None:
                there = np.frombuffer(data, dtype=np.uint8).reshape(-1, self._geometry.page_size)
                survey.add_extent_pages_of(there, pages - start, first=start)

    def _leaf(self, plain: PlainRoot) -> "array[int]":
        return self._piece.leaves[plain.leaf_start : plain.leaf_start + plain.cluster_count]

    def _state_of(self, blob_id: BlobId, plain: PlainRoot) -> BlobState:
        """Return the state of the blob that was just found to be plain."""
        root, count = root_of(blob_id), plain.cluster_count
        parent, is_read_only = plain.parent, bool(plain.data_ro & READ_ONLY)
        owns_none = plain.leaf_start == NO_LEAF
        clusters = ClusterMap(count) if owns_none else ClusterMap.of_leaf(self._leaf(plain))
        pages: Sequence[int] | None = None
        if plain.page != ABSENT_PAGE:
            pages = (plain.page,)
        elif has_table(plain):
            pages = _absent_pages(-(-count // LEAF_SIZE))
        return BlobState(
            blob_id=blob_id,
            root=root,
            root_state=self._root_state(root, plain.end),
            flags=shared_flags(plain.invalid, plain.data_ro, plain.md_ro),
            xattrs=self._piece.attributes.get(root, NO_ATTRIBUTES),
            internal_xattrs={SNAP: parent.to_bytes(8, "little")} if parent else NO_ATTRIBUTES,
            clusters=clusters,
            extent_pages=pages,
            data_read_only=is_read_only,
            md_read_only=is_read_only,
            pair_bound=plain.pair_count,
            disk_count=count,
        )

    def _root_state(self, root: PageIndex, end: int) -> RootState:
        if end < TAIL_OFFSET:
            return compact_state(end - HEAD.size)
        return root_state_of(self._page(root), length=end - HEAD.size)


_absent_pages: Final = lru_cache(maxsize=64)(AbsentPages)
"""Most tables without a page are as long as the others; they never change."""


def has_table(plain: PlainRoot) -> bool:
    """Tell whether the blob has an extent table, if only by its flag."""
    return plain.kind == EXTENT_TABLE or (
        plain.kind == PADDING and bool(plain.invalid & HAS_EXTENT_TABLE)
    )


def may_read(plain: PlainRoot, blob_id: BlobId, revisits: Revisits | None) -> bool:
    """Tell whether the blob's extent page may be looked at once more."""
    return revisits is None or plain.page == ABSENT_PAGE or revisits.may_read(plain.page, blob_id)


def _neighbours(pages: Numbers, *, most: int) -> Iterator[Numbers]:
    """Cut ascending pages where there is much between them, and where they get too many."""
    for group in np.split(pages, np.flatnonzero(np.diff(pages) > _GAP) + 1):
        for start in range(0, len(group), most):
            yield group[start : start + most]
