"""Opening blobs with the snapshots below them, and letting go of them."""

from typing import Final

from blobstore.alloc.cluster_map import LEAF_SIZE
from blobstore.errors import BlobstoreError, CorruptError, DeviceError, NotFoundError
from blobstore.format.descriptors import HAS_INTERNAL_XATTRS
from blobstore.format.geometry import Geometry, root_of
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.bulk import BulkReader
from blobstore.metadata.outcome import begin_change
from blobstore.metadata.persist import persist
from blobstore.metadata.read import Revisits, check_flags
from blobstore.metadata.space import mark_owned
from blobstore.metadata.store_state import StoreState
from blobstore.units import BlobId, PageIndex

_EINVAL: Final = 22


class Sweep:
    """What stays known while all blobs of a store are opened, one after the other.

    `failures` are blobs that did not open, with the one that is to blame and why:
    what has one of them below it does not, either, until something changes.
    `revisits` bounds how often pages are read again.
    """

    __slots__ = ("_change_count", "failures", "revisits")

    def __init__(self, geometry: Geometry) -> None:
        self.failures: dict[BlobId, tuple[BlobId, BlobstoreError]] = {}
        self.revisits = Revisits(geometry)
        self._change_count = 0

    def forget_if_changed(self, store: StoreState) -> None:
        """Forget failures when there was a change of the store since."""
        if store.change_count != self._change_count:
            self._change_count = store.change_count
            self.failures.clear()


def reader_of(store: StoreState) -> BulkReader:
    """Return a reader for as long as the caller holds the mutex."""
    return BulkReader(store.geometry, store.outcome.restored)


async def open_blob(store: StoreState, blob_id: BlobId, sweep: Sweep | None = None) -> BlobState:
    """Open a blob, and the snapshots below it; opening it again counts.

    Who opens all blobs, one after the other, has a `sweep` for them.

    Raises:
        NotFoundError: There is no such blob, or its parent is missing (ENOENT).
        CorruptError: It cannot be read.
    """
    async with store.mutex:
        store.check_open()
        blob = await open_chain(store, blob_id, sweep=sweep)
        blob.clusters.unfold()
        blob.open_count += 1
        return blob


async def open_chain(
    store: StoreState,
    blob_id: BlobId,
    *,
    reader: BulkReader | None = None,
    sweep: Sweep | None = None,
) -> BlobState:
    """Read the blob and its ancestors as far as they are not open yet; the caller holds the mutex.

    Who does not count itself as a user lets go of the blob again. A `reader`
    keeps pages, and is good for as long as the mutex is held.
    """
    found = store.open_blobs.get(blob_id)
    if found is not None:
        return found
    reader = reader or reader_of(store)
    if sweep is not None:
        sweep.forget_if_changed(store)
    revisits = None if sweep is None else sweep.revisits
    is_settled = not store.errors and not store.outcome.changed
    opened: dict[BlobId, BlobState] = {}
    wanted: BlobId | None = blob_id
    try:
        while wanted is not None and wanted not in store.open_blobs:
            if wanted in opened:
                raise CorruptError(f"blob {wanted:#x}: is its own ancestor", errno=_EINVAL)
            if sweep is not None and wanted in sweep.failures:
                wanted, known = sweep.failures[wanted]
                raise known.anew()
            blob = None
            if is_settled or is_as_on_device(store, wanted):
                blob = reader.read_plain(wanted, revisits)
            if blob is None or not store.used_ids[blob.root]:
                blob = await _read_known(store, wanted, reader, revisits)
            refused = None if is_small(blob) else _own(store, blob, opened)
            if refused is not None:
                wanted, problem = refused
                raise problem
            opened[wanted] = blob
            wanted = blob.parent_id
        refused = _own_small_ones(store, opened)
        if refused is not None:
            wanted, problem = refused
            raise problem
    except BlobstoreError as error:
        assert wanted is not None
        for blob in opened.values():
            _disown(store, blob)
        if sweep is not None and not isinstance(error, DeviceError):
            failure = wanted, error.anew()
            sweep.failures.update(dict.fromkeys([*opened, wanted], failure))
        if isinstance(error, NotFoundError) and wanted != blob_id:
            raise _without_ancestor(blob_id, error) from error
        raise
    parent = None if wanted is None else store.open_blobs[wanted]
    for blob in reversed(opened.values()):
        link(store, blob, parent)
        parent = blob
    return opened[blob_id]


def is_as_on_device(store: StoreState, blob_id: BlobId) -> bool:
    """Tell whether the blob is there, closed, and as its root says.

    Then there is nothing to check of one that owns nothing beside its root.
    """
    return (
        blob_id not in store.open_blobs
        and blob_id not in store.errors
        and not store.outcome.changed
        and store.geometry.names_root(blob_id)
        and bool(store.used_ids[root_of(blob_id)])
    )


def _without_ancestor(blob_id: BlobId, error: NotFoundError) -> NotFoundError:
    message = f"blob {blob_id:#x}: its parent or another ancestor is missing: {error.message}"
    return NotFoundError(message, errno=error.errno)


async def read_checked(store: StoreState, blob_id: BlobId) -> BlobState:
    """Read a blob that is not open, as loading left it; the caller holds the mutex.

    Raises:
        NotFoundError, CorruptError: As `open_blob`.
    """
    blob = await _read_known(store, blob_id, reader_of(store), None)
    problem = _problem_of(store, blob, blob.clusters.allocated())
    if problem:
        _distrust(store, problem)
    return blob


