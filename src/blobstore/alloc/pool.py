"""A pool of numbered things: metadata pages, clusters, blob ids.

A number is free, in use, or pending free: released by a commit, but not to be
used again before a flush. Numbers are claimed lowest first, as the original does.
"""

from collections.abc import Sequence
from typing import Final

from bitarray import bitarray

from blobstore.errors import CorruptError, NoSpaceError

_NONE: Final = -1


class Pool:
    """What is in use, by number; `first` is the lowest that can ever be claimed.

    `remedy` is for the error of a pool that is empty: what its user can do.
    """

    def __init__(
        self, used: bitarray, *, name: str, errno: int, first: int = 0, remedy: str = ""
    ) -> None:
        self.used = used
        self.name = name
        self.pending_count = 0
        self.free_count = len(used) - first - used.count(1, first)
        self._errno = errno
        self._first = first
        self._low = first
        self._remedy = remedy

    @property
    def available(self) -> int:
        """How many are free or will be after a flush."""
        return self.free_count + self.pending_count

    def claim(self) -> int:
        """Take the lowest free number.

        Raises:
            NoSpaceError: Nothing is free; what is pending does not count.
        """
        index = self.used.find(0, self._low)
        if index == _NONE:
            raise self.exhausted(1)
        self.used[index] = True
        self._low = index + 1
        self.free_count -= 1
        return index

    def claim_many(self, count: int, *, start: int = 0) -> list[int]:
        """Take the lowest free numbers from `start` on, all of them or none."""
        if count == 1 and start <= self._low:
            return [self.claim()]
        found = self.lowest_free(count, start=start)
        if len(found) < count:
            raise self.exhausted(count)
        for index in found:
            self.used[index] = True
        self.free_count -= count
        if found and start <= self._low:
            self._low = found[-1] + 1
        return found

    def lowest_free(self, count: int, *, start: int = 0) -> list[int]:
        """Return the numbers from `start` on that a claim would give, without taking them."""
        found: list[int] = []
        index = self.used.find(0, max(start, self._low))
        while index != _NONE and len(found) < count:
            found.append(index)
            index = self.used.find(0, index + 1)
        return found

    def mark_pending(self, count: int) -> None:
        """Count `count` numbers as pending free: they stay taken until `free_pending`."""
        self.pending_count += count

    def free_pending(self, indices: Sequence[int]) -> None:
        """Make numbers claimable that were pending."""
        self.pending_count -= len(indices)
        self.free(indices)

    def free_pending_runs(self, runs: Sequence[tuple[int, int]]) -> None:
        """Make numbers claimable that were pending: (first, count)."""
        self.pending_count -= sum(count for _first, count in runs)
        self._free_runs(runs)

    def free(self, indices: Sequence[int]) -> None:
        """Make numbers claimable that are in use."""
        self._free_runs([(index, 1) for index in indices])

    def _free_runs(self, runs: Sequence[tuple[int, int]]) -> None:
        for first, count in runs:
            index = self.used.find(0, first, first + count)
            if index != _NONE:
                raise CorruptError(f"{self.name} {index} is free already: two blobs owned it")
            self.used[first : first + count] = False
            self._low = min(self._low, max(first, self._first))
            self.free_count += count

    def grow(self, bit_count: int) -> None:
        """Add free numbers at the end."""
        added = bit_count - len(self.used)
        self.used.extend(bitarray(added, endian="little"))
        self.free_count += added

    def exhausted(self, count: int) -> NoSpaceError:
        """Return the error that says what is missing."""
        found = f"{self.name}s: {count} needed, {self.free_count} free"
        message = f"{found}; {self._remedy}" if self._remedy else found
        return NoSpaceError(message, errno=self._errno)
