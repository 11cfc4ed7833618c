"""A blob's allocated clusters as segments: neighbouring places that have neighbouring clusters."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from blobstore.metadata.page_arrays import Numbers

PIECE: Final = 1 << 14
"""This many rows are checked together; more rows would take memory, and save no time."""


def _u64() -> "array[int]":
    return array("Q")


@dataclass(slots=True)
class Segments:
    """Segments in ascending order of places, kept in columns: a ruined blob may have many."""

    indices: "array[int]" = field(default_factory=_u64)
    clusters: "array[int]" = field(default_factory=_u64)
    counts: "array[int]" = field(default_factory=_u64)

    def add(self, index: int, cluster: int, count: int) -> None:
        """Append a segment; one that continues the last makes it longer."""
        if self.indices:
            last = self.counts[-1]
            if self.indices[-1] + last == index and self.clusters[-1] + last == cluster:
                self.counts[-1] = last + count
                return
        self.indices.append(index)
        self.clusters.append(cluster)
        self.counts.append(count)

    def extend(self, indices: Numbers, clusters: Numbers, counts: Numbers) -> None:
        """Append many segments, as `add` would one after the other."""
        if not len(indices):
            return
        ends = counts[:-1]
        goes_on = (indices[1:] == indices[:-1] + ends) & (clusters[1:] == clusters[:-1] + ends)
        starts = np.flatnonzero(np.concatenate(([True], ~goes_on)))
        joined = np.add.reduceat(counts, starts)
        self.add(int(indices[0]), int(clusters[0]), int(joined[0]))
        self.indices.frombytes(indices[starts[1:]].tobytes())
        self.clusters.frombytes(clusters[starts[1:]].tobytes())
        self.counts.frombytes(joined[1:].tobytes())

    def spans(self) -> Iterator[tuple[Numbers, Numbers]]:
        """Yield the clusters as columns (first, count), a bounded number at a time."""
        for at in range(0, len(self), PIECE):
            columns = self.clusters[at : at + PIECE], self.counts[at : at + PIECE]
            firsts, counts = (np.array(column, dtype=np.int64) for column in columns)
            yield firsts, counts

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Go through (index in the blob, first cluster, count)."""
        return zip(self.indices, self.clusters, self.counts, strict=True)

    @property
    def cluster_count(self) -> int:
        """How many clusters there are in all."""
        return sum(self.counts)


@dataclass(slots=True)
class Places:
    """Places of a blob, whatever they hold, as (first, count); there may be many as well."""

    firsts: "array[int]" = field(default_factory=_u64)
    counts: "array[int]" = field(default_factory=_u64)

    def add(self, first: int, count: int) -> None:
        """Append places."""
        self.firsts.append(first)
        self.counts.append(count)

    def extend(self, firsts: Numbers, counts: Numbers) -> None:
        """Append many of them."""
        self.firsts.frombytes(firsts.tobytes())
        self.counts.frombytes(counts.tobytes())

    def __len__(self) -> int:
        return len(self.firsts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self.firsts, self.counts, strict=True)

    @property
    def place_count(self) -> int:
        """How many places there are in all."""
        return sum(self.counts)


def without_shared(segments: Segments, other: Segments) -> Segments:
    """Return the segments without the places where the other has the same cluster."""
    rest = Segments()
    others = list(other)
    at = 0
    for index, cluster, count in segments:
        end = index + count
        while at < len(others) and others[at][0] + others[at][2] <= index:
            at += 1
        following = at
        while following < len(others) and others[following][0] < end:
            first, other_cluster, other_count = others[following]
            following += 1
            if other_cluster - first != cluster - index:
                continue
            start = max(first, index)
            if start > index:
                rest.add(index, cluster, start - index)
            step = min(first + other_count, end) - index
            index, cluster = index + step, cluster + step
        if index < end:
            rest.add(index, cluster, end - index)
    return rest


def runs_of(numbers: Iterator[int]) -> Iterator[tuple[int, int]]:
    """Join ascending numbers into (first, count)."""
    first = count = 0
    for number in numbers:
        if count and number == first + count:
            count += 1
            continue
        if count:
            yield first, count
        first, count = number, 1
    if count:
        yield first, count


def counted(count: int, what: str) -> str:
    """Say how many there are: ``1 cluster``, ``2 clusters``."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def name_run(what: str, first: int, count: int) -> str:
    """Say a run of places in words."""
    if count == 1:
        return f"{what} {first}"
    return f"{what}s {first} to {first + count - 1}"
