"""Evidence of the layout on a device, and if the super block agrees with it (FORMAT 3, 4).

Masks carry their type and length, root pages name their own place, and
metadata pages name pages and clusters that must be there.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import numpy as np

from blobstore.errors import CorruptError, DeviceError
from blobstore.format.checksum import crc32c
from blobstore.format.descriptors import (
    EXTENT_PAGE,
    EXTENT_TABLE,
    RUNS,
    decode_extent_page,
    decode_extent_table,
    decode_runs,
    split_descriptors,
)
from blobstore.format.geometry import BLOB_ID_BASE, Geometry
from blobstore.format.mask import MASK_BLOB_IDS, MASK_CLUSTERS, MASK_PAGES
from blobstore.format.page import BODY_SIZE, CRC_OFFSET, HEAD, NO_PAGE, PAGE_SIZE, TAIL
from blobstore.format.super_block import NEWEST_VERSION, SuperBlock
from blobstore.metadata.page_arrays import Flagged, Numbers
from blobstore.metadata.store_state import DeviceTraits
from blobstore.operations import Buffer, NextData, Read
from blobstore.units import GIB, MIB

READ_LIMIT: Final = 64 * MIB
"""So much is looked at from the device's start, and as much again from the first root."""

SEARCH_LIMIT: Final = GIB
"""So far a search for the first root goes: masks of a billion clusters end before."""

