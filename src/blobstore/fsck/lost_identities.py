"""Snapshots that read something else after a repair lose the identity by which backups know them.

Two snapshots with one identity have the same content (`store/relations.py`). What a repair loses is
missing in all blobs above the salvaged one, too, and their copies elsewhere may still have it. An
incremental stream on such a base would restore wrong data. So the repair overwrites the identities
of the read-only blobs above. The salvaged blob itself loses its own when it is rewritten.

A blob that is broken still cannot be opened, and so is no base. Its own salvage comes first.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from blobstore.errors import NoSpaceError
from blobstore.format.root import Layout
from blobstore.fsck.free import FreePages
from blobstore.fsck.parsed_blob import ParsedBlob
from blobstore.fsck.region_view import RegionView
from blobstore.fsck.rewrite import rewrite_blob, zero_pages
from blobstore.store.relations import NO_IDENTITY, SNAPSHOT_ID, VOLUME_UUID
from blobstore.units import BlobId

_VOLUME_NAME: Final = "name"


def clones_above(view: RegionView, blob_ids: Iterable[BlobId]) -> list[BlobId]:
    """Return the clones of these blobs, and theirs, in order and without the blobs themselves."""
    clones: defaultdict[BlobId, list[BlobId]] = defaultdict(list)
    for info in view.relations.values():
        if info.parent_id is not None:
            clones[info.parent_id].append(info.blob_id)
    given = set(blob_ids)
    found = set(given)
    waiting = list(given)
    while waiting:
        new = set(clones[waiting.pop()]) - found
        found |= new
        waiting += new
    return sorted(found - given)


def drop_identity(blob: ParsedBlob) -> bool:
    """Overwrite the identity of a blob, in memory; tell whether it had one."""
    if SNAPSHOT_ID not in blob.xattrs and VOLUME_UUID not in blob.xattrs:
        return False
    is_changed = blob.xattrs.get(SNAPSHOT_ID) != NO_IDENTITY
    blob.xattrs[SNAPSHOT_ID] = NO_IDENTITY
    return is_changed


async def drop_identities_above(
    view: RegionView, layout: Layout, salvaged: Iterable[BlobId]
) -> list[str]:
    """Overwrite the identities of the read-only blobs above salvaged ones; say what was done."""
    actions: list[str] = []
    free_pages = _free_pages(view)
    for blob_id in clones_above(view, salvaged):
        if not view.relations[blob_id].is_read_only or blob_id in view.broken:
            continue
        blob = await view.walk(blob_id)
        if not blob.is_broken and drop_identity(blob):
            if await _rewrite(view, layout, blob, free_pages):
                what = "is no base of incremental streams any more, because it reads a salvaged one"
            else:
                what = (
                    "no room to mark it: send no difference to it, because it reads a salvaged one"
                )
            actions.append(f"{blob.name}: {what}")
    return actions


def _free_pages(view: RegionView) -> FreePages:
    """Return the pages that nothing needs; there is none while a blob's pages are not known."""
    taken = view.ownership.pages.copy()
    taken[view.roots] = True
    taken[view.torn.copies] = True
    taken[list(view.orphans)] = True
    if not view.is_whole:
        taken.setall(True)
    return FreePages(taken)


async def _rewrite(
    view: RegionView, layout: Layout, blob: ParsedBlob, free_pages: FreePages
) -> bool:
    """Write the blob, in a layout in which it has room; tell whether there is one."""
    free_pages.taken[blob.chain] = False
    for wanted, xattrs in _ways(layout, blob.xattrs):
        blob.xattrs = xattrs
        try:
            await rewrite_blob(view.geometry, wanted, blob, free_pages, keeps_table=True)
        except NoSpaceError:
            continue
        unused = [page for page in blob.chain if not free_pages.taken[page]]
        await zero_pages(view.geometry, unused)
        return True
    free_pages.taken[blob.chain] = True
    return False


def _ways(layout: Layout, xattrs: dict[str, bytes]) -> Iterator[tuple[Layout, dict[str, bytes]]]:
    """Yield what can be written, from the usual to the smallest: without the padding of a name."""
    yield layout, xattrs
    yield Layout.COMPACT, xattrs
    name = xattrs.get(_VOLUME_NAME, b"")
    yield Layout.COMPACT, {**xattrs, _VOLUME_NAME: name.split(b"\0", 1)[0] + b"\0"}
