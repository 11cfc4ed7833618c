"""Access to internals below the public API, for tests that must inspect or change them."""

from blobstore.api.blob import Blob
from blobstore.api.blobstore import Blobstore
from blobstore.api.session import Session
from blobstore.api.store_handle import device_below
from blobstore.device.base import Device
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.store_state import StoreState


def session_of(store: Blobstore) -> Session:
    """Return what the store and its blobs share; its `run` runs a coroutine of the core."""
    return store._session


def store_of(blob: Blob) -> Blobstore:
    """Return the store that the blob lies in."""
    return Blobstore(blob._session)


def core_of(store: Blobstore) -> StoreState:
    """Return the store as the core works on it."""
    return store._session.core


def device_of(store: Blobstore) -> Device:
    """Return the device that the store lives on."""
    return device_below(store)


def state_of(blob: Blob) -> BlobState:
    """Return the blob as the core works on it."""
    return blob._state


def abandon(store: Blobstore) -> None:
    """Let the store be, as a crash does: nothing more reaches the device, which stays open."""
    store._session.abandon()