_CHUNK: Final = MIB
_ZEROES: Final = bytes(_CHUNK)
_NONE_BELOW: Final = 1 << 62
_NONE_ABOVE: Final = -1


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was found near the device's start; places are counted in 4096 bytes.

    `heads` are the first 8 bytes of every place from the start on, and `is_written`
    tells which of them hold anything but zeroes. `owned` tells of each cluster that
    can lie there whether a page names it, also one with a wrong checksum.
    All else is of the pages that name a blob: where they lie, which root they
    belong to, whether they can be a root, and which clusters and pages they name.
    Pages with a wrong checksum are left out; those that look like roots are in
    `torn_places` and `torn_roots`.
    """

    heads: Numbers
    is_written: Flagged
    owned: Flagged
    places: Numbers
    roots: Numbers
    can_be_root: Flagged
    lowest_cluster: Numbers
    highest_cluster: Numbers
    highest_page: Numbers
    torn_places: Numbers
    torn_roots: Numbers
    looked_at: int

    def mask_at(self, offset: int) -> tuple[int, int] | None:
        """Return type and bits of what would be a mask at this byte, None if nothing is there."""
        place = offset // PAGE_SIZE
        head = int(self.heads[place]) & 0xFF_FFFF_FFFF if place < len(self.heads) else 0
        return (head & 0xFF, head >> 8) if head else None

    def mask_bits(self, offset: int, kind: int) -> list[int]:
        """Return how many bits the mask at this byte has, or nothing if there is no such mask."""
        found = self.mask_at(offset)
        return [found[1]] if found is not None and found[0] == kind else []


async def gather_evidence(traits: DeviceTraits) -> Evidence:
    """Read the beginning of the device, as far as it can be read.

    Where no root lies in the first 64 MiB, the search goes on up to 1 GiB.
    """
    gathered = _Gathered(traits.size_bytes)
    size = traits.size_bytes // PAGE_SIZE * PAGE_SIZE
    end, offset = min(size, READ_LIMIT), 0
    while offset < end:
        had_roots = gathered.has_roots
        length = min(_CHUNK, end - offset)
        is_hole = await NextData(offset, offset + length) == offset + length
        chunk = _ZEROES[:length] if is_hole else await _read_what_can_be(offset, length)
        gathered.take(offset, chunk)
        offset += length
        if offset == end and not gathered.has_roots:
            end = min(size, SEARCH_LIMIT, end + _CHUNK)
        elif offset > READ_LIMIT and gathered.has_roots and not had_roots:
            end = min(size, offset + READ_LIMIT)
    return gathered.evidence()


class _Gathered:
    """Evidence while it is collected."""

    def __init__(self, device_size: int) -> None:
        self._heads: list[Numbers] = []
        self._written: list[Flagged] = []
        # How many more runs cover a cluster than the one before it, and one at the end: a run
        # costs the same however long it is.
        self._edges = np.zeros(min(device_size, SEARCH_LIMIT) // PAGE_SIZE + 1, dtype=np.int64)
        self._pages: list[tuple[int, ...]] = []
        self._torn: list[tuple[int, int]] = []
        self._end = 0

    @property
    def has_roots(self) -> bool:
        """Tell whether anything that looks like a root was found."""
        return bool(self._torn) or any(page[2] for page in self._pages)

    def take(self, offset: int, chunk: bytes) -> None:
        """Look at the next piece of the device."""
        words = np.frombuffer(chunk, dtype="<i8").reshape(-1, PAGE_SIZE // 8)
        self._heads.append(words[:, 0].copy())
        self._written.append(np.asarray(words.any(axis=1), dtype=np.bool_))
        self._end = offset + len(chunk)
        for row in np.flatnonzero(words[:, 0] >> 32 == 1).tolist():
            place = offset // PAGE_SIZE + row
            page = memoryview(chunk)[row * PAGE_SIZE :][:PAGE_SIZE]
            said = self._said_by(page)
            if int.from_bytes(page[CRC_OFFSET:], "little") == crc32c(page[:CRC_OFFSET]):
                self._pages.append((place, *said))
            elif HEAD.unpack_from(page)[1:] == (0, 0) and page[HEAD.size] != EXTENT_PAGE:
                self._torn.append((place, int(words[row, 0]) - BLOB_ID_BASE))

    def _said_by(self, page: memoryview) -> tuple[int, ...]:
        """Return a page's root, if it can be one, and the clusters and pages that it names."""
        blob_id, sequence, _reserved = HEAD.unpack_from(page)
        next_page, _crc = TAIL.unpack_from(page, PAGE_SIZE - TAIL.size)
        pages = [next_page] if next_page != NO_PAGE else []
        runs: list[tuple[int, int]] = []
        with suppress(CorruptError):  # what was said so far holds
            _collect(page[HEAD.size : HEAD.size + BODY_SIZE], runs, pages)
        named = np.array(runs, dtype=np.int64).reshape(-1, 2)
        end = len(self._edges) - 1
        np.add.at(self._edges, np.minimum(named[:, 0], end), 1)
        np.subtract.at(self._edges, np.minimum(named.sum(axis=1), end), 1)
        return (
            blob_id - BLOB_ID_BASE,
            int(sequence == 0 and page[HEAD.size] != EXTENT_PAGE),
            min((first for first, _count in runs), default=_NONE_BELOW),
            max((first + count - 1 for first, count in runs), default=_NONE_ABOVE),
            max(pages, default=_NONE_ABOVE),
        )

    def evidence(self) -> Evidence:
        """Return all that was found."""
        columns = np.array(self._pages, dtype=np.int64).reshape(-1, 6).T
        torn = np.array(self._torn, dtype=np.int64).reshape(-1, 2).T
        return Evidence(
            heads=np.concatenate(self._heads or [np.empty(0, dtype=np.int64)]),
            is_written=np.concatenate(self._written or [np.empty(0, dtype=np.bool_)]),
            owned=np.cumsum(self._edges[:-1]) > 0,
            places=columns[0],
            roots=columns[1],
            can_be_root=columns[2] == 1,
            lowest_cluster=columns[3],
            highest_cluster=columns[4],
            highest_page=columns[5],
            torn_places=torn[0],
            torn_roots=torn[1],
            looked_at=self._end,
        )


async def _read_what_can_be(offset: int, length: int) -> bytes:
    """Read a piece; where that fails page by page, with zeroes for what cannot be read."""
    try:
        return await Read(offset, length)
    except DeviceError:
        if length == PAGE_SIZE:
            return bytes(PAGE_SIZE)
    places = range(offset, offset + length, PAGE_SIZE)
    return b"".join([await _read_what_can_be(at, PAGE_SIZE) for at in places])


def _collect(body: Buffer, runs: list[tuple[int, int]], pages: list[int]) -> None:
    """Add the runs of clusters and the pages that the descriptors name."""
    for kind, view in split_descriptors(body, place="page"):
        if kind == RUNS:
            runs += [run for run in decode_runs(view, place="page").runs if run[0] and run[1]]
        elif kind == EXTENT_TABLE:
            pages += [page for page, _ in decode_extent_table(view, place="page").entries if page]
        elif kind == EXTENT_PAGE:
            entries = np.frombuffer(decode_extent_page(view, place="page").clusters, dtype="<u4")
            runs += [(entry, 1) for entry in entries[entries > 0].tolist()]


# Judging


