"""Skimming the roots of a clean store for relations: parents and unfinished snapshots.

The roots are read in large pieces, and looked at all at once for the flag that
announces internal attributes. Of those that have it only these attributes are
taken, of plain ones all at once; a store of many thousand blobs opens about as
fast as it can be read.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
from bitarray import bitarray

from blobstore.errors import CorruptError
from blobstore.format.descriptors import (
    EXTERNAL_SNAPSHOT,
    FLAGS,
    FLAGS_SIZE,
    HAS_INTERNAL_XATTRS,
    HEADER,
    INTERNAL_XATTR,
    decode_flags,
    split_descriptors,
    split_xattr,
)
from blobstore.format.geometry import Geometry, blob_id_of
from blobstore.format.page import HEAD, NO_PAGE, PAGE_SIZE, TAIL, body_of
from blobstore.format.root import TAIL_OFFSET
from blobstore.metadata.batch_decoding import BatchDecoder
from blobstore.metadata.blob_state import SNAP, SNAPSHOT_IN_PROGRESS, SNAPSHOT_REMOVAL
from blobstore.metadata.page_arrays import Chunk, Numbers, are_roots, have_right_checksums
from blobstore.operations import ReadInto
from blobstore.units import BlobId, PageIndex

_WINDOW_BYTES: Final = 1 << 22
_GAP_PAGES: Final = 16
_SOME_ID: Final = bytes(8)


@dataclass(slots=True)
class Relations:
    """What blobs say of others: parents, unfinished snapshots; of some, the root does not tell."""

    parents: dict[BlobId, BlobId] = field(default_factory=dict)
    marked: set[BlobId] = field(default_factory=set)
    unclear: list[BlobId] = field(default_factory=list)


async def skim_relations(geometry: Geometry, used_ids: bitarray) -> Relations:
    """Return the relations of all blobs that have some."""
    buffer = memoryview(bytearray(max(_WINDOW_BYTES, geometry.page_size)))
    found = Relations()
    for first, count in root_windows(geometry, used_ids):
        view = buffer[: count * geometry.page_size]
        await ReadInto(geometry.page_offset(PageIndex(first)), [view])
        pages = np.frombuffer(view, dtype=np.uint8).reshape(count, geometry.page_size)
        used = np.array(used_ids[first : first + count].tolist(), dtype=np.bool_)
        _add_relations(found, pages, np.flatnonzero(_may_have_relations(pages) & used), first)
    return found


def _add_relations(found: Relations, pages: Chunk, rows: Numbers, first: int) -> None:
    """Take the relations of roots that may have some; most of these are plain."""
    decoder = BatchDecoder()
    is_sound = are_roots(pages, rows, first=first) & have_right_checksums(pages, rows)
    is_decoded = is_sound.copy()
    is_decoded[is_sound] = decoder.add_roots(pages, rows[is_sound], first=first)
    found.parents.update(decoder.parent_ids())
    for row in rows[is_sound & ~is_decoded].tolist():
        _add_relations_of(found, pages[row, :PAGE_SIZE].data, blob_id_of(PageIndex(first + row)))
    found.unclear += [blob_id_of(PageIndex(first + row)) for row in rows[~is_sound].tolist()]


def root_windows(geometry: Geometry, used_ids: bitarray) -> Iterator[tuple[int, int]]:
    """Yield (first page, count) of pieces that hold all roots; small gaps are read along."""
    limit = max(1, _WINDOW_BYTES // geometry.page_size)
    first = count = 0
    for root in used_ids.search(True):
        if count and root - first < limit and root - (first + count) <= _GAP_PAGES:
            count = root - first + 1
            continue
        if count:
            yield first, count
        first, count = root, 1
    if count:
        yield first, count


def _may_have_relations(pages: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Look for the flag in either layout of a root; any other beginning is suspect too."""
    compact = pages[:, HEAD.size : HEAD.size + FLAGS_SIZE]
    sector = pages[:, TAIL_OFFSET : TAIL_OFFSET + FLAGS_SIZE]
    is_sector = pages[:, HEAD.size] == 0
    flags = np.where(is_sector[:, None], sector, compact)
    has_flags: npt.NDArray[np.bool_] = flags[:, 0] == FLAGS
    is_marked: npt.NDArray[np.bool_] = flags[:, HEADER.size] & HAS_INTERNAL_XATTRS != 0
    return is_marked | ~has_flags


def _add_relations_of(found: Relations, page: memoryview, blob_id: BlobId) -> None:
    """Take the relations from a root that is sound, if it has no further page."""
    (following, _crc) = TAIL.unpack_from(page, PAGE_SIZE - TAIL.size)
    attributes = _internal_attributes(page) if following == NO_PAGE else None
    if attributes is None or len(attributes.get(SNAP, _SOME_ID)) != len(_SOME_ID):
        found.unclear.append(blob_id)
        return
    if SNAP in attributes:
        found.parents[blob_id] = BlobId(int.from_bytes(attributes[SNAP], "little"))
    if SNAPSHOT_IN_PROGRESS in attributes or SNAPSHOT_REMOVAL in attributes:
        found.marked.add(blob_id)


def _internal_attributes(page: memoryview) -> dict[str, bytes] | None:
    """Return them by name, or None where they cannot be told, or two name a parent.

    A `SNAP` that is stale is left out: the flag of an external snapshot decides.
    """
    attributes: dict[str, bytes] = {}
    is_external = False
    try:
        for kind, view in split_descriptors(body_of(page), place="root"):
            if kind == FLAGS:
                is_external = bool(decode_flags(view, place="root").invalid & EXTERNAL_SNAPSHOT)
            elif kind == INTERNAL_XATTR:
                name, value = split_xattr(view, place="root")
                if name == SNAP and name in attributes:
                    return None
                attributes[name] = value
    except CorruptError:
        return None
    if is_external:
        attributes.pop(SNAP, None)
    return attributes
