"""Opening and closing of blobs, together with the snapshots below them.

A blob is opened with all its ancestors. An error in an ancestor is an error of opening, never of
a later read. The chain is read from the top down, and no part of the chain becomes visible before
the whole chain is known to be right.

On a clean store the masks alone say that every cluster has one owner, and they do not say which.
So each blob that is read is compared with the masks and with all open blobs. Each place that the
blob owns must be marked used, and no other open blob may own it. `owned_clusters` has a bit for
every cluster of an open blob. After a conflict one blob is refused and the store takes no more
changes, since an allocation might hand out a cluster that the masks do not know of. The refused
blob is chosen from the bottom up: if two blobs of a chain own one cluster, the upper one is
refused. The reason is that a clone owns what it does not read from below, and the lower blob may
be the snapshot of another blob too. For that choice the chain is read a second time. Until then
no more maps are held than own different clusters.
"""

import errno
from collections.abc import Iterable
from itertools import dropwhile
from typing import Final

from bitarray import bitarray

from blobstore.alloc.extent_map import drop_all, mark_all, take_all
from blobstore.errors import BlobstoreError, CorruptError, DeviceError, NotFoundError
from blobstore.format.descriptors import HAS_INTERNAL_XATTRS, KNOWN_INVALID
from blobstore.format.geometry import BLOB_ID_BASE, Geometry
from blobstore.metadata.blob_reader import Revisits, check_flags, read_blob
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.page_reader import KEPT_WINDOW_BYTES, PageReader
from blobstore.metadata.persist import persist
from blobstore.metadata.recovery_plan import begin_change
from blobstore.metadata.store_state import StoreState
from blobstore.units import BlobId

WRONG_CLUSTER: Final = "owns a cluster that is marked free, or that another open blob owns"
_WRONG_PAGE: Final = "owns a metadata page that is marked free, or names one twice"


