"""The attached blobs of one store: files that the kernel makes block devices of.

A block device is a loop device on a file of our own FUSE file system: the kernel turns discards
into holes punched, and flushes into fsync. One process has the store, and so serves all of its
attached blobs. A device is gone when the kernel releases its file: after `detach`, or after
anything else that detaches loop devices.
"""

import contextlib
import errno
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from blobstore.api.blobstore import Blobstore
from blobstore.api.volumes import VolumeStore
from blobstore.errors import (
    BusyError,
    NotFoundError,
    ReadOnlyError,
)
from blobstore.fuse import loop_device
from blobstore.fuse.attach_place import Place
from blobstore.fuse.attach_protocol import AttachedDevice, Wanted
from blobstore.fuse.blob_files import BlobFiles
from blobstore.fuse.mounting import Mounted
from blobstore.units import BlobId

AnyStore: TypeAlias = Blobstore | VolumeStore
FindBlob: TypeAlias = Callable[[AnyStore, str], BlobId]

_DETACH_TIMEOUT_S: Final = 60
_LOOK_S: Final = 0.5
_OPTIONS: Final[dict[str, str | bool]] = {
    "fsname": "blobstore", "default_permissions": True, "auto_unmount": True, "attr_timeout": "0"
}  # fmt: skip


@dataclass(slots=True)
class _Attached:
    device: AttachedDevice
    size: int


class AttachServer:
    """The attached blobs of one store, and the answers to `attach` and `detach`."""

    def __init__(self, store: AnyStore, place: Place, find: FindBlob) -> None:
        self._store = store
        self._place = place
        self._find = find
        self._files = BlobFiles(store, {}, writable=not store.read_only, on_release=self._released)
        self._attached: dict[BlobId, _Attached] = {}
        self._changed = threading.Condition()
        self._is_ending = False

    def serve(self, wanted: Wanted, attached: Callable[[AttachedDevice], None]) -> None:
        """Attach a first blob, call `attached`, and serve until no device is left.

        Raises:
            BlobstoreError: As `attach`.
        """
        with Mounted(self._files, self._place.files, _OPTIONS):
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
            DeviceError: There is no loop device for it.
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
            device, size = self._make_device(blob_id, read_only=wanted.read_only)
            self._attached[blob_id] = _Attached(device, size)
            return device

    def _make_device(self, blob_id: BlobId, *, read_only: bool) -> tuple[AttachedDevice, int]:
        blob = self._files.add(_file_name(blob_id), blob_id)
        read_only = read_only or blob.data_read_only
        flags = os.O_RDONLY if read_only else os.O_RDWR
        path = os.path.join(self._place.files, _file_name(blob_id))
        try:
            descriptor = os.open(path, flags | os.O_CLOEXEC)
        except OSError:
            self._files.remove(_file_name(blob_id))  # later the kernel's release does that
            raise
        try:
            device = loop_device.attach_file(
                descriptor,
                block_size=self._store.info.io_unit_size,
                read_only=read_only,
                owner=self._place.directory,
            )
        finally:
            os.close(descriptor)
        return AttachedDevice(device, blob_id, read_only, os.getpid()), blob.size

    # Detaching

    def detach(self, device: str) -> None:
        """Flush a device, detach it, and wait until its blob is closed.

        Raises:
            NotFoundError: This process does not serve the device.
            BusyError: It is mounted or claimed, or another program keeps it open.
            DeviceError: It could not be flushed.
        """
        blob_id = self._blob_of(device)
        loop_device.detach_file(device)
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
                loop_device.detach_when_closed(device)

    def _released(self, blob_id: BlobId) -> None:
        """Close a blob whose file the kernel has released: its device is gone."""
        with self._changed:
            self._attached.pop(blob_id, None)
            self._is_ending = not self._attached
            try:
                self._files.remove(_file_name(blob_id))
            finally:
                self._changed.notify_all()

    def _wait(self) -> None:
        """Wait until the last device is gone; devices follow the sizes of their blobs."""
        with self._changed:
            while self._attached:
                self._changed.wait(_LOOK_S)
                for blob_id, attached in self._attached.items():
                    size = self._files.size_of(blob_id)
                    if size != attached.size:
                        attached.size = size
                        with contextlib.suppress(OSError):
                            loop_device.follow_size(attached.device.device)


def _file_name(blob_id: BlobId) -> str:
    return f"{blob_id:#x}"
