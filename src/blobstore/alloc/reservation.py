"""Metadata pages promised to blobs that have something to persist.

A write that claims a cluster reserves here what persisting it can take, so
that a flush never fails for space. What a blob adds for good is summed up;
what it needs only while it is rewritten (copies, freed by the same
commit) is needed once, for the largest, because blobs are persisted one by one.
"""

from collections import Counter
from typing import Final, NamedTuple


class Need(NamedTuple):
    """Metadata pages that persisting one blob can take: for good, and for a while."""

    lasting: int
    passing: int


_NOTHING: Final = Need(0, 0)


class Reservations:
    """The needs of all blobs that are dirty, by blob id."""

    def __init__(self) -> None:
        self._needs: dict[int, Need] = {}
        self._lasting = 0
        self._passing = 0
        self._with_passing: Counter[int] = Counter()
        """For each number of pages: how many blobs need that number for a while."""

    @property
    def total(self) -> int:
        """The number of pages that are reserved."""
        return self._lasting + self._passing

    def total_with(self, blob_id: int, need: Need) -> int:
        """Return what `total` would be if the blob's need were this."""
        old = self._needs.get(blob_id, _NOTHING)
        return self._lasting - old.lasting + need.lasting + max(self._passing, need.passing)

    def holds(self, blob_id: int) -> bool:
        """Tell whether the blob was promised anything."""
        return blob_id in self._needs

    def set(self, blob_id: int, need: Need) -> None:
        """Replace the blob's need."""
        old = self._needs.get(blob_id, _NOTHING)
        self._needs[blob_id] = need
        self._replace(old, need)

    def clear(self, blob_id: int) -> None:
        """Forget the blob's need; it is clean."""
        self._replace(self._needs.pop(blob_id, _NOTHING), _NOTHING)

    def _replace(self, old: Need, new: Need) -> None:
        """Count what one blob needs now instead of what it needed."""
        self._lasting += new.lasting - old.lasting
        if new.passing == old.passing:
            return
        counts = self._with_passing
        counts[new.passing] += 1
        counts[old.passing] -= 1
        if not counts[old.passing]:
            del counts[old.passing]
        self._passing = max(counts, default=0)
