"""Epoch-based reclamation: when no request can touch a cluster any more that has left the map.

A request looks a cluster up in a map, then reads or writes the device. Between the two steps
another thread may take that cluster out of the map and give it to another blob. The cluster
must not be reused before the request has ended. A lock around every request would cost more
than the request, so there is none. Instead:

- There is a global **epoch**, a number that grows.
- A request **pins** the epoch *first*, and looks at the map *second*. It unpins the epoch
  when its I/O has ended.
- Whoever frees clusters takes them out of the map *first*, and *second* begins a new epoch
  and waits until no older epoch is pinned. That wait is the **grace period**.

One of the two always sees the other. If the request looked at the map before the cluster was
taken out, its pin was set even earlier, so the grace period waits for it. If the request
looked later, it did not find the cluster. Requests that begin during the grace period pin the
new epoch and are not waited for, so a grace period ends although there are always requests.

The argument needs each side's two steps to be seen in the order in which they are made. Under
the GIL they are: one bytecode follows another for all threads. Free-threaded builds do not
promise that, and are not supported.

Requests of the full path are counted, inside steps of the core. A thread on the fast path
cannot take part in steps. It has a `Pin` of its own, which it *assigns* (an increment would be
two steps). No waiter is told when such a pin is released: telling would cost every request more
than looking again costs the few that free clusters. So the core awaits a `GracePeriod`.
"""

from collections import deque
from typing import Final

from blobstore.locks import fire_all, park
from blobstore.operations import GracePeriod, Wakeup

UNPINNED: Final = 0


class Pin:
    """The epoch in which one thread's request on the fast path began, or `UNPINNED`.

    Assign `epoch`, *then* look at a map. Assign `UNPINNED` when the request has ended, however
    it ended, and before anything is waited for.
    """

    __slots__ = ("epoch",)

    def __init__(self) -> None:
        self.epoch = UNPINNED


class Epochs:
    """The current epoch, and the requests that began in it or earlier and have not ended."""

    def __init__(self) -> None:
        self.current = UNPINNED + 1
        self.pins: list[Pin] = []
        self._counts: dict[int, int] = {}
        self._waiting: deque[Wakeup] = deque()

    def enter(self) -> int:
        """Begin a request of the full path; `leave` wants the epoch that is returned."""
        epoch = self.current
        self._counts[epoch] = self._counts.get(epoch, 0) + 1
        return epoch

    def leave(self, epoch: int) -> None:
        """End a request of the full path."""
        self._counts[epoch] -= 1
        if not self._counts[epoch]:
            del self._counts[epoch]
            fire_all(self._waiting)

    async def grace_period(self) -> None:
        """Wait for every request that began before this call."""
        self.current += 1
        limit = self.current
        while self._counts and any(epoch < limit for epoch in self._counts):
            await park(self._waiting)
        pins = list(self.pins)  # in one step: threads come and go
        if any(UNPINNED < pin.epoch < limit for pin in pins):
            await GracePeriod(lambda: not any(UNPINNED < pin.epoch < limit for pin in pins))
