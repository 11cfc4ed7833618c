"""Values of 4 KiB, one at a time, next to LMDB, SQLite and a plain file.

Each keeps as many values, and all of them are in memory. A write that is not
durable is one transaction that nobody waits for: LMDB without `sync`, SQLite
with `synchronous=OFF`. A durable one is on the disk when the call returns.
"""

import abc
import importlib.util
import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Final, TypeAlias

from benchmarks.measure import Clock, Measure, Row, Taken, interleaved, missing_row, speed_row
from benchmarks.scale import Scale
from blobstore import Blobstore
from blobstore.units import GIB, KIB, MIB

_VALUE: Final = 4 * KIB
# So many that every round has others: SQLite writes nothing where nothing changes.
_VALUE_COUNT: Final = 61
_SEED: Final = 7

Pairs: TypeAlias = list[tuple[int, bytes]]
"""Numbers, and the values to put there."""


class Shelf(abc.ABC):
    """Holds values by number."""

    name: str
    lazy_name: str
    durable_name: str

    @abc.abstractmethod
    def read(self, numbers: list[int]) -> Taken:
        """Return what getting one value as `bytes` takes."""

    @abc.abstractmethod
    def write(self, pairs: Pairs) -> Taken:
        """Return what putting one value takes, which need not be durable."""

    @abc.abstractmethod
    def write_durably(self, pairs: Pairs) -> Taken:
        """Return what putting one value takes that is durable at once."""


class BlobShelf(Shelf):
    """A blob; a value's place is its number."""

    name = "blob"

    def __init__(self, directory: Path, count: int, stack: ExitStack) -> None:
        size = count * _VALUE
        store = stack.enter_context(Blobstore.create(directory / "values.img", size=size + GIB))
        self._blob = stack.enter_context(store.create_blob(size))
        for offset in range(0, size, MIB):
            self._blob.write(os.urandom(MIB), offset)
        self._blob.flush()

    def read(self, numbers: list[int]) -> Taken:
        read, offsets = self._blob.read, [number * _VALUE for number in numbers]
        clock = Clock()
        for offset in offsets:
            read(_VALUE, offset)
        return clock.per(len(offsets))

    def write(self, pairs: Pairs) -> Taken:
        write, placed = self._blob.write, [(number * _VALUE, value) for number, value in pairs]
        clock = Clock()
        for offset, value in placed:
            write(value, offset)
        return clock.per(len(placed))

    def write_durably(self, pairs: Pairs) -> Taken:
        self._blob.flush()
        write, flush = self._blob.write, self._blob.flush
        clock = Clock()
        for number, value in pairs:
            write(value, number * _VALUE)
            flush()
        return clock.per(len(pairs))


