"""Names and uuids, and the attributes that hold them (FORMAT 9).

The bytes are the original's: a new volume's name fills 64 bytes, a renamed one's is
as long as its text and one NUL; a uuid is 36 lower case characters and a NUL.
"""

import errno
from collections.abc import Mapping
from typing import Final
from uuid import UUID

from blobstore.errors import CorruptError, InvalidArgumentError
from blobstore.format.descriptors import decode_name, encode_name

VOLUME_STORE_TYPE: Final = b"LVOLSTORE".ljust(16, b"\0")
NAME: Final = "name"
UUID_NAME: Final = "uuid"

NAME_SIZE: Final = 64
"""The size of a new volume's name on disk; a name has at least one byte less."""
UUID_SIZE: Final = 37

RESERVED: Final = frozenset({NAME, UUID_NAME})
"""The attributes of a volume that only this layer changes."""


def check_name(name: str) -> bytes:
    """Return a name as bytes.

    Raises:
        InvalidArgumentError: It has no byte, more than 63, or a NUL.
    """
    encoded = encode_name(name)
    if not 0 < len(encoded) < NAME_SIZE or b"\0" in encoded:
        raise InvalidArgumentError(
            f"name {name[:NAME_SIZE]!r}: {len(encoded)} bytes, "
            f"expected 1 to {NAME_SIZE - 1} without NUL"
        )
    return encoded


def volume_xattrs(name: str, uuid: UUID) -> dict[str, bytes]:
    """Return the attributes of a new volume, in their order.

    Raises:
        InvalidArgumentError: As `check_name`.
    """
    return {NAME: check_name(name).ljust(NAME_SIZE, b"\0"), UUID_NAME: encode_uuid(uuid)}


def store_xattrs(name: str, uuid: UUID) -> dict[str, bytes]:
    """Return the attributes of a new store's super blob, in their order.

    Raises:
        InvalidArgumentError: As `check_name`.
    """
    return {UUID_NAME: encode_uuid(uuid), NAME: check_name(name) + b"\0"}


def encode_uuid(uuid: UUID) -> bytes:
    """Return a uuid as its attribute holds it."""
    return str(uuid).encode() + b"\0"


def decode_uuid(value: bytes | None) -> UUID | None:
    """Return the uuid of an attribute, or None where there is none; its NUL may be missing."""
    if value is None or len(value.removesuffix(b"\0")) != UUID_SIZE - 1:
        return None
    text = value.removesuffix(b"\0").decode("latin-1")
    try:
        uuid = UUID(text)
    except ValueError:
        return None
    return uuid if str(uuid) == text.lower() else None


def decode_volume_name(xattrs: Mapping[str, bytes]) -> str:
    """Return a volume's name; the text before the first NUL, empty where there is none."""
    return decode_name(xattrs.get(NAME, b"").split(b"\0", 1)[0])


def decode_store_identity(xattrs: Mapping[str, bytes], *, place: str) -> tuple[str, UUID]:
    """Return the name and uuid of a store from its super blob's attributes.

    Raises:
        CorruptError: One of them is missing or damaged (EINVAL).
    """
    uuid = decode_uuid(xattrs.get(UUID_NAME))
    if uuid is None:
        found = xattrs.get(UUID_NAME)
        raise CorruptError(
            f"{place}: store uuid {found!r}, expected 36 characters and a NUL", errno=errno.EINVAL
        )
    name = xattrs.get(NAME)
    if name is None or len(name) > NAME_SIZE:
        size = "none" if name is None else f"{len(name)} bytes"
        raise CorruptError(
            f"{place}: store name: {size}, expected at most {NAME_SIZE} bytes", errno=errno.EINVAL
        )
    return decode_volume_name(xattrs), uuid