def fits(
    evidence: Evidence,
    block: SuperBlock,
    device_size: int,
    found: SuperBlock,
    *,
    believes_pages: bool = True,
) -> bool | None:
    """Tell whether something on the device speaks for the super block; None if anything against.

    Where there are roots, but none in its place, all of them are against it. What pages name
    that is not there is, unless they are not believed.
    """
    layout = Geometry.claimed_by(block, device_size=device_size)
    if any(layout.broken_rules(device_size)):
        return None
    may_have_grown = block.size_bytes == found.size_bytes and not found.clean
    masks = _masks_found(evidence, layout, may_have_grown=may_have_grown)
    in_place = _roots_in_place(evidence, layout)
    if masks is None or in_place is None:
        return None
    if not _is_rest_empty(evidence, layout, block):
        return None
    if believes_pages and not _is_all_inside(evidence, layout):
        return None
    if in_place > 0 or all(masks):
        return True
    return None if evidence.can_be_root.any() else False


def _masks_found(
    evidence: Evidence, layout: Geometry, *, may_have_grown: bool
) -> list[bool] | None:
    """Tell for each mask whether it is there; it need not be before the first unload."""
    found: list[bool] = []
    for region, kind, bits in (
        (layout.used_pages, MASK_PAGES, layout.md_len),
        (layout.used_clusters, MASK_CLUSTERS, layout.total_clusters),
        (layout.used_blob_ids, MASK_BLOB_IDS, layout.md_len),
    ):
        head = evidence.mask_at(layout.region_offset(region)) if region.length else None
        is_older = may_have_grown and kind == MASK_CLUSTERS
        if head and (head[0] != kind or not (head[1] == bits or (is_older and head[1] < bits))):
            return None
        found.append(head is not None or not region.length)
    return found


def _roots_in_place(evidence: Evidence, layout: Geometry) -> int | None:
    """Count the roots that lie where they must; None if another lies in or before the region.

    A root's copy, made for its conversion, names a page that is there. After
    the region blobs may hold whatever they like, even another store, and what
    follows the first 4096 bytes of a larger page means nothing.
    """
    unit = layout.page_size // PAGE_SIZE
    counted = evidence.can_be_root & (evidence.places % unit == 0)
    places, roots = evidence.places[counted], evidence.roots[counted]
    start, end = layout.md_start * unit, (layout.md_start + layout.md_len) * unit
    expected = start + roots * unit
    in_place = places == expected
    if (roots[in_place] >= layout.md_len).any():
        return None
    strays = (places < end) & ~in_place
    for place, root, home in zip(places[strays], roots[strays], expected[strays], strict=True):
        is_inside = place >= start and home < min(end, len(evidence.heads))
        if not is_inside or evidence.heads[home] != BLOB_ID_BASE + root:
            return None
    return int(in_place.sum())


def _is_rest_empty(evidence: Evidence, layout: Geometry, block: SuperBlock) -> bool:
    """Tell whether there is nothing before the metadata but the masks; init zeroes all of it.

    A store that was older once may still have a mask of blob ids that is not used.
    """
    unit = layout.page_size // PAGE_SIZE
    heads = evidence.heads[: layout.md_start * unit : unit].copy()
    for region in (layout.used_pages, layout.used_clusters, layout.used_blob_ids):
        heads[region.start : region.start + region.length] = 0
    heads[:1] = 0
    if block.version < NEWEST_VERSION:
        heads[heads & 0xFF == MASK_BLOB_IDS] = 0
    return not heads.any()


def is_inside(evidence: Evidence, layout: Geometry) -> Flagged:
    """Tell of each page that was found whether it is one of the metadata region."""
    unit = layout.page_size // PAGE_SIZE
    start, end = layout.md_start * unit, (layout.md_start + layout.md_len) * unit
    is_aligned: Flagged = evidence.places % unit == 0
    return is_aligned & (evidence.places >= start) & (evidence.places < end)


def _is_all_inside(evidence: Evidence, layout: Geometry) -> bool:
    """Tell whether the metadata pages name only what the store has."""
    inside = is_inside(evidence, layout)
    return bool(
        (evidence.roots[inside] < layout.md_len).all()
        and (evidence.lowest_cluster[inside] >= layout.md_clusters).all()
        and (evidence.highest_cluster[inside] < layout.total_clusters).all()
        and (evidence.highest_page[inside] < layout.md_len).all()
    )
