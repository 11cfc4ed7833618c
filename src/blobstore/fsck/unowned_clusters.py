"""Clusters that are marked used and that no blob owns: a blob of their own keeps them.

A blob that has lost its metadata may have owned these clusters. Nothing proves whose they are, or
in which order. In that blob they would lie where the blob itself or its clones read them, perhaps
with the data of another owner. So they go to a new blob that nothing else reads.
"""

from collections.abc import Sequence
from typing import Final
from uuid import NAMESPACE_OID, uuid5

from bitarray import bitarray

from blobstore.errors import NoSpaceError
from blobstore.format.descriptors import READ_ONLY, THIN_PROV, Flags
from blobstore.format.geometry import blob_id_of, root_of
from blobstore.format.root import Layout
from blobstore.fsck.free import FreePages
from blobstore.fsck.lost_identities import drop_identity
from blobstore.fsck.parsed_blob import ParsedBlob
from blobstore.fsck.region_view import RegionView
from blobstore.fsck.rewrite import rewrite_blob
from blobstore.fsck.segments import counted, runs_of
from blobstore.store.salvaged_mark import SALVAGED
from blobstore.units import BlobId, PageIndex

_NAME: Final = "name"
_NAME_SIZE: Final = 64
_UUID: Final = "uuid"
_FIRST_ROOT: Final = 1  # page 0 holds the super blob in most stores
_NAMED_MAX: Final = 8
_LOOKED_AT: Final = 16
"""The blobs of a volume store all have a uuid, so a few blobs tell."""


async def keep_unowned_clusters(
    view: RegionView,
    layout: Layout,
    *,
    unowned: bitarray,
    free_pages: FreePages,
    lacking: Sequence[BlobId],
) -> str:
    """Write a blob that owns the clusters; say where they are, and which blobs may have lost them.

    Without a free page for the blob nothing is written, and the clusters become free.
    """
    count = unowned.count()
    losers = ", ".join(f"{blob_id:#x}" for blob_id in lacking[:_NAMED_MAX])
    if len(lacking) > _NAMED_MAX:
        losers += f" or {len(lacking) - _NAMED_MAX} more"
    whose = f"perhaps of {losers}, but nothing proves whose they are"
    root = _free_root(view, free_pages.taken)
    if root is not None:
        free_pages.taken[root] = True
        blob = await _new_blob(view, root, unowned)
        if await _is_written(view, layout, blob, free_pages):
            name = blob.xattrs[_NAME].rstrip(b"\0").decode()
            what = counted(count, "cluster")
            return (
                f"blob {blob.blob_id:#x} {name!r}: new, read-only, with {what} of no blob: {whose}"
            )
        free_pages.taken[root] = False
    what = f"{counted(count, 'cluster')} of no blob"
    return f"{what}: free now, as there is no metadata page for a blob that keeps them: {whose}"


def _free_root(view: RegionView, taken: bitarray) -> PageIndex | None:
    """Return a free page whose id no blob, mask or earlier blob uses."""
    taken = taken.copy()
    if view.masks is not None and view.masks.ids is not None:
        taken |= view.masks.ids
    named = {info.parent_id for info in view.relations.values()}
    named |= {info.marker[1] for info in view.relations.values() if info.marker}
    for blob_id in named | view.rootless:
        if blob_id is not None and view.geometry.names_root(blob_id):
            taken[root_of(blob_id)] = True
    root = taken.find(False, _FIRST_ROOT)
    return PageIndex(root) if root >= 0 else None


async def _new_blob(view: RegionView, root: PageIndex, unowned: bitarray) -> ParsedBlob:
    blob = ParsedBlob(blob_id_of(root), root, flags=Flags(THIN_PROV, READ_ONLY, 0))
    for first, count in runs_of(unowned.search(True)):
        blob.segments.add(blob.cluster_count, first, count)
        blob.cluster_count += count
    name = f"unowned clusters {blob.blob_id:#x}".encode()
    other = await _any_uuid(view)
    if other is None:
        blob.xattrs[_NAME] = name
    else:
        uuid = uuid5(NAMESPACE_OID, f"{other.hex()} {blob.blob_id:#x}")
        blob.xattrs[_NAME] = name.ljust(_NAME_SIZE, b"\0")
        blob.xattrs[_UUID] = str(uuid).encode() + b"\0"
        drop_identity(blob)
    blob.xattrs[SALVAGED] = b"clusters that were marked used and that no blob owned"
    return blob


async def _any_uuid(view: RegionView) -> bytes | None:
    """Return the uuid of one of the blobs: a blob has one if the store is a volume store.

    The new blob's uuid comes from it, because a repair must give the same result each time.
    """
    for root in view.roots[:_LOOKED_AT]:
        blob = await view.walk(blob_id_of(root))
        if _UUID in blob.xattrs:
            return blob.xattrs[_UUID]
    return None


async def _is_written(
    view: RegionView, layout: Layout, blob: ParsedBlob, free_pages: FreePages
) -> bool:
    for wanted in (layout, Layout.COMPACT):  # of which the root holds more
        try:
            await rewrite_blob(view.geometry, wanted, blob, free_pages)
        except NoSpaceError:
            continue
        return True
    return False
