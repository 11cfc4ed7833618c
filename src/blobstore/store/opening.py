"""Opening blobs with the snapshots below them, and letting go of them."""

from array import array
from collections.abc import Iterable, Sequence
from itertools import dropwhile
from typing import Final

import numpy as np

from blobstore.alloc.cluster_map import ClusterMap, are_all_set, drop_all, mark_all, take_all
from blobstore.alloc.leaves import LEAF_SIZE, UNALLOCATED
from blobstore.alloc.packed_map import PackedMap
from blobstore.errors import BlobstoreError, CorruptError, DeviceError, NotFoundError
from blobstore.format.descriptors import HAS_INTERNAL_XATTRS
from blobstore.format.geometry import Geometry, root_of
from blobstore.metadata.blob_state import BlobState, PlainState
from blobstore.metadata.bulk import BulkReader
from blobstore.metadata.columns import ENTRY
from blobstore.metadata.outcome import begin_change
from blobstore.metadata.persist import persist
from blobstore.metadata.read import Revisits, check_flags
from blobstore.metadata.store_state import StoreState
from blobstore.units import BlobId, PageIndex

_EINVAL: Final = 22
_PIECE: Final = 1 << 14
WRONG_CLUSTER: Final = "owns a cluster that is marked free, or another place's"
_WRONG_PAGE: Final = "owns a metadata page that is marked free, or another place's"


class Sweep:
    """What stays known while all blobs of a store are opened, one after the other.

    `failures` are blobs that did not open, with the one that is to blame and why:
    what has one of them below it does not, either, until something changes.
    `revisits` bounds how often pages are read again. Errors of the device are kept
    only for who says so, and until it says that they are to be forgotten.
    """

    __slots__ = ("_change_count", "_passing", "failures", "keeps_device_errors", "revisits")

    def __init__(self, geometry: Geometry, *, keeps_device_errors: bool = False) -> None:
        self.keeps_device_errors = keeps_device_errors
        self._passing: set[BlobId] = set()
        self.failures: dict[BlobId, tuple[BlobId, BlobstoreError]] = {}
        self.revisits = Revisits(geometry)
        self._change_count = 0

    def note(self, blob_ids: Iterable[BlobId], to_blame: BlobId, error: BlobstoreError) -> None:
        """Remember that these blobs did not open, unless the device may do so next time."""
        failure = to_blame, error.without_traceback()
        if isinstance(error, DeviceError):
            if not self.keeps_device_errors:
                return
            self._passing.update(blob_ids)
        self.failures.update(dict.fromkeys(blob_ids, failure))

    def known_failure(self, blob_id: BlobId) -> BlobstoreError | None:
        """Return why a blob does not open, if that is known and does not name who is asked."""
        _to_blame, error = self.failures.get(blob_id, (None, None))
        return (
            None if error is None or isinstance(error, NotFoundError) else error.without_traceback()
        )

    def forget_device_errors(self) -> None:
        """Give blobs that failed with their device another chance."""
        for blob_id in self._passing:
            self.failures.pop(blob_id, None)
        self._passing.clear()

    def forget_if_changed(self, store: StoreState) -> None:
        """Forget failures when there was a change of the store since."""
        if store.change_count != self._change_count:
            self._change_count = store.change_count
            self.failures.clear()


def reader_of(store: StoreState) -> BulkReader:
    """Return a reader that is good for as long as the caller holds the mutex."""
    return BulkReader(store.geometry, store.outcome.restored)


async def open_blob(store: StoreState, blob_id: BlobId, sweep: Sweep | None = None) -> BlobState:
    """Open a blob, and the snapshots below it; opening it again counts.

    Who opens all blobs, one after the other, has a `sweep` for them.

    Raises:
        NotFoundError: There is no such blob, or its parent is missing (ENOENT).
        CorruptError: It cannot be read.
    """
    async with store.mutex:
        return await open_blob_locked(store, blob_id, sweep)


