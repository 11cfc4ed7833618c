"""Reading a blob: from its root page to its state in memory (FORMAT 4).

Nothing here trusts the device. Every index is checked before it is used, and
every loop is bounded by the region. An inconsistency raises a typed error that
names the place.
"""

import errno
from array import array
from collections.abc import Sequence
from typing import Final

from blobstore.alloc.extent_map import ExtentMap
from blobstore.alloc.leaves import LEAF_SHIFT, LEAF_SIZE, UNALLOCATED
from blobstore.errors import CorruptError, NotFoundError
from blobstore.format.chain import ChainContent
from blobstore.format.descriptors import (
    EXTERNAL_SNAPSHOT,
    HAS_EXTENT_TABLE,
    KNOWN_INVALID,
    THIN_PROV,
    Flags,
    only_extents,
)
from blobstore.format.geometry import Geometry, root_of
from blobstore.format.page import BODY_SIZE, HEAD, NO_PAGE, open_page
from blobstore.format.pairs import PackedPairs
from blobstore.format.root import root_state_of
from blobstore.metadata.blob_state import (
    ABSENT_PAGE,
    NO_ATTRIBUTES,
    SNAP,
    BlobState,
    extent_table_of,
)
from blobstore.metadata.page_reader import Fetch
from blobstore.units import BlobId, PageIndex, ceil_div

MAX_CLUSTERS: Final = 1 << 26
"""The largest blob, in clusters: what the map of an empty one may cost is bounded."""

_REVISITS_MIN: Final = 4096
_NOBODY: Final = 0
_ID_SIZE: Final = 8
_NO_FLAGS: Final = Flags()


async def _read_chain(
    geometry: Geometry, blob_id: BlobId, at: PageIndex, fetch: Fetch, content: ChainContent
) -> list[PageIndex]:
    """Take the pages of a chain that follow its root, from page `at` on.

    The chain is bounded by the metadata region, so a cycle on disk ends as an
    error instead of an endless loop.
    """
    chain: list[PageIndex] = []
    while at != NO_PAGE:
        _check_link(geometry, blob_id, at, chain)
        data = await fetch(at)
        found_id, sequence, following = open_page(data, at=at)
        chain.append(at)
        if found_id != blob_id or sequence != len(chain):
            raise CorruptError(
                f"page {at}: blob {found_id:#x} sequence {sequence}, "
                f"expected {blob_id:#x} sequence {len(chain)}",
                errno=errno.EINVAL,
            )
        content.take_page(data, place=f"blob {blob_id:#x}")
        at = following
    return chain


def _check_link(
    geometry: Geometry, blob_id: BlobId, at: PageIndex, chain: Sequence[PageIndex]
) -> None:
    if at >= geometry.md_len:
        raise CorruptError(
            f"blob {blob_id:#x}: its chain leads to page {at}, outside of {geometry.md_len} pages",
            errno=errno.EINVAL,
        )
    if len(chain) == geometry.md_len:
        raise CorruptError(
            f"blob {blob_id:#x}: its chain is longer than the metadata region", errno=errno.EINVAL
        )


class Revisits:
    """Bounds how often other blobs' extent pages are read while all of a store are looked at.

    Sound blobs share none. Without a bound, n blobs that name the same n pages
    would take n times n readings.
    """

    __slots__ = ("_left", "_readers")

    def __init__(self, geometry: Geometry) -> None:
        self._readers = array("Q", bytes(8 * geometry.md_len))
        self._left = max(geometry.md_len, _REVISITS_MIN)

    def may_read(self, page: int, blob_id: BlobId) -> bool:
        """Note which blob reads a page; return False after too many reads of other blobs' pages."""
        if self._readers[page] == blob_id:
            return True
        is_again = self._readers[page] != _NOBODY
        self._readers[page] = blob_id
        self._left -= is_again
        return not is_again or self._left >= 0


async def read_content(geometry: Geometry, blob_id: BlobId, fetch: Fetch) -> ChainContent:
    """Read the descriptors of a blob's chain, without the extent pages that they name.

    Raises:
        NotFoundError: There is no such blob (ENOENT).
        CorruptError: The chain cannot be read.
    """
    return (await _read_content(geometry, blob_id, f"blob {blob_id:#x}", fetch))[2]


