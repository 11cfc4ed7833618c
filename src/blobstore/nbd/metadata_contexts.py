"""Metadata contexts: what is said of the ranges of an export beside their content.

`base:allocation` says which ranges are holes, that is, zeroes. `qemu:allocation-depth` says how
deep in the chain of snapshots a range is held: 1 is the export itself, 0 nothing.
`qemu:dirty-bitmap:SNAPSHOT` says what has changed since a snapshot that the export is based on:
tools that back up the blocks of a dirty bitmap so make incremental backups. Nothing is recorded
for this; the maps of both say it. SNAPSHOT is a name, or an id where a name is none's alone.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

from blobstore import BlobId
from blobstore.api.disk_view import NOT_HELD
from blobstore.nbd.constants import STATE_DIRTY, STATE_HOLE, STATE_ZERO
from blobstore.nbd.exports import OpenExport

ALLOCATION: Final = "base:allocation"
DEPTH: Final = "qemu:allocation-depth"
CHANGED: Final = "qemu:dirty-bitmap:"

CONTEXTS_MAX: Final = 64
"""How many contexts a client can choose."""

_NO_BLOB: Final = BlobId(0)

Ranges: TypeAlias = list[tuple[int, int]]
"""(length in bytes, state) of neighbouring ranges."""

Query: TypeAlias = Callable[[int, int, int], Ranges]
"""(offset, length, how many ranges at most): what a context says."""


def available(export: OpenExport) -> list[str]:
    """Return the names of all contexts of an export."""
    return [ALLOCATION, DEPTH, *(CHANGED + name for name in export.bases())]


def matching(export: OpenExport, queries: tuple[str, ...], *, is_choice: bool) -> list[str]:
    """Return the contexts that a client's queries mean.

    A list without queries has all. In a list a query that ends with a colon means all contexts
    that begin with it; a choice names them whole.
    """
    names = available(export)
    if queries or is_choice:
        names = [name for name in names if _is_meant(name, queries, is_choice=is_choice)]
    return names[:CONTEXTS_MAX]


def _is_meant(name: str, queries: tuple[str, ...], *, is_choice: bool) -> bool:
    if name in queries:
        return True
    return not is_choice and any(
        query.endswith(":") and name.startswith(query) for query in queries
    )


def query_of(export: OpenExport, name: str) -> Query:
    """Return the function that answers for a context that `available` names.

    Where the snapshot of a context is gone, the function raises `NotFoundError`.
    """
    if name.startswith(CHANGED):
        base = export.bases().get(name.removeprefix(CHANGED), _NO_BLOB)
        return lambda offset, length, limit: [
            (size, STATE_DIRTY if changed else 0)
            for _at, size, changed in export.changes(base, offset, length, limit)
        ]
    if name == DEPTH:
        return lambda offset, length, limit: [
            (size, depth) for _at, size, depth in export.depths(offset, length, limit)
        ]
    return lambda offset, length, limit: _allocation(export, offset, length, limit)


def _allocation(export: OpenExport, offset: int, length: int, limit: int) -> Ranges:
    ranges: Ranges = []
    for _at, size, depth in export.depths(offset, length):
        state = STATE_HOLE | STATE_ZERO if depth == NOT_HELD else 0
        if ranges and ranges[-1][1] == state:
            ranges[-1] = (ranges[-1][0] + size, state)
        elif len(ranges) == limit:
            break
        else:
            ranges.append((size, state))
    return ranges
