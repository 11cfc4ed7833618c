"""The zeroes device: reads as zeroes, is never written; a parent for blobs that have none."""

from collections.abc import Sequence
from typing import ClassVar, NoReturn

from blobstore.device.base import Device, byte_views
from blobstore.errors import ReadOnlyError
from blobstore.operations import Buffer


class ZeroesDevice(Device):
    """As many zeroes as asked for."""

    never_waits: ClassVar[bool] = True

    def __init__(self, size: int) -> None:
        super().__init__(name="zeroes", size_bytes=size, read_only=True, unmap_zeroes=True)

    def read(self, offset: int, length: int) -> bytes:
        self.check_read(offset, length)
        return bytes(length)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        views = byte_views(buffers)
        self.check_read(offset, sum(map(len, views)))
        for view in views:
            view[:] = bytes(len(view))

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        self._refuse()

    def write_zeroes(self, offset: int, length: int) -> None:
        self._refuse()

    def unmap(self, offset: int, length: int) -> None:
        self._refuse()

    def flush(self) -> None:
        self.check_open()

    def _refuse(self) -> NoReturn:
        self.check_open()
        raise ReadOnlyError(f"{self.name}: cannot be written")