class FileShelf(Shelf):
    """A plain file; a value's place is its number."""

    name = "a plain file, pread"
    lazy_name = "a plain file, pwrite"
    durable_name = "a plain file, pwrite + fdatasync"

    def __init__(self, directory: Path, count: int, stack: ExitStack) -> None:
        self._file = os.open(directory / "values", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        stack.callback(os.close, self._file)
        for offset in range(0, count * _VALUE, MIB):
            os.pwrite(self._file, os.urandom(MIB), offset)
        os.fdatasync(self._file)

    def read(self, numbers: list[int]) -> Taken:
        file, offsets = self._file, [number * _VALUE for number in numbers]
        clock = Clock()
        for offset in offsets:
            os.pread(file, _VALUE, offset)
        return clock.per(len(offsets))

    def write(self, pairs: Pairs) -> Taken:
        file, placed = self._file, [(number * _VALUE, value) for number, value in pairs]
        clock = Clock()
        for offset, value in placed:
            os.pwrite(file, value, offset)
        return clock.per(len(placed))

    def write_durably(self, pairs: Pairs) -> Taken:
        file = self._file
        os.fdatasync(file)
        clock = Clock()
        for number, value in pairs:
            os.pwrite(file, value, number * _VALUE)
            os.fdatasync(file)
        return clock.per(len(pairs))


class SqliteShelf(Shelf):
    """A table in WAL mode, whose pages all fit in SQLite's cache."""

    name = "SQLite, SELECT"
    lazy_name = "SQLite, UPDATE, synchronous=OFF"
    durable_name = "SQLite, UPDATE, synchronous=FULL"

    def __init__(self, directory: Path, count: int, stack: ExitStack) -> None:
        path = directory / "values.db"
        base = stack.enter_context(closing(sqlite3.connect(path, isolation_level=None)))
        base.execute("PRAGMA journal_mode=WAL")
        base.execute(f"PRAGMA cache_size=-{4 * count * _VALUE // KIB}")
        base.execute("CREATE TABLE shelf (number INTEGER PRIMARY KEY, value BLOB NOT NULL)")
        base.execute("BEGIN")
        rows = ((number, os.urandom(_VALUE)) for number in range(count))
        base.executemany("INSERT INTO shelf VALUES (?, ?)", rows)
        base.execute("COMMIT")
        base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._base = base

    def read(self, numbers: list[int]) -> Taken:
        execute = self._base.execute
        clock = Clock()
        for number in numbers:
            execute("SELECT value FROM shelf WHERE number = ?", (number,)).fetchone()
        return clock.per(len(numbers))

    def write(self, pairs: Pairs) -> Taken:
        self._base.execute("PRAGMA synchronous=OFF")
        return self._update(pairs)

    def write_durably(self, pairs: Pairs) -> Taken:
        self._base.execute("PRAGMA synchronous=FULL")
        return self._update(pairs)

    def _update(self, pairs: Pairs) -> Taken:
        execute = self._base.execute
        clock = Clock()
        for number, value in pairs:
            execute("UPDATE shelf SET value = ? WHERE number = ?", (value, number))
        return clock.per(len(pairs))


class LmdbShelf(Shelf):
    """Two environments: whether a commit waits for the disk is decided when one is opened."""

    name = "LMDB, get in one transaction"
    lazy_name = "LMDB, put and commit, sync=False"
    durable_name = "LMDB, put and commit, sync=True"

    def __init__(self, directory: Path, count: int, stack: ExitStack) -> None:
        import lmdb

        size = 8 * count * _VALUE + 64 * MIB
        self._lazy = lmdb.open(str(directory / "lazy.mdb"), map_size=size, sync=False)
        stack.callback(self._lazy.close)
        self._safe = lmdb.open(str(directory / "safe.mdb"), map_size=size)
        stack.callback(self._safe.close)
        for environment in (self._lazy, self._safe):
            with environment.begin(write=True) as transaction:
                for number in range(count):
                    transaction.put(_key(number), os.urandom(_VALUE))
            environment.sync(True)

    def read(self, numbers: list[int]) -> Taken:
        keys = [_key(number) for number in numbers]
        with self._safe.begin() as transaction:
            get = transaction.get
            clock = Clock()
            for key in keys:
                get(key)
            return clock.per(len(keys))

    def write(self, pairs: Pairs) -> Taken:
        begin, placed = self._lazy.begin, [(_key(number), value) for number, value in pairs]
        clock = Clock()
        for key, value in placed:
            with begin(write=True) as transaction:
                transaction.put(key, value)
        return clock.per(len(placed))

    def write_durably(self, pairs: Pairs) -> Taken:
        begin, placed = self._safe.begin, [(_key(number), value) for number, value in pairs]
        clock = Clock()
        for key, value in placed:
            with begin(write=True) as transaction:
                transaction.put(key, value)
        return clock.per(len(placed))


def _key(number: int) -> bytes:
    return number.to_bytes(8, "big")


def rows(directory: Path, scale: Scale) -> Iterator[Row]:
    """Reads, writes and durable writes of random values, all beside all."""
    place = directory / "values"
    place.mkdir()
    chance = random.Random(_SEED)
    numbers = [chance.randrange(scale.values) for _ in range(scale.value_requests)]
    values = cycle([os.urandom(_VALUE) for _ in range(_VALUE_COUNT)])

    def pairs(count: int) -> Pairs:
        return list(zip(numbers[:count], values, strict=False))

    kinds: list[type[BlobShelf | FileShelf | SqliteShelf | LmdbShelf]]
    kinds = [BlobShelf, FileShelf, SqliteShelf]
    if importlib.util.find_spec("lmdb") is not None:
        kinds.append(LmdbShelf)
    with ExitStack() as stack:
        shelves: list[Shelf] = [kind(place, scale.values, stack) for kind in kinds]
        others = shelves[1:]

        taken = interleaved(scale.rounds, [partial(s.read, numbers) for s in shelves])
        names = [shelf.name for shelf in others]
        yield from _rows_of("random 4 KiB value, read, cached", names, taken)

        taken = interleaved(scale.rounds, [_writing(s.write, pairs, len(numbers)) for s in shelves])
        names = [shelf.lazy_name for shelf in others]
        yield from _rows_of("random 4 KiB value, written, not durable", names, taken)

        taken = interleaved(
            scale.rounds, [_writing(s.write_durably, pairs, scale.durable_values) for s in shelves]
        )
        names = [shelf.durable_name for shelf in others]
        yield from _rows_of("random 4 KiB value, written + flushed", names, taken)


def _writing(write: Callable[[Pairs], Taken], pairs: Callable[[int], Pairs], count: int) -> Measure:
    return lambda: write(pairs(count))


def _rows_of(what: str, names: list[str], taken: list[Taken]) -> Iterator[Row]:
    ours, *others = taken
    for name, other in zip(names, others, strict=True):
        yield speed_row(what, name, ours=ours, yardstick=other, goal=None, per="each")
    if not any(name.startswith("LMDB") for name in names):
        yield missing_row(what, "LMDB", why="the package lmdb is not installed", ours=ours)
