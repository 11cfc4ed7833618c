"""Operations that a blob undergoes alone, and writers that wait for them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from blobstore.errors import BusyError
from blobstore.locks import fire_all, park
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.store_state import StoreState
from blobstore.units import BlobId


@contextmanager
def exclusive(store: StoreState, *blob_ids: BlobId, what: str) -> Iterator[None]:
    """Let one operation that changes what a blob is run at a time.

    Raises:
        BusyError: One of the blobs is under another such operation; the caller does not wait.
    """
    different = set(blob_ids)  # a blob that says it is its own clone is named twice
    for blob_id in different:
        refuse_busy(store, blob_id)
    for blob_id in different:
        store.exclusive[blob_id] = what
    try:
        yield
    finally:
        for blob_id in different:
            del store.exclusive[blob_id]


def refuse_busy(store: StoreState, blob_id: BlobId) -> None:
    """Raise `BusyError` when the blob is under an operation that it undergoes alone."""
    if blob_id in store.exclusive:
        raise BusyError(f"blob {blob_id:#x}: under {store.exclusive[blob_id]}")


@asynccontextmanager
async def frozen(store: StoreState, blob: BlobState) -> AsyncIterator[None]:
    """Hold up the blob's writers: none is in flight inside, and new ones wait. Readers go on."""
    blob.frozen_count += 1
    try:
        await store.epochs.grace_period()
        yield
    finally:
        blob.frozen_count -= 1
        if not blob.frozen_count:
            fire_all(store.thawing)


async def wait_until_thawed(store: StoreState, blob: BlobState) -> None:
    """Wait, out of flight, until nothing freezes the blob."""
    while blob.frozen_count:
        await park(store.thawing)
