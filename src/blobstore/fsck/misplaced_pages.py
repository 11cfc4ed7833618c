"""Extent pages that hold a copy of another blob's: a write that went to the wrong place.

The copy has a right checksum and a right range. So nothing is wrong with the blob that leads to
the copy, but that another blob owns the same clusters: one of the two has lost its own. The id in
the page tells which one, because it names the blob that wrote the page. A snapshot has pages that
its origin wrote. So between a blob and its ancestors the id proves nothing. Blobs that have errors
of their own are left out.

One case is judged wrongly: the origin was decoupled, SPDK then deleted the snapshot and gave its
page to a clone, and that page was copied over another one of the origin. Only a repair that may
decide (``all``) acts on the judgement.
"""

from collections.abc import Iterator

from blobstore.format.geometry import blob_id_of
from blobstore.format.page import HEAD
from blobstore.fsck.region_view import RegionView
from blobstore.metadata.blob_reader import Revisits
from blobstore.units import BlobId, PageIndex


async def misplaced_pages(view: RegionView) -> dict[PageIndex, PageIndex]:
    """Return the extent pages that hold a copy, and the page that each is a copy of."""
    originals: dict[bytes, tuple[BlobId, PageIndex]] = {}
    others: list[tuple[BlobId, PageIndex, bytes]] = []
    revisits = Revisits(view.geometry)
    for blob_id in map(blob_id_of, view.roots):
        if blob_id in view.broken:
            continue
        blob = await view.walk(blob_id, revisits)
        if not view.ownership.has_contested(blob.segments):
            continue
        for page in blob.extent_pages:
            data = await view.fetch(page)
            assert data is not None
            (writer, _sequence, _reserved) = HEAD.unpack_from(data)
            if writer == blob.blob_id:
                originals[data] = blob.blob_id, page
            else:
                others.append((blob.blob_id, page, data))
    copies: dict[PageIndex, PageIndex] = {}
    for blob_id, page, data in others:
        writer_id, original = originals.get(data, (blob_id, page))
        if page != original and blob_id not in _ancestors(view, writer_id):
            copies[page] = original
    return copies


def _ancestors(view: RegionView, blob_id: BlobId) -> Iterator[BlobId]:
    """Yield the blob's parent, the parent's parent and so on; a loop ends."""
    passed = {blob_id}
    info = view.relations.get(blob_id)
    while info is not None and info.parent_id is not None and info.parent_id not in passed:
        passed.add(info.parent_id)
        yield info.parent_id
        info = view.relations.get(info.parent_id)
