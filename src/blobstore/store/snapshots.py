"""Snapshots and clones (CRASH-SAFETY 3).

A snapshot is a new root that takes over the blob's map; the blob itself goes
on as its clone, with an empty one. No data are copied. The blob's root decides:
before it is written the new root is marked as half-made, and a crash removes it.
"""

from collections.abc import Mapping

from blobstore.blob.exclusive import exclusive, frozen
from blobstore.errors import InvalidArgumentError
from blobstore.format.descriptors import READ_ONLY, THIN_PROV, Flags
from blobstore.format.geometry import blob_id_of
from blobstore.format.root import Layout, RootState
from blobstore.metadata.blob_state import SNAP, SNAPSHOT_IN_PROGRESS, BlobState, SparsePages
from blobstore.metadata.dirty_flag import poisoning
from blobstore.metadata.persist import persist, persist_new
from blobstore.metadata.recovery_plan import begin_change
from blobstore.metadata.space import claim_root, kept_pages, require_pages
from blobstore.metadata.store_state import StoreState
from blobstore.store.blobs import BlobOptions, check_xattrs, create_blob_locked
from blobstore.store.open_blobs import close_clean, open_blob_locked
from blobstore.store.salvaged_mark import SALVAGED
from blobstore.units import BlobId, PageIndex


async def create_snapshot(
    store: StoreState, blob: BlobState, xattrs: Mapping[str, bytes]
) -> BlobId:
    """Make a read-only snapshot of an open blob, and return its id.

    What was written before the call is in the snapshot, synced or not.

    Durability: on return.

    Raises:
        InvalidArgumentError: The blob is read-only, or an attribute has no value.
        NoSpaceError: There are not enough metadata pages; nothing changed.
        BusyError: The blob is under another such operation.
    """
    snapshot = await create_open_snapshot(store, blob, xattrs)
    async with store.mutex:
        close_clean(store, snapshot)
    return snapshot.blob_id


async def create_open_snapshot(
    store: StoreState, blob: BlobState, xattrs: Mapping[str, bytes]
) -> BlobState:
    """Make a read-only snapshot of an open blob, and leave it open.

    Durability and errors: as `create_snapshot`.
    """
    _check_origin(store, blob, xattrs)
    with exclusive(store, blob.blob_id, what="snapshot"):
        async with store.mutex:
            return await _create_snapshot(store, blob, xattrs)


async def create_snapshot_locked(
    store: StoreState, blob: BlobState, xattrs: Mapping[str, bytes]
) -> BlobState:
    """Make a read-only snapshot of an open blob, and leave it open; the caller holds the mutex.

    Durability and errors: as `create_snapshot`.
    """
    _check_origin(store, blob, xattrs)
    with exclusive(store, blob.blob_id, what="snapshot"):
        return await _create_snapshot(store, blob, xattrs)


def _check_origin(store: StoreState, blob: BlobState, xattrs: Mapping[str, bytes]) -> None:
    check_xattrs(xattrs)
    store.check_writable()
    if blob.data_read_only:
        raise InvalidArgumentError(f"blob {blob.blob_id:#x}: read-only; clone it instead")


async def _create_snapshot(
    store: StoreState, blob: BlobState, xattrs: Mapping[str, bytes]
) -> BlobState:
    await begin_change(store)
    async with frozen(store, blob):
        await persist(store, blob)
        snapshot = await _hand_over(store, blob, xattrs)
    snapshot.open_count += 1
    return snapshot


async def _hand_over(store: StoreState, blob: BlobState, xattrs: Mapping[str, bytes]) -> BlobState:
    snapshot = _snapshot_of(blob, xattrs)
    wanted = _wanted_pages(store, blob, snapshot)
    await require_pages(store, wanted)
    with kept_pages(store, wanted):
        snapshot.root = await claim_root(store)
        snapshot.blob_id = blob_id_of(snapshot.root)
        await _write_both(store, blob, snapshot)
    return snapshot


async def _write_both(store: StoreState, blob: BlobState, snapshot: BlobState) -> None:
    with poisoning(store):
        await persist_new(store, snapshot)
        store.used_ids[snapshot.root] = True
        _relate(store, blob, snapshot)
        _empty(blob)
        await persist(store, blob)
        _complete(snapshot)
        await persist(store, snapshot)