async def _read_content(
    geometry: Geometry, blob_id: BlobId, place: str, fetch: Fetch
) -> tuple[bytes, int, ChainContent, Sequence[PageIndex]]:
    """Return the root page, the length of its descriptors, those of all pages, and the rest."""
    if not geometry.names_root(blob_id):
        raise NotFoundError(f"{place}: no such blob")
    root = root_of(blob_id)
    data = await fetch(root)
    found_id, sequence, following = open_page(data, at=root)
    if found_id != blob_id or sequence != 0:
        raise NotFoundError(f"{place}: its root page {root} is not a root of this blob")
    content = ChainContent()
    length = content.take_page(data, place=place)
    chain: Sequence[PageIndex] = ()
    if following != NO_PAGE:
        chain = await _read_chain(geometry, blob_id, following, fetch, content)
    return data, length, content, chain


async def read_blob(
    geometry: Geometry, blob_id: BlobId, fetch: Fetch, revisits: Revisits | None = None
) -> BlobState:
    """Read all of a blob's metadata, and check what can be checked without the store.

    The caller handles unknown flags. A caller that reads all blobs bounds the `revisits`.

    Raises:
        NotFoundError: There is no such blob (ENOENT).
        CorruptError: The blob cannot be read; the errno is the original's.
    """
    place = f"blob {blob_id:#x}"
    data, length, content, chain = await _read_content(geometry, blob_id, place, fetch)
    flags = content.flags or _NO_FLAGS
    has_parent = SNAP in content.internal_xattrs and not flags.invalid & EXTERNAL_SNAPSHOT
    if has_parent and len(content.internal_xattrs[SNAP]) != _ID_SIZE:
        raise CorruptError(f"{place}: parent id is not 8 bytes", errno=errno.EINVAL)
    is_thin = bool(flags.invalid & THIN_PROV)
    extent_pages: Sequence[int] | None = None
    table = content.table
    if content.runs is not None:
        clusters = _clusters_of_runs(geometry, content.runs, place)
    elif table is None and not flags.invalid & HAS_EXTENT_TABLE:
        clusters = ExtentMap()
    else:
        reader = _TableReader(geometry, blob_id, place, fetch, revisits, is_thin)
        entries = PackedPairs() if table is None else table
        extent_pages, clusters = await reader.read(entries, content.table_cluster_count)
    if not is_thin and clusters.allocated_count != clusters.count:
        raise CorruptError(f"{place}: unallocated clusters in a thick blob", errno=errno.EINVAL)
    pairs = table if content.runs is None else content.runs
    state = BlobState(
        blob_id=blob_id,
        root=root_of(blob_id),
        root_state=root_state_of(data, length=length),
        flags=flags,
        xattrs=content.xattrs or NO_ATTRIBUTES,
        internal_xattrs=content.internal_xattrs or NO_ATTRIBUTES,
        clusters=clusters,
        extent_pages=extent_pages,
        chain=chain,
        unknown_kinds=tuple(content.unknown_kinds),
        pair_bound=0 if pairs is None else len(pairs),
        disk_count=clusters.count,
    )
    if flags.data_ro or flags.md_ro:
        state.apply_read_only_flags(flags)
    return state


def check_flags(state: BlobState) -> None:
    """Refuse a blob that needs to be understood better than it is.

    Raises:
        CorruptError: An unknown `invalid` flag (EINVAL).
    """
    unknown = state.flags.invalid & ~KNOWN_INVALID
    if unknown:
        raise CorruptError(
            f"blob {state.blob_id:#x}: unknown flags {unknown:#x}; a newer version wrote it",
            errno=errno.EINVAL,
        )


def _clusters_of_runs(geometry: Geometry, runs: PackedPairs, place: str) -> ExtentMap:
    _check_runs(geometry, runs, place)
    return ExtentMap.of_runs(runs, limit=MAX_CLUSTERS, place=place)


def _check_runs(geometry: Geometry, runs: PackedPairs, place: str) -> None:
    """Refuse the first run outside of the data, and more clusters than there are."""
    lowest, end = geometry.md_clusters, geometry.total_clusters
    rows = runs.rows()
    firsts, counts = rows[rows[:, 0] != UNALLOCATED].T
    is_wrong = (firsts < lowest) | (firsts + counts > end)
    if is_wrong.any():
        at = is_wrong.argmax()
        first, count = int(firsts[at]), int(counts[at])
        raise CorruptError(
            f"{place}: clusters {first} to {first + count - 1}, expected {lowest} to {end - 1}",
            errno=errno.EINVAL,
        )
    owned = int(counts.sum())
    if owned > geometry.data_clusters:
        raise CorruptError(
            f"{place}: {owned} clusters of its own in a store of {geometry.data_clusters}",
            errno=errno.EINVAL,
        )


