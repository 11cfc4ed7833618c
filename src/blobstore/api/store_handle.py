"""An open store, as far as one step answers: the part that both colours share.

Nothing here waits for a device, so it reads alike in programs that block and under asyncio.
"""

from blobstore.api.session import OpenSession
from blobstore.device.base import Device
from blobstore.errors import BlobstoreError
from blobstore.metadata.load_store import known_ids
from blobstore.store import lifecycle
from blobstore.store.describe import StoreInfo, describe_store
from blobstore.units import BlobId


class StoreHandle:
    """What is known of an open store without waiting."""

    def __init__(self, session: OpenSession) -> None:
        self._session = session
        self._core = session.core

    # What it is

    @property
    def info(self) -> StoreInfo:
        """What the store is now.

        Raises:
            ClosedError: The store was closed.
        """
        return self._session.call(describe_store, self._core)

    @property
    def device_name(self) -> str:
        """The name of the device that the store lives on, such as its path."""
        return self._session.device.name

    @property
    def cluster_size(self) -> int:
        """The size of a cluster in bytes."""
        return self._core.geometry.cluster_size

    @property
    def free_clusters(self) -> int:
        """How many clusters a write can still get."""
        return self._core.free_clusters

    @property
    def closed(self) -> bool:
        """Whether the store was unloaded, closed or destroyed."""
        return self._core.is_closed

    @property
    def read_only(self) -> bool:
        """Whether nothing can be changed: opened so, or a blob is in quarantine."""
        return self._core.read_only

    @property
    def read_only_reason(self) -> str:
        """Why nothing can be changed, such as a blob in quarantine; else empty."""
        return self._core.read_only_reason

    @property
    def errors(self) -> dict[BlobId, BlobstoreError]:
        """The blobs that loading put into quarantine, and why."""
        return {
            blob_id: error.without_traceback().at(store=self.device_name, blob=blob_id)
            for blob_id, error in self._core.errors.items()
        }

    @property
    def super_blob(self) -> BlobId:
        """The application's entry blob; a volume store's has its name and uuid.

        Raises:
            NotFoundError: None is set.
        """
        return self._session.call(lifecycle.get_super_blob, self._core)

    def blob_ids(self) -> list[BlobId]:
        """Return the ids of all blobs, ascending, also of those that cannot be opened.

        Raises:
            ClosedError: The store was closed.
        """
        return self._session.call(known_ids, self._core)

    def used_clusters(self) -> list[tuple[int, int]]:
        """Return the clusters in use as runs of (first, count), ascending.

        These are the metadata region's, those of all blobs, and those that are lost.

        Raises:
            ClosedError: The store was closed.
        """
        return self._session.call(lifecycle.used_clusters, self._core)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.device_name!r}{' closed' if self.closed else ''}>"


def device_below(store: StoreHandle) -> Device:
    """Return the device that an open store lives on, for what looks at the store from below."""
    return store._session.device