class OpenCache:
    """What stays known while all blobs of a store are opened, one after the other.

    `failures` are blobs that did not open, with the one that is to blame and why:
    what has one of them below it does not, either, until something changes.
    `revisits` bounds how often pages are read again. Errors of the device are kept
    only where that is asked for, and until they are to be forgotten.
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
        """Return why a blob does not open, if that is known; a missing blob is looked up again.

        What says that something is missing names the blob that was asked for.
        """
        to_blame, error = self.failures.get(blob_id, (None, None))
        if error is None or isinstance(error, NotFoundError):
            return None
        found = error.without_traceback()
        if to_blame is not None and to_blame != blob_id:
            _name_ancestor(to_blame, found)
        return found

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


def reader_of(store: StoreState) -> PageReader:
    """Return a reader that is good for as long as the caller holds the mutex."""
    return PageReader(store.geometry, store.recovery_plan.restored)


def kept_reader_of(store: StoreState) -> PageReader:
    """Return the reader that the last opening left, or a new one.

    The first step of every change drops it. So a caller that has begun a change must not
    take it: what it reads now would still be there after the change.
    """
    reader = store.page_reader
    if reader is None:
        restored = store.recovery_plan.restored
        reader = PageReader(store.geometry, restored, window_bytes=KEPT_WINDOW_BYTES)
        store.page_reader = reader
    return reader


async def open_blob(
    store: StoreState, blob_id: BlobId, cache: OpenCache | None = None
) -> BlobState:
    """Open a blob, and the snapshots below it; opening it again counts.

    A `cache` is for opening all blobs, one after the other.

    Raises:
        NotFoundError: There is no such blob, or its parent is missing (ENOENT).
        CorruptError: It cannot be read.
    """
    async with store.mutex:
        return await open_blob_locked(store, blob_id, cache)


async def open_blob_locked(
    store: StoreState, blob_id: BlobId, cache: OpenCache | None = None
) -> BlobState:
    """Open a blob as `open_blob` does; the caller holds the mutex."""
    store.check_open()
    blob = store.open_blobs.get(blob_id)
    if blob is None:
        blob = await open_chain(store, blob_id, reader=kept_reader_of(store), cache=cache)
    blob.open_count += 1
    return blob


async def open_chain(
    store: StoreState,
    blob_id: BlobId,
    *,
    reader: PageReader | None = None,
    cache: OpenCache | None = None,
) -> BlobState:
    """Read the blob and its ancestors as far as they are not open yet; the caller holds the mutex.

    A caller that does not count itself as a user lets go of the blob again. A `reader`
    keeps pages, and is good until something changes.
    """
    found = store.open_blobs.get(blob_id)
    if found is not None:
        return found
    if cache is not None:
        cache.forget_if_changed(store)
    chain = _Chain(store, reader or reader_of(store), cache)
    try:
        parent = await chain.read(blob_id)
    except BaseException as error:
        _disown(store, chain.blobs)
        if cache is not None and isinstance(error, BlobstoreError):
            cache.note([*chain.ids, chain.at], chain.at, error)
        if isinstance(error, NotFoundError) and chain.at != blob_id:
            raise _without_ancestor(blob_id, error) from error
        if isinstance(error, BlobstoreError) and chain.at != blob_id:
            _name_ancestor(chain.at, error)
        raise
    for blob in reversed(chain.blobs):
        link(store, blob, parent)
        parent = blob
    return chain.blobs[0]


class _Chain:
    """A blob and its ancestors while they are read, from the top: in order, but not linked yet.

    `ids` are all that were read, `blobs` those that are held, each of which owns its clusters.
    `at` is the one that is being looked at, and to blame for an error.
    """

    __slots__ = ("_failures", "_page_count", "_reader", "_revisits", "_store", "at", "blobs", "ids")

    def __init__(self, store: StoreState, reader: PageReader, cache: OpenCache | None) -> None:
        self.at = BlobId(0)
        self.ids: dict[BlobId, None] = {}
        self.blobs: list[BlobState] = []
        self._store = store
        self._page_count = 0
        self._reader = reader
        self._failures = {} if cache is None else cache.failures
        self._revisits = None if cache is None else cache.revisits

    async def read(self, blob_id: BlobId) -> BlobState | None:
        """Read down to the first ancestor that is open, and return that, or None."""
        open_blobs = self._store.open_blobs
        wanted: BlobId | None = blob_id
        is_contested = False
        while wanted is not None and wanted not in open_blobs:
            self.at = wanted
            if wanted in self.ids or wanted in self._failures or self._store.circular:
                self._refuse_known(wanted)
            blob = await _read_known(self._store, wanted, self._reader, self._revisits)
            if self.ids:
                self._count_pages(blob)
                self._refuse_writable(blob)
            self.ids[wanted] = None
            if not is_contested and not _own(self._store, blob):
                self.blobs.append(blob)
            elif not is_contested:
                is_contested = True
                _disown(self._store, self.blobs)
            wanted = blob.parent_id
        if is_contested:
            await self._raise_conflict()
        if wanted is None:
            return None
        self._refuse_writable(open_blobs[wanted])
        return open_blobs[wanted]

    def _count_pages(self, ancestor: BlobState) -> None:
        """Bound how many pages are read: sound blobs have none in common."""
        self._page_count += len(ancestor.metadata_pages)
        if self._page_count > self._store.geometry.md_len:
            raise CorruptError(
                f"blob {self.at:#x}: it and its clones own more metadata pages than there are",
                errno=errno.EINVAL,
            )

    def _refuse_writable(self, parent: BlobState) -> None:
        """Refuse a clone whose parent is no snapshot: the id may have become another blob's."""
        if not parent.data_read_only and self.ids:
            self.at = next(reversed(self.ids))
            raise CorruptError(
                f"blob {self.at:#x}: its parent {parent.blob_id:#x} is not read-only",
                errno=errno.EINVAL,
            )

    def _refuse_known(self, blob_id: BlobId) -> None:
        """Raise what is known to be wrong with a blob before it is read."""
        if blob_id in self.ids:
            self._store.circular.update(dropwhile(blob_id.__ne__, self.ids))
        if blob_id in self._store.circular:
            raise CorruptError(f"blob {blob_id:#x}: is its own ancestor", errno=errno.EINVAL)
        if blob_id in self._failures:
            self.at, known = self._failures[blob_id]
            raise known.without_traceback()

    async def _raise_conflict(self) -> None:
        """Look for the blob to refuse: the first that is wrong on the way up."""
        while self.ids:
            self.at, _none = self.ids.popitem()
            blob = await _read_known(self._store, self.at, self._reader, None)
            problem = _own(self._store, blob)
            if problem == WRONG_CLUSTER:
                problem = self._name_other_owner(blob)
            if problem:
                raise distrusted(self._store, self.at, problem)
            self.blobs.append(blob)
        raise AssertionError("a conflict without a blob that is part of it")

    def _name_other_owner(self, blob: BlobState) -> str:
        """Say which blob owns a cluster of this one too, if that is an open one or an ancestor."""
        clusters = bitarray(len(self._store.owned_clusters), endian="little")
        mark_all(clusters, blob.clusters)
        for other in (*self._store.open_blobs.values(), *self.blobs):
            pieces = other.clusters.allocated_pieces()
            if other.blob_id != blob.blob_id and any(clusters[piece].any() for piece in pieces):
                return f"owns a cluster that blob {other.blob_id:#x} owns too"
        return WRONG_CLUSTER


