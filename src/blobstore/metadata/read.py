"""Reading a blob: from its root page to its state in memory (FORMAT 4).

Nothing here trusts the device: every index is checked before it is used, every
loop is bounded by the region, and what does not add up ends as a typed error
that names the place.
"""

from array import array
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from blobstore.alloc.cluster_map import (
    LEAF_SHIFT,
    LEAF_SIZE,
    UNALLOCATED,
    ClusterMap,
    cluster_map_of_runs,
)
from blobstore.errors import CorruptError, NotFoundError
from blobstore.format.chain import ChainContent, decode_chain
from blobstore.format.descriptors import (
    EXTENT_PAGE,
    HAS_EXTENT_TABLE,
    KNOWN_INVALID,
    ExtentPage,
    Flags,
    decode_extent_page,
    split_descriptors,
)
from blobstore.format.geometry import Geometry, blob_id_of, root_of
from blobstore.format.page import NO_PAGE, PAGE_SIZE, MetadataPage
from blobstore.format.root import root_state_of
from blobstore.metadata.blob_state import ABSENT_PAGE, NO_ATTRIBUTES, SNAP, BlobState
from blobstore.operations import Read
from blobstore.units import BlobId, PageIndex

Fetch: TypeAlias = Callable[[PageIndex], Awaitable[bytes]]
"""Gives the 4096 bytes of a metadata page that lies in the region."""

MAX_CLUSTERS: Final = 1 << 26
"""The largest blob, in clusters: what the map of an empty one may cost is bounded."""

_REVISITS_MIN: Final = 4096
_NOBODY: Final = 0
_EINVAL: Final = 22
_SNAP_SIZE: Final = 8


@dataclass(frozen=True, slots=True)
class BlobOnDisk:
    """The pages of a blob as they were read, and what they say."""

    root: bytes
    chain: list[PageIndex]
    content: ChainContent


def fetch_from_device(
    geometry: Geometry, instead: Mapping[PageIndex, bytes] | None = None
) -> Fetch:
    """Return a `Fetch` that asks the device for each page, but for those in `instead`."""
    known = instead or {}

    async def fetch(page: PageIndex) -> bytes:
        if page in known:
            return known[page]
        return await Read(geometry.page_offset(page), PAGE_SIZE)

    return fetch


async def read_chain(geometry: Geometry, blob_id: BlobId, fetch: Fetch) -> BlobOnDisk:
    """Read the pages of a blob's chain, in order.

    The chain is bounded by the metadata region, so a cycle on disk ends as an
    error instead of an endless loop.

    Raises:
        NotFoundError: The root page is another's (ENOENT).
        CorruptError: A page of the chain is not what it must be (EINVAL).
    """
    root = root_of(blob_id)
    data = await fetch(root)
    page = MetadataPage.decode(data, at=root)
    if page.blob_id != blob_id or page.sequence != 0:
        raise NotFoundError(f"blob {blob_id:#x}: its root page {root} is not a root of this blob")
    bodies = [page.body]
    chain: list[PageIndex] = []
    while page.next_page != NO_PAGE:
        at = page.next_page
        _check_link(geometry, blob_id, at, chain)
        page = MetadataPage.decode(await fetch(at), at=at)
        chain.append(at)
        if page.blob_id != blob_id or page.sequence != len(chain):
            raise CorruptError(
                f"page {at}: blob {page.blob_id:#x} sequence {page.sequence}, "
                f"expected {blob_id:#x} sequence {len(chain)}",
                errno=_EINVAL,
            )
        bodies.append(page.body)
    return BlobOnDisk(data, chain, decode_chain(bodies, place=f"blob {blob_id:#x}"))


