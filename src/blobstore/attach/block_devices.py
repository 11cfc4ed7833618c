"""How the blobs of an open store become block devices of the host: by NBD, or by FUSE.

Where the kernel has NBD, it asks this process for blocks by a socket. Elsewhere a device is a
loop device on a file of our own FUSE file system, which every kernel can have.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self, TypeAlias

from blobstore.api.blob import Blob
from blobstore.api.blobstore import Blobstore
from blobstore.api.volumes import VolumeStore
from blobstore.attach import kernel_nbd
from blobstore.units import BlobId

AnyStore: TypeAlias = Blobstore | VolumeStore
Ended: TypeAlias = Callable[[BlobId], None]
"""What is called when the device of a blob is gone, and the blob closed."""


class BlockDevices(Protocol):
    """Block devices that show blobs of one store, each by the path of its device.

    Leaving its `with` ends all devices: programs that use them get errors.
    """

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End."""

    def add(self, blob_id: BlobId, *, read_only: bool) -> tuple[str, Blob]:
        """Open a blob, and make it a device; a read-only blob becomes a read-only one.

        Raises:
            DeviceError: There is no device for it.
        """

    def detach(self, path: str) -> None:
        """Flush a device, and end it as soon as all programs have closed it.

        Raises:
            BusyError: It is mounted, or is part of something else.
            DeviceError: It could not be flushed.
        """

    def detach_when_closed(self, path: str) -> None:
        """End a device when all that use it have ended, also if it is mounted now.

        Raises:
            OSError: It is gone already.
        """

    def resize(self, path: str, size: int) -> None:
        """Let a device have the size that its blob has now.

        Raises:
            OSError: The kernel refuses.
        """


def block_devices(store: AnyStore, directory: str, ended: Ended) -> BlockDevices:
    """Return what makes devices on this host; `directory` is for the files of FUSE."""
    if kernel_nbd.is_available():
        from blobstore.attach.nbd_devices import NbdDevices

        return NbdDevices(store, ended)
    from blobstore.attach.fuse_devices import FuseDevices

    return FuseDevices(store, directory, ended)
