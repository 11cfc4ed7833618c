"""A blob's extended attributes as a mapping."""

from collections.abc import Iterator, MutableMapping
from typing import Protocol

from blobstore.errors import NotFoundError
from blobstore.operations import Buffer
from blobstore.store.describe import BlobInfo


class AttributedBlob(Protocol):
    """What the mapping needs of its blob."""

    @property
    def info(self) -> BlobInfo:
        """What the blob is now."""

    def get_xattr(self, name: str) -> bytes:
        """Return an attribute's value."""

    def set_xattr(self, name: str, value: Buffer) -> None:
        """Set an attribute."""

    def remove_xattr(self, name: str) -> None:
        """Remove an attribute."""


class Xattrs(MutableMapping[str, bytes]):
    """A blob's extended attributes, in their order on disk.

    Changes are durable with the blob's next `sync_md`, `flush` or `close`.
    """

    def __init__(self, blob: AttributedBlob) -> None:
        self._blob = blob

    def __getitem__(self, name: str) -> bytes:
        try:
            return self._blob.get_xattr(name)
        except NotFoundError:
            raise KeyError(name) from None

    def __setitem__(self, name: str, value: bytes) -> None:
        self._blob.set_xattr(name, value)

    def __delitem__(self, name: str) -> None:
        try:
            self._blob.remove_xattr(name)
        except NotFoundError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._blob.info.xattrs))

    def __len__(self) -> int:
        return len(self._blob.info.xattrs)

    def __repr__(self) -> str:
        return f"Xattrs({dict(self)!r})"
