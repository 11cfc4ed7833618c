"""Batches of requests on an io_uring: entries and completions as NumPy arrays (`device.ring`).

Whole columns of the submission queue are assigned at once, so a request costs some nanoseconds
of Python instead of microseconds. A batch that fits into the queue is one system call. A larger
one slides over the queue: while half of it is in flight, the other half is filled again.
"""

import errno
import threading
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from blobstore.device.ring import COMPLETION, ENTRY, Ring
from blobstore.errors import UnsupportedError

Numbers: TypeAlias = npt.NDArray[np.int64]
Results: TypeAlias = npt.NDArray[np.int64]

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
        self._completions = np.frombuffer(self.ring.completions, _COMPLETION)
        self._memory: object = None

    def transfer(
        self,
        operation: int,
        descriptor: int,
        offsets: Numbers,
        addresses: Numbers,
        lengths: Numbers,
        *,
        memory: object,
    ) -> Results:
        """Perform requests, in any order; return what each gave: bytes, or a negative errno.

        Short results are left as they are. `-EAGAIN` stands where a request was not tried.
        `memory` is what the addresses point into. It is kept until nothing is in flight, even
        if exceptions end this call and the wait for what it submitted.

        Raises:
            DeviceError: The ring is broken.
        """
        if self.ring.in_flight:
            self.ring.drain()
        self._memory = memory
        results = np.full(len(offsets), -errno.EAGAIN, np.int64)
        head = operation | descriptor << _DESCRIPTOR_SHIFT
        try:
            self._slide(np.int64(head), offsets, addresses, lengths, results)
        finally:
            self.ring.drain()
        self._memory = None
        return results

    def _slide(
        self,
        head: np.int64,
        offsets: Numbers,
        addresses: Numbers,
        lengths: Numbers,
        results: Results,
    ) -> None:
        ring, count, at = self.ring, len(offsets), 0
        while at < count or ring.in_flight or ring.queued:
            stop = min(count, at + ring.entry_count - ring.in_flight - ring.queued)
            part = slice(at, stop)
            self._queue(head, offsets[part], addresses[part], lengths[part], first_token=at)
            at = stop
            pending = ring.in_flight + ring.queued
            is_taken = ring.enter(pending if at == count else pending // 2)
            self._collect(results)
            if not is_taken and not ring.in_flight:
                return

    def _queue(
        self,
        head: np.int64,
        offsets: Numbers,
        addresses: Numbers,
        lengths: Numbers,
        *,
        first_token: int,
    ) -> None:
        """Write entries from the tail on; the queue's end may be among them."""
        ring, count = self.ring, len(offsets)
        tail = ring.tail
        place = tail % ring.entry_count
        first = min(count, ring.entry_count - place)
        for start, part in ((place, slice(0, first)), (0, slice(first, count))):
            rows = self._entries[start : start + part.stop - part.start]
            rows[:, _HEAD] = head
            rows[:, _OFFSET] = offsets[part]
            rows[:, _ADDRESS] = addresses[part]
            rows[:, _LENGTH] = lengths[part]
            rows[:, _TOKEN] = np.arange(first_token + part.start, first_token + part.stop)
        ring.tail = tail + count

    def _collect(self, results: Results) -> None:
        """Put what is complete into the results, by its token."""
        ring = self.ring
        number, count = ring.collected()
        place = number % ring.completion_count
        first = min(count, ring.completion_count - place)
        for start, size in ((place, first), (0, count - first)):
            rows = self._completions[start : start + size]
            results[rows["token"]] = rows["result"]
        ring.release(count)


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
    lengths: Numbers,
    *,
    memory: object,
) -> Results | None:
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
        return ring.transfer(operation, descriptor, offsets, addresses, lengths, memory=memory)
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
