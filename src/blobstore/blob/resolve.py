"""From a range of a blob to the places on the device that hold it. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from blobstore.errors import InvalidArgumentError, UnsupportedError
from blobstore.metadata.blob_state import BlobState


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of a request that lies in one cluster: `length` bytes from `start` in it.

    `at` is the part's place in the request.
    """

    index: int
    start: int
    length: int
    at: int


def check_range(blob: BlobState, cluster_size: int, offset: int, length: int) -> None:
    """Refuse a request that reaches beyond the blob; one of no bytes is always right.

    Raises:
        InvalidArgumentError: The range is not inside the blob.
    """
    size = blob.clusters.count * cluster_size
    if length and not 0 <= offset <= size - length:
        raise InvalidArgumentError(
            f"blob {blob.blob_id:#x}: {length} bytes at {offset}: outside of {size} bytes"
        )


def split(cluster_size: int, offset: int, length: int) -> Iterator[Piece]:
    """Cut a range at the clusters' borders."""
    at = 0
    while at < length:
        index, start = divmod(offset + at, cluster_size)
        step = min(length - at, cluster_size - start)
        yield Piece(index, start, step, at)
        at += step


def resolve_owner(blob: BlobState, index: int) -> int:
    """Return the cluster that a read of place `index` finds, or 0 for zeroes.

    A clone asks its parent, that one its own, and so on; beyond a parent's end
    there are zeroes.

    Raises:
        UnsupportedError: The search ends at an external snapshot that nobody has registered.
    """
    owner: BlobState | None = blob
    while owner is not None:
        if index >= owner.clusters.count:
            return 0
        cluster = owner.clusters.get(index)
        if cluster:
            return cluster
        if owner.has_external_parent:
            raise UnsupportedError(
                f"blob {owner.blob_id:#x}: its external snapshot is not available"
            )
        owner = owner.parent
    return 0


def has_backing(blob: BlobState) -> bool:
    """Tell whether an unallocated cluster may read as something else than zeroes."""
    return blob.parent is not None or blob.has_external_parent
