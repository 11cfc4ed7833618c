"""The simulated disk as a device, for tests that need the public API on top of the disk."""

from collections.abc import Sequence

from blobstore.device.base import Device, buffer_length, byte_views
from blobstore.operations import Buffer
from blobstore.testing.simulated_disk import SimulatedDisk


class SimulatedDevice(Device):
    """A device whose bytes, record and failures are a `SimulatedDisk`'s."""

    def __init__(self, disk: SimulatedDisk, *, read_only: bool = False) -> None:
        traits = disk.traits
        super().__init__(
            name="simulated",
            size_bytes=traits.size_bytes,
            block_size=traits.block_size,
            physical_block_size=traits.physical_block_size,
            atomic_write_size=traits.atomic_write_size,
            read_only=read_only,
            unmap_zeroes=traits.unmap_zeroes,
        )
        self.disk = disk

    def read(self, offset: int, length: int) -> bytes:
        self.check_read(offset, length)
        return self.disk.read(offset, length)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        self.check_read(offset, buffer_length(buffers))
        self.disk.read_into(offset, byte_views(buffers))

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        self.check_write(offset, buffer_length(buffers))
        self.disk.write(offset, byte_views(buffers))

    def write_zeroes(self, offset: int, length: int) -> None:
        self.check_write(offset, length)
        self.disk.write_zeroes(offset, length)

    def unmap(self, offset: int, length: int) -> None:
        self.check_write(offset, length)
        self.disk.unmap(offset, length)

    def flush(self) -> None:
        self.check_open()
        self.disk.flush()
