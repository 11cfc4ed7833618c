"""A blob's metadata as a chain of pages: how it is packed, how it is read back (FORMAT 4)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from blobstore.errors import CorruptError
from blobstore.format.descriptors import (
    EXTENT_PAGE,
    EXTENT_TABLE,
    FLAGS,
    FLAGS_SIZE,
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
    decode_extent_table,
    decode_flags,
    decode_runs,
    decode_xattr,
    split_descriptors,
)
from blobstore.format.page import BODY_SIZE

Pairs = Sequence[tuple[int, int]]

_EINVAL: Final = 22
_MIN_EXTENTS_ROOM: Final = 13
assert _MIN_EXTENTS_ROOM == TABLE_HEAD_SIZE == RUNS_HEAD_SIZE + PAIR_SIZE


@dataclass(slots=True)
class ChainContent:
    """What a blob's chain says, before any of it is compared with the store.

    `runs` and `table` are None where the chain has no such descriptor.
    """

    flags: Flags | None = None
    xattrs: dict[str, bytes] = field(default_factory=dict)
    internal_xattrs: dict[str, bytes] = field(default_factory=dict)
    runs: list[tuple[int, int]] | None = None
    table: list[tuple[int, int]] | None = None
    table_cluster_count: int = 0
    unknown_kinds: list[int] = field(default_factory=list)


def decode_chain(bodies: Iterable[bytes], *, place: str) -> ChainContent:
    """Read the descriptors of all pages of a chain, in order.

    Raises:
        CorruptError: Descriptors that do not add up, or contradict each other (EINVAL).
    """
    content = ChainContent()
    for body in bodies:
        for kind, view in split_descriptors(body, place=place):
            _take(content, kind, view, place)
    return content


def _take(content: ChainContent, kind: int, view: memoryview, place: str) -> None:
    if kind == FLAGS:
        if content.flags is not None:
            raise CorruptError(f"{place}: two flags descriptors", errno=_EINVAL)
        content.flags = decode_flags(view, place=place)
    elif kind in (XATTR, INTERNAL_XATTR):
        _take_xattr(
            content, decode_xattr(view, internal=kind == INTERNAL_XATTR, place=place), place
        )
    elif kind == RUNS:
        content.runs = [] if content.runs is None else content.runs
        content.runs.extend(decode_runs(view, place=place).runs)
    elif kind == EXTENT_TABLE:
        _take_table(content, decode_extent_table(view, place=place), place)
    elif kind != PADDING and kind not in content.unknown_kinds:
        content.unknown_kinds.append(kind)
    if kind == EXTENT_PAGE or (content.runs is not None and content.table is not None):
        raise CorruptError(f"{place}: both kinds of extents in one blob", errno=_EINVAL)


def _take_xattr(content: ChainContent, xattr: Xattr, place: str) -> None:
    table = content.internal_xattrs if xattr.internal else content.xattrs
    if xattr.name in table or not xattr.name or "\0" in xattr.name:
        raise CorruptError(
            f"{place}: xattr name {xattr.name!r} is empty, not unique or has a NUL", errno=_EINVAL
        )
    table[xattr.name] = xattr.value


def _take_table(content: ChainContent, part: ExtentTable, place: str) -> None:
    if content.table is None:
        content.table = []
        content.table_cluster_count = part.cluster_count
    if part.cluster_count != content.table_cluster_count:
        raise CorruptError(
            f"{place}: extent table of {part.cluster_count} clusters, "
            f"expected {content.table_cluster_count}",
            errno=_EINVAL,
        )
    content.table.extend(part.entries)


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


@dataclass(frozen=True, slots=True)
class ChainSize:
    """How much of the chain is taken before the extents: pages begun, and room in the last."""

    page_count: int
    room: int

    @classmethod
    def before_extents(cls, xattrs: Iterable[Xattr], *, root_capacity: int) -> "ChainSize":
        """Lay out the flags and attributes without writing them."""
        page_count, room = 1, root_capacity - FLAGS_SIZE
        for xattr in xattrs:
            size = xattr.encoded_size
            if size > room:
                page_count, room = page_count + 1, BODY_SIZE
            room -= size
        return cls(page_count, room)

    def pages_with_pairs(self, pair_count: int, *, head_size: int) -> int:
        """Return how many pages the chain has with so many runs or table entries at its end."""
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
