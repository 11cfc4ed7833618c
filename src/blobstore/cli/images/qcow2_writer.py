"""Writing a qcow2 image front to back: each cluster once, in the order of the disk.

qemu-img can write an image, but not one that holds exactly the clusters that a blob holds
and reads the rest from a file below: it cannot be told which zeroes are content, and
which are holes. The layout is header, first table (L1), then data with the tables of the
second level (L2) between them, then the counts of references: no cluster has more than one.
The header is written last, so that a file which is cut off is no image.
"""

import os
import struct
import sys
from array import array
from itertools import groupby
from typing import Final

from blobstore.cli.content import is_zero
from blobstore.cli.files import write_all
from blobstore.cli.images.qcow2_header import (
    BACKING_FORMAT,
    ENTRY_SIZE,
    EXTENSION,
    FEATURES,
    HEAD,
    MAGIC,
)
from blobstore.units import KIB, ceil_div

CLUSTER_SIZE: Final = 64 * KIB
_CLUSTER_BITS: Final = 16
_VERSION: Final = 3
_PER_TABLE: Final = CLUSTER_SIZE // ENTRY_SIZE
_OWNED: Final = 1 << 63  # the cluster has one reference
_READS_AS_ZEROES: Final = 1
_SECTOR_SIZE: Final = 512
_COUNT_WIDTH: Final = 4  # a count has 1 << 4 bits
_COUNTS_PER_BLOCK: Final = CLUSTER_SIZE * 8 >> _COUNT_WIDTH
_ONE: Final = struct.pack(">H", 1)
assert CLUSTER_SIZE == 1 << _CLUSTER_BITS


class Qcow2Writer:
    """Writes an image of a disk of `size` bytes to an empty file; `backing` is a qcow2 file.

    What is not written is a hole, which reads as the backing file, or as zeroes.
    """

    def __init__(self, descriptor: int, size: int, *, backing: str | None = None) -> None:
        self._descriptor = descriptor
        self._size = ceil_div(size, _SECTOR_SIZE) * _SECTOR_SIZE
        self._backing = backing
        spans = ceil_div(self._size, CLUSTER_SIZE * _PER_TABLE)
        self._first_table = array("Q", bytes(ENTRY_SIZE * spans))
        self._table = array("Q", bytes(CLUSTER_SIZE))
        self._span = 0
        self._next = CLUSTER_SIZE + ceil_div(ENTRY_SIZE * spans, CLUSTER_SIZE) * CLUSTER_SIZE

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write whole clusters; only the disk's last one may be shorter. Offsets ascend."""
        clusters = ceil_div(len(data), CLUSTER_SIZE)
        at = self._take(clusters)
        write_all(self._descriptor, data, at)
        for number in range(clusters):
            self._enter(offset // CLUSTER_SIZE + number, at + number * CLUSTER_SIZE | _OWNED)

    def write_zeroes(self, offset: int, length: int) -> None:
        """Make whole clusters read as zeroes, whatever the backing file holds."""
        first = offset // CLUSTER_SIZE
        for index in range(first, first + ceil_div(length, CLUSTER_SIZE)):
            self._enter(index, _READS_AS_ZEROES)

    def write_part(self, offset: int, data: bytes, *, zeroes_are_holes: bool) -> None:
        """Write whole clusters, and those that are zeroes as holes or as zeroes."""
        view = memoryview(data)
        at = 0
        for zero, group in groupby(
            is_zero(view[start : start + CLUSTER_SIZE])
            for start in range(0, len(view), CLUSTER_SIZE)
        ):
            start, at = at, min(at + CLUSTER_SIZE * sum(1 for _cluster in group), len(view))
            if not zero:
                self.write(offset + start, view[start:at])
            elif not zeroes_are_holes:
                self.write_zeroes(offset + start, at - start)

    def finish(self) -> None:
        """Write the tables, the counts and the header."""
        self._end_table()
        write_all(self._descriptor, _big_endian(self._first_table), CLUSTER_SIZE)
        counts_at, clusters = self._write_counts()
        header = self._header(counts_at, clusters)
        os.ftruncate(self._descriptor, self._next)
        write_all(self._descriptor, header, 0)

    def _take(self, clusters: int) -> int:
        at = self._next
        self._next += clusters * CLUSTER_SIZE
        return at

    def _enter(self, index: int, entry: int) -> None:
        span, place = divmod(index, _PER_TABLE)
        if span != self._span:
            self._end_table()
            self._span = span
        self._table[place] = entry

    def _end_table(self) -> None:
        """Write the present table of the second level, if anything is in it."""
        if any(self._table):
            at = self._take(1)
            write_all(self._descriptor, _big_endian(self._table), at)
            self._first_table[self._span] = at | _OWNED
            self._table = array("Q", bytes(CLUSTER_SIZE))

    def _write_counts(self) -> tuple[int, int]:
        """Write the counts, also of the clusters that hold them; return where their table is."""
        used = self._next // CLUSTER_SIZE
        blocks = tables = 0
        while blocks * _COUNTS_PER_BLOCK < used + blocks + tables:
            blocks = ceil_div(used + blocks + tables, _COUNTS_PER_BLOCK)
            tables = ceil_div(blocks, _PER_TABLE)
        first = self._take(blocks)
        table_at = self._take(tables)
        write_all(self._descriptor, _ONE * (used + blocks + tables), first)
        places = array("Q", (first + number * CLUSTER_SIZE for number in range(blocks)))
        write_all(self._descriptor, _big_endian(places), table_at)
        return table_at, tables

    def _header(self, counts_at: int, counts_clusters: int) -> bytes:
        name = b"" if self._backing is None else os.fsencode(self._backing)
        extensions = b""
        if name:
            extensions = EXTENSION.pack(BACKING_FORMAT, 5) + b"qcow2".ljust(8, b"\0")
        extensions += EXTENSION.pack(0, 0)
        name_at = HEAD.size + FEATURES.size + len(extensions) if name else 0
        head = HEAD.pack(
            MAGIC,
            _VERSION,
            name_at,
            len(name),
            _CLUSTER_BITS,
            self._size,
            0,
            len(self._first_table),
            CLUSTER_SIZE,
            counts_at,
            counts_clusters,
            0,
            0,
        )
        features = FEATURES.pack(0, 0, 0, _COUNT_WIDTH, HEAD.size + FEATURES.size)
        return (head + features + extensions + name).ljust(CLUSTER_SIZE, b"\0")


def _big_endian(numbers: "array[int]") -> bytes:
    swapped = array("Q", numbers)
    if sys.byteorder == "little":
        swapped.byteswap()
    return swapped.tobytes()
