"""The attached blobs of one store, and when their process ends.

One process has the store, and so serves all of its attached blobs. A device is gone when the
kernel lets go of it: after `detach`, or after anything else that ends such devices. The process
ends with the last one.
"""

import contextlib
import errno
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from blobstore.api.blob import Blob
from blobstore.attach.attach_place import Place
from blobstore.attach.attach_protocol import AttachedDevice, Wanted
from blobstore.attach.block_devices import AnyStore, block_devices
from blobstore.errors import BusyError, NotFoundError, ReadOnlyError
from blobstore.units import BlobId

FindBlob: TypeAlias = Callable[[AnyStore, str], BlobId]

_DETACH_TIMEOUT_S: Final = 60
_LOOK_S: Final = 0.5


@dataclass(slots=True)
class _Attached:
    device: AttachedDevice
    blob: Blob
    size: int


class AttachServer:
    """The attached blobs of one store, and the answers to `attach` and `detach`."""

    def __init__(self, store: AnyStore, place: Place, find: FindBlob) -> None:
        self._store = store
        self._find = find
        self._attached: dict[BlobId, _Attached] = {}
        self._changed = threading.Condition()
        self._is_ending = False
        self._devices = block_devices(store, place.files, self._ended)

    def serve(self, wanted: Wanted, attached: Callable[[AttachedDevice], None]) -> None:
        """Attach a first blob, call `attached`, and serve until no device is left.

        Raises:
            BlobstoreError: As `attach`.
        """
        with self._devices:
            try:
                attached(self.attach(wanted))
                self._wait()
            except KeyboardInterrupt:  # SIGTERM too; a second one does not wait
                self._detach_all()
                self._wait()
            finally:
                self._detach_all()

    @property
    def is_ending(self) -> bool:
        """Whether the last device is gone."""
        return self._is_ending

    # Attaching

    def attach(self, wanted: Wanted) -> AttachedDevice:
        """Make a blob a block device.

        Raises:
            BusyError: It is attached, or the last device is just being detached (ESHUTDOWN).
            ReadOnlyError: The store is open read-only.
            DeviceError: There is no device for it.
        """
        with self._changed:
            if self._is_ending:
                raise BusyError("the store is being unloaded", errno=errno.ESHUTDOWN)
            if wanted.is_first and self._attached:
                raise BusyError("is attached already").at(store=self._store.device_name)
            blob_id = self._find(self._store, wanted.blob)
            if blob_id in self._attached:
                raise BusyError(f"is attached as {self._attached[blob_id].device.device}").at(
                    store=self._store.device_name, blob=blob_id
                )
            if self._store.read_only and not wanted.read_only:
                raise ReadOnlyError(
                    "is attached read-only; detach it first, or use --read-only"
                ).at(store=self._store.device_name)
            path, blob = self._devices.add(blob_id, read_only=wanted.read_only)
            read_only = wanted.read_only or blob.data_read_only
            device = AttachedDevice(path, blob_id, read_only, os.getpid())
            self._attached[blob_id] = _Attached(device, blob, blob.size)
            return device

    # Detaching

    def detach(self, device: str) -> None:
        """Flush a device, detach it, and wait until its blob is closed.

        Raises:
            NotFoundError: This process does not serve the device.
            BusyError: It is mounted or claimed, or another program keeps it open.
            DeviceError: It could not be flushed.
        """
        blob_id = self._blob_of(device)
        self._devices.detach(device)
        with self._changed:
            gone = self._changed.wait_for(lambda: blob_id not in self._attached, _DETACH_TIMEOUT_S)
        if not gone:
            raise BusyError(f"{device}: a program has it open; it is detached when that ends")

    def _blob_of(self, device: str) -> BlobId:
        with self._changed:
            for blob_id, attached in self._attached.items():
                if attached.device.device == device:
                    return blob_id
        raise NotFoundError(f"{device}: is not attached")

    def _detach_all(self) -> None:
        """Let the kernel detach every device when its users have ended."""
        with self._changed:
            devices = [attached.device.device for attached in self._attached.values()]
        for device in devices:
            with contextlib.suppress(OSError):
                self._devices.detach_when_closed(device)

    def _ended(self, blob_id: BlobId) -> None:
        """Note that the device of a blob is gone."""
        with self._changed:
            self._attached.pop(blob_id, None)
            self._is_ending = not self._attached
            self._changed.notify_all()

    def _wait(self) -> None:
        """Wait until the last device is gone; devices follow the sizes of their blobs."""
        with self._changed:
            while self._attached:
                self._changed.wait(_LOOK_S)
                for attached in self._attached.values():
                    with contextlib.suppress(OSError):  # it has just ended
                        self._follow_size(attached)

    def _follow_size(self, attached: _Attached) -> None:
        size = attached.blob.size
        if size != attached.size:
            attached.size = size
            self._devices.resize(attached.device.device, size)
