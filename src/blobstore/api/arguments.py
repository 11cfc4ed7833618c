"""What callers pass, before the core sees it.

A wrong type is a `TypeError`, a value that can never be right an `InvalidArgumentError`.
Both name the argument and what was expected: ``size: expected int or str, got float``. They
are raised before anything begins: an untyped exception inside the core would make the store
unusable, because the progress of the core is unknown. A mistake of the caller must not do that.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from operator import index
from typing import Any, TypeVar

from blobstore.errors import InvalidArgumentError
from blobstore.format.descriptors import encode_name
from blobstore.store.names import NAME
from blobstore.units import BlobId, parse_size

E = TypeVar("E", bound=Enum)
T = TypeVar("T")


def wrong_type(argument: str, value: object, *, expected: str) -> TypeError:
    """Return the error about an argument of a wrong type."""
    return TypeError(f"{argument}: expected {expected}, got {type(value).__name__}")


# Numbers


def integer_of(value: Any, argument: str) -> int:
    """Return a number of bytes, pages or anything else that is counted.

    Raises:
        TypeError: It is no integer.
    """
    try:
        return index(value)
    except TypeError:
        raise wrong_type(argument, value, expected="int") from None


def size_of(value: Any, argument: str = "size") -> int:
    """Return a size in bytes, which may be written with a unit.

    Raises:
        TypeError: It is neither an integer nor text.
        InvalidArgumentError: It is negative, or its text is no size.
    """
    try:
        return parse_size(value if isinstance(value, str) else index(value), what=argument)
    except TypeError:
        raise wrong_type(argument, value, expected="int or str") from None


def id_of(value: Any, argument: str = "blob_id") -> BlobId:
    """Return a blob's id.

    Raises:
        TypeError: It is no integer.
    """
    return BlobId(integer_of(value, argument))


def optional(convert: Callable[[Any, str], T], value: Any, argument: str) -> T | None:
    """Convert a value that may be None.

    Raises:
        TypeError, InvalidArgumentError: As the conversion.
    """
    return None if value is None else convert(value, argument)


# Choices


def check_flags(**flags: Any) -> None:
    """Refuse flags that are no bools: the text "no" would count as true.

    Raises:
        TypeError: One of them is no bool.
    """
    for argument, value in flags.items():
        if not isinstance(value, bool):
            raise wrong_type(argument, value, expected="bool")


def member_of(kind: type[E], value: object, *, argument: str) -> E:
    """Return the member of an enum that a value stands for.

    Raises:
        InvalidArgumentError: It stands for none.
    """
    try:
        return kind(value)
    except ValueError:
        members = ", ".join(repr(member.value) for member in kind)
        raise InvalidArgumentError(
            f"{argument}: expected one of {members}, got {value!r}"
        ) from None


def check_callback(argument: str, value: Any) -> None:
    """Refuse what is neither None nor can be called.

    Raises:
        TypeError: It is no such thing.
    """
    if value is not None and not callable(value):
        raise wrong_type(argument, value, expected="a callable or None")


# Bytes


def bytes_of(buffer: Any, argument: str = "data") -> memoryview:
    """Look at a buffer as plain bytes.

    Raises:
        TypeError: It is no buffer, or not contiguous.
    """
    try:
        view = memoryview(buffer)
    except TypeError:
        raise wrong_type(argument, buffer, expected="a bytes-like object") from None
    if view.format == "B" and view.ndim == 1 and view.contiguous:
        return view
    if not view.c_contiguous:
        raise TypeError(f"{argument}: expected a contiguous buffer, got one with gaps")
    return view.cast("B")


def writable_bytes_of(buffer: Any, argument: str = "buffer") -> memoryview:
    """Look at a buffer that is to be filled as plain bytes.

    Raises:
        TypeError: It is no such buffer, or cannot be written to.
    """
    view = bytes_of(buffer, argument)
    if view.readonly:
        raise wrong_type(argument, buffer, expected="a writable buffer")
    return view


def buffers_of(buffers: Any, look: Callable[[Any, str], memoryview]) -> list[memoryview]:
    """Look at several buffers as plain bytes.

    Raises:
        TypeError: These are not several, or one of them is no such buffer.
    """
    if not isinstance(buffers, Iterable) or isinstance(
        buffers, bytes | bytearray | memoryview | str
    ):
        raise wrong_type("buffers", buffers, expected="several bytes-like objects")
    return [look(buffer, f"buffers[{number}]") for number, buffer in enumerate(buffers)]


def value_of(value: Any, argument: str = "value") -> bytes:
    """Return an attribute's value, or an external snapshot's id.

    Raises:
        TypeError: It is not bytes.
    """
    try:
        return memoryview(value).tobytes()
    except TypeError:
        raise wrong_type(argument, value, expected="bytes") from None


# Names


def text_of(value: Any, argument: str) -> str:
    """Return text.

    Raises:
        TypeError: It is no text.
        InvalidArgumentError: It cannot be written as UTF-8.
    """
    if not isinstance(value, str):
        raise wrong_type(argument, value, expected="str")
    try:
        encode_name(value)
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"{argument}: expected text in UTF-8, got {value!r}") from None
    return value


def blob_name_of(value: Any) -> str:
    """Return a blob's name.

    Raises:
        TypeError: It is no text.
        InvalidArgumentError: It is empty, has a NUL, or cannot be written as UTF-8.
    """
    name = text_of(value, "name")
    if not name or "\0" in name:
        raise InvalidArgumentError(f"name: expected some text without NUL, got {name!r}")
    return name


def xattrs_of(xattrs: Any) -> dict[str, bytes]:
    """Return attributes, in their order.

    Raises:
        TypeError: These are no attributes: a name is no text, or a value not bytes.
        InvalidArgumentError: A name cannot be written as UTF-8.
    """
    if xattrs is None:
        return {}
    if not isinstance(xattrs, Mapping):
        raise wrong_type("xattrs", xattrs, expected="a mapping of str to bytes")
    return {
        text_of(name, "xattrs: name"): value_of(value, f"xattrs[{name!r}]")
        for name, value in xattrs.items()
    }


def xattr_changes_of(name: Any, xattrs: Any) -> dict[str, bytes | None]:
    """Return new values of attributes, None for one to remove; `name` is an attribute as well.

    Raises:
        TypeError: As `xattrs_of`, or the name is no text.
        InvalidArgumentError: The name cannot be one, or is among the attributes as well.
    """
    if xattrs is not None and not isinstance(xattrs, Mapping):
        raise wrong_type("xattrs", xattrs, expected="a mapping of str to bytes or None")
    given = dict(xattrs or {})
    removed = [text_of(key, "xattrs: name") for key, value in given.items() if value is None]
    kept = {key: value for key, value in given.items() if value is not None}
    if name is not None and NAME in removed:
        raise InvalidArgumentError(f"name: {name!r}, but xattrs has {NAME!r} as well")
    return {**named_xattrs_of(name, kept), **dict.fromkeys(removed)}


def named_xattrs_of(name: Any, xattrs: Any) -> dict[str, bytes]:
    """Return the attributes of a new blob, which may have a name.

    Raises:
        TypeError: As `xattrs_of`, or the name is no text.
        InvalidArgumentError: The name cannot be one, or is among the attributes as well.
    """
    given = xattrs_of(xattrs)
    if name is None:
        return given
    if NAME in given:
        raise InvalidArgumentError(f"name: {name!r}, but xattrs has {NAME!r} as well")
    return {NAME: encode_name(blob_name_of(name)), **given}


def path_of(value: Any, argument: str, *, expected: str = "a path") -> str:
    """Return a path as text.

    Raises:
        TypeError: It is neither text nor a path.
    """
    path = os.fspath(value) if isinstance(value, str | os.PathLike) else value
    if not isinstance(path, str):
        raise wrong_type(argument, value, expected=expected)
    return path
