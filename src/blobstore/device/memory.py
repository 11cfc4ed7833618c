"""The memory device: a store that ends with the process."""

from collections.abc import Sequence
from typing import ClassVar

from blobstore.device.base import SECTOR_SIZE, Device, byte_views
from blobstore.errors import InvalidArgumentError
from blobstore.operations import Buffer


class MemoryDevice(Device):
    """Bytes in memory.

    The content is only ever sliced, never exported, so that it can grow while
    other threads read and write it.
    """

    never_waits: ClassVar[bool] = True

    def __init__(
        self,
        size: int,
        block_size: int = SECTOR_SIZE,
        fill: int = 0,
        *,
        atomic_write_size: int = SECTOR_SIZE,
        read_only: bool = False,
        name: str = "memory",
    ) -> None:
        """Make a device of `size` bytes, each of them `fill`.

        Raises:
            InvalidArgumentError: The size is negative, or `fill` is not a byte.
        """
        super().__init__(
            name=name,
            size_bytes=size,
            block_size=block_size,
            atomic_write_size=atomic_write_size,
            read_only=read_only,
            unmap_zeroes=True,
        )
        self._content = _filled(size, fill)

    def read(self, offset: int, length: int) -> bytes:
        self.check_read(offset, length)
        return bytes(self._content[offset : offset + length])

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        views = byte_views(buffers)
        self.check_read(offset, sum(map(len, views)))
        for view in views:
            view[:] = self._content[offset : offset + len(view)]
            offset += len(view)

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        views = byte_views(buffers)
        self.check_write(offset, sum(map(len, views)))
        for view in views:
            self._content[offset : offset + len(view)] = view
            offset += len(view)

    def write_zeroes(self, offset: int, length: int) -> None:
        self.check_write(offset, length)
        self._content[offset : offset + length] = bytes(length)

    def unmap(self, offset: int, length: int) -> None:
        self.write_zeroes(offset, length)

    def flush(self) -> None:
        self.check_open()

    def resize(self, size: int) -> None:
        self.check_resize(size)
        grown_by = size - self.size_bytes
        if grown_by > 0:
            self._content.extend(bytes(grown_by))
        self._set_size(size)
        del self._content[size:]

    def close(self) -> None:
        super().close()
        self._content = bytearray()


def _filled(size: int, fill: int) -> bytearray:
    if not 0 <= fill <= 0xFF:
        raise InvalidArgumentError(f"fill {fill}: expected a byte")
    return bytearray(size) if fill == 0 else bytearray([fill]) * size