async def open_blob_locked(
    store: StoreState, blob_id: BlobId, sweep: Sweep | None = None
) -> BlobState:
    """Open a blob as `open_blob` does; the caller holds the mutex."""
    store.check_open()
    blob = await open_chain(store, blob_id, sweep=sweep)
    blob.clusters.unfold()
    blob.unpack_attributes()
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
    keeps pages, and is good until something changes.
    """
    found = store.open_blobs.get(blob_id)
    if found is not None:
        return found
    if sweep is not None:
        sweep.forget_if_changed(store)
    chain = _Chain(store, reader or reader_of(store), sweep)
    try:
        parent = await chain.read(blob_id)
    except BaseException as error:
        _disown(store, chain.owners)
        if sweep is not None and isinstance(error, BlobstoreError):
            sweep.note([*chain.blobs, chain.at], chain.at, error)
        if isinstance(error, NotFoundError) and chain.at != blob_id:
            raise _without_ancestor(blob_id, error) from error
        raise
    _link_all(store, chain.owned(), parent)
    return store.open_blobs[blob_id]


class _Chain:
    """A blob and its ancestors while they are read, from the top: in order, but not linked yet.

    Of `blobs` that all together claim more clusters than there are, those with more than
    one leaf are forgotten, and read again on the way up: no more maps are held than
    can be right. `at` is the one that is being looked at, and to blame for an error;
    `owners` are those whose clusters are marked as owned, beside the small ones.
    """

    def __init__(self, store: StoreState, reader: BulkReader, sweep: Sweep | None) -> None:
        self.at = BlobId(0)
        self.blobs: dict[BlobId, BlobState | None] = {}
        self.owners: list[BlobState] = []
        self._store = store
        self._reader = reader
        self._failures = {} if sweep is None else sweep.failures
        self._revisits = None if sweep is None else sweep.revisits
        self._claimed, self._most = 0, store.geometry.data_clusters
        self._small_pages: list[PageIndex] = []
        self._small_entries: list[bytes] = []

    async def read(self, blob_id: BlobId) -> BlobState | None:
        """Read down to the first ancestor that is open, and return that, or None."""
        wanted: BlobId | None = blob_id
        while wanted is not None and wanted not in self._store.open_blobs:
            self.at = wanted
            if wanted in self.blobs:
                self._store.circular.update(dropwhile(wanted.__ne__, self.blobs))
            if wanted in self._store.circular:
                raise CorruptError(f"blob {wanted:#x}: is its own ancestor", errno=_EINVAL)
            if wanted in self._failures:
                self.at, known = self._failures[wanted]
                raise known.without_traceback()
            following = self._take_plain(wanted)
            if wanted not in self.blobs:
                blob = await self._read_known(wanted)
                self._take(blob)
                following = blob.parent_id
            wanted = following
        if not self._own_all():
            await self._raise_conflict()
        return None if wanted is None else self._store.open_blobs[wanted]

    def owned(self) -> list[BlobState]:
        """Return all blobs in order, when they are known to be right."""
        return [blob for blob in self.blobs.values() if blob is not None]

    def _take_plain(self, blob_id: BlobId) -> BlobId | None:
        """Take the blob and its ancestors as long as they are plain; return who is wanted next.

        That can be the blob itself. Who is open or known, or has to be looked at more
        closely, is not taken.
        """
        store, known, failures = self._store, self.blobs, self._failures
        is_settled = not store.errors and not store.outcome.changed
        wanted = blob_id
        if not is_settled and not is_as_on_device(store, wanted):
            return wanted
        for plain in self._reader.plain_chain(wanted, self._revisits):
            if not store.used_ids[plain.root]:
                break
            self._take(plain)
            if not plain.named_parent:
                return None
            wanted = plain.named_parent
            if wanted in known or wanted in failures or wanted in store.open_blobs:
                break
            if not is_settled and not is_as_on_device(store, wanted):
                break
        return wanted

    def _take(self, blob: BlobState) -> None:
        """Take the next blob; note what a plain one owns, and how much all claim."""
        self.blobs[blob.blob_id] = blob
        clusters = blob.clusters
        if isinstance(blob, PlainState):
            if blob.named_page:
                self._small_pages.append(blob.named_page)
            if isinstance(clusters, PackedMap):
                self._small_entries.append(clusters.packed or _packed(clusters))
        self._claimed += clusters.allocated_count
        if self._claimed > self._most and not is_small(blob) and self._store.is_sceptical:
            self._forget_large()

    async def _read_known(self, blob_id: BlobId) -> BlobState:
        return await _read_known(self._store, blob_id, self._reader, self._revisits)

    def _forget_large(self) -> None:
        for blob_id, blob in reversed(self.blobs.items()):
            if blob is None:
                break
            if not is_small(blob):
                self.blobs[blob_id] = None

    def _own_all(self) -> bool:
        """Own all blobs, small ones at once; return False if something is wrong.

        What plain ones own was noted as they were taken.
        """
        store = self._store
        entries, pages = self._small_entries, self._small_pages
        for blob in self.blobs.values():
            if blob is None:
                return False
            if isinstance(blob, PlainState):
                continue
            if is_small(blob):
                entries.append(_packed(blob.clusters))
                pages += blob.metadata_pages
            elif _own(store, blob, self.owners):
                return False
        if _are_own_pages(store, pages) and _own_entries(store, b"".join(entries)):
            return True
        return not any(_own(store, blob, self.owners) for blob in self.owned() if is_small(blob))

    async def _raise_conflict(self) -> None:
        """Look for whom to refuse: the first that is wrong on the way up.

        Where two in a chain own one cluster, the upper is the one: a clone owns what
        it does not read from below. What is below it is not to blame.
        """
        _disown(self._store, self.owners)
        while self.blobs:
            self.at, blob = self.blobs.popitem()
            problem = _own(self._store, blob or await self._read_known(self.at), self.owners)
            if problem:
                raise distrusted(self._store, self.at, problem)
        raise AssertionError("a conflict that nobody is part of")


def is_as_on_device(store: StoreState, blob_id: BlobId) -> bool:
    """Tell whether the blob is there, closed, and as its metadata on the device says."""
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
    owners: list[BlobState] = []
    problem = _own(store, blob, owners)
    _disown(store, owners)
    if problem:
        raise distrusted(store, blob_id, problem)
    return blob


async def _read_known(
    store: StoreState, blob_id: BlobId, reader: BulkReader, revisits: Revisits | None
) -> BlobState:
    """Read a blob that is not open, whoever owns what it names."""
    known = store.errors.get(blob_id)
    if known is not None:
        raise known.without_traceback()
    if not store.geometry.names_root(blob_id) or not store.used_ids[root_of(blob_id)]:
        raise NotFoundError(f"blob {blob_id:#x}: no such blob")
    changed = store.outcome.changed.get(blob_id)
    if changed is not None:
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
    error = distrusted(store, blob.blob_id, "internal attributes without the flag for them")
    if not store.forced:
        raise error


def _own(store: StoreState, blob: BlobState, owners: list[BlobState]) -> str:
    """Note that an open blob owns the clusters, or return why it cannot.

    A clean store's masks are believed. Where they are wrong, nothing may be
    allocated any more. On a poisoned store memory lags behind the device, and
    nothing is allocated anyway.
    """
    problem = "" if store.poison is not None else _problem_of(store, blob)
    if not problem and take_all(store.owned_clusters, blob.clusters):
        owners.append(blob)
        return ""
    if store.is_sceptical:
        return problem or WRONG_CLUSTER
    mark_all(store.owned_clusters, blob.clusters)
    owners.append(blob)
    return ""


def _problem_of(store: StoreState, blob: BlobState) -> str:
    """Compare what the blob owns with the masks."""
    if not _are_own_pages(store, blob.metadata_pages):
        return _WRONG_PAGE
    return "" if are_all_set(store.clusters.used, blob.clusters) else WRONG_CLUSTER


def is_small(blob: BlobState) -> bool:
    """Tell whether the blob has no more than one leaf: all of these are compared at once.

    What their maps take is bounded by their metadata; those of others are compared
    before the next one is read.
    """
    return blob.clusters.count <= LEAF_SIZE


def are_nobodys(store: StoreState, clusters: list[int]) -> bool:
    """Tell whether the clusters are marked used, no open blob owns one, and none is there twice."""
    return not clusters or (
        store.clusters.used[clusters].all()
        and not store.owned_clusters[clusters].any()
        and len(set(clusters)) == len(clusters)
    )


def _packed(clusters: ClusterMap) -> bytes:
    return array("I", clusters.allocated()).tobytes()


def _own_entries(store: StoreState, packed: bytes) -> bool:
    """Note that open blobs own the clusters, 0 is none; or note nothing, and return False.

    As numbers they take ten times as much memory, so that is done piece by piece.
    """
    entries = np.frombuffer(packed, dtype=ENTRY)
    clusters = entries[entries != UNALLOCATED]
    for at in range(0, len(clusters), _PIECE):
        piece: list[int] = clusters[at : at + _PIECE].tolist()
        if not are_nobodys(store, piece):
            for start in range(0, at, _PIECE):
                store.owned_clusters[clusters[start : start + _PIECE].tolist()] = False
            return False
        store.owned_clusters[piece] = True
    return True


def _are_own_pages(store: StoreState, pages: list[PageIndex]) -> bool:
    """Tell whether the pages are marked used, and none is there twice."""
    return not pages or (store.pages.used[pages].all() and len(set(pages)) == len(pages))


def distrusted(store: StoreState, blob_id: BlobId, problem: str) -> CorruptError:
    """Make the store read-only, unless the caller forced it open; return why."""
    message = f"blob {blob_id:#x}: {problem}"
    store.refuse_changes(message)
    return CorruptError(message, errno=_EINVAL)


def _link_all(store: StoreState, blobs: Sequence[BlobState], parent: BlobState | None) -> None:
    """Take blobs into the store, each above the one that follows it, the last above its parent.

    A plain one has nothing outside of the store, and no leaves to make.
    """
    open_blobs = store.open_blobs
    for blob in reversed(blobs):
        if isinstance(blob, PlainState):
            blob.parent = parent
            if parent is not None:
                parent.pin_count += 1
            open_blobs[blob.blob_id] = blob
        else:
            link(store, blob, parent)
        parent = blob


def link(store: StoreState, blob: BlobState, parent: BlobState | None) -> None:
    """Take a blob into the store, above its parent, which is open."""
    blob.parent = parent
    if blob.has_external_parent and blob.external_id is not None:
        blob.external = store.externals.get(blob.external_id)
    if not is_small(blob):
        blob.clusters.keep_within(store.kept_leaves)
    if parent is not None:
        parent.pin_count += 1
    store.open_blobs[blob.blob_id] = blob


async def close_blob(store: StoreState, blob: BlobState) -> None:
    """Close the blob once; what is dirty becomes durable, whoever else has it open.

    Raises:
        DeviceError: It could not be written; the store is poisoned, the blob closed all the same.
    """
    async with store.mutex:
        if store.is_closed:
            return  # `close_store` has closed all blobs
        blob.open_count -= 1
        try:
            if not blob.open_count:
                # No request begins any more; those that have begun may still claim clusters.
                await store.epochs.grace_period()
            if blob.is_dirty and store.is_writable:
                await begin_change(store)
                await persist(store, blob)
        finally:
            let_go(store, blob)


def close_clean(store: StoreState, blob: BlobState) -> None:
    """Close a blob once that is not dirty; the caller holds the mutex."""
    blob.open_count -= 1
    let_go(store, blob)


def let_go(store: StoreState, blob: BlobState) -> None:
    """Drop a blob that nobody has open, and its ancestors with it."""
    child: BlobState | None = blob
    disowned: list[int] = []
    large: list[BlobState] = []
    while child is not None and child.open_count == 0 and child.pin_count == 0:
        if is_small(child):
            disowned += child.clusters.allocated()
        else:
            large.append(child)
        child.clusters.keep_within(None)
        del store.open_blobs[child.blob_id]
        store.reservations.clear(child.blob_id)
        parent = child.parent
        child.parent = None
        if parent is not None:
            parent.pin_count -= 1
        child = parent
    store.owned_clusters[disowned] = False
    _disown(store, large)


def _disown(store: StoreState, blobs: list[BlobState]) -> None:
    for blob in blobs:
        drop_all(store.owned_clusters, blob.clusters)
    blobs.clear()
