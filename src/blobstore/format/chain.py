"""A blob's metadata as a chain of pages: how it is packed, how it is read back (FORMAT 4)."""

import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from blobstore.errors import CorruptError
from blobstore.format.descriptors import (
    EXTENT_PAGE,
    EXTENT_TABLE,
    FLAGS,
    FLAGS_SIZE,
    HEADER,
    INTERNAL_XATTR,
    PADDING,
    PAIR_SIZE,
    RUNS,
    RUNS_HEAD_SIZE,
    TABLE_HEAD_SIZE,
    XATTR,
    ExtentTable,
    Flags,
    Runs,
    Xattr,
    cluster_count_of,
    decode_flags,
    split_runs,
    split_xattr,
    too_long,
)
from blobstore.format.page import BODY_SIZE, HEAD
from blobstore.format.pairs import PackedPairs
from blobstore.operations import Buffer

Pairs = Sequence[tuple[int, int]]

_MIN_EXTENTS_ROOM: Final = 13
_HEADER_SIZE: Final = HEADER.size
_unpack_header: Final = HEADER.unpack_from
assert _MIN_EXTENTS_ROOM == TABLE_HEAD_SIZE == RUNS_HEAD_SIZE + PAIR_SIZE


@dataclass(slots=True)
class ChainContent:
    """What a blob's chain says, before any of it is compared with the store.

    `runs` and `table` are None where the chain has no such descriptor; the keys of
    `unknown_kinds` are in the order of the chain.
    """

    flags: Flags | None = None
    xattrs: dict[str, bytes] = field(default_factory=dict)
    internal_xattrs: dict[str, bytes] = field(default_factory=dict)
    runs: PackedPairs | None = None
    table: PackedPairs | None = None
    table_cluster_count: int = 0
    unknown_kinds: dict[int, None] = field(default_factory=dict)

    def take_page(self, page: Buffer, *, place: str) -> int:
        """Take the descriptors of the chain's next page; return how many bytes they are.

        Raises:
            CorruptError: Descriptors that do not add up, or contradict each other (EINVAL).
        """
        return self._take(page, HEAD.size, HEAD.size + BODY_SIZE, place) - HEAD.size

    def take_body(self, body: Buffer, *, place: str) -> None:
        """Take the descriptors of the next page, of which only they are there.

        Raises:
            CorruptError: As `take_page`.
        """
        self._take(body, 0, len(body), place)

    def _take(self, data: Buffer, at: int, end: int, place: str) -> int:
        """Take the descriptors in a part of `data`; return where they end.

        A store of many blobs is read as fast as this is.
        """
        while (start := at + _HEADER_SIZE) <= end:
            kind, length = _unpack_header(data, at)
            if kind == PADDING and length == 0:
                break
            at = start + length
            if at > end:
                raise too_long(kind, length, end - start, place=place)
            if kind == XATTR:
                _take_xattr(self.xattrs, data[start:at], place)
            elif kind == INTERNAL_XATTR:
                _take_xattr(self.internal_xattrs, data[start:at], place)
            elif kind == FLAGS:
                if self.flags is not None:
                    raise CorruptError(f"{place}: two flags descriptors", errno=errno.EINVAL)
                self.flags = decode_flags(data[start:at], place=place)
            elif kind == EXTENT_TABLE and self.runs is None:
                self._take_table(data[start:at], place)
            elif kind != PADDING:
                self._take_rest(kind, data[start:at], place)
        return at

    def _take_rest(self, kind: int, content: Buffer, place: str) -> None:
        """Take extents, and note what is unknown."""
        if kind == RUNS:
            self._take_runs(content, place)
        elif kind == EXTENT_TABLE:
            self._take_table(content, place)
        elif kind != EXTENT_PAGE:
            self.unknown_kinds[kind] = None
        if kind == EXTENT_PAGE or (self.runs is not None and self.table is not None):
            raise CorruptError(f"{place}: both kinds of extents in one blob", errno=errno.EINVAL)

    def _take_runs(self, content: Buffer, place: str) -> None:
        split_runs(content, place=place)
        if self.runs is None:
            self.runs = PackedPairs()
        self.runs.append_encoded(content)

    def _take_table(self, content: Buffer, place: str) -> None:
        cluster_count = cluster_count_of(content, place=place)
        if self.table is None:
            self.table = PackedPairs()
            self.table_cluster_count = cluster_count
        elif cluster_count != self.table_cluster_count:
            raise CorruptError(
                f"{place}: extent table of {cluster_count} clusters, "
                f"expected {self.table_cluster_count}",
                errno=errno.EINVAL,
            )
        self.table.append_encoded(content[TABLE_HEAD_SIZE - HEADER.size :])


