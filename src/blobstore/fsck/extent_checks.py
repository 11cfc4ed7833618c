"""Checks of a blob's extents that continue after every error (CRASH-SAFETY 5: 29 to 34, 38)."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import numpy as np

from blobstore.alloc.leaves import LEAF_SIZE, UNALLOCATED, leaves_for
from blobstore.errors import CorruptError
from blobstore.format.descriptors import (
    EXTENT_PAGE,
    decode_extent_page,
    split_descriptors,
)
from blobstore.format.geometry import Geometry
from blobstore.format.page import BODY_SIZE, HEAD, NO_PAGE, PAGE_SIZE, TAIL, has_right_crc
from blobstore.fsck.parsed_blob import ParsedBlob
from blobstore.fsck.segments import PIECE, Places, Segments, counted, name_run
from blobstore.metadata.blob_reader import MAX_CLUSTERS, Revisits
from blobstore.metadata.blob_state import ABSENT_PAGE
from blobstore.metadata.page_arrays import Entries, Flagged, Numbers
from blobstore.operations import Buffer
from blobstore.units import PageIndex

TolerantFetch: TypeAlias = Callable[[PageIndex], Awaitable[bytes | None]]
"""Gives a metadata page that lies in the region, or None where it cannot be read."""

_REPORTED_RUNS: Final = 8
"""This many of the wrong places in one extent page are named."""


def read_runs(geometry: Geometry, blob: ParsedBlob, runs: Buffer) -> None:
    """Take run-length extents; one that cannot be is lost, and its length counted if it can be.

    The runs are what their descriptors hold, one after the other. They are taken up to one with
    which it is too much.
    """
    most = geometry.data_clusters
    holes = owned = 0
    pairs = np.frombuffer(runs, dtype="<u4").reshape(-1, 2)
    for at in range(0, len(pairs), PIECE):
        clusters, counts = pairs[at : at + PIECE].astype(np.int64).T
        places = blob.cluster_count + np.cumsum(counts) - counts
        are_holes: Flagged = clusters == UNALLOCATED
        sums = owned + np.cumsum(np.where(are_holes, 0, np.minimum(counts, most)))
        ends = np.flatnonzero((sums > 2 * most) | (counts > MAX_CLUSTERS - places))
        taken = int(ends[0]) if len(ends) else len(counts)
        columns = places[:taken], clusters[:taken], counts[:taken]
        _take_runs(geometry, blob, *columns, are_holes=are_holes[:taken])
        blob.cluster_count += int(counts[:taken].sum())
        if len(ends):
            has_too_many = bool(sums[taken] > 2 * most)
            _note_end(blob, int(counts[taken]), most, has_too_many=has_too_many)
            return
        holes, owned = holes + int(counts[are_holes].sum()), int(sums[-1])
    _note_holes(blob, holes)


def _note_end(blob: ParsedBlob, count: int, most: int, *, has_too_many: bool) -> None:
    """Say why what follows from this run on cannot be."""
    if has_too_many:
        blob.add(38, f"more clusters of its own than the {most} there are")
    else:
        blob.add(29, f"a run of {counted(count, 'cluster')} at place {blob.cluster_count}")
        blob.add(38, f"more than {MAX_CLUSTERS} clusters in all")


def _note_empty(blob: ParsedBlob, place: int) -> None:
    blob.add(29, f"a run of no clusters at place {place}")


def _note_holes(blob: ParsedBlob, holes: int) -> None:
    if holes and not blob.is_thin:
        blob.add(32, f"{counted(holes, 'unallocated cluster')} in a thick blob")


def _note_outside(geometry: Geometry, blob: ParsedBlob, cluster: int, count: int) -> None:
    """Say what of an allocated run cannot be."""
    if count > geometry.total_clusters:
        blob.add(29, f"a run of {count} clusters in a store of {geometry.total_clusters}")
    if cluster < geometry.md_clusters or cluster + count > geometry.total_clusters:
        blob.add(34, _say_outside(geometry, name_run("cluster", cluster, count)), cluster=cluster)


def _take_runs(
    geometry: Geometry,
    blob: ParsedBlob,
    places: Numbers,
    clusters: Numbers,
    counts: Numbers,
    *,
    are_holes: Flagged,
) -> None:
    """Take what of many runs lies where clusters can be."""
    ends = clusters + counts
    firsts = np.maximum(clusters, geometry.md_clusters)
    stops = np.minimum(ends, geometry.total_clusters)
    is_inside: Flagged = ~are_holes & (firsts < stops)
    moved = places - clusters
    blob.segments.extend(
        (firsts + moved)[is_inside], firsts[is_inside], (stops - firsts)[is_inside]
    )
    is_odd = ~are_holes & ((firsts != clusters) | (stops != ends))
    odd = np.flatnonzero(is_odd | (counts == 0))
    if len(odd):
        _note_odd(geometry, blob, places[odd], clusters[odd], counts[odd])
        allocated = odd[~are_holes[odd]]
        _lose(blob.lost, *(column[allocated] for column in (places, clusters, firsts, stops, ends)))


def _note_odd(
    geometry: Geometry, blob: ParsedBlob, places: Numbers, clusters: Numbers, counts: Numbers
) -> None:
    """Say what is wrong with these runs, and count what there is no room for."""
    is_allocated: Flagged = clusters != UNALLOCATED
    end = geometry.total_clusters
    have_bad_counts = (counts == 0) | (is_allocated & (counts > end))
    are_outside = is_allocated & ((clusters < geometry.md_clusters) | (clusters + counts > end))
    told = np.union1d(
        np.flatnonzero(have_bad_counts)[: blob.findings.room_for(29)],
        np.flatnonzero(are_outside)[: blob.findings.room_for(34)],
    )
    columns = (column[told].tolist() for column in (places, clusters, counts))
    for place, cluster, count in zip(*columns, strict=True):
        if count == 0:
            _note_empty(blob, place)
        if cluster != UNALLOCATED:
            _note_outside(geometry, blob, cluster, count)
    for invariant, are_wrong in ((29, have_bad_counts), (34, are_outside)):
        blob.findings.count_more(int(are_wrong.sum() - are_wrong[told].sum()), invariant)


def _lose(
    lost: Places, places: Numbers, clusters: Numbers, firsts: Numbers, stops: Numbers, ends: Numbers
) -> None:
    """Record the places of runs that have no cluster: a whole run, or its ends."""
    are_inside = firsts < stops
    before = np.where(are_inside, firsts - clusters, ends - clusters)
    after = np.where(are_inside, ends - stops, 0)
    starts = np.stack((places, places + np.maximum(stops - clusters, 0)), axis=1)
    counts = np.stack((before, after), axis=1)
    is_lost = counts > 0
    is_lost[:, 0] |= ~are_inside
    lost.extend(starts[is_lost], counts[is_lost])


def _say_outside(geometry: Geometry, what: str) -> str:
    return f"owns {what}, expected {geometry.md_clusters} to {geometry.total_clusters - 1}"


async def read_table(
    geometry: Geometry,
    blob: ParsedBlob,
    table: Sequence[tuple[int, int]],
    table_count: int,
    fetch: TolerantFetch,
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
            end = leaves_for(blob.cluster_count) * LEAF_SIZE
            blob.lost.add(blob.cluster_count, end - blob.cluster_count)
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
                blob.add(33, f"{counted(repeat, 'absent extent page')} in a thick blob")
            continue
        absent_at_end = 0
        if page < geometry.md_len and revisits and not revisits.may_read(page, blob.blob_id):
            _give_up(blob, page, table_count)
            return
        await _take_entry(geometry, blob, page, repeat, table_count, seen, fetch)
    _cut_to(blob, table_count, absent_at_end)


def _give_up(blob: ParsedBlob, page: int, table_count: int) -> None:
    """Leave the rest of a table alone: to follow it for every blob would take for ever."""
    blob.add(36, f"its extent table names page {page}, as many other blobs do", page=page)
    missing = min(table_count, MAX_CLUSTERS) - blob.cluster_count
    if missing > 0:
        blob.lost.add(blob.cluster_count, missing)
        blob.cluster_count += missing


def _cut_to(blob: ParsedBlob, table_count: int, absent_at_end: int) -> None:
    """Cut the last run of absent pages to what the table says; tell other differences."""
    if absent_at_end:
        blob.cluster_count = min(
            blob.cluster_count, max(table_count, blob.cluster_count - absent_at_end)
        )


async def _take_entry(
    geometry: Geometry,
    blob: ParsedBlob,
    page: int,
    repeat: int,
    table_count: int,
    seen: set[int],
    fetch: TolerantFetch,
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
    elif at in blob.misplaced:
        what = f"was overwritten with a copy of page {blob.misplaced[at]}"
        blob.add(31, f"its extent page {page} {what}", page=at)
    else:
        seen.add(page)
        entries = _entries_of(blob, at, await fetch(at), index)
    if entries is None:
        missing = min(LEAF_SIZE, max(1, table_count - index))
        blob.lost.add(index, missing)
        blob.cluster_count += missing
        return
    blob.extent_pages.append(at)
    _take_entries(geometry, blob, at, entries, index)
    blob.cluster_count += len(entries)


def _entries_of(blob: ParsedBlob, at: PageIndex, data: bytes | None, index: int) -> Entries | None:
    """Return what a sound extent page says, or record why it cannot be used."""
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
        if not content.clusters:
            problem = "has no entries"
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
    geometry: Geometry, blob: ParsedBlob, at: PageIndex, entries: Entries, index: int
) -> None:
    """Take an extent page's clusters as segments."""
    is_hole = entries == UNALLOCATED
    is_outside = ~is_hole & (
        (entries < geometry.md_clusters) | (entries >= geometry.total_clusters)
    )
    if is_hole.any() and not blob.is_thin:
        holes = counted(int(is_hole.sum()), "hole")
        blob.add(32, f"extent page {at}: {holes} in a thick blob", page=at)
    places = np.flatnonzero(is_outside)
    for place in places[:_REPORTED_RUNS].tolist():
        cluster = int(entries[place])
        blob.add(34, _say_outside(geometry, f"cluster {cluster}"), page=at, cluster=cluster)
    blob.lost.extend(index + places, np.ones_like(places))
    add_entries(blob.segments, np.where(is_outside, UNALLOCATED, entries), index)


def add_entries(segments: Segments, entries: Entries, index: int) -> None:
    """Add what an extent page says, its holes left out."""
    allocated = np.flatnonzero(entries)
    clusters = entries[allocated].astype(np.int64)
    segments.extend(index + allocated, clusters, np.ones_like(clusters))
