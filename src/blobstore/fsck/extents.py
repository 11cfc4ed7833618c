"""Following a blob's extents, and going on behind what is broken (CRASH-SAFETY 5: 29 to 34, 38)."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from blobstore.alloc.cluster_map import LEAF_SIZE, UNALLOCATED
from blobstore.errors import CorruptError
from blobstore.format.descriptors import EXTENT_PAGE, decode_extent_page, split_descriptors
from blobstore.format.geometry import Geometry
from blobstore.format.page import BODY_SIZE, HEAD, NO_PAGE, PAGE_SIZE, TAIL, has_right_crc
from blobstore.fsck.seen import SeenBlob
from blobstore.fsck.segments import Segments, name_run
from blobstore.metadata.blob_state import ABSENT_PAGE
from blobstore.metadata.read import MAX_CLUSTERS, Revisits
from blobstore.units import PageIndex

Fetch: TypeAlias = Callable[[PageIndex], Awaitable[bytes | None]]
Entries: TypeAlias = npt.NDArray[np.uint32]

_REPORTED_RUNS: Final = 8
"""Of the places that are wrong in one extent page, so many are named."""


def read_runs(geometry: Geometry, blob: SeenBlob, runs: Sequence[tuple[int, int]]) -> None:
    """Take run-length extents; one that cannot be is lost, and its length counted if it can be."""
    lowest, end, most = geometry.md_clusters, geometry.total_clusters, geometry.data_clusters
    holes = owned = 0
    for cluster, count in runs:
        if cluster != UNALLOCATED:
            owned += min(count, most)
        if owned > 2 * most:
            blob.add(38, f"more clusters of its own than the {most} there are")
            return
        if count == 0:
            blob.add(29, f"a run of no clusters at place {blob.cluster_count}")
        if count > MAX_CLUSTERS - blob.cluster_count:
            blob.add(29, f"a run of {count} clusters at place {blob.cluster_count}")
            blob.add(38, f"more than {MAX_CLUSTERS} clusters in all")
            return
        if cluster == UNALLOCATED:
            holes += count
            blob.cluster_count += count
        elif count and lowest <= cluster and cluster + count <= end:
            blob.segments.add(blob.cluster_count, cluster, count)
            blob.cluster_count += count
        else:
            _take_run(geometry, blob, cluster, count)
    if holes and not blob.is_thin:
        blob.add(32, f"{holes} unallocated clusters in a thick blob")


def _take_run(geometry: Geometry, blob: SeenBlob, cluster: int, count: int) -> None:
    first = max(cluster, geometry.md_clusters)
    end = min(cluster + count, geometry.total_clusters)
    if count > geometry.total_clusters:
        blob.add(29, f"a run of {count} clusters in a store of {geometry.total_clusters}")
    if (first, end) != (cluster, cluster + count):
        blob.add(34, _say_outside(geometry, name_run("cluster", cluster, count)), cluster=cluster)
    index = blob.cluster_count
    if first >= end:
        blob.lost.append((index, count))
    else:
        if first > cluster:
            blob.lost.append((index, first - cluster))
        blob.segments.add(index + first - cluster, first, end - first)
        if end < cluster + count:
            blob.lost.append((index + end - cluster, cluster + count - end))
    blob.cluster_count += count


def _say_outside(geometry: Geometry, what: str) -> str:
    return f"owns {what}, expected {geometry.md_clusters} to {geometry.total_clusters - 1}"


async def read_table(
    geometry: Geometry,
    blob: SeenBlob,
    table: Sequence[tuple[int, int]],
    table_count: int,
    fetch: Fetch,
    revisits: Revisits | None = None,
) -> None:
    """Follow an extent table; what a page that is not sound would have said is lost.

    It is not followed where too many blobs led to the same pages before.
    """
    blob.table = list(table)
    seen: set[int] = set()
    absent_at_end = 0
    for page, repeat in table:
        if blob.cluster_count % LEAF_SIZE:
            blob.add(30, f"an extent page before place {blob.cluster_count} is short", page=page)
            end = -(-blob.cluster_count // LEAF_SIZE) * LEAF_SIZE
            blob.lost.append((blob.cluster_count, end - blob.cluster_count))
            blob.cluster_count = end
        room = MAX_CLUSTERS - blob.cluster_count
        if (LEAF_SIZE * repeat if page == ABSENT_PAGE else LEAF_SIZE) > room:
            blob.add(38, f"more than {MAX_CLUSTERS} clusters in all: {repeat} absent extent pages")
            return
        if page == ABSENT_PAGE:
            absent_at_end = LEAF_SIZE * repeat
            if repeat == 0:
                blob.add(30, "its extent table has an entry of no pages")
            blob.cluster_count += absent_at_end
            if not blob.is_thin and repeat:
                blob.add(33, f"{repeat} absent extent pages in a thick blob")
            continue
        absent_at_end = 0
        if page < geometry.md_len and revisits and not revisits.may_read(page, blob.blob_id):
            _give_up(blob, page, table_count)
            return
        await _take_entry(geometry, blob, page, repeat, table_count, seen, fetch)
    _cut_to(blob, table_count, absent_at_end)


def _give_up(blob: SeenBlob, page: int, table_count: int) -> None:
    """Leave the rest of a table alone: to follow it for every blob would take for ever."""
    blob.add(36, f"its extent table names page {page}, as many other blobs do", page=page)
    missing = min(table_count, MAX_CLUSTERS) - blob.cluster_count
    if missing > 0:
        blob.lost.append((blob.cluster_count, missing))
        blob.cluster_count += missing


def _cut_to(blob: SeenBlob, table_count: int, absent_at_end: int) -> None:
    """Cut the last run of absent pages to what the table says; tell other differences."""
    if absent_at_end:
        blob.cluster_count = min(
            blob.cluster_count, max(table_count, blob.cluster_count - absent_at_end)
        )


async def _take_entry(
    geometry: Geometry,
    blob: SeenBlob,
    page: int,
    repeat: int,
    table_count: int,
    seen: set[int],
    fetch: Fetch,
) -> None:
    """Take one present entry of the table."""
    at = PageIndex(page)
    index = blob.cluster_count
    entries: Entries | None = None
    if repeat != 1:
        blob.add(30, f"its extent table names page {page} {repeat} times", page=at)
    if page >= geometry.md_len:
        blob.add(
            31, f"its extent table names page {page}, outside of {geometry.md_len} pages", page=at
        )
    elif page in seen:
        blob.add(36, f"its extent table names page {page} in two places", page=at)
    else:
        seen.add(page)
        entries = _entries_of(blob, at, await fetch(at), index)
    if entries is None:
        missing = min(LEAF_SIZE, max(1, table_count - index))
        blob.lost.append((index, missing))
        blob.cluster_count += missing
        return
    blob.extent_pages.append(at)
    _take_entries(geometry, blob, at, entries, index)
    blob.cluster_count += len(entries)


def _entries_of(blob: SeenBlob, at: PageIndex, data: bytes | None, index: int) -> Entries | None:
    """Return what a sound extent page says, or put down why it does not."""
    if data is None or not has_right_crc(data):
        what = "cannot be read" if data is None else "has a wrong checksum"
        blob.add(17, f"its extent page {at} {what}", page=at)
        return None
    problem = _problem_of(data)
    if problem is None:
        view = next(split_descriptors(data[HEAD.size : HEAD.size + BODY_SIZE], place=""))[1]
        content = decode_extent_page(view, place=f"page {at}")
        if content.first == index and content.clusters:
            return np.frombuffer(content.clusters, dtype="<u4")
        problem = f"begins at place {content.first}, expected {index}"
    blob.add(31, f"its extent page {at} {problem}", page=at)
    return None


def _problem_of(data: bytes) -> str | None:
    """Say what keeps a page with a right checksum from being an extent page."""
    _blob_id, sequence, _reserved = HEAD.unpack_from(data)
    (following, _crc) = TAIL.unpack_from(data, PAGE_SIZE - TAIL.size)
    try:
        found = list(split_descriptors(data[HEAD.size : HEAD.size + BODY_SIZE], place="it"))
        if [kind for kind, _view in found] != [EXTENT_PAGE]:
            return "is none, or is not alone in its page"
        decode_extent_page(found[0][1], place="it")
    except CorruptError as error:
        return f"cannot be understood: {error.message}"
    if sequence != 0 or following != NO_PAGE:
        return f"has sequence {sequence} and next page {following}"
    return None


def _take_entries(
    geometry: Geometry, blob: SeenBlob, at: PageIndex, entries: Entries, index: int
) -> None:
    """Take an extent page's clusters as segments."""
    is_hole = entries == UNALLOCATED
    is_outside = ~is_hole & (
        (entries < geometry.md_clusters) | (entries >= geometry.total_clusters)
    )
    if is_hole.any() and not blob.is_thin:
        blob.add(32, f"extent page {at}: {int(is_hole.sum())} holes in a thick blob", page=at)
    places = np.flatnonzero(is_outside)
    for place in places[:_REPORTED_RUNS].tolist():
        cluster = int(entries[place])
        blob.add(34, _say_outside(geometry, f"cluster {cluster}"), page=at, cluster=cluster)
    blob.lost.extend((index + place, 1) for place in places.tolist())
    add_entries(blob.segments, np.where(is_outside, UNALLOCATED, entries), index)


def add_entries(segments: Segments, entries: Entries, index: int) -> None:
    """Add what an extent page says, its holes left out."""
    allocated = np.flatnonzero(entries)
    if not len(allocated):
        return
    clusters = entries[allocated].astype(np.int64)
    breaks = np.flatnonzero((np.diff(allocated) != 1) | (np.diff(clusters) != 1)) + 1
    starts = np.concatenate(([0], breaks))
    counts = np.diff(np.concatenate((starts, [len(allocated)])))
    for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
        segments.add(index + int(allocated[start]), int(clusters[start]), count)
