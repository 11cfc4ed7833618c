"""Batches of requests on an io_uring: entries and completions as NumPy arrays (`device.ring`).

Whole columns of the submission queue are assigned at once, so a request costs some nanoseconds
of Python instead of microseconds. A batch that fits into the queue is one system call. A larger
one slides over the queue: while half of it is in flight, the other half is filled again.
"""

import threading
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from blobstore.device.ring import COMPLETION, ENTRY, Ring
from blobstore.errors import UnsupportedError

Numbers: TypeAlias = npt.NDArray[np.int64]

_WORDS: Final = ENTRY.size // 8
_HEAD, _OFFSET, _ADDRESS, _LENGTH, _TOKEN = range(5)
"""The words of an entry. The head is the operation, its flags and the descriptor."""
_DESCRIPTOR_SHIFT: Final = 32
_COMPLETION: Final = np.dtype([("token", "<i8"), ("result", "<i4"), ("flags", "<u4")])
assert _COMPLETION.itemsize == COMPLETION.size


class BatchRing:
    """A thread's ring for batches."""

    def __init__(self) -> None:
        """Make one.

        Raises:
            UnsupportedError: As `Ring`.
        """
        self.ring = Ring()
        self._entries = np.frombuffer(self.ring.entries, np.int64).reshape(-1, _WORDS)
        completions = np.frombuffer(self.ring.completions, _COMPLETION)
        self._tokens, self._results = completions["token"], completions["result"]
        self._numbers = np.arange(self.ring.entry_count)
        self._memory: object = None

    def transfer(
        self,
        operation: int,
        descriptor: int,
        offsets: Numbers,
        addresses: Numbers,
        length: int,
        *,
        memory: object,
    ) -> Numbers:
        """Perform requests of one length, in any order; return the numbers of those not done.

        A request is done when it has given `length` bytes. All others are for the caller to try
        by another way: those that failed or were short, and those that the kernel had no memory
        for. `memory` is what the addresses point into. It is kept until nothing is in flight,
        even if exceptions end this call and the wait for what it submitted.

        Raises:
            DeviceError: The ring is broken.
        """
        if self.ring.in_flight:
            self.ring.drain()
        self._memory = memory
        self._entries[:, _HEAD] = operation | descriptor << _DESCRIPTOR_SHIFT
        self._entries[:, _LENGTH] = length
        if len(self._numbers) < len(offsets):
            self._numbers = np.arange(2 * len(offsets))
        try:
            left = self._slide(offsets, addresses, length)
        finally:
            if self.ring.in_flight or self.ring.queued:
                self.ring.drain()
        self._memory = None
        return left

    def _slide(self, offsets: Numbers, addresses: Numbers, length: int) -> Numbers:
        """Keep the queue filled until all is complete; return what is not done."""
        ring, count, at = self.ring, len(offsets), 0
        left: list[Numbers] = []
        pending = 0
        while at < count or pending:
            stop = min(count, at + ring.entry_count - pending)
            self._queue(offsets, addresses, at, stop)
            pending, at = pending + stop - at, stop
            is_taken = ring.enter(pending if at == count else pending // 2)
            pending -= self._collect(length, left)
            if not is_taken and not ring.in_flight:
                left.append(self._numbers[at - ring.queued : count])
                break
        return np.concatenate(left) if left else self._numbers[:0]

    def _queue(self, offsets: Numbers, addresses: Numbers, begin: int, end: int) -> None:
        """Write the entries of some requests from the tail on, maybe beyond the queue's end."""
        ring, tail = self.ring, self.ring.tail
        while begin < end:
            place = tail % ring.entry_count
            stop = min(end, begin + ring.entry_count - place)
            rows = self._entries[place : place + stop - begin]
            rows[:, _OFFSET] = offsets[begin:stop]
            rows[:, _ADDRESS] = addresses[begin:stop]
            rows[:, _TOKEN] = self._numbers[begin:stop]
            tail, begin = tail + stop - begin, stop
        ring.tail = tail

    def _collect(self, length: int, left: list[Numbers]) -> int:
        """Note which of the complete requests are not done; return how many are complete."""
        ring = self.ring
        number, count = ring.collected()
        place, end = number % ring.completion_count, ring.completion_count
        for part in (slice(place, place + count), slice(0, max(0, place + count - end))):
            is_short = self._results[part] != length
            if np.count_nonzero(is_short):
                left.append(self._tokens[part][is_short])
        ring.release(count)
        return count


class _Kept(threading.local):
    """What the calling thread keeps for its next batch."""

    ring: BatchRing | None = None
    is_refused: bool = False


_kept: Final = _Kept()


def transfer(
    operation: int,
    descriptor: int,
    offsets: Numbers,
    addresses: Numbers,
    length: int,
    *,
    memory: object,
) -> Numbers | None:
    """Do as `BatchRing.transfer` on the calling thread's ring; None where it can have none.

    A batch that interrupts another one on the same thread (a finalizer) gets a ring of its own.
    """
    kept = _kept
    ring, kept.ring = kept.ring, None
    if ring is None or not ring.ring.is_open:  # none yet, or the process has forked
        ring = _make_ring(kept)
    if ring is None:
        return None
    try:
        return ring.transfer(operation, descriptor, offsets, addresses, length, memory=memory)
    finally:
        kept.ring = ring


def _make_ring(kept: _Kept) -> BatchRing | None:
    """Make a ring, unless the kernel has refused one to this thread."""
    if kept.is_refused:
        return None
    try:
        return BatchRing()
    except UnsupportedError:
        kept.is_refused = True
        return None
