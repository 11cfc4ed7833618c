"""The mark of a blob in which zeroes stand for lost data, and how the mark follows the content.

A repair that loses content of a blob sets the blob's attribute `salvaged`. Clones of that blob read
the same zeroes, but have no mark: their ancestor has it. Some operations take content from an
ancestor that is then no ancestor any more: a deleted snapshot is merged into its clone, and a clone
is inflated or decoupled. Such a blob gets the mark by the root write that changes its parent. So
no power failure leaves the content without the mark.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from blobstore.errors import NoSpaceError
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.store_state import StoreState
from blobstore.units import BlobId

SALVAGED: Final = "salvaged"
"""The attribute of a blob that a repair has salvaged: what was wrong with it."""


def ancestors_of(blob: BlobState) -> Iterator[BlobState]:
    """Yield the snapshots that an open blob reads, from its parent down."""
    parent = blob.parent
    while parent is not None:
        yield parent
        parent = parent.parent


def nearest_salvaged(blob: BlobState) -> BlobState | None:
    """Return the blob itself if it was salvaged, or its next ancestor that was, or None."""
    return next((each for each in (blob, *ancestors_of(blob)) if SALVAGED in each.xattrs), None)


def readers_of(salvaged: Iterable[BlobId], parents: Mapping[BlobId, BlobId]) -> set[BlobId]:
    """Return all descendants of salvaged blobs; `parents` has the parent of every clone."""
    clones: defaultdict[BlobId, list[BlobId]] = defaultdict(list)
    for clone, parent in parents.items():
        clones[parent].append(clone)
    found: set[BlobId] = set()
    waiting = [*salvaged]
    while waiting:
        new = set(clones[waiting.pop()]) - found
        found |= new
        waiting += new
    return found


def mark_from(blob: BlobState, sources: Iterable[BlobState]) -> bytes | None:
    """Return the mark that a blob needs when it takes what it reads of these ancestors.

    A blob that has written all of its clusters itself reads nothing of them.
    """
    if blob.clusters.allocated_count == blob.clusters.count:
        return None
    return next((each.xattrs[SALVAGED] for each in sources if SALVAGED in each.xattrs), None)


@contextmanager
def marked(store: StoreState, blob: BlobState, mark: bytes | None) -> Iterator[None]:
    """Give the blob a mark for its next root write, unless a check in the body finds no space.

    The caller holds the mutex. A blob keeps the mark that it has.
    """
    if mark is None or SALVAGED in blob.xattrs:
        yield
        return
    before = dict(blob.xattrs)
    blob.change_xattr(SALVAGED, mark, store.layout)
    try:
        yield
    except NoSpaceError:
        blob.put_back_xattrs(before)
        raise


def drop_mark(store: StoreState, blob: BlobState) -> None:
    """Remove the mark of a blob that loses all content of its own; its root says so next."""
    if SALVAGED in blob.xattrs:
        blob.change_xattr(SALVAGED, None, store.layout)
