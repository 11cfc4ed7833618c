"""The relation scan: which blobs of a clean store have parents or are unfinished snapshots.

Masks do not record relations, and the deletion of a snapshot must know its clones. The roots are
read in large pieces. The roots of a piece are decoded all at once, so that a store of many thousand
blobs opens about as fast as it can be read. A few roots are decoded one by one. Either way every
root's checksum is compared: one with a wrong checksum may be the clone of any snapshot. A blob that
does not open still counts as a clone, so this scan is more tolerant than `read_blob`.
"""

from collections.abc import Iterator
from typing import Final

from bitarray import bitarray

from blobstore.format.geometry import Geometry, blob_id_of
from blobstore.format.page import PAGE_SIZE
from blobstore.metadata.root_relations import Relations, add_relations
from blobstore.operations import ReadInto
from blobstore.units import PageIndex

_WINDOW_BYTES: Final = 1 << 22
_GAP_PAGES: Final = 16
FEW_ROOTS: Final = 64
"""Decoding up to this many roots one by one costs less than importing NumPy."""


async def scan_relations(geometry: Geometry, used_ids: bitarray) -> Relations:
    """Return the relations of all blobs that have some."""
    buffer = memoryview(bytearray(max(_WINDOW_BYTES, geometry.page_size)))
    found = Relations()
    are_few = used_ids.count() <= FEW_ROOTS
    for first, count in root_windows(geometry, used_ids):
        view = buffer[: count * geometry.page_size]
        await ReadInto(geometry.page_offset(PageIndex(first)), [view])
        used = used_ids[first : first + count]
        if are_few:
            _add_one_by_one(found, geometry, view, used, first)
        else:
            from blobstore.metadata.batch_relations import add_batch

            add_batch(found, geometry, view, used, first)
    return found


def _add_one_by_one(
    found: Relations, geometry: Geometry, view: memoryview, used: bitarray, first: int
) -> None:
    for row in used.search(True):
        page = view[row * geometry.page_size :][:PAGE_SIZE]
        add_relations(found, page, blob_id_of(PageIndex(first + row)))


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
