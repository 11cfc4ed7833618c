"""Whole descriptors of any type, also padding and unknown types: tests make pages of them.

The library takes a page's body apart without making an object of each part, and never writes
padding or unknown descriptors.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from blobstore.format.descriptors import (
    HEADER,
    INTERNAL_XATTR,
    PADDING,
    ExtentPage,
    ExtentTable,
    Flags,
    Runs,
    Xattr,
    decode_extent_page,
    decode_extent_table,
    decode_flags,
    decode_runs,
    decode_xattr,
    split_descriptors,
)
from blobstore.operations import Buffer


@dataclass(frozen=True, slots=True)
class Padding:
    """Bytes that mean nothing."""

    body: bytes

    def encode(self) -> bytes:
        return HEADER.pack(PADDING, len(self.body)) + self.body


@dataclass(frozen=True, slots=True)
class Unknown:
    """A descriptor of a type that this version does not know."""

    kind: int
    body: bytes

    def encode(self) -> bytes:
        return HEADER.pack(self.kind, len(self.body)) + self.body


Descriptor: TypeAlias = Flags | Xattr | Runs | ExtentTable | ExtentPage | Padding | Unknown


def encode_descriptors(descriptors: Iterable[Descriptor]) -> bytes:
    """Return the descriptors one after the other."""
    return b"".join(descriptor.encode() for descriptor in descriptors)


def decode_descriptors(body: Buffer, *, place: str) -> list[Descriptor]:
    """Decode all descriptors of one page's body.

    Raises:
        CorruptError: A descriptor whose content does not add up (EINVAL).
    """
    return [_decode(kind, view, place) for kind, view in split_descriptors(body, place=place)]


def _decode(kind: int, view: memoryview, place: str) -> Descriptor:
    match kind:
        case 0:
            return Padding(bytes(view))
        case 1:
            return decode_runs(view, place=place)
        case 2 | 4:
            return decode_xattr(view, internal=kind == INTERNAL_XATTR, place=place)
        case 3:
            return decode_flags(view, place=place)
        case 5:
            return decode_extent_table(view, place=place)
        case 6:
            return decode_extent_page(view, place=place)
        case _:
            return Unknown(kind, bytes(view))
