"""Where a blob's own data is: the next allocated or unallocated cluster."""

from blobstore.errors import InvalidArgumentError
from blobstore.metadata.blob_state import BlobState


def next_boundary(
    blob: BlobState, cluster_size: int, offset: int, *, allocated: bool
) -> int | None:
    """Return the first byte from `offset` on that lies in an (un)allocated cluster.

    Raises:
        InvalidArgumentError: A negative offset.
    """
    if offset < 0:
        raise InvalidArgumentError(f"blob {blob.blob_id:#x}: offset {offset}")
    index = blob.clusters.find(offset // cluster_size, allocated=allocated)
    return None if index is None else max(offset, index * cluster_size)
