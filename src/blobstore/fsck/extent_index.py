"""An index of where each part of a blob lies, as far as it can be known. Pure.

A clone's map is laid over its parent's: what is left is flat, so that a read
needs no parents, however long the chain.
"""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from heapq import merge
from typing import Final

from blobstore.fsck.parsed_blob import ParsedBlob
from blobstore.units import ceil_div


class Kind(StrEnum):
    """What a part of a blob is."""

    DATA = "data"
    HOLE = "hole"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Backing:
    """What a place reads: a cluster of the store, an external snapshot, zeroes, or nothing."""

    kind: Kind
    external_id: bytes | None = None
    reason: str = ""

    @classmethod
    def unreadable(cls, reason: str) -> "Backing":
        """Return what can only be said to be missing."""
        return cls(Kind.UNREADABLE, reason=reason)

    @classmethod
    def external(cls, external_id: bytes) -> "Backing":
        """Return what lies outside of the store."""
        return cls(Kind.DATA, external_id=external_id)


CLUSTERS: Final = Backing(Kind.DATA)
ZEROES: Final = Backing(Kind.HOLE)


def _u32() -> "array[int]":
    return array("I")


def _u64() -> "array[int]":
    return array("Q")


@dataclass(slots=True)
class ExtentIndex:
    """Spans of places in ascending order without gaps, kept in columns.

    With `is_cut_off` there is more at the end; how much is not known.
    """

    is_cut_off: bool = False
    firsts: "array[int]" = field(default_factory=_u64)
    clusters: "array[int]" = field(default_factory=_u64)
    kinds: "array[int]" = field(default_factory=_u32)
    backings: list[Backing] = field(default_factory=list)
    numbers: dict[Backing, int] = field(default_factory=dict)
    count: int = 0

    def add(self, count: int, backing: Backing, cluster: int = 0) -> None:
        """Append a span; one that continues the last makes it longer."""
        if count <= 0:
            return
        number = self.numbers.setdefault(backing, len(self.backings))
        if number == len(self.backings):
            self.backings.append(backing)
        if not self._continues(number, cluster):
            self.firsts.append(self.count)
            self.clusters.append(cluster)
            self.kinds.append(number)
        self.count += count

    def _continues(self, number: int, cluster: int) -> bool:
        if not self.kinds or self.kinds[-1] != number:
            return False
        is_cluster = self.backings[number] is CLUSTERS
        return not is_cluster or self.clusters[-1] + self.count - self.firsts[-1] == cluster

    def part(self, first: int, end: int) -> Iterator[tuple[int, int, Backing, int]]:
        """Yield (place, count, what backs it, cluster) of the places from `first` to before `end`.

        The end of the map ends it, too.
        """
        end = min(end, self.count)
        at = max(0, bisect_right(self.firsts, first) - 1)
        while first < end:
            following = self.firsts[at + 1] if at + 1 < len(self.firsts) else self.count
            stop, backing = min(end, following), self.backings[self.kinds[at]]
            moved = first - self.firsts[at] if backing is CLUSTERS else 0
            yield first, stop - first, backing, self.clusters[at] + moved
            first, at = stop, at + 1


def lay_over(blob: ParsedBlob, parent: ExtentIndex | None, otherwise: Backing) -> ExtentIndex:
    """Return where a blob's places lie: its own clusters, then what its parent has.

    Without a parent everything else is `otherwise`; beyond a parent's end there are zeroes.
    """
    result = ExtentIndex()
    lost = Backing.unreadable(
        f"the metadata of blob {blob.blob_id:#x} that says where it lies is lost"
    )
    own = ((first, count, CLUSTERS, cluster) for first, cluster, count in blob.segments)
    gone = ((first, count, lost, 0) for first, count in sorted(blob.lost))
    for first, count, backing, cluster in merge(own, gone, key=lambda span: span[0]):
        _fill(result, parent, otherwise, first)
        skipped = result.count - first  # what is said twice is believed once
        result.add(count - skipped, backing, cluster + skipped if backing is CLUSTERS else 0)
    _fill(result, parent, otherwise, blob.cluster_count)
    return result


def _fill(result: ExtentIndex, parent: ExtentIndex | None, otherwise: Backing, end: int) -> None:
    """Add what a blob does not hold itself, up to this place."""
    if parent is not None:
        for _first, count, backing, cluster in parent.part(result.count, end):
            result.add(count, backing, cluster)
    result.add(end - result.count, otherwise)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a blob in bytes: data, a hole, or unreadable for a reason.

    Data lies at `place` of the device, or of the external snapshot.
    """

    offset: int
    length: int
    kind: Kind
    place: int = 0
    external_id: bytes | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a map is read in: sizes in bytes, and the external snapshots that are known.

    `size_of` gives the size of one, None if it is not registered.
    """

    cluster_size: int
    device_size: int
    size_of: Callable[[bytes], int | None]


def parts_of(places: ExtentIndex, around: Surroundings, offset: int, length: int) -> Iterator[Part]:
    """Yield the parts of a range of the blob, in order and without gaps."""
    size, end = around.cluster_size, offset + length
    for first, count, backing, cluster in places.part(offset // size, ceil_div(end, size)):
        start, stop = max(offset, first * size), min(end, (first + count) * size)
        if backing is CLUSTERS:
            place = cluster * size + start - first * size
            after = Backing.unreadable(f"beyond the device's end, at {around.device_size}")
            yield from _cut(start, stop, place, around.device_size, None, after)
        elif backing.external_id is not None:
            yield from _external(start, stop, backing.external_id, around)
        else:
            yield Part(start, stop - start, backing.kind, reason=backing.reason)


def _external(start: int, stop: int, external_id: bytes, around: Surroundings) -> Iterator[Part]:
    size = around.size_of(external_id)
    if size is None:
        reason = f"its external snapshot {external_id!r} is not available"
        yield Part(start, stop - start, Kind.UNREADABLE, reason=reason)
    else:
        yield from _cut(start, stop, start, size, external_id, ZEROES)


def _cut(
    start: int, stop: int, place: int, limit: int, external_id: bytes | None, after: Backing
) -> Iterator[Part]:
    """Yield what lies before the limit, and what is after it."""
    middle = start + max(0, min(stop - start, limit - place))
    if start < middle:
        yield Part(start, middle - start, Kind.DATA, place, external_id)
    if middle < stop:
        yield Part(middle, stop - middle, after.kind, reason=after.reason)


@dataclass(frozen=True, slots=True)
class UnreadableRange:
    """A range of a blob that cannot be read, in bytes, and why.

    A `length` of 0, only ever at the blob's end, tells that there was more; how much is not known.
    """

    offset: int
    length: int
    reason: str


def unreadable_in(parts: Iterator[Part]) -> list[UnreadableRange]:
    """Return what of these parts cannot be read; neighbours with the same reason are one."""
    return merged(
        UnreadableRange(part.offset, part.length, part.reason)
        for part in parts
        if part.kind is Kind.UNREADABLE
    )


def merged(ranges: Iterable[UnreadableRange]) -> list[UnreadableRange]:
    """Join ascending neighbours that have the same reason."""
    found: list[UnreadableRange] = []
    for each in ranges:
        last = found[-1] if found else None
        if last and last.reason == each.reason and last.offset + last.length == each.offset:
            found[-1] = UnreadableRange(last.offset, last.length + each.length, last.reason)
        else:
            found.append(each)
    return found
