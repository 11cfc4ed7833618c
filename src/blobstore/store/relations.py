"""Relations of blobs: changing a parent, and what stands for external snapshots.

A snapshot has an identity, by which backups recognise its copies: two snapshots with one identity
have the same content. Another parent changes what a snapshot reads, and what its descendants read.
So read-only blobs among them lose their identities, durably, before the parent changes.
"""

from collections.abc import Iterator
from typing import Final

from blobstore.blob.attributes import overwrite_xattr_locked
from blobstore.blob.exclusive import exclusive, frozen
from blobstore.errors import ExistsError, InvalidArgumentError, NotFoundError
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.persist import persist
from blobstore.metadata.recovery_plan import begin_change
from blobstore.metadata.space import require_room_for_root, reserve
from blobstore.metadata.store_state import StoreState
from blobstore.operations import ExternalSource
from blobstore.store.open_blobs import close_blob, let_go, open_blob, open_chain
from blobstore.units import BlobId

SNAPSHOT_ID: Final = "snapshot_id"
"""The attribute with the uuid that names a snapshot for ever, in whatever store its copies are."""
VOLUME_UUID: Final = "uuid"
"""The attribute that does so for a volume, which has no `SNAPSHOT_ID`."""
NO_IDENTITY: Final = b"-"
"""A `SNAPSHOT_ID` that is no uuid: the content has changed, so nothing names it."""


def change_parent(
    store: StoreState, blob: BlobState, parent: BlobState | None, external_id: bytes | None
) -> None:
    """Move the blob below another parent, in memory; its root says so next."""
    before = blob.parent
    if blob.parent_id is not None:
        store.clones.remove(blob.parent_id, blob.blob_id)
    blob.set_parent(None if parent is None else parent.blob_id, external_id)
    if parent is not None:
        store.clones.add(parent.blob_id, blob.blob_id)
        parent.pin_count += 1
    blob.parent = parent
    blob.external = None if external_id is None else store.externals.get(external_id)
    if before is not None:
        before.pin_count -= 1
        let_go(store, before)
    store.forget_inherited()


async def set_parent(store: StoreState, blob: BlobState, parent_id: BlobId) -> None:
    """Make a thin blob a clone of a snapshot of its size.

    What it has not written itself reads as that snapshot from then on. If it is a snapshot, its
    clones read so, too, and backups do not take it for what they have of it.

    Durability: on return.

    Raises:
        NotFoundError: There is no such snapshot.
        InvalidArgumentError: The blob is not thin, the parent can be written to, is of
            another size, is the blob itself, or descends from it.
        ExistsError: It is its parent already.
        BusyError: One of the two is under another such operation.
    """
    store.check_writable()
    if parent_id == blob.blob_id:
        raise InvalidArgumentError(f"blob {parent_id:#x}: cannot be its own parent")
    if blob.parent_id == parent_id:
        raise ExistsError(f"blob {blob.blob_id:#x}: {parent_id:#x} is its parent already")
    with exclusive(store, blob.blob_id, parent_id, what="set parent"):
        parent = await open_blob(store, parent_id)
        try:
            _check_new_parent(blob, parent)
            await _move_below(store, blob, parent, None)
        finally:
            await close_blob(store, parent)


def _check_new_parent(blob: BlobState, parent: BlobState) -> None:
    if not parent.data_read_only:
        raise InvalidArgumentError(f"blob {parent.blob_id:#x}: not read-only; no parent for others")
    if parent.clusters.count != blob.clusters.count:
        raise InvalidArgumentError(
            f"blob {parent.blob_id:#x}: {parent.clusters.count} clusters, "
            f"expected {blob.clusters.count}"
        )
    _check_thin(blob)
    ancestor: BlobState | None = parent
    while ancestor is not None:
        if ancestor is blob:
            raise InvalidArgumentError(f"blob {parent.blob_id:#x}: descends from {blob.blob_id:#x}")
        ancestor = ancestor.parent


def _check_thin(blob: BlobState) -> None:
    if not blob.is_thin:
        raise InvalidArgumentError(f"blob {blob.blob_id:#x}: not thin, so it needs no parent")


async def set_external_parent(store: StoreState, blob: BlobState, external_id: bytes) -> None:
    """Make a thin blob a clone of something outside the store.

    Durability: on return.

    Raises:
        NotFoundError: Nothing is registered for that id.
        InvalidArgumentError: The blob is not thin, or the source's size or block does not fit.
        ExistsError: It is its parent already.
    """
    store.check_writable()
    if blob.external_id == external_id:
        raise ExistsError(f"blob {blob.blob_id:#x}: is a clone of {external_id!r} already")
    source = store.externals.get(external_id)
    if source is None:
        raise NotFoundError(f"external snapshot {external_id!r}: not registered")
    _check_thin(blob)
    check_external(store, source)
    if source.size_bytes % store.geometry.cluster_size:
        raise InvalidArgumentError(
            f"external snapshot {external_id!r}: {source.size_bytes} bytes, "
            f"expected a multiple of {store.geometry.cluster_size}"
        )
    with exclusive(store, blob.blob_id, what="set parent"):
        await _move_below(store, blob, None, external_id)


def check_external(store: StoreState, source: ExternalSource) -> None:
    """Refuse a source that is read in larger blocks than the store.

    Raises:
        InvalidArgumentError: Its block does not divide the store's io unit.
    """
    io_unit = store.geometry.io_unit_size
    if source.block_size > io_unit or io_unit % source.block_size:
        raise InvalidArgumentError(
            f"external snapshot: blocks of {source.block_size} bytes in a store of {io_unit}"
        )


async def _move_below(
    store: StoreState, blob: BlobState, parent: BlobState | None, external_id: bytes | None
) -> None:
    async with store.mutex:
        await begin_change(store)
        await _drop_identities(store, blob)
        async with frozen(store, blob):
            await require_room_for_root(store, blob)
            change_parent(store, blob, parent, external_id)
            reserve(store, blob)
            await persist(store, blob)


async def _drop_identities(store: StoreState, blob: BlobState) -> None:
    """Let no read-only blob below this one, nor itself, claim to be as its copies elsewhere are."""
    for blob_id in _descendants(store, blob.blob_id):
        clone = await open_chain(store, blob_id)
        clone.pin_count += 1
        try:
            await _drop_identity(store, clone)
        finally:
            clone.pin_count -= 1
            let_go(store, clone)
    await _drop_identity(store, blob)


def _descendants(store: StoreState, blob_id: BlobId) -> Iterator[BlobId]:
    seen = {blob_id}
    waiting = [blob_id]
    while waiting:
        for clone in store.clones.of(waiting.pop()):
            if clone not in seen:
                seen.add(clone)
                waiting.append(clone)
                yield clone


async def _drop_identity(store: StoreState, blob: BlobState) -> None:
    names = blob.xattrs
    if blob.data_read_only and (SNAPSHOT_ID in names or VOLUME_UUID in names):
        await overwrite_xattr_locked(store, blob, SNAPSHOT_ID, NO_IDENTITY)
        await persist(store, blob)


def register_external(store: StoreState, external_id: bytes, source: ExternalSource | None) -> None:
    """Say what an external snapshot's id stands for, None for nothing; open clones see it at once.

    Raises:
        InvalidArgumentError: The source is read in larger blocks than the store.
    """
    if source is None:
        store.externals.pop(external_id, None)
    else:
        check_external(store, source)
        store.externals[external_id] = source
    for blob in store.open_blobs.values():
        if blob.external_id == external_id:
            blob.external = source
    store.forget_inherited()
