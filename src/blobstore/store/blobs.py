"""The blobs of a store: create, open, close, delete, iterate."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from blobstore.alloc.cluster_map import LEAF_SIZE, ClusterMap
from blobstore.blob.attributes import check_xattr
from blobstore.blob.resize import check_cluster_count
from blobstore.errors import (
    CorruptError,
    InvalidArgumentError,
    NotFoundError,
)
from blobstore.format.descriptors import HAS_INTERNAL_XATTRS, THIN_PROV, Flags
from blobstore.format.geometry import blob_id_of, root_of
from blobstore.format.root import Layout, RootState
from blobstore.format.super_block import NO_BLOB
from blobstore.metadata.blob_state import ABSENT_PAGE, BlobState
from blobstore.metadata.outcome import begin_change
from blobstore.metadata.persist import free_clusters_for, persist, persist_new
from blobstore.metadata.read import Revisits, check_flags, fetch_from_device, read_blob
from blobstore.metadata.space import (
    claim_root,
    claim_zeroed_clusters,
    mark_owned,
    spare_pages,
)
from blobstore.metadata.store_state import StoreState
from blobstore.units import BlobId, PageIndex, ceil_div

_EINVAL: Final = 22


class ClearMethod(IntEnum):
    """How a blob's clusters are cleared when it gives them up."""

    DEFAULT = 0
    NONE = 1
    UNMAP = 2
    ZEROES = 3


@dataclass(frozen=True, slots=True)
class BlobOptions:
    """What a new blob is like."""

    cluster_count: int = 0
    thin: bool = False
    extent_table: bool = True
    clear_method: ClearMethod = ClearMethod.DEFAULT
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    parent_id: BlobId | None = None
    external_id: bytes | None = None


async def create_blob(store: StoreState, options: BlobOptions) -> BlobId:
    """Create a blob and return its id.

    Durability: on return.

    Raises:
        InvalidArgumentError: An attribute without name or value, a size that cannot be.
        NoSpaceError: No metadata page (ENOMEM) or not enough clusters (ENOSPC).
        DeviceError: The device failed; the store is poisoned.
    """
    blob = await create_open_blob(store, options)
    blob.open_count -= 1
    let_go(store, blob)
    return blob.blob_id


async def create_open_blob(store: StoreState, options: BlobOptions) -> BlobState:
    """Create a blob, and leave it open; the parent of a clone must be open already.

    Durability and errors: as `create_blob`.
    """
    _check_options(options)
    async with store.mutex:
        store.check_writable()
        claimed = 0 if options.thin else options.cluster_count
        if claimed > store.free_clusters:
            raise store.clusters.exhausted(claimed)
        blob = _new_blob(options)
        await _check_pages(store, blob, claimed)
        await begin_change(store)
        await free_clusters_for(store, claimed)
        blob.root = await claim_root(store)
        blob.blob_id = blob_id_of(blob.root)
        for index, cluster in enumerate(await _claim_clusters(store, blob, claimed)):
            blob.clusters.set(index, cluster)
        blob.is_root_dirty = True
        await persist_new(store, blob)
        _welcome(store, blob, options.parent_id)
        return blob


def _welcome(store: StoreState, blob: BlobState, parent_id: BlobId | None) -> None:
    """Take a new blob into the store, open."""
    store.used_ids[blob.root] = True
    if parent_id is not None:
        store.children[parent_id] = sorted([*store.children[parent_id], blob.blob_id])
    _link(store, blob, None if parent_id is None else store.open_blobs[parent_id])
    blob.open_count = 1


async def _claim_clusters(store: StoreState, blob: BlobState, count: int) -> list[int]:
    """Claim a thick blob's clusters; give back the root page when that fails."""
    try:
        return await claim_zeroed_clusters(store, count)
    except BaseException:
        store.pages.free([blob.root])
        raise


def _check_options(options: BlobOptions) -> None:
    check_cluster_count(options.cluster_count)
    check_xattrs(options.xattrs)


