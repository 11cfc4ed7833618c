"""io_uring: many requests in one system call, through memory that is shared with the kernel.

There are two queues. We write *entries* into the submission queue and move its tail; the kernel
takes them during `io_uring_enter` and moves its head. The kernel writes *completions* into the
completion queue and moves its tail; we read them and move its head. Heads and tails only grow,
modulo 2^32. Each entry gives one completion, so **what is in flight is the head of the
submission queue minus the head of the completion queue**: all state is in the shared memory, and
no exception between two statements can make a counter of ours wrong.

A ring belongs to the thread that made it (`SINGLE_ISSUER`), and the kernel posts completions
only while that thread is inside `io_uring_enter` (`DEFER_TASKRUN`, Linux 6.1). So the
queues never change while we look at them, on any processor, and no lock is needed.

The memory of a request belongs to the kernel from submission to completion. Whoever submits
keeps it, also when an exception comes between: `drain` waits for what is in flight.

System calls are made by ctypes, which releases the GIL. There is no registered file: a ring's
files are released some time after the ring was closed, so the device would stay in use, and
it saves 2 % of a cached read. Single requests need no NumPy; batches are in `ring_batches`.
"""

import contextlib
import ctypes
import errno
import functools
import mmap
import os
import struct
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from blobstore.errors import DeviceError, UnsupportedError

SWITCH: Final = "BLOBSTORE_RING"
"""The environment variable that says "0" where no ring may be used."""

READ: Final = 22
WRITE: Final = 23
FSYNC: Final = 3
FDATASYNC: Final = 1
"""The flag that makes a request of `FSYNC` an `fdatasync`."""

ENTRY: Final = struct.Struct("<BBHiQQIIQ24x")
"""Operation, flags, priority, descriptor, offset, address, length, operation's flags, token."""
COMPLETION: Final = struct.Struct("<QiI")
"""Token, result (bytes, or a negative errno), flags."""
assert ENTRY.size == 64
assert COMPLETION.size == 16

COUNTER_MASK: Final = 0xFFFF_FFFF

_SETUP: Final = 425
_ENTER: Final = 426
_REGISTER: Final = 427
_TASKRUN_FLAG: Final = 1 << 9
_SINGLE_ISSUER: Final = 1 << 12
_DEFER_TASKRUN: Final = 1 << 13
_GETEVENTS: Final = 1
_REGISTER_EVENTFD: Final = 4
_WORK_WAITS: Final = 1 << 2
"""In the flags of the submission queue: completions wait for us to enter the kernel."""
_ENTRIES_AT: Final = 0x1000_0000
_NO_MEMORY: Final = frozenset((errno.EAGAIN, errno.EBUSY))

_DEFAULT_ENTRIES: Final = 256

_address: Final = ctypes.addressof
_from_buffer: Final = ctypes.c_char.from_buffer

Completed: TypeAlias = tuple[int, int]
"""The token of a request, and its result: bytes, or a negative errno."""


@dataclass(frozen=True, slots=True)
class _Offsets:
    """Where things are in the mapped memory; of words of four bytes the number."""

    sq_head: int
    sq_tail: int
    sq_flags: int
    sq_array: int
    cq_head: int
    cq_tail: int
    completions: int

    @classmethod
    def decode(cls, parameters: bytes | bytearray) -> "_Offsets":
        words = _PARAMETERS.unpack_from(parameters)
        sq, cq = words[10:18], words[20:28]
        return cls(
            sq_head=sq[0] // 4,
            sq_tail=sq[1] // 4,
            sq_flags=sq[4] // 4,
            sq_array=sq[6] // 4,
            cq_head=cq[0] // 4,
            cq_tail=cq[1] // 4,
            completions=cq[5],
        )


_PARAMETERS: Final = struct.Struct("<30I")
assert _PARAMETERS.size == 120


