"""Block devices of the server as NBD exports: of one socket each, and of a store that is served.

A device that is exported has a writer: what would take the device from the client, or cut it, is
refused.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final

from blobstore import Blob, BlobId, NotFoundError
from blobstore.api.disk_view import RANGES_MAX, Ranges
from blobstore.device.base import Device
from blobstore.nbd.exports import BlobExport, OpenExport, StoreExports
from blobstore.operations import Buffer
from blobstore.rpc.bdevs import Bdev
from blobstore.rpc.stores import LoadedStore, VolumeBdev
from blobstore.rpc.target import Target
from blobstore.units import format_size

_ITSELF: Final = 1
"""The depth of what a device holds: it has no parents."""


class BdevExports:
    """One block device, whose export needs no name."""

    def __init__(self, bdev: Bdev) -> None:
        self._bdev = bdev

    def listed(self) -> Iterator[tuple[str, str]]:
        yield self._bdev.name, self._description()

    def open(self, name: str) -> OpenExport:
        bdev = self._bdev
        if name not in ("", bdev.name, *bdev.aliases):
            raise NotFoundError(f"no export {name!r}")
        if isinstance(bdev, VolumeBdev):
            return VolumeDiskExport(name, bdev)
        return DeviceExport(name, bdev.open_device(), self._description())

    def _description(self) -> str:
        return f"{self._bdev.product_name}, {format_size(self._bdev.size_bytes)}"


class VolumeDiskExport(BlobExport):
    """A volume whose requests are counted in the statistics of its block device."""

    def __init__(self, name: str, bdev: VolumeBdev) -> None:
        with ExitStack() as stack:
            volume = stack.enter_context(bdev.store.volumes.open_volume(bdev.volume.id))
            super().__init__(name, volume, read_only=False)
            self.disk = DeviceDisk(bdev.open_device())
            stack.pop_all()  # the export keeps it open

    def close(self) -> None:
        try:
            super().close()
        finally:
            self.blob.close()


class DeviceDisk:
    """A device with the calls of an open blob."""

    def __init__(self, device: Device) -> None:
        self._device = device

    @property
    def size(self) -> int:
        return self._device.size_bytes

    @property
    def closed(self) -> bool:
        return self._device.closed

    def read(self, length: int, offset: int = 0) -> bytes:
        return self._device.read(offset, length)

    def read_into(self, buffer: Any, offset: int = 0) -> int:
        self._device.read_into(offset, (buffer,))
        return len(buffer)

    def write(self, data: Buffer, offset: int = 0) -> int:
        self._device.write(offset, (data,))
        return len(data)

    def write_zeroes(self, offset: int, length: int) -> None:
        self._device.write_zeroes(offset, length)

    def unmap(self, offset: int, length: int) -> None:
        self._device.unmap(offset, length)

    def flush(self) -> None:
        self._device.flush()

    def close(self) -> None:
        self._device.close()


class DeviceExport(OpenExport):
    """A block device that is no volume: it holds every byte itself, and is based on nothing."""

    def __init__(self, name: str, device: Device, description: str) -> None:
        disk = DeviceDisk(device)
        super().__init__(name, disk, read_only=device.read_only, description=description)

    def depths(self, offset: int, length: int, limit: int = RANGES_MAX) -> Ranges:
        return [(offset, length, _ITSELF)]

    def changes(self, base: BlobId, offset: int, length: int, limit: int) -> Ranges:
        raise NotFoundError(f"{base:#x}: a device is based on no snapshot")

    def bases(self) -> dict[str, BlobId]:
        return {}

    def clear(self, offset: int, length: int) -> None:
        self.disk.write_zeroes(offset, length)


class ServedStoreExports(StoreExports):
    """The exports of a store that the RPC server has loaded: each open one is a writer."""

    def __init__(
        self,
        target: Target,
        loaded: LoadedStore,
        first: tuple[BlobId, ...],
        *,
        export_all: bool,
        read_only: bool,
    ) -> None:
        super().__init__(loaded.volumes, first, export_all=export_all, read_only=read_only)
        self._target = target
        self._loaded = loaded

    def _opened(self, name: str, blob: Blob) -> BlobExport:
        with self._target.lock:
            bdev = self._loaded.bdevs.get(blob.id)
            return _CountedExport(name, blob, self._read_only, self._target, bdev)


class _CountedExport(BlobExport):
    """An export that counts as a writer of its block device while it is open."""

    def __init__(
        self, name: str, blob: Blob, read_only: bool, target: Target, bdev: VolumeBdev | None
    ) -> None:
        super().__init__(name, blob, read_only=read_only)
        self._target = target
        self._bdev = None if self.read_only else bdev
        if self._bdev is not None:
            self._bdev.writers += 1

    def close(self) -> None:
        try:
            super().close()
        finally:
            with self._target.lock:
                if self._bdev is not None:
                    self._bdev.writers -= 1
                    self._bdev = None