def _name_ancestor(ancestor: BlobId, error: BlobstoreError) -> None:
    """Name the blob to blame in an error that leaves as that of a blob which reads it."""
    if f"blob {ancestor:#x}" not in error.strerror:
        error.strerror = f"its ancestor blob {ancestor:#x}: {error.strerror}"


def _without_ancestor(blob_id: BlobId, error: NotFoundError) -> NotFoundError:
    message = f"blob {blob_id:#x}: its parent or another ancestor is missing: {error.message}"
    return NotFoundError(message, errno=error.errno)


async def read_checked(store: StoreState, blob_id: BlobId) -> BlobState:
    """Read a blob that is not open, as loading left it; the caller holds the mutex.

    Raises:
        NotFoundError, CorruptError: As `open_blob`.
    """
    blob = await _read_known(store, blob_id, reader_of(store), None)
    problem = _own(store, blob)
    if problem:
        raise distrusted(store, blob_id, problem)
    _disown(store, [blob])
    return blob


async def _read_known(
    store: StoreState, blob_id: BlobId, reader: PageReader, revisits: Revisits | None
) -> BlobState:
    """Read a blob that is not open, whoever owns what it names."""
    if blob_id in store.errors:
        raise store.errors[blob_id].without_traceback()
    geometry = store.geometry
    if not (geometry.names_root(blob_id) and store.used_ids[blob_id - BLOB_ID_BASE]):
        raise NotFoundError(f"blob {blob_id:#x}: no such blob")
    if blob_id in store.recovery_plan.changed:
        return store.recovery_plan.changed[blob_id]
    blob = await read_blob(geometry, blob_id, reader.fetch, revisits)
    if blob.flags.invalid & ~KNOWN_INVALID:
        check_flags(blob)
    if blob.internal_xattrs:
        _check_relations(store, blob)
    return blob


def _check_relations(store: StoreState, blob: BlobState) -> None:
    """Refuse relations that loading a clean store did not see: no flag announces them."""
    if blob.flags.invalid & HAS_INTERNAL_XATTRS or store.was_recovered:
        return
    error = distrusted(store, blob.blob_id, "internal attributes without the flag for them")
    if not store.forced:
        raise error


def _own(store: StoreState, blob: BlobState) -> str:
    """Note that an open blob owns the clusters, or return why it cannot.

    On a poisoned store memory can be older than the device, and nothing is allocated anyway.
    Whoever forced a store open was warned.
    """
    if not store.verifies_ownership:
        mark_all(store.owned_clusters, blob.clusters)
        return ""
    pages = blob.metadata_pages
    if pages and not (store.pages.used[pages].all() and len({*pages}) == len(pages)):
        return _WRONG_PAGE
    if not take_all(store.owned_clusters, blob.clusters, among=store.clusters.used):
        return WRONG_CLUSTER
    return ""


def distrusted(store: StoreState, blob_id: BlobId, problem: str) -> CorruptError:
    """Make the store read-only, unless the caller forced it open; return why."""
    message = f"blob {blob_id:#x}: {problem}"
    store.refuse_changes(message)
    return CorruptError(message, errno=errno.EINVAL)


def link(store: StoreState, blob: BlobState, parent: BlobState | None) -> None:
    """Take a blob into the store, above its parent, which is open."""
    blob.parent = parent
    if blob.internal_xattrs and blob.external_id is not None:
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
    """Drop a blob that no caller has open, and its ancestors with it."""
    child: BlobState | None = blob
    while child is not None and child.open_count == 0 and child.pin_count == 0:
        drop_all(store.owned_clusters, child.clusters)
        del store.open_blobs[child.blob_id]
        store.reservations.clear(child.blob_id)
        parent = child.parent
        child.parent = None
        if parent is not None:
            parent.pin_count -= 1
        child = parent


def _disown(store: StoreState, blobs: list[BlobState]) -> None:
    for blob in blobs:
        drop_all(store.owned_clusters, blob.clusters)
    blobs.clear()
