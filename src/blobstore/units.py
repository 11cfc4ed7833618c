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

_SIZE: Final = re.compile(
    r"\s*(\d{1,99}(?:\.\d{1,99})?)\s*(?:([KMGT])(iB|B)?|B)?\s*", re.ASCII | re.IGNORECASE
)
"""Python reads no number of thousands of digits; a size has twenty."""

_UNITS: Final = ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"))
_POWERS: Final = {"K": 1, "M": 2, "G": 3, "T": 4}


def parse_size(text: int | str, *, what: str = "size") -> int:
    """Turn ``65536``, ``"64K"``, ``"64KiB"`` or ``"1.5G"`` into bytes.

    K, M, G, T and KiB, MiB, GiB, TiB are powers of 1024; KB, MB, GB, TB are
    powers of 1000, as in coreutils. Upper and lower case are the same. What a
    fraction leaves of a byte is dropped. `what` names the size in errors.

    Raises:
        InvalidArgumentError: Not a size, or negative.
    """
    if isinstance(text, int):
        if text < 0:
            raise InvalidArgumentError(f"{what}: expected 0 or more, got {text}")
        return text
    match = _SIZE.fullmatch(text)
    if match is None or ("." in match[1] and match[2] is None):
        raise InvalidArgumentError(
            f"{what}: expected bytes, or a number with K, M, G, T, KiB, MiB, GiB, TiB, "
            f"KB, MB, GB or TB, got {text!r}"
        )
    base = 1000 if (match[3] or "").upper() == "B" else KIB
    factor = base ** _POWERS[match[2].upper()] if match[2] else 1
    return _scaled(match[1], factor)


def _scaled(number: str, factor: int) -> int:
    """Multiply a decimal number, exactly: a float would miss bytes of large sizes."""
    whole, _point, fraction = number.partition(".")
    divisor: int = 10 ** len(fraction)
    return int(whole + fraction) * factor // divisor


def exact_size(size_bytes: int) -> str:
    """Write bytes in the largest unit that divides them, such as ``64 KiB``; no byte is lost."""
    for factor, name in _UNITS:
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor} {name}"
    return f"{size_bytes} B"


def format_size(size_bytes: int) -> str:
    """Write bytes for a person: exactly if round, as ``1.5 GiB``, otherwise about, as ``31.7 MiB``.

    A size that rounds up to the next unit is written in that unit.
    """
    for factor, name in _UNITS:
        if size_bytes * 20 * KIB >= factor * (20 * KIB - 1):
            scaled = size_bytes / factor
            if size_bytes * 4 % factor == 0:
                return f"{scaled:.2f}".rstrip("0").rstrip(".") + f" {name}"
            return f"{scaled:.1f} {name}"
    return f"{size_bytes} B"


def ceil_div(dividend: int, divisor: int) -> int:
    """Divide and round up."""
    return -(-dividend // divisor)
