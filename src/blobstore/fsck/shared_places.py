"""Places that several sound blobs own: the metadata of one of them is not what it was."""

from blobstore.format.geometry import blob_id_of
from blobstore.fsck.ownership_checks import Claims, Ownership
from blobstore.fsck.region_view import RegionView
from blobstore.metadata.blob_reader import Revisits
from blobstore.units import BlobId


async def shared_by_sound(view: RegionView, suspects: set[BlobId]) -> dict[BlobId, str]:
    """Return the blobs that own the same places, and which places these are, in words.

    Nothing is wrong with any of them but this, so nothing tells which one is right. `suspects`
    are left out: a sound blob is believed rather than them.
    """
    if not view.ownership.is_contested:
        return {}
    owned = Ownership(view.geometry)
    sound: list[BlobId] = []
    revisits = Revisits(view.geometry)
    for blob_id in map(blob_id_of, view.roots):
        if blob_id in suspects:
            continue
        blob = await view.walk(blob_id, revisits)
        if blob.marker is None and not blob.is_broken:
            sound.append(blob_id)
            owned.take_pages(blob.metadata_pages)
            owned.take_clusters(blob.segments)
    claims = Claims(owned)
    revisits = Revisits(view.geometry)
    for blob_id in sound:
        claims.take(await view.walk(blob_id, revisits))
    return {owner: f"{what}, and one of them is wrong" for owner, what in claims.by_owner()}
