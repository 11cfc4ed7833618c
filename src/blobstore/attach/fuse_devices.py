"""Block devices where the kernel has no NBD: loop devices on files of our own FUSE file system.

The kernel turns discards into holes punched, and flushes into fsync. A device is gone when the
kernel releases its file: after `detach`, or after anything else that detaches loop devices.
"""

import os
from types import TracebackType
from typing import Final, Self

from blobstore.api.blob import Blob
from blobstore.attach import loop_device
from blobstore.attach.block_devices import AnyStore, Ended
from blobstore.fuse.blob_files import BlobFiles
from blobstore.fuse.mounting import Mounted
from blobstore.units import BlobId

_OPTIONS: Final[dict[str, str | bool]] = {
    "fsname": "blobstore", "default_permissions": True, "auto_unmount": True, "attr_timeout": "0"
}  # fmt: skip


class FuseDevices:
    """Loop devices on the files of a directory, which exists; see `BlockDevices`."""

    def __init__(self, store: AnyStore, directory: str, ended: Ended) -> None:
        self._store = store
        self._directory = directory
        self._ended = ended
        self._files = BlobFiles(store, {}, writable=not store.read_only, on_release=self._released)

    def __enter__(self) -> Self:
        self._mounted = Mounted(self._files, self._directory, _OPTIONS)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._mounted.__exit__(kind, error, trace)

    def add(self, blob_id: BlobId, *, read_only: bool) -> tuple[str, Blob]:
        blob = self._files.add(_file_name(blob_id), blob_id)
        flags = os.O_RDONLY if read_only or blob.data_read_only else os.O_RDWR
        try:
            file = os.open(os.path.join(self._directory, _file_name(blob_id)), flags | os.O_CLOEXEC)
        except OSError:
            self._files.remove(_file_name(blob_id))  # later the kernel's release does that
            raise
        try:
            path = loop_device.attach_file(
                file,
                block_size=self._store.info.io_unit_size,
                read_only=flags == os.O_RDONLY,
                owner=os.path.dirname(self._directory),
            )
        finally:
            os.close(file)
        return path, blob

    def detach(self, path: str) -> None:
        loop_device.detach_file(path)

    def detach_when_closed(self, path: str) -> None:
        loop_device.detach_when_closed(path)

    def resize(self, path: str, size: int) -> None:
        loop_device.follow_size(path)

    def _released(self, blob_id: BlobId) -> None:
        """Close a blob whose file the kernel has released."""
        try:
            self._files.remove(_file_name(blob_id))
        finally:
            self._ended(blob_id)


def _file_name(blob_id: BlobId) -> str:
    return f"{blob_id:#x}"
