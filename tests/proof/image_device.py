"""Devices over images that somebody else keeps: whole ones, and huge ones with next to nothing in.

Closing such a device leaves its bytes alone, so that one image can be damaged,
opened, closed and mended a million times.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from blobstore.device.base import SECTOR_SIZE, Device, buffer_length, byte_views
from blobstore.errors import DeviceError
from blobstore.operations import Buffer

_PIECE: Final = 4096
_LARGEST_READ: Final = 1 << 30
"""Nobody needs more at once; where it is asked for, a number from the image was believed."""


class ImageDevice(Device):
    """A device whose content is the caller's `bytearray`."""

    def __init__(
        self, image: bytearray, *, atomic_write_size: int = SECTOR_SIZE, read_only: bool = False
    ) -> None:
        super().__init__(
            name="image",
            size_bytes=len(image),
            atomic_write_size=atomic_write_size,
            read_only=read_only,
            unmap_zeroes=True,
        )
        self._image = image

    def read(self, offset: int, length: int) -> bytes:
        self.check_read(offset, length)
        return bytes(self._image[offset : offset + length])

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        self.check_read(offset, buffer_length(buffers))
        for view in byte_views(buffers):
            view[:] = self._image[offset : offset + len(view)]
            offset += len(view)

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        self.check_write(offset, buffer_length(buffers))
        for view in byte_views(buffers):
            self._image[offset : offset + len(view)] = view
            offset += len(view)

    def write_zeroes(self, offset: int, length: int) -> None:
        self.check_write(offset, length)
        self._image[offset : offset + length] = bytes(length)

    def unmap(self, offset: int, length: int) -> None:
        self.write_zeroes(offset, length)

    def flush(self) -> None:
        self.check_open()


class SparseDevice(Device):
    """A device of any size that keeps only what is not zero, in pieces of 4096 bytes.

    A read of more than a GiB fails: on a device of exabytes it would end the
    process instead of telling who asked for it.
    """

    def __init__(
        self,
        size_bytes: int,
        pieces: Mapping[int, bytes],
        *,
        atomic_write_size: int = SECTOR_SIZE,
        read_only: bool = False,
    ) -> None:
        """Take the pieces by their number; what is written later is kept beside them."""
        super().__init__(
            name="sparse image",
            size_bytes=size_bytes,
            atomic_write_size=atomic_write_size,
            read_only=read_only,
            unmap_zeroes=True,
        )
        self._pieces = pieces
        self._written: dict[int, bytes] = {}

    def read(self, offset: int, length: int) -> bytes:
        self.check_read(offset, length)
        if length > _LARGEST_READ:
            raise DeviceError(f"{self.name}: read of {length} bytes")
        content = bytearray(length)
        self.read_into(offset, [memoryview(content)])
        return bytes(content)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        self.check_read(offset, buffer_length(buffers))
        for view in byte_views(buffers):
            at = 0
            while at < len(view):
                number, start = divmod(offset + at, _PIECE)
                step = min(_PIECE - start, len(view) - at)
                piece = self._written.get(number) or self._pieces.get(number)
                view[at : at + step] = bytes(step) if piece is None else piece[start : start + step]
                at += step
            offset += len(view)

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        self.check_write(offset, buffer_length(buffers))
        for view in byte_views(buffers):
            at = 0
            while at < len(view):
                number, start = divmod(offset + at, _PIECE)
                step = min(_PIECE - start, len(view) - at)
                piece = bytearray(self.piece(number))
                piece[start : start + step] = view[at : at + step]
                self._written[number] = bytes(piece)
                at += step
            offset += len(view)

    def write_zeroes(self, offset: int, length: int) -> None:
        self.check_write(offset, length)
        end = offset + length
        numbers = {*self._pieces, *self._written}
        for number in [n for n in numbers if offset < (n + 1) * _PIECE and n * _PIECE < end]:
            start, stop = max(offset - number * _PIECE, 0), min(end - number * _PIECE, _PIECE)
            piece = self.piece(number)
            self._written[number] = piece[:start] + bytes(stop - start) + piece[stop:]

    def write_to(self, path: str) -> None:
        """Write the content to a file, which stays as sparse as it is here."""
        with open(path, "wb") as file:
            file.truncate(self.size_bytes)
            for number in sorted({*self._pieces, *self._written}):
                file.seek(number * _PIECE)
                file.write(self.piece(number))

    def piece(self, number: int) -> bytes:
        """Return 4096 bytes as they are now."""
        found = self._written.get(number) or self._pieces.get(number)
        return bytes(_PIECE) if found is None else found

    def unmap(self, offset: int, length: int) -> None:
        self.write_zeroes(offset, length)

    def flush(self) -> None:
        self.check_open()
