"""The relations of many roots at once, which are read in one piece.

The checksums of all roots are compared: a clone whose flags are damaged must not pass for a blob
without parent, because its snapshot could then be deleted. Only the sound roots that have the flag
of internal attributes are decoded, most of them all at once.
"""

import numpy as np
import numpy.typing as npt
from bitarray import bitarray

from blobstore.format.descriptors import FLAGS, FLAGS_SIZE, HAS_INTERNAL_XATTRS, HEADER
from blobstore.format.geometry import Geometry, blob_id_of
from blobstore.format.page import HEAD, PAGE_SIZE
from blobstore.format.root import TAIL_OFFSET
from blobstore.metadata.batch_decoding import BatchDecoder
from blobstore.metadata.page_arrays import Chunk, Numbers, are_roots, have_right_checksums
from blobstore.metadata.root_relations import Relations, add_sound_relations
from blobstore.units import PageIndex


def add_batch(
    found: Relations, geometry: Geometry, view: memoryview, used: bitarray, first: int
) -> None:
    """Take the relations of the roots among the pages from `first` on, as `used` says."""
    pages = np.frombuffer(view, dtype=np.uint8).reshape(len(used), geometry.page_size)
    is_used = np.array(used.tolist(), dtype=np.bool_)
    rows = np.flatnonzero(is_used)
    is_sound = are_roots(pages, rows, first=first) & have_right_checksums(pages, rows)
    found.unclear += [blob_id_of(PageIndex(first + row)) for row in rows[~is_sound].tolist()]
    sound = rows[is_sound]
    _add_relations(found, pages, sound[_may_have_relations(pages)[sound]], first)


def _add_relations(found: Relations, pages: Chunk, rows: Numbers, first: int) -> None:
    """Take the relations of sound roots that may have some; most of these are plain."""
    decoder = BatchDecoder()
    is_decoded = decoder.add_roots(pages, rows, first=first)
    found.parents.update(decoder.parent_ids())
    for row in rows[~is_decoded].tolist():
        add_sound_relations(found, pages[row, :PAGE_SIZE].data, blob_id_of(PageIndex(first + row)))


def _may_have_relations(pages: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Look for the flag in either layout of a root; any other beginning needs a closer look."""
    compact = pages[:, HEAD.size : HEAD.size + FLAGS_SIZE]
    sector = pages[:, TAIL_OFFSET : TAIL_OFFSET + FLAGS_SIZE]
    is_sector = pages[:, HEAD.size] == 0
    flags = np.where(is_sector[:, None], sector, compact)
    has_flags: npt.NDArray[np.bool_] = flags[:, 0] == FLAGS
    is_marked: npt.NDArray[np.bool_] = flags[:, HEADER.size] & HAS_INTERNAL_XATTRS != 0
    return is_marked | ~has_flags
