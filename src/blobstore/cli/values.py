"""Bytes as users type them: values of attributes, ids of external snapshots, names."""

import os
from typing import Final

from blobstore.errors import InvalidArgumentError

_VALUE_MAX: Final = 1 << 16  # more than any metadata page can hold


def parse_value(text: str) -> bytes:
    """Turn text, ``hex:...`` or ``@FILE`` into an attribute's value.

    Raises:
        InvalidArgumentError: Bad hex digits, or a file that no attribute can hold.
    """
    if text.startswith("@"):
        return _read_value(text[1:])
    return parse_bytes(text)


def parse_bytes(text: str) -> bytes:
    """Turn text or ``hex:...`` into bytes.

    Raises:
        InvalidArgumentError: Bad hex digits.
    """
    if not text.startswith("hex:"):
        return os.fsencode(text)
    try:
        return bytes.fromhex(text[4:])
    except ValueError as error:
        raise InvalidArgumentError(f"value {text!r}: expected pairs of hex digits") from error


def name_xattrs(name: str | None) -> dict[str, bytes]:
    """Return the attributes of a new blob that is called `name`."""
    return {} if name is None else {"name": os.fsencode(name)}


def _read_value(path: str) -> bytes:
    with open(path, "rb") as file:
        value = file.read(_VALUE_MAX + 1)
    if len(value) > _VALUE_MAX:
        raise InvalidArgumentError(f"{path}: more than {_VALUE_MAX} bytes, too many for an xattr")
    return value
