"""Descriptors: the typed records inside a metadata page (FORMAT 4)."""

import errno
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Final, NamedTuple

from blobstore.errors import CorruptError
from blobstore.operations import Buffer

PADDING: Final = 0
RUNS: Final = 1
XATTR: Final = 2
FLAGS: Final = 3
INTERNAL_XATTR: Final = 4
EXTENT_TABLE: Final = 5
EXTENT_PAGE: Final = 6

THIN_PROV: Final = 1 << 0
HAS_INTERNAL_XATTRS: Final = 1 << 1
HAS_EXTENT_TABLE: Final = 1 << 2
EXTERNAL_SNAPSHOT: Final = 1 << 3
KNOWN_INVALID: Final = THIN_PROV | HAS_INTERNAL_XATTRS | HAS_EXTENT_TABLE | EXTERNAL_SNAPSHOT
READ_ONLY: Final = 1 << 0
KNOWN_DATA_RO: Final = READ_ONLY
CLEAR_METHOD_MASK: Final = 0b11
KNOWN_MD_RO: Final = CLEAR_METHOD_MASK

HEADER: Final = struct.Struct("<BI")  # type, length of what follows
_EXTENTS_HEAD: Final = struct.Struct("<BII")  # a header, and the first place of an extent page
_FLAGS_BODY: Final = struct.Struct("<QQQ")
_XATTR_HEAD: Final = struct.Struct("<HH")
_PAIR: Final = struct.Struct("<II")
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")

PAIR_SIZE: Final = _PAIR.size
RUNS_HEAD_SIZE: Final = HEADER.size
TABLE_HEAD_SIZE: Final = HEADER.size + _U64.size
XATTR_OVERHEAD: Final = HEADER.size + _XATTR_HEAD.size
FLAGS_SIZE: Final = HEADER.size + _FLAGS_BODY.size
CLUSTERS_PER_EXTENT_PAGE: Final = 512
assert (RUNS_HEAD_SIZE, TABLE_HEAD_SIZE, XATTR_OVERHEAD, FLAGS_SIZE) == (5, 13, 9, 29)


class Flags(NamedTuple):
    """What a reader must understand, and what it may not change."""

    invalid: int = 0
    data_ro: int = 0
    md_ro: int = 0

    def encode(self) -> bytes:
        return HEADER.pack(FLAGS, _FLAGS_BODY.size) + _FLAGS_BODY.pack(
            self.invalid, self.data_ro, self.md_ro
        )


class Xattr(NamedTuple):
    """A named value; internal ones belong to the blobstore itself."""

    name: str
    value: bytes
    internal: bool = False

    @property
    def encoded_size(self) -> int:
        return XATTR_OVERHEAD + len(encode_name(self.name)) + len(self.value)

    def encode(self) -> bytes:
        name = encode_name(self.name)
        kind = INTERNAL_XATTR if self.internal else XATTR
        head = HEADER.pack(kind, _XATTR_HEAD.size + len(name) + len(self.value))
        return head + _XATTR_HEAD.pack(len(name), len(self.value)) + name + self.value


@dataclass(frozen=True, slots=True)
class Runs:
    """Run-length extents: (first cluster, or 0 for unallocated, count)."""

    runs: tuple[tuple[int, int], ...]

    def encode(self) -> bytes:
        return HEADER.pack(RUNS, PAIR_SIZE * len(self.runs)) + _encode_pairs(self.runs)


@dataclass(frozen=True, slots=True)
class ExtentTable:
    """(extent page, or 0 for absent, count of pages), and the blob's number of clusters."""

    cluster_count: int
    entries: tuple[tuple[int, int], ...]

    def encode(self) -> bytes:
        head = HEADER.pack(EXTENT_TABLE, _U64.size + PAIR_SIZE * len(self.entries))
        return head + _U64.pack(self.cluster_count) + _encode_pairs(self.entries)


@dataclass(frozen=True, slots=True)
class ExtentPage:
    """The clusters of up to 512 places of a blob, as little-endian u32."""

    first: int
    clusters: bytes

    def encode(self) -> bytes:
        head = HEADER.pack(EXTENT_PAGE, _U32.size + len(self.clusters))
        return head + _U32.pack(self.first) + self.clusters


def encode_name(name: str) -> bytes:
    """Return an attribute's name as on disk; bytes that are no UTF-8 survive a round trip."""
    return name.encode("utf-8", "surrogateescape")


def decode_name(name: bytes) -> str:
    """Return an attribute's name as text."""
    return name.decode("utf-8", "surrogateescape")


def split_descriptors(body: Buffer, *, place: str) -> Iterator[tuple[int, memoryview]]:
    """Yield (type, content) of every descriptor up to the end mark, padding included.

    Raises:
        CorruptError: A descriptor that reaches beyond the page.
    """
    view = memoryview(body)
    end = len(view)
    at = 0
    while at + HEADER.size <= end:
        kind, length = HEADER.unpack_from(view, at)
        if kind == PADDING and length == 0:
            return
        at += HEADER.size
        if length > end - at:
            raise too_long(kind, length, end - at, place=place)
        yield kind, view[at : at + length]
        at += length


