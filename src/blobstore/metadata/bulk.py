"""Reading many blobs: pages near the last one come in pieces, plain roots all at once.

Of plain blobs the survey knows all that their roots say, and what they own where
that is no more than one leaf of clusters. Chains of thousands of them are as good
as read with their pages.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np

from blobstore.alloc.cluster_map import ClusterMap
from blobstore.alloc.packed_map import PackedMap
from blobstore.errors import DeviceError
from blobstore.format.descriptors import (
    EXTENT_TABLE,
    HAS_EXTENT_TABLE,
    PADDING,
    shared_flags,
)
from blobstore.format.geometry import BLOB_ID_BASE, Geometry, root_of
from blobstore.format.page import HEAD, PAGE_SIZE
from blobstore.format.pairs import PackedPairs
from blobstore.format.root import TAIL_OFFSET, RootState, compact_state, root_state_of
from blobstore.metadata.blob_state import ABSENT_PAGE, NO_ATTRIBUTES, BlobState, PlainState
from blobstore.metadata.columns import ENTRY, Chunk, Numbers, are_roots, have_right_checksums
from blobstore.metadata.plain_extents import LeafRuns
from blobstore.metadata.read import Revisits, read_blob
from blobstore.metadata.survey import (
    NO_LEAF,
    NO_ROOTS,
    PlainRoot,
    PlainRoots,
    PlainRow,
    Survey,
    plain_root_of,
)
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

_ENTRY_SIZE: Final = ENTRY.itemsize


@dataclass(frozen=True)
class _Piece:
    """Neighbouring pages of the region, from `first` up to `end`, and the plain roots in it."""

    first: int = 0
    end: int = 0
    data: bytes = b""
    roots: PlainRoots = NO_ROOTS
    attributes: Mapping[int, Mapping[str, bytes]] = field(default_factory=dict)

    @cached_property
    def leaves(self) -> bytes:
        """The clusters of the roots as they are on disk."""
        return self.roots.entries.tobytes()

    @cached_property
    def entries(self) -> "memoryview[int]":
        """The clusters of the roots as numbers."""
        return memoryview(self.leaves).cast("I")

    @cached_property
    def runs(self) -> LeafRuns:
        """The clusters of the roots as runs."""
        starts = [plain_root_of(row).leaf_start for row in self.roots.by_root.values()]
        return LeafRuns.of(self.roots.entries, [start for start in starts if start != NO_LEAF])


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

    def plain_chain(
        self, blob_id: BlobId, revisits: Revisits | None = None
    ) -> Iterator[PlainState]:
        """Yield the blob and its ancestors, as long as they are plain and among those seen last.

        Nothing is asked of the reader before the next one is wanted.
        """
        row = self._piece.roots.by_root.get(blob_id - BLOB_ID_BASE)
        while row is not None:
            state = self._state_of(blob_id, row)
            page = state.named_page
            if revisits and page != ABSENT_PAGE and not revisits.may_read(page, blob_id):
                return
            self._credit += 2 * _CREDIT if isinstance(state.clusters, PackedMap) else _CREDIT
            yield state
            blob_id = state.named_parent
            row = self._piece.roots.by_root.get(blob_id - BLOB_ID_BASE)

    async def plain(self, blob_id: BlobId) -> PlainRoot | None:
        """Return what the blob's root says, if that was seen at once with its neighbours'."""
        root = root_of(blob_id)
        self._count(root)
        if not (self._piece.first <= root < self._piece.end or await self._is_near(root)):
            return None
        return self.seen(blob_id)

    def seen(self, blob_id: BlobId) -> PlainRoot | None:
        """Return what the root of a plain blob says, if it is among those that were seen last."""
        row = self._piece.roots.by_root.get(blob_id - BLOB_ID_BASE)
        if row is None:
            return None
        plain = plain_root_of(row)
        self._count(plain.root)
        if plain.page != ABSENT_PAGE:
            self._credit += _CREDIT
        return plain

    def xattrs(self, plain: PlainRoot) -> Mapping[str, bytes]:
        """Return the attributes of the blob that was just found to be plain."""
        return self._piece.attributes.get(plain.root, NO_ATTRIBUTES)

    def extents(self, plain: PlainRoot) -> PackedPairs:
        """Return the runs of the blob that was just found to be plain, and owns some."""
        return self._piece.runs.between(plain.leaf_start, plain.leaf_start + plain.cluster_count)

    def clusters(self, plains: Iterable[PlainRoot]) -> list[int]:
        """Return the clusters of blobs that were just found to be plain."""
        entries, clusters, owned_count = self._piece.entries, list[int](), 0
        for plain in plains:
            if plain.leaf_start != NO_LEAF:
                clusters += entries[plain.leaf_start : plain.leaf_start + plain.cluster_count]
                owned_count += plain.owned_count
        return clusters if len(clusters) == owned_count else [n for n in clusters if n]

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
        return _Piece(first, end, data, found, survey.attributes)

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

    def _state_of(self, blob_id: BlobId, row: PlainRow | PlainRoot) -> PlainState:
        """Return the state of a plain blob of the present piece."""
        piece = self._piece
        root, invalid, data_ro, md_ro, parent, kind, count, pairs, end, page, start, owned = row
        clusters: ClusterMap
        if start == NO_LEAF:
            clusters = ClusterMap(count)
        else:
            packed = piece.leaves[start * _ENTRY_SIZE : (start + count) * _ENTRY_SIZE]
            clusters = PackedMap(count, owned, packed)
        return PlainState(
            blob_id,
            root,
            self._root_state(root, end),
            shared_flags(invalid, data_ro, md_ro),
            piece.attributes.get(root, NO_ATTRIBUTES),
            clusters,
            pairs,
            parent,
            page,
            is_tabled=has_table(kind, invalid),
        )

    def _root_state(self, root: PageIndex, end: int) -> RootState:
        if end < TAIL_OFFSET:
            return compact_state(end - HEAD.size)
        return root_state_of(self._page(root), length=end - HEAD.size)


def has_table(kind: int, invalid: int) -> bool:
    """Tell whether a plain blob has an extent table, if only by its flag."""
    return kind == EXTENT_TABLE or (kind == PADDING and bool(invalid & HAS_EXTENT_TABLE))


def may_read(plain: PlainRoot, blob_id: BlobId, revisits: Revisits | None) -> bool:
    """Tell whether the blob's extent page may be looked at once more."""
    return revisits is None or plain.page == ABSENT_PAGE or revisits.may_read(plain.page, blob_id)


def _neighbours(pages: Numbers, *, most: int) -> Iterator[Numbers]:
    """Cut ascending pages where there is much between them, and where they get too many."""
    for group in np.split(pages, np.flatnonzero(np.diff(pages) > _GAP) + 1):
        for start in range(0, len(group), most):
            yield group[start : start + most]
