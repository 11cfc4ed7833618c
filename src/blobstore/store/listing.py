"""Going through all blobs of a store, whatever is wrong with some."""

from typing import Final, TypeAlias

from blobstore.errors import BlobstoreError
from blobstore.format.geometry import root_of
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.bulk import BulkReader
from blobstore.metadata.load import known_ids
from blobstore.metadata.store_state import StoreState
from blobstore.metadata.survey import NO_PARENT, Bare
from blobstore.store.describe import BlobInfo, describe_bare, describe_blob
from blobstore.store.opening import Sweep, is_as_on_device, let_go, open_blob, open_chain
from blobstore.units import BlobId

_DESCRIBED_AT_ONCE: Final = 256
_NUMBERS_AT_ONCE: Final = 1 << 16
"""About as many extents and extent pages in descriptions are held at a time."""

Described: TypeAlias = list[tuple[BlobId, BlobInfo | BlobstoreError]]


class Listing:
    """The blobs of a store in the order of their ids, each seen once.

    Snapshots with clones stay open until it is closed: a chain, however deep, is
    read once. Blobs that come while this is under way are not among them.
    """

    def __init__(self, store: StoreState) -> None:
        store.check_open()
        self._store = store
        self._ids = known_ids(store)
        self._next = 0
        self._sweep = Sweep(store.geometry)
        self._held: dict[BlobId, BlobState] = {}
        self._sound = {BlobId(NO_PARENT)}

    async def describe(self) -> Described:
        """Return what the next blobs are, or why they do not open; nothing at the end."""
        store = self._store
        ids = self._ids[self._next : self._next + _DESCRIBED_AT_ONCE]
        described: Described = []
        numbers_left = _NUMBERS_AT_ONCE
        async with store.mutex:
            store.check_open()
            near = root_of(ids[0]) if ids else None
            reader = BulkReader(store.geometry, store.outcome.restored, near=near)
            for blob_id in ids:
                info = await self._describe(blob_id, reader)
                described.append((blob_id, info))
                self._next += 1
                if isinstance(info, BlobInfo):
                    numbers_left -= len(info.extents) + len(info.extent_pages)
                if numbers_left < 0:
                    break
        return described

    async def _describe(self, blob_id: BlobId, reader: BulkReader) -> BlobInfo | BlobstoreError:
        bare = await self._bare(blob_id, reader)
        if bare is not None:
            xattrs = reader.xattrs(blob_id)
            if bare.parent in self._sound or await self._stands_on(bare, blob_id, reader):
                self._sound.add(blob_id)
                return describe_bare(self._store, blob_id, bare, xattrs)
        blob = await self._open_and_hold(blob_id, reader)
        if isinstance(blob, BlobstoreError):
            return blob
        info = describe_blob(self._store, blob)
        let_go(self._store, blob)
        return info

    async def _bare(self, blob_id: BlobId, reader: BulkReader) -> Bare | None:
        return await reader.bare(blob_id) if is_as_on_device(self._store, blob_id) else None

    async def _stands_on(self, bare: Bare, blob_id: BlobId, reader: BulkReader) -> bool:
        """Tell whether all that is below a bare blob opens; what is not bare is opened for it."""
        passed = {blob_id}
        wanted = BlobId(bare.parent)
        while wanted not in self._sound and wanted not in self._store.open_blobs:
            if wanted in passed or wanted in self._sweep.failures:
                return False
            below = await self._bare(wanted, reader)
            if below is None:
                blob = await self._open_and_hold(wanted, reader)
                if isinstance(blob, BlobstoreError):
                    return False
                self._hold(blob)
                break
            passed.add(wanted)
            wanted = BlobId(below.parent)
        self._sound |= passed
        return True

    async def _open_and_hold(
        self, blob_id: BlobId, reader: BulkReader
    ) -> BlobState | BlobstoreError:
        """Open a blob; it and its parent are kept open if others will want them."""
        try:
            blob = await open_chain(self._store, blob_id, reader=reader, sweep=self._sweep)
        except BlobstoreError as error:
            return error.anew()
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
            return blob_id, error.anew()
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
