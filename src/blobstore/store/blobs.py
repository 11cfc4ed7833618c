"""New blobs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from blobstore.alloc.extent_map import ExtentMap
from blobstore.alloc.leaves import LEAF_SIZE
from blobstore.blob.attributes import check_xattr
from blobstore.blob.resize import check_cluster_count
from blobstore.errors import InvalidArgumentError
from blobstore.format.descriptors import THIN_PROV, Flags
from blobstore.format.geometry import blob_id_of
from blobstore.format.root import Layout, RootState
from blobstore.format.super_block import NO_BLOB
from blobstore.metadata.blob_state import BlobState, SparsePages
from blobstore.metadata.host_space import give_space
from blobstore.metadata.persist import free_clusters_for, persist_new
from blobstore.metadata.recovery_plan import begin_change
from blobstore.metadata.space import claim_root, claim_zeroed_clusters, kept_pages, spare_pages
from blobstore.metadata.store_state import StoreState
from blobstore.store.open_blobs import close_clean, link
from blobstore.units import BlobId, PageIndex, ceil_div


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
    async with store.mutex:
        blob = await create_blob_locked(store, options)
        close_clean(store, blob)
        return blob.blob_id


async def create_open_blob(store: StoreState, options: BlobOptions) -> BlobState:
    """Create a blob, and leave it open.

    Durability and errors: as `create_blob`.
    """
    async with store.mutex:
        return await create_blob_locked(store, options)


async def create_blob_locked(store: StoreState, options: BlobOptions) -> BlobState:
    """Create a blob, and leave it open; the caller holds the mutex.

    The parent of a clone must be open already.

    Durability and errors: as `create_blob`.
    """
    _check_options(options)
    store.check_writable()
    claimed = 0 if options.thin else options.cluster_count
    if claimed > store.free_clusters:
        raise store.clusters.exhausted(claimed)
    blob = _new_blob(options)
    with kept_pages(store, await _check_pages(store, blob, claimed)):
        await begin_change(store)
        await free_clusters_for(store, claimed)
        blob.root = await claim_root(store)
        blob.blob_id = blob_id_of(blob.root)
        for index, cluster in enumerate(await _claim_clusters(store, blob, claimed)):
            blob.clusters.set(index, cluster)
        blob.is_root_dirty = True
        await persist_new(store, blob)
    _register(store, blob, options.parent_id)
    return blob


def _register(store: StoreState, blob: BlobState, parent_id: BlobId | None) -> None:
    """Take a new blob into the store, open."""
    store.used_ids[blob.root] = True
    if parent_id is not None:
        store.clones.add(parent_id, blob.blob_id)
    link(store, blob, None if parent_id is None else store.open_blobs[parent_id])
    blob.open_count = 1


async def _claim_clusters(store: StoreState, blob: BlobState, count: int) -> list[int]:
    """Claim a thick blob's clusters; release the root page when that fails."""
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
        extent_pages=SparsePages(leaves) if options.extent_table else None,
        clusters=ExtentMap(options.cluster_count),
    )
    if options.parent_id is not None or options.external_id is not None:
        blob.set_parent(options.parent_id, options.external_id)
    return blob


async def _check_pages(store: StoreState, blob: BlobState, claimed: int) -> int:
    """Refuse a blob whose pages are not there; return how many. Only its root may take page 0.

    Where just that page is missing, and on its way back, it is waited for.
    """
    if blob.extent_pages is None:
        pairs, extent_pages = max(1, claimed), 0
    else:
        extent_pages = ceil_div(claimed, LEAF_SIZE)
        pairs = max(1, extent_pages)
    wanted = extent_pages + blob.chain_pages_bound(store.layout, pairs)
    await give_space(store, store.reservations.total + wanted)
    if wanted <= spare_pages(store):
        return wanted
    if wanted - 1 <= spare_pages(store) and not store.used_ids[0]:
        while store.pages.used[0] and store.pages.pending_count:
            await store.flush_device()
        if not store.pages.used[0]:
            return wanted
    raise store.pages.exhausted(wanted)