def _snapshot_of(blob: BlobState, xattrs: Mapping[str, bytes]) -> BlobState:
    """Return the state of the new root: the blob's own map, parent, kind and mark, half-made.

    A stale `SNAP` beside an external parent is left out: `SNAP` then names no parent.
    """
    marker = {SNAPSHOT_IN_PROGRESS: blob.blob_id.to_bytes(8, "little")}
    kept = {
        name: value
        for name, value in blob.internal_xattrs.items()
        if name != SNAP or not blob.has_external_parent
    }
    mark = {SALVAGED: blob.xattrs[SALVAGED]} if SALVAGED in blob.xattrs else {}
    return BlobState(
        blob_id=blob.blob_id,
        root=PageIndex(0),
        root_state=RootState(Layout.COMPACT, 0),
        flags=Flags(blob.flags.invalid, 0, blob.clear_method),
        xattrs={name: bytes(value) for name, value in xattrs.items()} | mark,
        internal_xattrs=marker | kept,
        clusters=blob.clusters.copy(),
        extent_pages=blob.extent_pages,
        pair_bound=blob.pair_bound,
        disk_count=blob.disk_count,
        is_root_dirty=True,
    )


def _wanted_pages(store: StoreState, blob: BlobState, snapshot: BlobState) -> int:
    """Return how many pages it can take: new root and chain, and a copy of either chain.

    The snapshot's is written again when it is complete. The blob's attributes grow by its
    parent's id, which can begin one page more.
    """
    pages = snapshot.chain_pages_bound(store.layout, max(1, snapshot.pair_bound))
    root = 1 if store.pages.used[0] else 0
    return pages - 1 + root + max(blob.chain_pages_bound(store.layout, 1), pages) + 1


def _relate(store: StoreState, blob: BlobState, snapshot: BlobState) -> None:
    """Put the snapshot between the blob and the parent that it had."""
    snapshot.parent, snapshot.external = blob.parent, blob.external
    if blob.parent_id is not None:
        store.clones.remove(blob.parent_id, blob.blob_id)
        store.clones.add(blob.parent_id, snapshot.blob_id)
    store.clones.add(snapshot.blob_id, blob.blob_id)
    snapshot.pin_count = 1
    store.open_blobs[snapshot.blob_id] = snapshot
    blob.parent, blob.external = snapshot, None
    store.forget_inherited()


def _empty(blob: BlobState) -> None:
    """Make the blob a thin clone of its snapshot, without a cluster of its own.

    Its map stays the same object: the fast path looks into it.
    """
    assert blob.parent is not None
    blob.clusters.empty()
    if blob.extent_pages is not None:
        blob.extent_pages = SparsePages(len(blob.extent_pages))
    blob.flags = Flags(blob.flags.invalid | THIN_PROV, blob.flags.data_ro, blob.flags.md_ro)
    blob.set_parent(blob.parent.blob_id)
    blob.pair_bound = 1


def _complete(snapshot: BlobState) -> None:
    snapshot.drop_internal(SNAPSHOT_IN_PROGRESS)
    flags = snapshot.flags
    snapshot.flags = Flags(flags.invalid, flags.data_ro | READ_ONLY, flags.md_ro)
    snapshot.apply_read_only_flags(snapshot.flags)
    snapshot.touch_attributes()


async def create_clone(store: StoreState, parent_id: BlobId, xattrs: Mapping[str, bytes]) -> BlobId:
    """Make a thin clone of a snapshot or of any other read-only blob, and return its id.

    Durability: on return.

    Raises:
        NotFoundError: There is no such blob.
        InvalidArgumentError: It can be written to, or an attribute has no value.
        NoSpaceError: No metadata page is left.
        BusyError: The blob is under another such operation.
    """
    clone = await create_open_clone(store, parent_id, xattrs)
    async with store.mutex:
        close_clean(store, clone)
    return clone.blob_id


async def create_open_clone(
    store: StoreState, parent_id: BlobId, xattrs: Mapping[str, bytes]
) -> BlobState:
    """Make a thin clone of a read-only blob, and leave it open.

    Durability and errors: as `create_clone`.
    """
    check_xattrs(xattrs)
    with exclusive(store, parent_id, what="clone"):
        async with store.mutex:
            return await _create_clone(store, parent_id, xattrs)


async def create_clone_locked(
    store: StoreState, parent_id: BlobId, xattrs: Mapping[str, bytes]
) -> BlobState:
    """Make a thin clone of a read-only blob, and leave it open; the caller holds the mutex.

    Durability and errors: as `create_clone`.
    """
    check_xattrs(xattrs)
    with exclusive(store, parent_id, what="clone"):
        return await _create_clone(store, parent_id, xattrs)


async def _create_clone(
    store: StoreState, parent_id: BlobId, xattrs: Mapping[str, bytes]
) -> BlobState:
    parent = await open_blob_locked(store, parent_id)
    try:
        return await create_blob_locked(store, _options_of_clone(parent, xattrs))
    finally:
        close_clean(store, parent)


def _options_of_clone(parent: BlobState, xattrs: Mapping[str, bytes]) -> BlobOptions:
    if not parent.data_read_only:
        raise InvalidArgumentError(f"blob {parent.blob_id:#x}: not read-only; snapshot it first")
    return BlobOptions(
        cluster_count=parent.clusters.count,
        thin=True,
        extent_table=parent.extent_pages is not None,
        xattrs=xattrs,
        parent_id=parent.blob_id,
    )
