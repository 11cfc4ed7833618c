"""Rolling a blob back to one of its snapshots (CRASH-SAFETY 3).

The blob becomes an empty clone of the snapshot, and so reads as it. One write of its root says
all of that: the parent, the size and the empty map change together. What the map held is
released after that commit, as by a shrink. Snapshots between the two keep what they hold. They
are a branch of their own from then on.
"""

from blobstore.alloc.leaves import leaves_for
from blobstore.blob.attributes import check_metadata_writable
from blobstore.blob.exclusive import exclusive, frozen
from blobstore.errors import InvalidArgumentError
from blobstore.format.descriptors import THIN_PROV, Flags
from blobstore.metadata.blob_state import BlobState, extent_table_of
from blobstore.metadata.persist import persist
from blobstore.metadata.recovery_plan import begin_change
from blobstore.metadata.space import require_room_for_root, reserve
from blobstore.metadata.store_state import StoreState
from blobstore.store.relations import change_parent
from blobstore.store.salvaged_mark import drop_mark
from blobstore.units import BlobId


async def roll_back(store: StoreState, blob: BlobState, snapshot_id: BlobId) -> None:
    """Let the blob read as one of its ancestors again; what it has written since is released.

    It gets the snapshot's size, and keeps its id and attributes. Open handles stay open.

    Durability: on return. Attributes that were changed before are durable then, too.

    Raises:
        InvalidArgumentError: The snapshot is no ancestor of the blob.
        ReadOnlyError: The blob is read-only.
        NoSpaceError: No metadata page is left for a copy of its chain; nothing changed.
        BusyError: One of the two is under another such operation.
    """
    check_metadata_writable(store, blob)
    with exclusive(store, blob.blob_id, snapshot_id, what="rollback"):
        async with store.mutex:
            snapshot = _ancestor(blob, snapshot_id)
            await begin_change(store)
            async with frozen(store, blob):
                await require_room_for_root(store, blob, pair_count=1)
                store.forget_inherited()
                drop_mark(store, blob)
                _release_map(blob, snapshot.clusters.count)
                change_parent(store, blob, snapshot, None)
                reserve(store, blob)
                await persist(store, blob, at_once=True)


def _ancestor(blob: BlobState, snapshot_id: BlobId) -> BlobState:
    ancestor = blob.parent
    while ancestor is not None and ancestor.blob_id != snapshot_id:
        ancestor = ancestor.parent
    if ancestor is None:
        raise InvalidArgumentError(f"blob {blob.blob_id:#x}: {snapshot_id:#x} is no ancestor")
    return ancestor


def _release_map(blob: BlobState, cluster_count: int) -> None:
    """Give the blob an empty map of `cluster_count` places; the next commit releases its clusters.

    The map stays the same object: the fast path looks into it.
    """
    held = [(first, count) for _index, first, count in blob.clusters.spans()]
    blob.cut_runs = [*blob.cut_runs, *held]
    blob.clusters.empty()
    blob.clusters.resize(cluster_count)
    blob.clusters.clean()
    if blob.extent_pages is not None:
        blob.cut_extent_pages = [*blob.cut_extent_pages, *blob.present_pages.values()]
        blob.extent_pages = extent_table_of(leaves_for(cluster_count), {})
    blob.flags = Flags(blob.flags.invalid | THIN_PROV, blob.flags.data_ro, blob.flags.md_ro)
    blob.pair_bound = 1