def check_xattrs(xattrs: Mapping[str, bytes]) -> None:
    """Refuse attributes that a new blob cannot have.

    Raises:
        InvalidArgumentError: One without name or value.
        NoSpaceError: One that does not fit into a page (ENOMEM).
    """
    for name, value in xattrs.items():
        if not value:
            raise InvalidArgumentError(f"xattr {name!r}: no value")
        check_xattr(name, value)


def _new_blob(options: BlobOptions) -> BlobState:
    """Return the state of a blob that has no place on the device yet."""
    leaves = ceil_div(options.cluster_count, LEAF_SIZE)
    blob = BlobState(
        blob_id=NO_BLOB,
        root=PageIndex(0),
        root_state=RootState(Layout.COMPACT, 0),
        flags=Flags(THIN_PROV if options.thin else 0, 0, int(options.clear_method)),
        xattrs={name: bytes(value) for name, value in options.xattrs.items()},
        extent_pages=[ABSENT_PAGE] * leaves if options.extent_table else None,
        clusters=ClusterMap(options.cluster_count),
    )
    if options.parent_id is not None or options.external_id is not None:
        blob.set_parent(options.parent_id, options.external_id)
    return blob


async def _check_pages(store: StoreState, blob: BlobState, claimed: int) -> None:
    """Refuse a blob whose pages are not there; only its root may take page 0.

    Where just that page is missing, and on its way back, it is waited for.
    """
    if blob.extent_pages is None:
        pairs, extent_pages = max(1, claimed), 0
    else:
        extent_pages = ceil_div(claimed, LEAF_SIZE)
        pairs = max(1, extent_pages)
    wanted = extent_pages + blob.chain_pages_bound(store.layout, pairs)
    if wanted <= spare_pages(store):
        return
    if wanted - 1 <= spare_pages(store) and not store.used_ids[0]:
        while store.pages.used[0] and store.pages.returning_count:
            await store.flush_device()
        if not store.pages.used[0]:
            return
    raise store.pages.exhausted(wanted)


def _disown(store: StoreState, blob: BlobState) -> None:
    for cluster in blob.clusters.allocated():
        store.owned_clusters[cluster] = False


async def open_blob(
    store: StoreState, blob_id: BlobId, revisits: Revisits | None = None
) -> BlobState:
    """Open a blob, and the snapshots below it; opening it again counts.

    Who opens all blobs, one after the other, bounds the `revisits`.

    Raises:
        NotFoundError: There is no such blob, or its parent is missing (ENOENT).
        CorruptError: It cannot be read.
    """
    async with store.mutex:
        store.check_open()
        blob = await open_chain(store, blob_id, revisits)
        blob.open_count += 1
        return blob


async def open_chain(
    store: StoreState, blob_id: BlobId, revisits: Revisits | None = None
) -> BlobState:
    """Read the blob and its ancestors as far as they are not open yet; the caller holds the mutex.

    Who does not count itself as a user lets go of the blob again.
    """
    opened: list[BlobState] = []
    seen: set[BlobId] = set()
    wanted: BlobId | None = blob_id
    parent: BlobState | None = None
    while wanted is not None:
        if wanted in seen:
            raise CorruptError(f"blob {blob_id:#x}: is its own ancestor", errno=_EINVAL)
        seen.add(wanted)
        parent = store.open_blobs.get(wanted)
        if parent is not None:
            break
        opened.append(await _read_member(store, blob_id, wanted, revisits))
        wanted = opened[-1].parent_id
    for blob in reversed(opened):
        _link(store, blob, parent)
        parent = blob
    return store.open_blobs[blob_id]


async def _read_member(
    store: StoreState, blob_id: BlobId, wanted: BlobId, revisits: Revisits | None
) -> BlobState:
    """Read a blob, or an ancestor of it; of one that is missing say whose it is."""
    try:
        return await read_checked(store, wanted, revisits)
    except NotFoundError as error:
        if wanted == blob_id:
            raise
        message = f"blob {blob_id:#x}: its parent or another ancestor is missing: {error.message}"
        raise NotFoundError(message, errno=error.errno) from error


