"""What external snapshots are, as a program says it: a device, a path, or another store's blob."""

import os
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, Union

from blobstore.api.arguments import wrong_type
from blobstore.device.address import open_device
from blobstore.device.base import Device
from blobstore.device.medium import ReadableSource
from blobstore.operations import ExternalSource


class ReadableBlob(Protocol):
    """An open blob, as far as it is an external snapshot of another store."""

    @property
    def size(self) -> int:
        """The size in bytes."""

    def readv(self, buffers: Sequence[Any], offset: int = 0) -> int:
        """Fill several buffers one after the other."""


External: TypeAlias = Union[str, "os.PathLike[str]", Device, ReadableBlob]


class BlobSource:
    """A blob, usually of another store, as something to read."""

    def __init__(self, blob: ReadableBlob) -> None:
        self.blob = blob

    @property
    def size_bytes(self) -> int:
        """The blob's size."""
        return self.blob.size

    @property
    def block_size(self) -> int:
        """Blobs are read at any byte."""
        return 1

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill the buffers one after the other."""
        self.blob.readv(buffers, offset)


class AwaitableBlob(Protocol):
    """An open blob on an event loop, as far as it is an external snapshot of another store."""

    @property
    def size(self) -> int:
        """The size in bytes."""

    async def read_into(self, buffer: Any, offset: int = 0) -> int:
        """Fill a buffer."""


class AwaitedBlobSource:
    """A blob of another store on the same event loop, as something to read."""

    block_size = 1

    def __init__(self, blob: AwaitableBlob) -> None:
        self.blob = blob

    @property
    def size_bytes(self) -> int:
        """The blob's size."""
        return self.blob.size

    async def read_awaited(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer."""
        await self.blob.read_into(buffer, offset)


def registered(source: ExternalSource | None) -> Device | ReadableBlob | AwaitableBlob | None:
    """Return what a program has registered, from the source that was made of it."""
    if isinstance(source, BlobSource | AwaitedBlobSource):
        return source.blob
    return source if isinstance(source, Device) else None


def open_external(what: External) -> tuple[ReadableSource, Device | None]:
    """Return the source, and the device to close with the store if it was opened here.

    A path is opened read-only. Nothing found inside an image is ever opened.
    """
    if isinstance(what, Device):
        return what, None
    if isinstance(what, (str, os.PathLike)):
        device = open_device(what, read_only=True)
        return device, device
    if not hasattr(what, "readv") or hasattr(what, "__aenter__"):  # the latter needs its loop
        raise wrong_type("what", what, expected="a path, a Device or a Blob")
    return BlobSource(what), None
