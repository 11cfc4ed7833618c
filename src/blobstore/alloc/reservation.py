"""Metadata pages promised to blobs that have something to persist.

A write that claims a cluster reserves here what persisting it can take, so
that a flush never fails for space. What a blob adds for good is summed up;
what it needs only while it is rewritten (copies, given back by the same
commit) is needed once, for the largest, because blobs are persisted one by one.
"""

from typing import NamedTuple


class Need(NamedTuple):
    """Metadata pages that persisting one blob can take: for good, and for a while."""

    lasting: int
    passing: int


class Reservations:
    """The needs of all blobs that are dirty, by blob id."""

    def __init__(self) -> None:
        self._needs: dict[int, Need] = {}
        self._lasting = 0
        self._passing = 0

    @property
    def total(self) -> int:
        """The number of pages that are reserved."""
        return self._lasting + self._passing

    def total_with(self, blob_id: int, need: Need) -> int:
        """Return what `total` would be if the blob's need were this."""
        old = self._needs.get(blob_id)
        lasting = self._lasting - (old.lasting if old else 0) + need.lasting
        return lasting + max(self._passing, need.passing)

    def holds(self, blob_id: int) -> bool:
        """Tell whether the blob was promised anything."""
        return blob_id in self._needs

    def set(self, blob_id: int, need: Need) -> None:
        """Replace the blob's need."""
        self._lasting += need.lasting
        self._passing = max(self._passing, need.passing)
        old = self._needs.get(blob_id)
        if old is not None:
            self._lasting -= old.lasting
        self._needs[blob_id] = need

    def clear(self, blob_id: int) -> None:
        """Forget the blob's need; it is clean."""
        old = self._needs.pop(blob_id, None)
        if old is not None:
            self._lasting -= old.lasting
            self._passing = max((need.passing for need in self._needs.values()), default=0)
