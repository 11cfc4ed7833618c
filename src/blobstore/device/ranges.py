"""Which blocks are being changed, so that a read-modify-write loses no update.

Writes of whole blocks run beside each other, as on any disk. A block of which
only a part is written is read, changed and written back. Meanwhile no other
request may change the block. Requests that exclude each other run in the order in
which they came, so none of them starves.

A write of whole blocks takes no lock: it makes itself known, *then* looks whether
there is any request for a part; one for a part makes itself known, *then* looks
at all requests. Under the GIL one of the two sees the other, and waits.
"""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeAlias

BlockRange: TypeAlias = tuple[int, int, tuple[int, ...]]
"""Start and end in bytes, on block boundaries; and the blocks of which only a part changes."""


class BlockRanges:
    """The changes of one device that are in progress, or wait for others to end."""

    def __init__(self) -> None:
        self.number = itertools.count().__next__  # what the next request is known by
        self.requests: dict[int, BlockRange] = {}  # in the order in which they came
        self.partial_count = 0  # of those, the ones for parts
        self._ended = threading.Condition(threading.Lock())

    @contextmanager
    def hold(self, start: int, end: int, edges: tuple[int, ...] = ()) -> Iterator[None]:
        """Wait for what must end first; `edges` are the blocks of which a part changes."""
        number = self.number()
        try:
            if edges:
                self._begin_partial(number, (start, end, edges))
            else:
                self.requests[number] = (start, end, ())
                if self.partial_count:
                    self.wait_for_turn(number)
            yield
        finally:
            self._release(number)
            if edges:
                self._end_partial()

    def try_hold(self, start: int, end: int) -> Callable[[], None] | None:
        """Hold whole blocks, and return what ends that; None if it might have to wait."""
        number = self.number()
        self.requests[number] = (start, end, ())
        if self.partial_count:
            self._release(number)
            return None
        return partial(self._release, number)

    def _release(self, number: int) -> None:
        self.requests.pop(number, None)
        if self.partial_count:
            self.wake()

    def wait_for_turn(self, number: int) -> None:
        """Wait for what came before and must end first."""
        with self._ended:
            self._wait(number)

    def wake(self) -> None:
        """Let those look again that wait for a request that has ended."""
        with self._ended:
            self._ended.notify_all()

    def _begin_partial(self, number: int, mine: BlockRange) -> None:
        with self._ended:
            self.partial_count += 1
            self.requests[number] = mine
            self._wait(number)

    def _end_partial(self) -> None:
        with self._ended:
            self.partial_count -= 1

    def _wait(self, number: int) -> None:
        while self._must_wait(number):
            self._ended.wait()

    def _must_wait(self, number: int) -> bool:
        mine = self.requests[number]
        for other, found in list(self.requests.items()):
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


def covering_blocks(start: int, end: int, unit: int) -> tuple[int, int]:
    """Return where the blocks that a range touches start and end."""
    return start // unit * unit, -(-end // unit) * unit


def partial_blocks(start: int, end: int, unit: int) -> tuple[int, ...]:
    """Return where the blocks start that a range covers in part: none, one or two."""
    if start == end:
        return ()
    first, last = start // unit * unit, end // unit * unit
    if first == last:
        return (first,)
    return ((first,) if start != first else ()) + ((last,) if end != last else ())


def whole_blocks(start: int, end: int, unit: int) -> tuple[int, int]:
    """Return where the whole blocks inside a range start and end."""
    first = -(-start // unit) * unit
    return first, max(first, end // unit * unit)
