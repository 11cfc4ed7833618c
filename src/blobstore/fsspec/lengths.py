"""The length of a file that is kept in a volume.

A volume has whole clusters, a file ends anywhere. The attribute `blobstore.length` holds the
file's length in bytes as decimal text; other programs ignore it. It counts as long as the
volume has the size that such a file needs: a volume that was resized since, or that never
held a file, is as long as it is large.
"""

from typing import Final

from blobstore.api.volumes import Volume
from blobstore.units import ceil_div

LENGTH: Final = "blobstore.length"
_DIGITS_MAX: Final = 20


def encode_length(length: int) -> bytes:
    """Return the attribute's value."""
    return str(length).encode()


def length_in(value: bytes | None, *, size: int, cluster_size: int) -> int:
    """Return the length of the file in a volume of `size` bytes with this attribute."""
    if value is None or len(value) > _DIGITS_MAX or not value.isdigit():
        return size
    length = int(value)
    return length if ceil_div(length, cluster_size) * cluster_size == size else size


def length_of(volume: Volume, cluster_size: int) -> int:
    """Return the length of the file in an open volume."""
    value = volume.xattrs.get(LENGTH)
    return length_in(value, size=volume.size, cluster_size=cluster_size)
