"""What callers hand in, before the core sees it: a wrong type is a TypeError, and changes nothing.

An untyped exception inside the core makes a store unusable, for nobody knows
how far it came. A slip of the caller must not.
"""

from collections.abc import Mapping
from enum import Enum
from operator import index
from typing import Any, TypeVar

from blobstore.errors import InvalidArgumentError
from blobstore.format.descriptors import encode_name
from blobstore.operations import Buffer
from blobstore.store.names import NAME
from blobstore.units import BlobId

E = TypeVar("E", bound=Enum)


def bytes_of(buffer: Any) -> memoryview:
    """Look at a buffer as plain bytes.

    Raises:
        TypeError: It is no buffer, or not contiguous.
    """
    view = memoryview(buffer)
    return view if view.format == "B" and view.ndim == 1 and view.contiguous else view.cast("B")


def writable_bytes_of(buffer: Any) -> memoryview:
    """Look at a buffer that is to be filled as plain bytes.

    Raises:
        TypeError: It is no such buffer, or cannot be written to.
    """
    view = bytes_of(buffer)
    if view.readonly:
        raise TypeError(f"a writable buffer is needed, not {type(buffer).__name__}")
    return view


def id_of(blob_id: int | None) -> BlobId:
    """Return a blob's id.

    Raises:
        TypeError: It is no integer.
    """
    if blob_id is None:
        raise TypeError("blob_id: expected int, got NoneType")
    return BlobId(index(blob_id))


def name_of(name: str) -> str:
    """Return an attribute's name.

    Raises:
        TypeError: It is no text.
    """
    if not isinstance(name, str):
        raise TypeError(f"an attribute's name is a str, not {type(name).__name__}")
    return name


def value_of(value: Buffer) -> bytes:
    """Return an attribute's value, or an external snapshot's id.

    Raises:
        TypeError: It is not bytes.
    """
    return memoryview(value).tobytes()


def blob_name_of(name: str) -> str:
    """Return a blob's name.

    Raises:
        TypeError: It is no text.
        InvalidArgumentError: It is empty, has a NUL, or cannot be written as UTF-8.
    """
    if not isinstance(name, str):
        raise TypeError(f"name: expected str, got {type(name).__name__}")
    if not name or "\0" in name:
        raise InvalidArgumentError(f"name: expected some text without NUL, got {name!r}")
    try:
        encode_name(name)
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"name: expected text in UTF-8, got {name!r}") from None
    return name


def named_xattrs_of(name: str | None, xattrs: Mapping[str, bytes] | None) -> dict[str, bytes]:
    """Return the attributes of a blob that may have a name.

    Raises:
        TypeError: A name is no text, or a value not bytes.
        InvalidArgumentError: The name cannot be one, or is among the attributes as well.
    """
    given = xattrs_of(xattrs)
    if name is None:
        return given
    if NAME in given:
        raise InvalidArgumentError(f"name: {name!r}, but xattrs has {NAME!r} as well")
    return {NAME: encode_name(blob_name_of(name)), **given}


def member_of(kind: type[E], value: object, *, argument: str) -> E:
    """Return the member of an enum that a value stands for.

    Raises:
        InvalidArgumentError: None.
    """
    try:
        return kind(value)
    except ValueError:
        members = ", ".join(repr(member.value) for member in kind)
        raise InvalidArgumentError(
            f"{argument}: expected one of {members}, got {value!r}"
        ) from None


def xattrs_of(xattrs: Mapping[str, bytes] | None) -> dict[str, bytes]:
    """Return attributes, in their order.

    Raises:
        TypeError: A name is no text, or a value not bytes.
    """
    return {name_of(name): value_of(value) for name, value in (xattrs or {}).items()}