class Ring:
    """A ring of the calling thread; no other thread may use it, but any may close it.

    Attributes:
        entry_count: How many requests fit into the submission queue.
        completion_count: How many completions fit into the other one.
        entries: The submission queue, as bytes.
        completions: The completion queue, as bytes.
    """

    def __init__(self, entries: int = _DEFAULT_ENTRIES) -> None:
        """Make a ring.

        Raises:
            UnsupportedError: The kernel has no such ring, or this process may not have one:
                Linux before 6.1, a sandbox, a limit of locked memory or of descriptors. Or
                the environment says that no ring may be used.
        """
        self._words: memoryview[int]
        self._descriptor = -1
        self._eventfd = -1
        self._backlog: deque[tuple[int, ...]] = deque()
        if os.environ.get(SWITCH) == "0":
            raise UnsupportedError(f"io_uring: switched off by {SWITCH}=0")
        parameters = bytearray(_PARAMETERS.size)
        flags = _TASKRUN_FLAG | _SINGLE_ISSUER | _DEFER_TASKRUN
        struct.pack_into("<I", parameters, 8, flags)
        try:
            address = address_of(memoryview(parameters))
            self._descriptor = _system_call(_SETUP, entries, address)
            self._map(parameters)
        except OSError as error:
            self.close()
            raise UnsupportedError(f"io_uring: {os.strerror(error.errno or 0)}") from error
        _rings.add(self)

    def _map(self, parameters: bytearray) -> None:
        words = _PARAMETERS.unpack_from(parameters)
        self.entry_count: int = words[0]
        self.completion_count: int = words[1]
        self._at = at = _Offsets.decode(parameters)
        end = at.completions + COMPLETION.size * self.completion_count
        queues = _mapping(self._descriptor, max(end, 4 * (at.sq_array + self.entry_count)), 0)
        entries = _mapping(self._descriptor, ENTRY.size * self.entry_count, _ENTRIES_AT)
        self._words = words_of = memoryview(queues).cast("I")
        words_of[at.sq_array : at.sq_array + self.entry_count] = memoryview(
            struct.pack(f"<{self.entry_count}I", *range(self.entry_count))
        ).cast("I")
        self.completions = memoryview(queues)[at.completions : end]
        self.entries = memoryview(entries)

    # The queues

    @property
    def is_open(self) -> bool:
        """Whether the ring can be used: it was not closed, and this process made it."""
        return self._descriptor >= 0

    @property
    def in_flight(self) -> int:
        """How many requests the kernel has taken whose completion was not collected."""
        words, at = self._words, self._at
        return (words[at.sq_head] - words[at.cq_head]) & COUNTER_MASK

    @property
    def tail(self) -> int:
        """The number of the next entry; its place is this modulo `entry_count`."""
        return self._words[self._at.sq_tail]

    @tail.setter
    def tail(self, number: int) -> None:
        self._words[self._at.sq_tail] = number & COUNTER_MASK

    @property
    def queued(self) -> int:
        """How many entries the kernel has not taken yet."""
        words, at = self._words, self._at
        return (words[at.sq_tail] - words[at.sq_head]) & COUNTER_MASK

    @property
    def room(self) -> int:
        """How many entries can be queued, so that both queues have room for them."""
        return min(self.entry_count, self.completion_count - self.in_flight) - self.queued

    def withdraw(self) -> None:
        """Remove the entries that the kernel has not taken."""
        self.tail = self._words[self._at.sq_head]

    def enter(self, wait_for: int = 0) -> bool:
        """Submit the queued entries, and wait for the wanted number of completions.

        A signal can end the wait early, and the kernel may take only some of the entries: the
        caller looks at the queues, and enters again.

        Returns:
            Whether to go on. False: the kernel took nothing, for want of memory.

        Raises:
            DeviceError: The ring is broken or closed.
        """
        try:
            _system_call(_ENTER, self._descriptor, self.queued, wait_for, _GETEVENTS)
        except OSError as error:
            if error.errno in _NO_MEMORY:
                return False
            if error.errno != errno.EINTR:
                raise _failure(error) from error
        return True

    def collected(self) -> tuple[int, int]:
        """Return the number of the first completion to collect, and how many there are."""
        words, at = self._words, self._at
        head = words[at.cq_head]
        return head, (words[at.cq_tail] - head) & COUNTER_MASK

    def release(self, count: int) -> None:
        """Give the places of collected completions back to the kernel."""
        words, at = self._words, self._at
        words[at.cq_head] = (words[at.cq_head] + count) & COUNTER_MASK

    def drain(self) -> None:
        """Withdraw what is queued, and wait for all that is in flight; the results are lost.

        Raises:
            DeviceError: The ring is broken or closed.
        """
        self._backlog.clear()
        self.withdraw()
        while self.in_flight:
            self.enter(self.in_flight)
            self.release(self.collected()[1])

    # Single requests, for an event loop

    def eventfd(self) -> int:
        """Return a descriptor that is readable when completions wait; it is the ring's own.

        Raises:
            DeviceError: The kernel refused.
        """
        if self._eventfd < 0:
            try:
                self._eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                value = bytearray(struct.pack("i", self._eventfd))
                address = address_of(memoryview(value))
                _system_call(_REGISTER, self._descriptor, _REGISTER_EVENTFD, address, 1)
            except OSError as error:
                raise _failure(error) from error
        return self._eventfd

    def submit(
        self,
        token: int,
        operation: int,
        descriptor: int,
        offset: int = 0,
        address: int = 0,
        length: int = 0,
        flags: int = 0,
    ) -> None:
        """Queue a request; the kernel gets it with the next `turn`.

        The memory at `address` must stay until the token has come back. `flags` are those of the
        operation: `RWF_...`, or `FDATASYNC`. There may be more requests than the queues hold:
        they wait here, in their order.
        """
        self._backlog.append((operation, 0, 0, descriptor, offset, address, length, flags, token))

    @property
    def waiting_count(self) -> int:
        """How many requests were submitted that have no place in the queue yet."""
        return len(self._backlog)

    def hand_over(self) -> None:
        """Hand requests over before the next `turn`, as many as there is room for.

        Raises:
            DeviceError: The ring is broken or closed.
        """
        self._fill()
        self.enter()

    def turn(self) -> list[Completed]:
        """Hand all requests over that there is room for, and return what is complete.

        This is one system call, and one more to clear the eventfd. Nothing is waited for: the
        eventfd tells when it is time for the next turn. A request that the kernel has no memory
        for comes back with `-EAGAIN`.

        Raises:
            DeviceError: The ring is broken or closed.
        """
        done: list[Completed] = []
        while True:
            self._fill()
            is_taken = self.enter()
            if self._collect(done) and self._eventfd >= 0:
                _clear(self._eventfd)
            if not is_taken and not self.in_flight:
                self._refuse(done)
            work_waits = self._words[self._at.sq_flags] & _WORK_WAITS
            if not work_waits and not (self._backlog and self.room):
                return done

    def wait(self) -> list[Completed]:
        """Do as `turn`, but wait for a completion if requests are in flight and none is there."""
        done = self.turn()
        while not done and self.in_flight:
            self.enter(1)
            done = self.turn()
        return done

    def _fill(self) -> None:
        """Write waiting requests into the submission queue, as many as there is room for."""
        backlog, first, mask = self._backlog, self.tail, self.entry_count - 1
        words, tail_at, pack_into = self._words, self._at.sq_tail, ENTRY.pack_into
        for number in range(first, first + min(self.room, len(backlog))):
            pack_into(self.entries, (number & mask) * ENTRY.size, *backlog.popleft())
            words[tail_at] = (number + 1) & COUNTER_MASK

    def _refuse(self, done: list[Completed]) -> None:
        """Complete what the kernel does not take, and will not be woken for."""
        last, mask = self.tail, self.entry_count - 1
        for number in range(last - self.queued, last):
            entry = ENTRY.unpack_from(self.entries, (number & mask) * ENTRY.size)
            done.append((entry[-1], -errno.EAGAIN))
        self.withdraw()

    def _collect(self, done: list[Completed]) -> int:
        """Append the completions that are there; return how many."""
        first, count = self.collected()
        mask, unpack = self.completion_count - 1, COMPLETION.unpack_from
        for number in range(first, first + count):
            token, result, _flags = unpack(self.completions, (number & mask) * COMPLETION.size)
            done.append((token, result))
        self.release(count)
        return count

    # The end

    def close(self) -> None:
        """Close the ring; calling it again does nothing. Requests in flight go on: drain first."""
        for descriptor in (self._descriptor, self._eventfd):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._eventfd = -1

    def __del__(self) -> None:
        self.close()