class _TableReader:
    """Follows the extent table of one blob."""

    __slots__ = ("_blob_id", "_fetch", "_geometry", "_is_thin", "_place", "_revisits")

    def __init__(
        self,
        geometry: Geometry,
        blob_id: BlobId,
        place: str,
        fetch: Fetch,
        revisits: Revisits | None,
        is_thin: bool,
    ) -> None:
        self._geometry = geometry
        self._blob_id = blob_id
        self._place = place
        self._fetch = fetch
        self._revisits = revisits
        self._is_thin = is_thin

    async def read(self, table: PackedPairs, cluster_count: int) -> tuple[Sequence[int], ExtentMap]:
        """Return the extent pages and the clusters; their number is counted on the way."""
        if len(table.numbers) == 2 and table.numbers[0] != ABSENT_PAGE:  # nearly every blob
            page, repeat = table.numbers
            return (page,), ExtentMap.of_leaf(*await self._read_page(page, repeat, 0))
        pages: dict[int, int] = {}
        leaves: list[array[int]] = []
        length = count = 0
        for page, repeat in table:
            if count % LEAF_SIZE:
                raise self._error(f"extent page {length - 1} is short")
            if page == ABSENT_PAGE:
                self._check_run(repeat, length)
                length += repeat
                count += LEAF_SIZE * repeat
                continue
            entries, _owned_count = await self._read_page(page, repeat, count)
            leaves.append(entries)
            pages[length] = page
            length += 1
            count += len(entries)
        present = next(reversed(pages)) + 1 if pages else 0
        if present < length:
            count = min(count, max(cluster_count, present * LEAF_SIZE))
            length = ceil_div(count, LEAF_SIZE)  # after the present pages, the table says it
        clusters = ExtentMap(count)
        for number, entries in zip(pages, leaves, strict=True):
            clusters.fill_leaf(number, entries)
        return extent_table_of(length, pages), clusters

    def _error(self, message: str) -> CorruptError:
        return CorruptError(f"{self._place}: {message}", errno=errno.EINVAL)

    def _check_run(self, repeat: int, so_far: int) -> None:
        if not self._is_thin:
            raise self._error("absent extent page in a thick blob")
        if repeat + so_far > MAX_CLUSTERS >> LEAF_SHIFT:
            raise self._error(f"extent table of {repeat} absent pages")

    async def _read_page(self, page: int, repeat: int, count: int) -> "tuple[array[int], int]":
        """Return the entries of an extent page, and how many name a cluster.

        The page is to begin at place `count` of the blob.
        """
        geometry = self._geometry
        if page >= geometry.md_len or repeat != 1:
            raise self._error(
                f"extent table names page {page}, {repeat} times, "
                f"of a region of {geometry.md_len} pages"
            )
        if self._revisits is not None and not self._revisits.may_read(page, self._blob_id):
            raise self._error(f"extent page {page} belongs to many blobs")
        at = PageIndex(page)
        data = await self._fetch(at)
        entries = array("I", self._clusters_in(data, at, count))[:]  # no room to spare
        owned = [*filter(None, entries)]
        if owned and not geometry.md_clusters <= min(owned) <= max(owned) < geometry.total_clusters:
            raise self._error(
                f"extent page {page} names a cluster outside of {geometry.md_clusters} "
                f"to {geometry.total_clusters - 1}"
            )
        return entries, len(owned)

    def _clusters_in(self, data: bytes, at: PageIndex, count: int) -> bytes:
        """Return the entries of an extent page as they are on disk; there is at least one."""
        try:
            _blob_id, sequence, following = open_page(data, at=at)
        except CorruptError as error:
            raise self._error(f"extent {error.message}") from error
        found = only_extents(data, HEAD.size, HEAD.size + BODY_SIZE, place=self._place)
        if sequence != 0 or found is None:
            raise self._error(f"page {at} is not an extent page")
        first, clusters = found
        if not clusters:
            raise self._error(f"extent page {at} has no entries")
        if first != count or following != NO_PAGE:
            raise self._error(f"extent page {at} begins at cluster {first}, expected {count}")
        return clusters
