"""Units: the integer types that must not mix, and sizes as people write them."""

import re
from typing import Final, NewType

from blobstore.errors import InvalidArgumentError

BlobId = NewType("BlobId", int)
PageIndex = NewType("PageIndex", int)
"""A metadata page, counted from the start of the metadata region."""
ClusterIndex = NewType("ClusterIndex", int)
"""A cluster of the device; 0 stands for "not allocated"."""

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
TIB: Final = 1024 * GIB

_SIZE: Final = re.compile(r"\s*(\d+)\s*(?:([KMGT])(?:iB)?|B)?\s*", re.ASCII)
_FACTORS: Final = {None: 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}


def parse_size(text: int | str) -> int:
    """Turn ``65536``, ``"64K"`` or ``"64KiB"`` into bytes; all units are powers of 1024.

    Raises:
        InvalidArgumentError: Not a size, or negative.
    """
    if isinstance(text, int):
        if text < 0:
            raise InvalidArgumentError(f"size {text}: negative")
        return text
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InvalidArgumentError(
            f"size {text!r}: expected bytes, or a number with K, M, G, T, KiB, MiB, GiB or TiB"
        )
    return int(match[1]) * _FACTORS[match[2]]


def format_size(size_bytes: int) -> str:
    """Write bytes in the largest unit that divides them, such as ``64 KiB``."""
    for factor, name in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor} {name}"
    return f"{size_bytes} B"


def ceil_div(dividend: int, divisor: int) -> int:
    """Divide and round up."""
    return -(-dividend // divisor)