def address_of(view: memoryview) -> int:
    """Return where the memory of a contiguous view is; it stays there while the view is kept."""
    if not view.readonly:
        return _address(_from_buffer(view)) if view.nbytes else 0
    import numpy as np  # ctypes looks only at memory that may be written

    address: int = np.frombuffer(view, dtype=np.uint8).__array_interface__["data"][0]
    return address


def _mapping(descriptor: int, length: int, offset: int) -> mmap.mmap:
    flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
    return mmap.mmap(descriptor, length, flags=flags, offset=offset)


def _failure(error: OSError) -> DeviceError:
    code = error.errno or errno.EIO
    return DeviceError(f"io_uring: {os.strerror(code)}", errno=code)


def _clear(eventfd: int) -> None:
    with contextlib.suppress(BlockingIOError):  # it is clear
        os.eventfd_read(eventfd)


def _system_call(number: int, *arguments: int) -> int:
    """Make a system call; the GIL is released meanwhile.

    Raises:
        OSError: The call's own error.
    """
    result = _libc_syscall()(number, *arguments, *[0] * (6 - len(arguments)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


@functools.cache
def _libc_syscall() -> Callable[..., int]:
    call: Any = ctypes.CDLL(None, use_errno=True).syscall
    call.argtypes = (ctypes.c_long,) * 7
    call.restype = ctypes.c_long
    found: Callable[..., int] = call
    return found


# Forking. A child's copy of a ring would submit the parent's requests: the child closes it.

_rings: Final[weakref.WeakSet[Ring]] = weakref.WeakSet()


def _close_in_child() -> None:
    for ring in list(_rings):
        ring.close()


os.register_at_fork(after_in_child=_close_in_child)
