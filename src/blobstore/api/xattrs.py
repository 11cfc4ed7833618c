"""A blob's extended attributes as a mapping: one to look at, and one to change."""

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Protocol

from blobstore.errors import NotFoundError
from blobstore.operations import Buffer
from blobstore.store.describe import BlobInfo


class DescribedBlob(Protocol):
    """What looking at the attributes needs of their blob."""

    @property
    def info(self) -> BlobInfo:
        """What the blob is now."""

    def get_xattr(self, name: str) -> bytes:
        """Return an attribute's value."""


class AttributedBlob(DescribedBlob, Protocol):
    """What changing the attributes needs of their blob."""

    def set_xattr(self, name: str, value: Buffer) -> None:
        """Set an attribute."""

    def remove_xattr(self, name: str) -> None:
        """Remove an attribute."""


class ReadableXattrs(Mapping[str, bytes]):
    """A blob's extended attributes as they are now, in their order on disk."""

    def __init__(self, blob: DescribedBlob) -> None:
        self._source = blob

    def __getitem__(self, name: str) -> bytes:
        try:
            return self._source.get_xattr(name)
        except NotFoundError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._source.info.xattrs))

    def __len__(self) -> int:
        return len(self._source.info.xattrs)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({dict(self)!r})"


class Xattrs(ReadableXattrs, MutableMapping[str, bytes]):
    """A blob's extended attributes, in their order on disk.

    Changes are durable with the blob's next `sync_md`, `flush` or `close`.
    """

    def __init__(self, blob: AttributedBlob) -> None:
        super().__init__(blob)
        self._blob = blob

    def __setitem__(self, name: str, value: bytes) -> None:
        self._blob.set_xattr(name, value)

    def __delitem__(self, name: str) -> None:
        try:
            self._blob.remove_xattr(name)
        except NotFoundError:
            raise KeyError(name) from None