async def _read_known(
    store: StoreState, blob_id: BlobId, reader: BulkReader, revisits: Revisits | None
) -> BlobState:
    """Read a blob that is not open, whoever owns what it names."""
    known = store.errors.get(blob_id)
    if known is not None:
        raise known.anew()
    if not store.geometry.names_root(blob_id) or not store.used_ids[root_of(blob_id)]:
        raise NotFoundError(f"blob {blob_id:#x}: no such blob")
    for changed in store.outcome.changed:
        if changed.blob_id == blob_id:
            return changed
    blob = await reader.read(blob_id, revisits)
    check_flags(blob)
    _check_relations(store, blob)
    return blob


def _check_relations(store: StoreState, blob: BlobState) -> None:
    """Refuse relations that loading a clean store did not see: no flag announces them."""
    announced = blob.flags.invalid & HAS_INTERNAL_XATTRS
    if announced or store.was_recovered or not blob.internal_xattrs:
        return
    _distrust(store, f"blob {blob.blob_id:#x}: internal attributes without the flag for them")


def _own(
    store: StoreState, blob: BlobState, opened: dict[BlobId, BlobState]
) -> tuple[BlobId, BlobstoreError] | None:
    """Note that an open blob owns the clusters, or return whom to refuse and why.

    `opened` are those above it, in order. Where one of them shares a cluster with
    the blob, it is the one to refuse: a clone owns what it does not read from below.
    It is taken out, with all that follow it.
    """
    clusters = blob.clusters.allocated()
    problem = _problem_of(store, blob, clusters)
    if problem:
        sharing = _nearest_that_shares(clusters, opened)
        refused = blob.blob_id if sharing is None else sharing
        try:
            _distrust(store, problem.replace(f"{blob.blob_id:#x}", f"{refused:#x}"))
        except CorruptError as error:
            for above in reversed(list(opened) if sharing is not None else []):
                _disown(store, opened.pop(above))
                if above == sharing:
                    break
            return refused, error
    if clusters:
        mark_owned(store, clusters)
    return None


def is_small(blob: BlobState) -> bool:
    """Tell whether the blob has no more than one leaf: all of these are compared at once.

    What their maps take is bounded by their metadata; those of others are compared
    before the next one is read.
    """
    return blob.clusters.count <= LEAF_SIZE


def _own_small_ones(
    store: StoreState, opened: dict[BlobId, BlobState]
) -> tuple[BlobId, BlobstoreError] | None:
    """Do what `_own` does for all small ones; at once where nothing is wrong.

    Otherwise all are looked at again in their order, so that the right one is refused.
    """
    clusters: list[int] = []
    pages: list[PageIndex] = []
    for blob in opened.values():
        if is_small(blob):
            clusters += blob.clusters.allocated()
            pages += blob.metadata_pages
    if store.poison is not None or (are_nobodys(store, clusters) and _are_own_pages(store, pages)):
        if clusters:
            mark_owned(store, clusters)
        return None
    for blob in opened.values():
        if not is_small(blob):
            _disown(store, blob)
    blobs = list(opened.values())
    opened.clear()
    for blob in blobs:
        refused = _own(store, blob, opened)
        if refused is not None:
            return refused
        opened[blob.blob_id] = blob
    return None


def _nearest_that_shares(clusters: list[int], opened: dict[BlobId, BlobState]) -> BlobId | None:
    """Return the last of the opened blobs that owns one of these clusters too."""
    wanted = set(clusters)
    for blob_id, blob in reversed(opened.items()):
        if not wanted.isdisjoint(blob.clusters.allocated()):
            return blob_id
    return None


def _problem_of(store: StoreState, blob: BlobState, clusters: list[int]) -> str | None:
    """Compare the blob's clusters with the masks, and with the other open blobs.

    A clean store's masks are believed. Where they are wrong, nothing may be
    allocated any more. On a poisoned store memory lags behind the device, and
    nothing is allocated anyway.
    """
    if store.poison is not None:
        return None
    if not are_nobodys(store, clusters):
        what = "a cluster that is marked free, or another place's"
    elif not _are_own_pages(store, blob.metadata_pages):
        what = "a metadata page that is marked free, or another place's"
    else:
        return None
    return f"blob {blob.blob_id:#x}: owns {what}"


def are_nobodys(store: StoreState, clusters: list[int]) -> bool:
    """Tell whether the clusters are marked used, no open blob owns one, and none is there twice."""
    return not clusters or (
        store.clusters.used[clusters].all()
        and not store.owned_clusters[clusters].any()
        and len(set(clusters)) == len(clusters)
    )


def _are_own_pages(store: StoreState, pages: list[PageIndex]) -> bool:
    """Tell whether the pages are marked used, and none is there twice."""
    return not pages or (store.pages.used[pages].all() and len(set(pages)) == len(pages))


def _distrust(store: StoreState, message: str) -> None:
    """Make the store read-only, and refuse the blob, unless the caller forced the store open."""
    store.refuse_changes(message)
    if not store.forced:
        raise CorruptError(message, errno=_EINVAL)


def link(store: StoreState, blob: BlobState, parent: BlobState | None) -> None:
    """Take a blob into the store, above its parent, which is open."""
    blob.parent = parent
    if blob.has_external_parent and blob.external_id is not None:
        blob.external = store.externals.get(blob.external_id)
    if parent is not None:
        parent.pin_count += 1
    store.open_blobs[blob.blob_id] = blob


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
    disowned: list[int] = []
    while child is not None and child.open_count == 0 and child.pin_count == 0:
        disowned += child.clusters.allocated()
        del store.open_blobs[child.blob_id]
        store.reservations.clear(child.blob_id)
        parent = child.parent
        child.parent = None
        if parent is not None:
            parent.pin_count -= 1
        child = parent
    store.owned_clusters[disowned] = False


def _disown(store: StoreState, blob: BlobState) -> None:
    if blob.clusters.allocated_count:
        store.owned_clusters[blob.clusters.allocated()] = False
