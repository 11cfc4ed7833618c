"""Many attributes of one blob, in about as many bytes as on disk.

A page can hold hundreds of small ones. Ancestors, whose attributes nobody asks for, keep
them like this; a blob that is opened gets a dictionary.
"""

import struct
from collections.abc import ItemsView, Iterator, Mapping
from typing import Final

from blobstore.format.descriptors import decode_name, encode_name

_HEAD: Final = struct.Struct("<HH")

FEW: Final = 8
"""So many attributes are better kept as they are."""


class PackedXattrs(Mapping[str, bytes]):
    """Attributes by name, in their order; each is looked for from the beginning.

    Whether those whose names are given as `known` are there is known at once.
    """

    __slots__ = ("_count", "_encoded", "_known")

    def __init__(self, xattrs: Mapping[str, bytes], *, known: tuple[str, ...] = ()) -> None:
        self._count = len(xattrs)
        self._encoded = b"".join(map(_encoded, xattrs.items()))
        self._known = {name: xattrs.get(name) for name in known}

    def __getitem__(self, name: str) -> bytes:
        value = self._known[name] if name in self._known else self._look_for(name)
        if value is None:
            raise KeyError(name)
        return value

    def _look_for(self, name: str) -> bytes | None:
        return next((value for found, value in self._pairs() if found == name), None)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _value in self._pairs())

    def __len__(self) -> int:
        return self._count

    def items(self) -> ItemsView[str, bytes]:
        """Return all at once: one after the other, each would be looked for."""
        return self.unpacked().items()

    def unpacked(self) -> dict[str, bytes]:
        """Return the same attributes as a dictionary."""
        return dict(self._pairs())

    def _pairs(self) -> Iterator[tuple[str, bytes]]:
        encoded, at = self._encoded, 0
        while at < len(encoded):
            name_length, value_length = _HEAD.unpack_from(encoded, at)
            start = at + _HEAD.size
            at = start + name_length + value_length
            yield decode_name(encoded[start : start + name_length]), encoded[at - value_length : at]


def _encoded(xattr: tuple[str, bytes]) -> bytes:
    name, value = encode_name(xattr[0]), xattr[1]
    return _HEAD.pack(len(name), len(value)) + name + value


def packed_if_many(
    xattrs: Mapping[str, bytes], *, known: tuple[str, ...] = ()
) -> Mapping[str, bytes]:
    """Return the attributes, packed if they are more than a few."""
    return PackedXattrs(xattrs, known=known) if len(xattrs) > FEW else xattrs