async def read_checked(
    store: StoreState, blob_id: BlobId, revisits: Revisits | None = None
) -> BlobState:
    """Read a blob that is not open, as loading left it; the caller holds the mutex.

    Raises:
        NotFoundError, CorruptError: As `open_blob`.
    """
    known = store.errors.get(blob_id)
    if known is not None:
        raise type(known)(known.message, errno=known.errno)
    if not store.geometry.names_root(blob_id) or not store.used_ids[root_of(blob_id)]:
        raise NotFoundError(f"blob {blob_id:#x}: no such blob")
    for changed in store.outcome.changed:
        if changed.blob_id == blob_id:
            return changed
    fetch = fetch_from_device(store.geometry, store.outcome.restored)
    blob = await read_blob(store.geometry, blob_id, fetch, revisits)
    check_flags(blob)
    _check_ownership(store, blob)
    _check_relations(store, blob)
    return blob


def _check_relations(store: StoreState, blob: BlobState) -> None:
    """Refuse relations that loading a clean store did not see: no flag announces them."""
    announced = blob.flags.invalid & HAS_INTERNAL_XATTRS
    if announced or store.was_recovered or not blob.internal_xattrs:
        return
    _distrust(store, f"blob {blob.blob_id:#x}: internal attributes without the flag for them")


def _check_ownership(store: StoreState, blob: BlobState) -> None:
    """Compare the blob's clusters with the masks, and with the other open blobs.

    A clean store's masks are believed. Where they are wrong, nothing may be
    allocated any more. On a poisoned store memory lags behind the device, and
    nothing is allocated anyway.
    """
    if store.poison is not None:
        return
    clusters = blob.clusters.allocated()
    is_alone = store.clusters.used[clusters].all() and not store.owned_clusters[clusters].any()
    pages = blob.metadata_pages
    if not is_alone or len(set(clusters)) != len(clusters):
        what = "a cluster that is marked free, or another place's"
    elif not store.pages.used[pages].all() or len(set(pages)) != len(pages):
        what = "a metadata page that is marked free, or another place's"
    else:
        return
    _distrust(store, f"blob {blob.blob_id:#x}: owns {what}")


def _distrust(store: StoreState, message: str) -> None:
    """Make the store read-only, and refuse the blob, unless the caller forced the store open."""
    store.refuse_changes(message)
    if not store.forced:
        raise CorruptError(message, errno=_EINVAL)


def _link(store: StoreState, blob: BlobState, parent: BlobState | None) -> None:
    blob.parent = parent
    if blob.external_id is not None:
        blob.external = store.externals.get(blob.external_id)
    if parent is not None:
        parent.pin_count += 1
    store.open_blobs[blob.blob_id] = blob
    mark_owned(store, blob.clusters.allocated())


async def close_blob(store: StoreState, blob: BlobState) -> None:
    """Close the blob once; what is dirty becomes durable, whoever else has it open.

    Raises:
        DeviceError: It could not be written; the store is poisoned, the blob closed all the same.
    """
    async with store.mutex:
        try:
            if blob.is_dirty and store.is_writable:
                await begin_change(store)
                await persist(store, blob)
        finally:
            blob.open_count -= 1
            let_go(store, blob)


def let_go(store: StoreState, blob: BlobState) -> None:
    """Drop a blob that nobody has open, and its ancestors with it."""
    child: BlobState | None = blob
    while child is not None and child.open_count == 0 and child.pin_count == 0:
        _disown(store, child)
        del store.open_blobs[child.blob_id]
        store.reservations.clear(child.blob_id)
        parent = child.parent
        child.parent = None
        if parent is not None:
            parent.pin_count -= 1
        child = parent