def only_extents(data: bytes, start: int, end: int, *, place: str) -> tuple[int, bytes] | None:
    """Return the first place and the clusters that an extent page holds; None if it is no such.

    Raises:
        CorruptError: Its descriptor reaches beyond the end, or has no such length (EINVAL).
    """
    kind, length, first = _EXTENTS_HEAD.unpack_from(data, start)
    begin = start + HEADER.size
    after = begin + length
    if after > end:
        raise too_long(kind, length, end - begin, place=place)
    is_last = after + HEADER.size > end or HEADER.unpack_from(data, after) == (PADDING, 0)
    if kind != EXTENT_PAGE or not is_last:
        return None
    _check_extents_length(length, place)
    return first, data[begin + _U32.size : after]


def too_long(kind: int, length: int, left: int, *, place: str) -> CorruptError:
    """Return what is raised for a descriptor that reaches beyond its page."""
    return CorruptError(
        f"{place}: descriptor {kind} of {length} bytes, but {left} are left", errno=errno.EINVAL
    )


def decode_flags(content: Buffer, *, place: str) -> Flags:
    """Decode the content of a flags descriptor; blobs with the same flags share one value."""
    if len(content) != _FLAGS_BODY.size:
        raise CorruptError(
            f"{place}: flags of {len(content)} bytes, expected {_FLAGS_BODY.size}",
            errno=errno.EINVAL,
        )
    return _shared_flags(bytes(content))


@lru_cache(maxsize=64)
def _shared_flags(content: bytes) -> Flags:
    return Flags(*_FLAGS_BODY.unpack(content))


def decode_xattr(content: Buffer, *, internal: bool, place: str) -> Xattr:
    """Decode the content of an xattr descriptor."""
    return Xattr(*split_xattr(content, place=place), internal)


def split_xattr(content: Buffer, *, place: str) -> tuple[str, bytes]:
    """Return the name and the value that an xattr descriptor holds."""
    size = len(content)
    if size < _XATTR_HEAD.size:
        raise CorruptError(f"{place}: xattr of {size} bytes", errno=errno.EINVAL)
    name_length, value_length = _XATTR_HEAD.unpack_from(content)
    end_of_name = _XATTR_HEAD.size + name_length
    if end_of_name + value_length != size:
        raise CorruptError(
            f"{place}: xattr of {size} bytes, but name {name_length} and value {value_length}",
            errno=errno.EINVAL,
        )
    name = decode_name(bytes(content[_XATTR_HEAD.size : end_of_name]))
    return name, bytes(content[end_of_name:])


def decode_runs(content: Buffer, *, place: str) -> Runs:
    """Decode run-length extents; the counts are not yet bounded by anything."""
    return Runs(tuple(split_runs(content, place=place)))


def split_runs(content: Buffer, *, place: str) -> Iterator[tuple[int, int]]:
    """Return the (first cluster, count) of run-length extents."""
    if len(content) == 0 or len(content) % PAIR_SIZE:
        raise CorruptError(
            f"{place}: extents of {len(content)} bytes, expected a multiple of {PAIR_SIZE}",
            errno=errno.EINVAL,
        )
    return _PAIR.iter_unpack(content)


def decode_extent_table(content: Buffer, *, place: str) -> ExtentTable:
    """Decode (one part of) an extent table."""
    cluster_count, entries = split_extent_table(content, place=place)
    return ExtentTable(cluster_count, tuple(entries))


def split_extent_table(content: Buffer, *, place: str) -> tuple[int, Iterator[tuple[int, int]]]:
    """Return the number of clusters, and the (page, count) of (one part of) an extent table."""
    cluster_count = cluster_count_of(content, place=place)
    return cluster_count, _PAIR.iter_unpack(content[_U64.size :])


def cluster_count_of(content: Buffer, *, place: str) -> int:
    """Return the number of clusters that (one part of) an extent table says."""
    if len(content) < _U64.size or len(content) % PAIR_SIZE:
        raise CorruptError(f"{place}: extent table of {len(content)} bytes", errno=errno.EINVAL)
    cluster_count: int = _U64.unpack_from(content)[0]
    return cluster_count


def decode_extent_page(content: Buffer, *, place: str) -> ExtentPage:
    """Decode an extent page's only descriptor."""
    first, clusters = split_extent_page(content, place=place)
    return ExtentPage(first, bytes(clusters))


def split_extent_page(content: Buffer, *, place: str) -> tuple[int, Buffer]:
    """Return the first place and the clusters of an extent page's only descriptor."""
    _check_extents_length(len(content), place)
    (first,) = _U32.unpack_from(content)
    return first, content[_U32.size :]


def _check_extents_length(length: int, place: str) -> None:
    size = length - _U32.size
    if size < 0 or size % _U32.size or size > CLUSTERS_PER_EXTENT_PAGE * _U32.size:
        raise CorruptError(f"{place}: extent page of {length} bytes", errno=errno.EINVAL)


def _encode_pairs(pairs: tuple[tuple[int, int], ...]) -> bytes:
    return array("I", chain.from_iterable(pairs)).tobytes()
