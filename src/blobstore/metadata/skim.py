"""Skimming the roots of a clean store for relations: parents and unfinished snapshots.

The roots are read in large pieces, and looked at all at once for the flag that
announces internal attributes. Of those that have it only these attributes are
taken, of plain ones all at once; a store of many thousand blobs opens about as
fast as it can be read.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from bitarray import bitarray

from blobstore.errors import CorruptError
from blobstore.format.descriptors import (
    FLAGS,
    FLAGS_SIZE,
    HAS_INTERNAL_XATTRS,
    HEADER,
    INTERNAL_XATTR,
    decode_xattr,
    split_descriptors,
)
from blobstore.format.geometry import Geometry, blob_id_of
from blobstore.format.page import BODY_SIZE, HEAD, NO_PAGE, PAGE_SIZE, TAIL, has_right_crc
from blobstore.format.root import TAIL_OFFSET
from blobstore.metadata.blob_state import SNAP, SNAPSHOT_IN_PROGRESS, SNAPSHOT_REMOVAL
from blobstore.metadata.survey import Chunk, Numbers, Survey
from blobstore.operations import ReadInto
from blobstore.units import BlobId, PageIndex

_WINDOW_BYTES: Final = 1 << 20
_GAP_PAGES: Final = 16
_ID_SIZE: Final = 8


class Relations(NamedTuple):
    """What a blob says of others: its parent, and whether a snapshot of or by it is unfinished."""

    parent_id: BlobId | None
    is_marked: bool


async def skim_relations(
    geometry: Geometry, used_ids: bitarray
) -> list[tuple[BlobId, Relations | None]]:
    """Return the blobs that may have relations; None where the root alone does not tell."""
    buffer = memoryview(bytearray(max(_WINDOW_BYTES, geometry.page_size)))
    found: list[tuple[BlobId, Relations | None]] = []
    for first, count in _windows(geometry, used_ids):
        view = buffer[: count * geometry.page_size]
        await ReadInto(geometry.page_offset(PageIndex(first)), [view])
        pages = np.frombuffer(view, dtype=np.uint8).reshape(count, geometry.page_size)
        suspects = np.flatnonzero(_may_have_relations(pages))
        is_used = [bool(used_ids[first + at]) for at in suspects.tolist()]
        found += _relations_of(pages, suspects[is_used], first)
    return found


def _relations_of(
    pages: Chunk, rows: Numbers, first: int
) -> Iterator[tuple[BlobId, Relations | None]]:
    """Take the relations of roots that may have some; most of these are plain."""
    roots = [
        (pages[row, :PAGE_SIZE].data, blob_id_of(PageIndex(first + row))) for row in rows.tolist()
    ]
    survey = Survey()
    is_plain = np.array([_is_sound(page, blob_id) for page, blob_id in roots], dtype=np.bool_)
    is_plain[is_plain] = survey.add_roots(pages, rows[is_plain], first=first)
    for blob_id, parent_id in survey.parent_ids():
        yield blob_id, Relations(parent_id, is_marked=False)
    for at in np.flatnonzero(~is_plain).tolist():
        page, blob_id = roots[at]
        yield blob_id, _relations_in(page, blob_id)


def _windows(geometry: Geometry, used_ids: bitarray) -> Iterator[tuple[int, int]]:
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


def _is_sound(page: memoryview, blob_id: BlobId) -> bool:
    """Tell whether the page is this blob's root, and whole."""
    found_id, sequence, _reserved = HEAD.unpack_from(page)
    return (found_id, sequence) == (blob_id, 0) and has_right_crc(page)


def _relations_in(page: memoryview, blob_id: BlobId) -> Relations | None:
    """Take the relations from a root that is sound and has no further page."""
    (following, _crc) = TAIL.unpack_from(page, PAGE_SIZE - TAIL.size)
    if following != NO_PAGE or not _is_sound(page, blob_id):
        return None
    parent_id, is_marked = None, False
    try:
        for kind, view in split_descriptors(page[HEAD.size : HEAD.size + BODY_SIZE], place="root"):
            if kind != INTERNAL_XATTR:
                continue
            xattr = decode_xattr(view, internal=True, place="root")
            if xattr.name == SNAP:
                if parent_id is not None or len(xattr.value) != _ID_SIZE:
                    return None
                parent_id = BlobId(int.from_bytes(xattr.value, "little"))
            is_marked |= xattr.name in (SNAPSHOT_IN_PROGRESS, SNAPSHOT_REMOVAL)
    except CorruptError:
        return None
    return Relations(parent_id, is_marked)
