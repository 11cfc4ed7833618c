"""Going through all blobs of a store, whatever is wrong with some."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from bitarray import bitarray

from blobstore.alloc.extent_map import take_all
from blobstore.errors import BlobstoreError
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.load_store import known_ids
from blobstore.metadata.page_reader import PageReader
from blobstore.metadata.store_state import StoreState
from blobstore.store.describe import BlobInfo, describe_blob
from blobstore.store.names import stored_xattrs
from blobstore.store.open_blobs import (
    WRONG_CLUSTER,
    OpenCache,
    distrusted,
    let_go,
    open_blob,
    open_chain,
    reader_of,
)
from blobstore.units import BlobId

_DESCRIBED_AT_ONCE: Final = 256
_NUMBERS_AT_ONCE: Final = 1 << 16
"""About as many extents and extent pages in descriptions are held at a time."""


class Listing:
    """The blobs of a store in the order of their ids, each opened once.

    Snapshots with clones stay open until the end: a chain, however deep, is read once.
    Blobs that come while this is under way are not among them.
    """

    def __init__(self, store: StoreState) -> None:
        store.check_open()
        self._store = store
        self._ids = known_ids(store)
        self._next = 0
        self._cache = OpenCache(store.geometry, keeps_device_errors=True)
        self._held: dict[BlobId, BlobState] = {}
        self._taken = bitarray()
        self._change_count = -1

    async def describe(self) -> list[BlobInfo]:
        """Return what the next blobs are, or why they do not open; nothing at the end."""
        store = self._store
        ids = self._ids[self._next : self._next + _DESCRIBED_AT_ONCE]
        described: list[BlobInfo] = []
        numbers_left = _NUMBERS_AT_ONCE
        async with store.mutex:
            store.check_open()
            self._forget_if_changed()
            reader = reader_of(store)
            for blob_id in ids:
                info = await self._describe(blob_id, reader)
                described.append(info)
                numbers_left -= len(info.extents) + len(info.extent_pages)
                if numbers_left < 0:
                    break
            self._cache.forget_device_errors()
        self._next += len(described)
        return described

    def _forget_if_changed(self) -> None:
        """Begin again with what was seen when the store was changed since."""
        store = self._store
        self._cache.forget_if_changed(store)
        if store.change_count != self._change_count:
            self._change_count = store.change_count
            self._taken = bitarray(len(store.owned_clusters), endian="little")

    async def _describe(self, blob_id: BlobId, reader: PageReader) -> BlobInfo:
        known = self._cache.known_failure(blob_id)
        if known is not None:
            return await self._unopened(blob_id, known, reader)
        store = self._store
        try:
            blob = await open_chain(store, blob_id, reader=reader, cache=self._cache)
        except BlobstoreError as error:
            return await self._unopened(blob_id, error.without_traceback(), reader)
        self._hold_parents(blob)
        if not take_all(self._taken, blob.clusters) and store.verifies_ownership:
            distrusted(store, blob_id, WRONG_CLUSTER)
        info = describe_blob(store, blob)
        let_go(store, blob)
        return info

    async def _unopened(
        self, blob_id: BlobId, error: BlobstoreError, reader: PageReader
    ) -> BlobInfo:
        """Return the attributes at least: often it is a parent that cannot be read."""
        xattrs: Mapping[str, bytes] | None = None
        with suppress(BlobstoreError):
            xattrs = await stored_xattrs(self._store, blob_id, reader.fetch)
        return BlobInfo.of_unopened(blob_id, error, xattrs or {})

    async def open(self) -> tuple[BlobId, BlobState | BlobstoreError] | None:
        """Open the next blob, or say why it does not open; None at the end."""
        self._store.check_open()
        if self._next == len(self._ids):
            return None
        blob_id = self._ids[self._next]
        self._next += 1
        try:
            blob = await open_blob(self._store, blob_id, self._cache)
        except BlobstoreError as error:
            self._cache.forget_device_errors()
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
