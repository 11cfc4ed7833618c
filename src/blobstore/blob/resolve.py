"""From a range of a blob to the places on the device that hold it."""

from dataclasses import dataclass

from blobstore.alloc.leaves import LEAF_MASK, LEAF_SHIFT
from blobstore.errors import ClosedError, InvalidArgumentError
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.store_state import StoreState


@dataclass(slots=True)
class Piece:
    """The part of a request that lies in one cluster: `length` bytes from `start` in it.

    `at` is the part's place in the request.
    """

    index: int
    start: int
    length: int
    at: int


def check_open(blob: BlobState) -> None:
    """Refuse a request that arrives after the last handle was closed.

    From then on the blob's clusters may become another's, and its map stays as it was.

    Raises:
        ClosedError: No caller has the blob open.
    """
    if not blob.open_count:
        raise ClosedError(f"blob {blob.blob_id:#x}: closed")


def check_range(blob: BlobState, cluster_size: int, offset: int, length: int) -> None:
    """Refuse a request that reaches beyond the blob; one of no bytes is always right.

    Raises:
        InvalidArgumentError: The range is not inside the blob.
    """
    size = blob.clusters.count * cluster_size
    if length < 0 or (length and not 0 <= offset <= size - length):
        raise InvalidArgumentError(
            f"blob {blob.blob_id:#x}: {length} bytes at {offset}: outside of {size} bytes"
        )


def split(cluster_size: int, offset: int, length: int) -> list[Piece]:
    """Cut a range at the clusters' borders."""
    index, start = divmod(offset, cluster_size)
    if 0 < length <= cluster_size - start:
        return [Piece(index, start, length, 0)]
    pieces: list[Piece] = []
    at = 0
    while at < length:
        step = min(length - at, cluster_size - start)
        pieces.append(Piece(index, start, step, at))
        at += step
        index, start = index + 1, 0
    return pieces


def resolve_owner(store: StoreState, blob: BlobState, index: int) -> tuple[int, BlobState | None]:
    """Find what a read of place `index` reads.

    A clone asks its parent, that one its own, and so on; beyond a parent's end
    there are zeroes. An ancestor's cluster is remembered, for the fast path too.

    Returns:
        The cluster, or 0; then the clone whose external snapshot is read, or None for zeroes.
    """
    known = blob.clusters.get(index) or blob.inherited[index >> LEAF_SHIFT][index & LEAF_MASK]
    if known:
        return known, None
    owner: BlobState | None = blob
    while owner is not None and index < owner.clusters.count:
        cluster = owner.clusters.get(index)
        if cluster:
            store.remember_inherited(blob, index, cluster)
            return cluster, None
        if owner.has_external_parent:
            return 0, owner
        owner = owner.parent
    return 0, None


def has_backing(blob: BlobState) -> bool:
    """Tell whether an unallocated cluster may read as something else than zeroes."""
    return blob.parent is not None or blob.has_external_parent