def _check_link(
    geometry: Geometry, blob_id: BlobId, at: PageIndex, chain: Sequence[PageIndex]
) -> None:
    if at >= geometry.md_len:
        raise CorruptError(
            f"blob {blob_id:#x}: its chain leads to page {at}, outside of {geometry.md_len} pages",
            errno=_EINVAL,
        )
    if len(chain) == geometry.md_len:
        raise CorruptError(
            f"blob {blob_id:#x}: its chain is longer than the metadata region", errno=_EINVAL
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
        """Note who reads a page of the region; False when too many read what others had read."""
        if self._readers[page] not in (_NOBODY, blob_id):
            self._left -= 1
        self._readers[page] = blob_id
        return self._left >= 0


async def read_blob(
    geometry: Geometry, blob_id: BlobId, fetch: Fetch, revisits: Revisits | None = None
) -> BlobState:
    """Read all of a blob's metadata, and check what can be checked without the store.

    Unknown flags are the caller's business. Who reads all blobs bounds the `revisits`.

    Raises:
        NotFoundError: There is no such blob (ENOENT).
        CorruptError: The blob cannot be read; the errno is the original's.
    """
    if not geometry.names_root(blob_id):
        raise NotFoundError(f"blob {blob_id:#x}: no such blob")
    found = await read_chain(geometry, blob_id, fetch)
    content = found.content
    state = BlobState(
        blob_id=blob_id,
        root=root_of(blob_id),
        root_state=root_state_of(found.root),
        flags=content.flags or Flags(),
        xattrs=content.xattrs,
        internal_xattrs=content.internal_xattrs or NO_ATTRIBUTES,
        chain=found.chain or (),
        unknown_kinds=tuple(content.unknown_kinds),
    )
    if state.parent_id is not None and len(content.internal_xattrs[SNAP]) != _SNAP_SIZE:
        raise CorruptError(f"blob {blob_id:#x}: parent id is not 8 bytes", errno=_EINVAL)
    await _read_clusters(geometry, state, content, fetch, revisits)
    state.clusters.clean()
    state.disk_count = state.clusters.count
    state.apply_read_only_flags(state.flags)
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
            errno=_EINVAL,
        )


async def _read_clusters(
    geometry: Geometry,
    state: BlobState,
    content: ChainContent,
    fetch: Fetch,
    revisits: Revisits | None,
) -> None:
    place = f"blob {state.blob_id:#x}"
    has_table = content.table is not None or (
        content.runs is None and state.flags.invalid & HAS_EXTENT_TABLE
    )
    if has_table:
        await _read_extent_pages(geometry, state, content, fetch, revisits)
        state.pair_bound = len(content.table or [])
    else:
        runs = content.runs or []
        _check_runs(geometry, runs, place)
        state.clusters = cluster_map_of_runs(runs, limit=MAX_CLUSTERS, place=place)
        state.pair_bound = len(runs)
    if not state.is_thin and state.clusters.allocated_count != state.clusters.count:
        raise CorruptError(f"{place}: unallocated clusters in a thick blob", errno=_EINVAL)


def _check_runs(geometry: Geometry, runs: Sequence[tuple[int, int]], place: str) -> None:
    owned = 0
    for first, count in runs:
        if first != UNALLOCATED:
            _check_cluster_range(geometry, first, count, place)
            owned += count
    if owned > geometry.data_clusters:
        raise CorruptError(
            f"{place}: {owned} clusters of its own in a store of {geometry.data_clusters}",
            errno=_EINVAL,
        )


def _check_cluster_range(geometry: Geometry, first: int, count: int, place: str) -> None:
    if not geometry.md_clusters <= first <= first + count <= geometry.total_clusters:
        raise CorruptError(
            f"{place}: clusters {first} to {first + count - 1}, expected "
            f"{geometry.md_clusters} to {geometry.total_clusters - 1}",
            errno=_EINVAL,
        )