def _take_xattr(xattrs: dict[str, bytes], content: Buffer, place: str) -> None:
    name, value = split_xattr(content, place=place)
    if name in xattrs or not name or "\0" in name:
        raise CorruptError(
            f"{place}: xattr name {name!r} is empty, not unique or has a NUL", errno=errno.EINVAL
        )
    xattrs[name] = value


def decode_chain(bodies: Iterable[Buffer], *, place: str) -> ChainContent:
    """Read the descriptors of all pages of a chain, in order.

    Raises:
        CorruptError: Descriptors that do not add up, or contradict each other (EINVAL).
    """
    content = ChainContent()
    for body in bodies:
        content.take_body(body, place=place)
    return content


class ChainPacker:
    """Fills pages with descriptors by the original's rules, or only counts how many it takes.

    Everything that is written goes through `put`; the extents come last.
    """

    def __init__(self, root_capacity: int) -> None:
        self._room = root_capacity
        self._bodies: list[list[bytes]] = [[]]

    @property
    def bodies(self) -> list[bytes]:
        """The descriptors of each page, the root's first."""
        return [b"".join(parts) for parts in self._bodies]

    def put(self, data: bytes) -> None:
        """Append a descriptor that must stay whole."""
        if len(data) > BODY_SIZE:
            raise AssertionError(f"a descriptor of {len(data)} bytes")
        if len(data) > self._room:
            self._turn_page()
        self._bodies[-1].append(data)
        self._room -= len(data)

    def put_runs(self, runs: Pairs) -> None:
        """Append run-length extents; no run, no descriptor."""
        at = 0
        while at < len(runs):
            count = self._room_for_pairs(RUNS_HEAD_SIZE, len(runs) - at)
            self.put(Runs(tuple(runs[at : at + count])).encode())
            at += count

    def put_table(self, cluster_count: int, entries: Pairs) -> None:
        """Append the extent table; its header is written wherever it fits."""
        if not entries and self._room < _MIN_EXTENTS_ROOM:
            return
        at = 0
        while True:
            count = self._room_for_pairs(TABLE_HEAD_SIZE, len(entries) - at)
            self.put(ExtentTable(cluster_count, tuple(entries[at : at + count])).encode())
            at += count
            if at >= len(entries):
                return
            self._turn_page()

    def _room_for_pairs(self, head_size: int, wanted: int) -> int:
        if self._room < _MIN_EXTENTS_ROOM:
            self._turn_page()
        return min(wanted, (self._room - head_size) // PAIR_SIZE)

    def _turn_page(self) -> None:
        self._bodies.append([])
        self._room = BODY_SIZE


class ChainSize(NamedTuple):
    """How much of the chain is taken before the extents: pages begun, and room in the last."""

    page_count: int
    room: int

    @classmethod
    def before_extents(cls, xattrs: Iterable[Xattr], *, root_capacity: int) -> "ChainSize":
        """Lay out the flags and attributes without writing them."""
        return cls(1, root_capacity - FLAGS_SIZE).with_more(xattrs)

    def with_more(self, xattrs: Iterable[Xattr]) -> "ChainSize":
        """Return the size with these attributes at the end."""
        page_count, room = self.page_count, self.room
        for xattr in xattrs:
            size = xattr.encoded_size
            if size > room:
                page_count, room = page_count + 1, BODY_SIZE
            room -= size
        return ChainSize(page_count, room)

    def pages_with_pairs(self, pair_count: int, *, head_size: int) -> int:
        """Return how many pages the chain has with `pair_count` runs or entries at its end."""
        here = max(0, self.room - head_size) // PAIR_SIZE
        if pair_count <= here:
            return self.page_count
        per_page = (BODY_SIZE - head_size) // PAIR_SIZE
        return self.page_count - (-(pair_count - here) // per_page)


def pack_chain(
    *,
    flags: Flags,
    xattrs: Iterable[Xattr],
    runs: Pairs | None = None,
    table: tuple[int, Pairs] | None = None,
    root_capacity: int = BODY_SIZE,
) -> list[bytes]:
    """Return the descriptors of each page of a blob's chain, the root's first."""
    packer = ChainPacker(root_capacity)
    packer.put(flags.encode())
    for xattr in xattrs:
        packer.put(xattr.encode())
    if table is not None:
        packer.put_table(*table)
    elif runs is not None:
        packer.put_runs(runs)
    return packer.bodies
