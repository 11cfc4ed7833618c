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


def registered(source: ExternalSource | None) -> Device | ReadableBlob | None:
    """Return what a program has registered, from the source that was made of it."""
    if isinstance(source, BlobSource):
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
    if not hasattr(what, "readv"):
        raise wrong_type("what", what, expected="a path, a Device or a Blob")
    return BlobSource(what), None
