"""Reading many blobs: pages near the last one come in pieces, bare roots all at once.

A bare blob owns nothing beside its root: clones that were never written to,
snapshots between two others. Chains of thousands of them are as good as read
with their pages.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np

from blobstore.alloc.cluster_map import LEAF_SIZE, ClusterMap
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
from blobstore.metadata.blob_state import NO_ATTRIBUTES, SNAP, AbsentPages, BlobState
from blobstore.metadata.columns import are_roots, have_right_checksums
from blobstore.metadata.read import Revisits, read_blob
from blobstore.metadata.survey import Bare, Survey
from blobstore.operations import Read
from blobstore.units import BlobId, PageIndex

_CREDIT: Final = 2
"""How many pages may come in pieces for each one that is asked for."""
_LEAST_COUNT: Final = 4
_LARGEST_COUNT: Final = 256
_LARGEST_BYTES: Final = 1 << 20
_SURVEYED_FROM: Final = 32
_KEPT_PIECES: Final = 4


class _Piece(NamedTuple):
    """Neighbouring pages of the region, from `first` up to `end`, and the bare roots in it."""

    first: int
    end: int
    data: bytes
    bare: Mapping[int, Bare]
    attributes: Mapping[int, Mapping[str, bytes]]


_NO_PIECE: Final = _Piece(0, 0, b"", {}, {})


class BulkReader:
    """Reads blobs that are wanted one after the other, most often neighbours.

    Pieces come when a page is asked for that is near one of the last, and grow with
    the number of pages that were: in all, no more than twice as many are read. They
    are kept for a while, so nothing may be written to the region meanwhile. Once a
    piece could not be read, pages are asked for one by one: where a device fails
    it is slow.
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
        bare = await self.bare(blob_id)
        if bare is None:
            return await read_blob(self._geometry, blob_id, self.fetch, revisits)
        return self._state_of(blob_id, bare)

    def read_bare(self, blob_id: BlobId) -> BlobState | None:
        """Return a blob that is bare, if it is among those that were seen last."""
        root = root_of(blob_id)
        bare = self._piece.bare.get(root) if self._piece.first <= root < self._piece.end else None
        if bare is None:
            return None
        self._credit += _CREDIT
        return self._state_of(blob_id, bare)

    async def bare(self, blob_id: BlobId) -> Bare | None:
        """Return what the blob's root says, if that was seen at once with its neighbours'."""
        root = root_of(blob_id)
        self._count(root)
        if self._piece.first <= root < self._piece.end or await self._is_near(root):
            return self._piece.bare.get(root)
        return None

    def xattrs(self, blob_id: BlobId) -> Mapping[str, bytes]:
        """Return the attributes of the blob that was just found to be bare."""
        return self._piece.attributes.get(root_of(blob_id), NO_ATTRIBUTES)

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
        count = min(self._credit, self._most)
        if count < _LEAST_COUNT:
            return False
        first = page if page > last else max(0, page - count + 1)
        end = min(first + count, self._geometry.md_len)
        self._credit -= end - first
        length = (end - first) * self._geometry.page_size
        try:
            data = await Read(self._geometry.page_offset(PageIndex(first)), length)
        except DeviceError:
            self._most = 1
            return False
        survey = Survey(keeps_attributes=True)
        if end - first >= _SURVEYED_FROM:
            self._look_at(survey, data, first)
        bare = {root: found for root, found in survey.bare_roots() if root not in self._instead}
        self._piece = _Piece(first, end, data, bare, survey.attributes)
        self._pieces = [self._piece, *self._pieces[: _KEPT_PIECES - 1]]
        return True

    def _look_at(self, survey: Survey, data: bytes, first: int) -> None:
        """Let the survey see the sound roots of a piece."""
        step = self._geometry.page_size
        chunk = np.frombuffer(data, dtype=np.uint8).reshape(-1, step)
        rows = np.arange(len(chunk))
        rows = rows[are_roots(chunk, rows, first=first)]
        survey.add_roots(chunk, rows[have_right_checksums(chunk, rows)], first=first)

    def _state_of(self, blob_id: BlobId, bare: Bare) -> BlobState:
        """Return the state of the blob that was just found to be bare."""
        root, count = root_of(blob_id), bare.cluster_count
        parent, has_pages = bare.parent, has_table(bare)
        is_read_only = bool(bare.data_ro & READ_ONLY)
        return BlobState(
            blob_id=blob_id,
            root=root,
            root_state=self._root_state(root, bare.end),
            flags=shared_flags(bare.invalid, bare.data_ro, bare.md_ro),
            xattrs=self._piece.attributes.get(root, NO_ATTRIBUTES),
            internal_xattrs={SNAP: parent.to_bytes(8, "little")} if parent else NO_ATTRIBUTES,
            clusters=ClusterMap(count),
            extent_pages=AbsentPages(-(-count // LEAF_SIZE)) if has_pages else None,
            data_read_only=is_read_only,
            md_read_only=is_read_only,
            pair_bound=bare.pair_count,
            disk_count=count,
        )

    def _root_state(self, root: PageIndex, end: int) -> RootState:
        if end < TAIL_OFFSET:
            return compact_state(end - HEAD.size)
        return root_state_of(self._page(root), length=end - HEAD.size)


def has_table(bare: Bare) -> bool:
    """Tell whether the blob has an extent table, if only by its flag."""
    return bare.kind == EXTENT_TABLE or (
        bare.kind == PADDING and bool(bare.invalid & HAS_EXTENT_TABLE)
    )
