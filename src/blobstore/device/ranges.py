"""Which blocks are being changed, so that a read-modify-write loses nobody's update.

Writes of whole blocks run beside each other, as on any disk. A block of which
only a part is written is read, changed and written back: while that goes on
nobody else may change it. Requests that exclude each other run in the order in
which they came, so none of them starves.

A write of whole blocks takes no lock: it makes itself known, *then* looks whether
there is any request for a part; one for a part makes itself known, *then* looks
at all requests. Under the GIL one of the two sees the other, and waits.
"""

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

BlockRange: TypeAlias = tuple[int, int, tuple[int, ...]]
"""Start and end in bytes, on block boundaries; and the blocks of which only a part changes."""


class BlockRanges:
    """The changes of one device that are in progress, or wait for others to end."""

    def __init__(self) -> None:
        self.number = itertools.count().__next__  # what the next request is known by
        self._requests: dict[int, BlockRange] = {}  # in the order in which they came
        self._partial_count = 0
        self._ended = threading.Condition(threading.Lock())

    @contextmanager
    def hold(self, start: int, end: int, edges: tuple[int, ...] = ()) -> Iterator[None]:
        """Wait for what must end first; `edges` are the blocks of which a part changes."""
        number = self.number()
        try:
            if edges:
                self._begin_partial(number, (start, end, edges))
            else:
                self.begin(number, start, end)
            yield
        finally:
            self.end(number)
            if edges:
                self._end_partial()

    def begin(self, number: int, start: int, end: int) -> None:
        """Begin a change of whole blocks; `end` must follow whatever happens."""
        self._requests[number] = (start, end, ())
        if self._partial_count:
            with self._ended:
                self._wait_for_turn(number)

    def end(self, number: int) -> None:
        """End what was begun, or nothing."""
        self._requests.pop(number, None)
        if self._partial_count:
            with self._ended:
                self._ended.notify_all()

    def _begin_partial(self, number: int, mine: BlockRange) -> None:
        with self._ended:
            self._partial_count += 1
            self._requests[number] = mine
            self._wait_for_turn(number)

    def _end_partial(self) -> None:
        with self._ended:
            self._partial_count -= 1

    def _wait_for_turn(self, number: int) -> None:
        while self._must_wait(number):
            self._ended.wait()

    def _must_wait(self, number: int) -> bool:
        mine = self._requests[number]
        for other, found in list(self._requests.items()):
            if other == number:
                return False
            if excludes(mine, found):
                return True
        return False


def excludes(one: BlockRange, other: BlockRange) -> bool:
    """Tell whether a block that one of both changes in part is changed by the other."""
    return any(other[0] <= edge < other[1] for edge in one[2]) or any(
        one[0] <= edge < one[1] for edge in other[2]
    )
