"""The fast lane of devices without a descriptor to read from: direct I/O, memory.

It follows the same protocol as the lane in `Blob`, and calls the device
instead of the kernel, so that the device can align requests and keep
overlapping ones apart.
"""

from typing import TYPE_CHECKING, Any, Final

from blobstore.alloc.leaves import LEAF_MASK, LEAF_SHIFT, Leaves
from blobstore.api.arguments import bytes_of, writable_bytes_of
from blobstore.api.blob import Blob
from blobstore.epochs import UNPINNED
from blobstore.errors import BlobstoreError
from blobstore.metadata.blob_state import BlobState
from blobstore.operations import Buffer

if TYPE_CHECKING:
    from blobstore.api.blobstore import Blobstore

_NOWHERE: Final = -1


class DeviceBlob(Blob):
    """An open blob on a device that has to be asked for every byte."""

    __slots__ = ("_device",)

    def __init__(self, store: "Blobstore", state: BlobState) -> None:
        super().__init__(store, state)
        self._device = store.device
        self._leaves = state.clusters.leaves
        if not store.state.write_through:
            self._writable_leaves = self._leaves

    def read(self, length: int, offset: int = 0) -> bytes:
        self._check_length(length)
        buffer = bytearray(length)
        self.read_into(buffer, offset)
        return bytes(buffer)

    def read_into(self, buffer: Any, offset: int = 0) -> int:
        view = writable_bytes_of(buffer)
        pin = self._pins.mine
        pin.epoch = self._epochs.current
        try:
            place = self._place(self._leaves, offset, len(view))
            if place != _NOWHERE:
                self._device.read_into(place, (view,))
                return len(view)
        except (IndexError, BlobstoreError):
            pass  # the full path says what is wrong
        finally:
            pin.epoch = UNPINNED
        return self._read_slowly(view, offset)

    def write(self, data: Buffer, offset: int = 0) -> int:
        view = bytes_of(data)
        pin = self._pins.mine
        pin.epoch = self._epochs.current
        try:
            core, state = self._core, self._state
            if not (core.poison or core.read_only_reason or state.data_read_only):
                place = self._place(self._writable_leaves, offset, len(view))
                if place != _NOWHERE and not state.frozen_count:
                    self._device.write(place, (view,))
                    return len(view)
        except (IndexError, BlobstoreError):
            pass  # the full path says what is wrong
        finally:
            pin.epoch = UNPINNED
        return self._write_slowly(view, offset)

    def _place(self, leaves: Leaves, offset: int, length: int) -> int:
        """Return where on the device a request of one owned cluster goes, or `_NOWHERE`."""
        size = self._cluster_size
        index, start = divmod(offset, size)
        if index < 0 or start + length > size:
            return _NOWHERE
        cluster: int = leaves[index >> LEAF_SHIFT][index & LEAF_MASK]
        return cluster * size + start if cluster else _NOWHERE
