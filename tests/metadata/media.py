"""Media for tests of the metadata layer: bytes, and no device."""

from collections.abc import Sequence

from blobstore.operations import Buffer


class ImageMedium:
    """A medium over bytes that lie in memory."""

    def __init__(self, image: bytearray) -> None:
        self._image = image

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self._image[offset : offset + length])

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        for buffer in buffers:
            buffer[:] = self._image[offset : offset + len(buffer)]
            offset += len(buffer)

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        for buffer in buffers:
            self._image[offset : offset + len(buffer)] = buffer
            offset += len(buffer)

    def write_zeroes(self, offset: int, length: int) -> None:
        self._image[offset : offset + length] = bytes(length)

    def unmap(self, offset: int, length: int) -> None:
        """Leave what is there."""

    def flush(self) -> None:
        """Nothing is ever on its way."""
