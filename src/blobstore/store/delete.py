"""Deleting blobs, and merging a snapshot that is deleted into its only clone (CRASH-SAFETY 3).

A plain delete is one write: the tombstone. A snapshot with one clone first
hands its clusters over. The clone's root decides: it gets the merged map and
the new parent in one write.
"""

from typing import Final

from blobstore.alloc.extent_map import drop_all, mark_all
from blobstore.alloc.reservation import Need
from blobstore.alloc.runs import merged_runs, runs_without
from blobstore.blob.exclusive import exclusive, frozen
from blobstore.errors import BusyError, CorruptError
from blobstore.format.page import PAGE_SIZE
from blobstore.format.pairs import PackedPairs
from blobstore.format.root import TAIL_OFFSET, Layout, encode_tombstone_tail
from blobstore.format.super_block import NO_BLOB
from blobstore.metadata.blob_state import SNAPSHOT_REMOVAL, BlobState, extent_table_of
from blobstore.metadata.dirty_flag import poisoning, write_super_block
from blobstore.metadata.persist import persist
from blobstore.metadata.recovery_plan import begin_change
from blobstore.metadata.space import (
    release_clusters,
    release_pages,
    release_root,
    require_pages,
    reserve,
    room_for_root,
)
from blobstore.metadata.store_state import StoreState
from blobstore.operations import Read, Write
from blobstore.store.inflate import keep_what_is_hidden
from blobstore.store.open_blobs import close_blob, let_go, open_blob, open_chain, read_checked
from blobstore.store.relations import change_parent
from blobstore.store.salvaged_mark import mark_from, marked
from blobstore.units import BlobId, PageIndex

_EINVAL: Final = 22
_CLONES_NAMED_MAX: Final = 3


async def delete_blob(store: StoreState, blob_id: BlobId) -> None:
    """Delete a blob that is not open; a snapshot with one clone is merged into it.

    Durability: on return. Without a clone it takes no space. A super blob is cleared first.

    Raises:
        NotFoundError: There is no such blob.
        BusyError: It is open, has several clones, or is under another operation.
        CorruptError: It cannot be read, so its clusters are not known. Or it may be a snapshot,
            and a blob that cannot be read may be its clone; a store that was forced open
            deletes it all the same.
        NoSpaceError: No pages to write the clone's merged metadata to; nothing changed.
    """
    store.check_writable()
    clones = store.clones.of(blob_id)
    with exclusive(store, blob_id, *clones[:1], what="delete"):
        _refuse_users(store, blob_id)
        if store.unrelated and not store.forced:
            await _refuse_possible_parent(store, blob_id)
        if clones:
            await _prepare_clone(store, clones[0])
        async with store.mutex:
            store.check_writable()
            _refuse_users(store, blob_id)
            await begin_change(store)
            clones = store.clones.of(blob_id)
            if clones:
                await _delete_under_clone(store, blob_id, clones[0])
            else:
                await _delete_alone(store, await read_checked(store, blob_id))


async def _prepare_clone(store: StoreState, clone_id: BlobId) -> None:
    clone = await open_blob(store, clone_id)
    try:
        if clone.parent is not None:
            await keep_what_is_hidden(store, clone, clone.parent)
    finally:
        await close_blob(store, clone)


def _refuse_users(store: StoreState, blob_id: BlobId) -> None:
    blob = store.open_blobs.get(blob_id)
    if blob is not None and blob.open_count:
        raise BusyError(f"blob {blob_id:#x}: is open")
    clones = store.clones.of(blob_id)
    if len(clones) > 1:
        named = ", ".join(f"{clone:#x}" for clone in clones[:_CLONES_NAMED_MAX])
        left = len(clones) - _CLONES_NAMED_MAX
        more = f" and {left} more" if left > 0 else ""
        raise BusyError(f"blob {blob_id:#x}: has {len(clones)} clones: {named}{more}")


async def _refuse_possible_parent(store: StoreState, blob_id: BlobId) -> None:
    """Refuse what may be the parent of a blob that cannot be read: a clone's data would be lost.

    Every parent is read-only. So blobs that can be written to are deleted as ever.
    """
    if not store.clones.of(blob_id):
        async with store.mutex:
            if not (await read_checked(store, blob_id)).data_read_only:
                return
    unread_id, error = next(iter(store.unrelated.items()))
    raise CorruptError(
        f"blob {blob_id:#x}: kept, because blob {unread_id:#x} cannot be read and may be its clone "
        f"({error.message}); run check, or open the store with --force",
        errno=_EINVAL,
    )


async def _delete_alone(store: StoreState, blob: BlobState) -> None:
    with poisoning(store):
        await _clear_super_blob(store, blob)
        await _write_tombstone(store, blob)
        if blob.parent_id is not None:
            store.clones.remove(blob.parent_id, blob.blob_id)
        _forget(store, blob, blob.metadata_pages)
    await release_clusters(store, _owned_runs(blob), clear_method=blob.clear_method)


