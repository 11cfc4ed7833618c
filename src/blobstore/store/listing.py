"""Going through all blobs of a store, whatever is wrong with some."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

from bitarray import bitarray

from blobstore.errors import BlobstoreError
from blobstore.format.geometry import root_of
from blobstore.metadata.blob_state import ABSENT_PAGE, BlobState
from blobstore.metadata.bulk import BulkReader, may_read
from blobstore.metadata.load import known_ids
from blobstore.metadata.store_state import StoreState
from blobstore.metadata.survey import NO_LEAF, NO_PARENT, PlainRoot
from blobstore.store.describe import BlobInfo, describe_blob, describe_plain, numbers_in_plain
from blobstore.store.opening import (
    WRONG_CLUSTER,
    Sweep,
    are_nobodys,
    distrusted,
    is_as_on_device,
    let_go,
    open_blob,
    open_chain,
)
from blobstore.units import BlobId

_DESCRIBED_AT_ONCE: Final = 256
_NUMBERS_AT_ONCE: Final = 1 << 16
"""About as many extents and extent pages in descriptions are held at a time."""

Described: TypeAlias = list[tuple[BlobId, BlobInfo | BlobstoreError]]


class Listing:
    """The blobs of a store in the order of their ids, each seen once.

    A plain blob is not opened: it is `sound` if all below it is, and none of them
    shares a cluster with another. What is not so is opened, and snapshots with clones
    then stay open until the end: a chain, however deep, is read once. Blobs that come
    while this is under way are not among them.
    """

    def __init__(self, store: StoreState) -> None:
        store.check_open()
        self._store = store
        self._ids = known_ids(store)
        self._next = 0
        self._sweep = Sweep(store.geometry, keeps_device_errors=True)
        self._held: dict[BlobId, BlobState] = {}
        self._reader = BulkReader(store.geometry, {})
        self._sound: set[int] = set()
        self._taken = bitarray()
        self._change_count = -1

    async def describe(self) -> Described:
        """Return what the next blobs are, or why they do not open; nothing at the end."""
        store = self._store
        ids = self._ids[self._next : self._next + _DESCRIBED_AT_ONCE]
        described: Described = []
        numbers_left = _NUMBERS_AT_ONCE
        async with store.mutex:
            store.check_open()
            self._forget_if_changed()
            self._sweep.forget_if_changed(store)
            while len(described) < len(ids) and numbers_left >= 0:
                for blob_id, info in await self._describe_some(ids[len(described) :], numbers_left):
                    described.append((blob_id, info))
                    if isinstance(info, BlobInfo):
                        numbers_left -= len(info.extents) + len(info.extent_pages)
            self._sweep.forget_device_errors()
        return described

    async def _describe_some(self, ids: Sequence[BlobId], most_numbers: int) -> Described:
        """Return what the first of these blobs are: plain ones together, any other by itself.

        Where two of them share a cluster, each is looked at by itself.
        """
        ahead = self._plain_ahead(ids, most_numbers)
        described: Described
        if ahead and self._take_together(ahead):
            described = [
                (blob_id, self._describe_plain(blob_id, ahead[blob_id])) for blob_id in ahead
            ]
        else:
            described = [(blob_id, await self._describe(blob_id)) for blob_id in ahead or ids[:1]]
        self._next += len(described)
        return described

    def _plain_ahead(self, ids: Sequence[BlobId], most_numbers: int) -> dict[BlobId, PlainRoot]:
        """Return the first of these blobs as long as they are plain, seen, and above sound ones.

        They are sound too if none of them shares a cluster. No more are returned than can be
        described with so many numbers.
        """
        store, reader, sound = self._store, self._reader, self._sound
        found: dict[BlobId, PlainRoot] = {}
        for blob_id in ids:
            plain = reader.seen(blob_id) if is_as_on_device(store, blob_id) else None
            if plain is None or not may_read(plain, blob_id, self._sweep.revisits):
                break
            stands = plain.parent in sound or plain.parent in found or blob_id in sound
            most_numbers -= numbers_in_plain(plain)
            if not stands or most_numbers < 0:
                break
            found[blob_id] = plain
        return found

    def _take_together(self, found: Mapping[BlobId, PlainRoot]) -> bool:
        """Note that these blobs are sound, if they share nothing; else note nothing."""
        store = self._store
        fresh = [plain for blob_id, plain in found.items() if blob_id not in self._sound]
        clusters = self._reader.clusters(fresh)
        pages = [plain.page for plain in fresh if plain.page != ABSENT_PAGE]
        is_free = store.pages.used[pages].all() and are_nobodys(store, clusters)
        if store.is_sceptical and not is_free:
            return False
        return self._take_if_unshared(found, clusters)

    def _forget_if_changed(self) -> None:
        """Begin anew with what was read, and is sound, when the store was changed since."""
        store = self._store
        if store.change_count != self._change_count:
            self._change_count = store.change_count
            near = root_of(self._ids[self._next]) if self._next < len(self._ids) else None
            self._reader = BulkReader(store.geometry, store.outcome.restored, near=near)
            self._sound = {NO_PARENT}
            self._taken = bitarray(len(store.owned_clusters), endian="little")

    async def _describe(self, blob_id: BlobId) -> BlobInfo | BlobstoreError:
        reader = self._reader
        known = self._sweep.known_failure(blob_id)
        if known is not None:
            return known
        plain = await self._plain(blob_id, reader)
        if plain is not None and not self._is_sound(blob_id, plain, reader):
            is_sound = await self._stands_on(plain, blob_id, reader)
            plain = await self._plain(blob_id, reader) if is_sound else None
        if plain is not None:
            return self._describe_plain(blob_id, plain)
        blob = await self._open_and_hold(blob_id, reader)
        if isinstance(blob, BlobstoreError):
            return blob
        info = describe_blob(self._store, blob)
        let_go(self._store, blob)
        return info

    def _describe_plain(self, blob_id: BlobId, plain: PlainRoot) -> BlobInfo:
        reader = self._reader
        extents = None if plain.leaf_start == NO_LEAF else reader.extents(plain)
        return describe_plain(self._store, blob_id, plain, reader.xattrs(plain), extents)

    async def _plain(self, blob_id: BlobId, reader: BulkReader) -> PlainRoot | None:
        """Return what the root of a closed, plain blob says, unless too many share its page."""
        if not is_as_on_device(self._store, blob_id):
            return None
        plain = await reader.plain(blob_id)
        if plain is None or not may_read(plain, blob_id, self._sweep.revisits):
            return None
        return plain

    def _is_sound(self, blob_id: BlobId, plain: PlainRoot, reader: BulkReader) -> bool:
        """Tell whether the blob is known to be sound, or its parent is and it is too."""
        if blob_id in self._sound:
            return True
        if plain.parent not in self._sound:
            return False
        clusters = self._free_clusters(plain, reader)
        return clusters is not None and self._take([blob_id], clusters)

    async def _stands_on(self, plain: PlainRoot, blob_id: BlobId, reader: BulkReader) -> bool:
        """Tell whether a plain blob and all below it are sound; what is not plain is opened."""
        passed: dict[int, None] = {}
        clusters: list[int] = []
        at, found = blob_id, plain
        while True:
            owned = self._free_clusters(found, reader)
            if owned is None:
                return False
            passed[at] = None
            clusters += owned
            at = BlobId(found.parent)
            if at in self._sound or at in self._store.open_blobs:
                return self._take(passed, clusters)
            if at in passed or at in self._sweep.failures:
                return False
            below = await self._plain(at, reader)
            if below is None:
                blob = await self._open_and_hold(at, reader)
                if isinstance(blob, BlobstoreError):
                    return False
                self._hold(blob)
                is_free = not self._store.is_sceptical or are_nobodys(self._store, clusters)
                return is_free and self._take(passed, clusters)
            found = below

    def _free_clusters(self, plain: PlainRoot, reader: BulkReader) -> list[int] | None:
        """Return the clusters of a plain blob, or None if they or its page cannot be its own."""
        store = self._store
        clusters = reader.clusters([plain])
        if not store.is_sceptical:
            return clusters
        if plain.page != ABSENT_PAGE and not store.pages.used[plain.page]:
            return None
        return clusters if are_nobodys(store, clusters) else None

    def _take(self, blob_ids: Iterable[int], clusters: list[int]) -> bool:
        """Note that these blobs are sound, if they share nothing with others or each other.

        Otherwise nothing may be changed any more, whoever of them can be opened.
        """
        is_right = self._take_if_unshared(blob_ids, clusters)
        if not is_right:
            distrusted(self._store, BlobId(next(iter(blob_ids))), WRONG_CLUSTER)
        return is_right

    def _take_if_unshared(self, blob_ids: Iterable[int], clusters: list[int]) -> bool:
        if clusters:
            if self._taken[clusters].any() or len(set(clusters)) != len(clusters):
                return False
            self._taken[clusters] = True
        self._sound.update(blob_ids)
        return True

    async def _open_and_hold(
        self, blob_id: BlobId, reader: BulkReader
    ) -> BlobState | BlobstoreError:
        """Open a blob; it and its parent are kept open if others will want them."""
        try:
            blob = await open_chain(self._store, blob_id, reader=reader, sweep=self._sweep)
        except BlobstoreError as error:
            return error.without_traceback()
        self._hold_parents(blob)
        return blob

    async def open(self) -> tuple[BlobId, BlobState | BlobstoreError] | None:
        """Open the next blob, or say why it does not open; None at the end."""
        self._store.check_open()
        if self._next == len(self._ids):
            return None
        blob_id = self._ids[self._next]
        self._next += 1
        try:
            blob = await open_blob(self._store, blob_id, self._sweep)
        except BlobstoreError as error:
            self._sweep.forget_device_errors()
            return blob_id, error.without_traceback()
        self._hold_parents(blob)
        return blob_id, blob

    def _hold_parents(self, blob: BlobState) -> None:
        """Keep the blob open if it has clones, and its parent."""
        if blob.parent is not None:
            self._hold(blob.parent)
        if self._store.clones.of(blob.blob_id):
            self._hold(blob)

    def _hold(self, blob: BlobState) -> None:
        if blob.blob_id not in self._held:
            self._held[blob.blob_id] = blob
            blob.open_count += 1

    async def close(self) -> None:
        """Let go of all that was kept open."""
        held, self._held = self._held, {}
        for blob in held.values():
            blob.open_count -= 1
            let_go(self._store, blob)