async def _read_extent_pages(
    geometry: Geometry,
    state: BlobState,
    content: ChainContent,
    fetch: Fetch,
    revisits: Revisits | None,
) -> None:
    """Follow the extent table; the number of clusters is what is counted on the way."""
    place = f"blob {state.blob_id:#x}"
    pages: list[int] = []
    leaves: list[tuple[int, array[int]]] = []
    count = 0
    for page, repeat in content.table or []:
        if count % LEAF_SIZE:
            raise CorruptError(f"{place}: extent page {len(pages) - 1} is short", errno=_EINVAL)
        if page == ABSENT_PAGE:
            _check_table_run(state, repeat, len(pages), place)
            pages += [ABSENT_PAGE] * repeat
            count += LEAF_SIZE * repeat
            continue
        _check_table_entry(geometry, page, repeat, place)
        if revisits is not None and not revisits.may_read(page, state.blob_id):
            raise CorruptError(f"{place}: extent page {page} belongs to many blobs", errno=_EINVAL)
        entries = await _read_extent_page(geometry, PageIndex(page), count, fetch, place)
        leaves.append((len(pages), entries))
        pages.append(page)
        count += len(entries)
    if pages and pages[-1] == ABSENT_PAGE:
        present = leaves[-1][0] + 1 if leaves else 0
        count = _cut_last_run(count, pages, content.table_cluster_count, present)
    state.extent_pages = pages
    state.clusters = _map_of_leaves(count, leaves)


def _check_table_run(state: BlobState, repeat: int, so_far: int, place: str) -> None:
    if not state.is_thin:
        raise CorruptError(f"{place}: absent extent page in a thick blob", errno=_EINVAL)
    if repeat + so_far > MAX_CLUSTERS >> LEAF_SHIFT:
        raise CorruptError(f"{place}: extent table of {repeat} absent pages", errno=_EINVAL)


def _cut_last_run(count: int, pages: list[int], table_count: int, present: int) -> int:
    """Cut the absent pages behind the present ones to what the table says is left."""
    kept = min(count, max(table_count, present * LEAF_SIZE))
    del pages[-(-kept // LEAF_SIZE) :]
    return kept


def _map_of_leaves(count: int, leaves: Sequence[tuple[int, "array[int]"]]) -> ClusterMap:
    clusters = ClusterMap(count)
    for number, entries in leaves:
        clusters.fill_leaf(number, entries)
    return clusters


def _check_table_entry(geometry: Geometry, at: int, repeat: int, place: str) -> None:
    if at >= geometry.md_len or repeat != 1:
        raise CorruptError(
            f"{place}: extent table names page {at}, {repeat} times, "
            f"of a region of {geometry.md_len} pages",
            errno=_EINVAL,
        )


async def _read_extent_page(
    geometry: Geometry, at: PageIndex, count: int, fetch: Fetch, place: str
) -> "array[int]":
    try:
        page = MetadataPage.decode(await fetch(at), at=at)
    except CorruptError as error:
        raise CorruptError(f"{place}: extent {error.message}", errno=_EINVAL) from error
    extents = _only_descriptor(page, at, place)
    if extents.first != count or page.next_page != NO_PAGE or not extents.clusters:
        raise CorruptError(
            f"{place}: extent page {at} begins at cluster {extents.first}, expected {count}",
            errno=_EINVAL,
        )
    entries = array("I", extents.clusters)[:]  # a slice has no room to spare
    if max(entries) >= geometry.total_clusters or not _all_in_data(geometry, entries):
        raise CorruptError(
            f"{place}: extent page {at} names a cluster outside of {geometry.md_clusters} "
            f"to {geometry.total_clusters - 1}",
            errno=_EINVAL,
        )
    return entries


def _all_in_data(geometry: Geometry, entries: "array[int]") -> bool:
    lowest = min(entries) or min((cluster for cluster in entries if cluster), default=None)
    return lowest is None or lowest >= geometry.md_clusters


def _only_descriptor(page: MetadataPage, at: PageIndex, place: str) -> ExtentPage:
    """Return an extent page's content: the only descriptor of a page of its own."""
    found = list(split_descriptors(page.body, place=f"{place}: extent page {at}"))
    if page.sequence != 0 or len(found) != 1 or found[0][0] != EXTENT_PAGE:
        raise CorruptError(f"{place}: page {at} is not an extent page", errno=_EINVAL)
    return decode_extent_page(found[0][1], place=f"{place}: extent page {at}")


def is_root(page: MetadataPage, at: PageIndex) -> bool:
    """Tell whether the page names its own place, as only a root does."""
    return page.blob_id == blob_id_of(at) and page.sequence == 0