async def _clear_super_blob(store: StoreState, blob: BlobState) -> None:
    if store.super_block.super_blob == blob.blob_id:
        await write_super_block(store, store.super_block.with_changes(super_blob=NO_BLOB))


async def _delete_under_clone(store: StoreState, blob_id: BlobId, clone_id: BlobId) -> None:
    """Open the clone for as long as it takes, and merge."""
    clone = await open_chain(store, clone_id)
    clone.pin_count += 1
    try:
        snapshot = clone.parent
        assert snapshot is not None
        assert snapshot.blob_id == blob_id
        async with frozen(store, clone):
            await persist(store, clone)
            with marked(store, clone, mark_from(clone, [snapshot])):
                await _require_room(store, snapshot, clone)
            with poisoning(store):
                left = await _merge(store, snapshot, clone)
        await release_clusters(store, left, clear_method=snapshot.clear_method)
    finally:
        clone.pin_count -= 1
        let_go(store, clone)


async def _merge(store: StoreState, snapshot: BlobState, clone: BlobState) -> PackedPairs:
    """Merge a snapshot into its clone; return the clusters that have no owner any more."""
    snapshot.put_internal(SNAPSHOT_REMOVAL, clone.blob_id.to_bytes(8, "little"))
    snapshot.touch_attributes()
    await persist(store, snapshot)
    await _clear_super_blob(store, snapshot)
    pages = set(snapshot.metadata_pages)
    pages -= _take_over_pages(snapshot, clone)
    _take_over_clusters(snapshot, clone)
    snapshot.pin_count += 1
    change_parent(store, clone, snapshot.parent, snapshot.external_id)
    reserve(store, clone)
    await persist(store, clone, at_once=True)
    await _write_tombstone(store, snapshot)
    left = runs_without(_owned_runs(snapshot), _owned_runs(clone))
    if snapshot.parent_id is not None:
        store.clones.remove(snapshot.parent_id, snapshot.blob_id)
    snapshot.pin_count -= 1
    let_go(store, snapshot)
    mark_all(store.owned_clusters, clone.clusters)
    drop_all(store.zeroed_clusters, clone.clusters)
    store.clones.forget(snapshot.blob_id)
    _forget(store, snapshot, sorted(pages))
    return left


async def _require_room(store: StoreState, snapshot: BlobState, clone: BlobState) -> None:
    """Refuse before anything is written: the merge must fit into one round.

    The pages are the clone's from then on: before it reserves what it needs, others write.

    Raises:
        NoSpaceError: Too few metadata pages are left.
    """
    leaves = 0
    pairs = clone.pair_bound + snapshot.pair_bound + 2
    if clone.extent_pages is not None:
        leaves = len(snapshot.clusters.present_numbers())
        present = leaves + len(clone.present_pages)
        pairs = max(clone.pair_bound, min(len(clone.extent_pages), 2 * present + 1)) + 2
    elif snapshot.clusters.allocated_count:
        pairs += 2 * clone.clusters.allocated_count
    wanted = leaves + clone.chain_pages_bound(store.layout, pairs) + len(snapshot.chain) + 3
    wanted = max(wanted, room_for_root(store, snapshot))
    await require_pages(store, wanted)
    store.reservations.set(clone.blob_id, Need(wanted, 0))


def _take_over_pages(snapshot: BlobState, clone: BlobState) -> set[PageIndex]:
    """Hand whole extent pages to a clone that has nothing there; return which."""
    taken: set[PageIndex] = set()
    if clone.extent_pages is None or snapshot.extent_pages is None:
        return taken
    length, pages = len(clone.extent_pages), dict(clone.present_pages)
    for number, page in snapshot.present_pages.items():
        if number >= length or number in pages:
            continue
        entries = snapshot.clusters.entries(number)
        if len(entries) == len(clone.clusters.entries(number)):
            clone.clusters.fill_leaf(number, entries)
            pages[number] = page
            taken.add(PageIndex(page))
    clone.extent_pages = extent_table_of(length, pages)
    return taken


def _take_over_clusters(snapshot: BlobState, clone: BlobState) -> None:
    """Let the clone name every cluster that it has read from the snapshot so far."""
    for index, first, count in snapshot.clusters.spans():
        clone.clusters.fill_run(index, first, min(count, clone.clusters.count - index))


def _owned_runs(blob: BlobState) -> PackedPairs:
    return merged_runs((first, count) for _index, first, count in blob.clusters.spans())


async def _write_tombstone(store: StoreState, blob: BlobState) -> None:
    offset = store.geometry.page_offset(blob.root)
    page = await Read(offset, PAGE_SIZE)
    tail = encode_tombstone_tail(page)
    if store.layout is Layout.SECTOR:
        await Write(offset + TAIL_OFFSET, tail)
    else:
        await Write(offset, page[:TAIL_OFFSET] + tail)
    await store.flush_device()


def _forget(store: StoreState, blob: BlobState, pages: list[PageIndex]) -> None:
    """Drop a deleted blob from memory, and release its root and these pages."""
    store.used_ids[blob.root] = False
    store.reservations.clear(blob.blob_id)
    release_root(store, blob.root)
    release_pages(store, pages)
