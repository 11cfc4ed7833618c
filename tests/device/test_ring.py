"""The ring: what the kernel may do to it, and what it must never do to a caller."""

import contextlib
import errno
import mmap
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from blobstore.device import ring as ring_module
from blobstore.device import ring_batches
from blobstore.device.ring import FDATASYNC, FSYNC, READ, WRITE, Ring, address_of
from blobstore.device.ring_batches import BatchRing, transfer
from blobstore.errors import DeviceError, UnsupportedError

_BLOCK: Final = 512
_NO_OFFSET: Final = 2**64 - 1  # the current position: pipes have no other
_SECONDS: Final = 60

SystemCall = Callable[..., int]


def _why_not() -> str:
    try:
        Ring(8).close()
    except UnsupportedError as error:
        return error.message
    return ""


_NO_RING: Final = _why_not()
needs_ring = pytest.mark.skipif(bool(_NO_RING), reason=_NO_RING)


@pytest.fixture
def content() -> bytes:
    return os.urandom(1000 * _BLOCK)


@pytest.fixture
def descriptor(tmp_path: Path, content: bytes) -> Iterator[int]:
    path = tmp_path / "data"
    path.write_bytes(content)
    number = os.open(path, os.O_RDWR)
    yield number
    os.close(number)


@pytest.fixture
def ring() -> Iterator[Ring]:
    ring = Ring(8)
    yield ring
    ring.close()


class Blocks:
    """Every block of the file, read into memory of its own."""

    def __init__(self, count: int = 1000) -> None:
        self.memory = np.zeros((count, _BLOCK), np.uint8)
        self.offsets = np.random.default_rng(1).permutation(count) * _BLOCK
        start = address_of(self.memory.data)
        self.addresses = start + np.arange(count) * _BLOCK

    def read_by(
        self, ring: BatchRing, descriptor: int
    ) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        return ring.transfer(
            READ, descriptor, self.offsets, self.addresses, _BLOCK, memory=self.memory
        )

    def expected_of(self, content: bytes) -> bytes:
        parts = [content[at : at + _BLOCK] for at in self.offsets.tolist()]
        return b"".join(parts)


def hostile(
    monkeypatch: pytest.MonkeyPatch, treat: Callable[[SystemCall, int, list[int]], int]
) -> None:
    """Let `treat(call, number, arguments)` stand between the ring and the kernel."""
    real = ring_module._system_call

    def call(number: int, *arguments: int) -> int:
        return treat(real, number, list(arguments))

    monkeypatch.setattr(ring_module, "_system_call", call)


def failing(code: int) -> Callable[[SystemCall, int, list[int]], int]:
    def treat(_call: SystemCall, _number: int, _arguments: list[int]) -> int:
        raise OSError(code, os.strerror(code))

    return treat


# Batches


@needs_ring
def test_a_batch_larger_than_the_queue_reads_what_is_there(descriptor: int, content: bytes) -> None:
    blocks = Blocks()
    results = blocks.read_by(BatchRing(), descriptor)
    assert len(blocks.offsets) > 2 * Ring().entry_count
    assert not results.size
    assert blocks.memory.tobytes() == blocks.expected_of(content)


@needs_ring
def test_a_batch_that_fits_is_one_system_call(
    descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring, blocks, numbers = BatchRing(), Blocks(256), []

    def count(call: SystemCall, number: int, arguments: list[int]) -> int:
        numbers.append(number)
        return call(number, *arguments)

    hostile(monkeypatch, count)
    assert not blocks.read_by(ring, descriptor).size
    assert len(numbers) == 1


@needs_ring
def test_a_batch_writes_what_it_is_given(descriptor: int) -> None:
    blocks = Blocks()
    blocks.memory[:] = np.frombuffer(os.urandom(blocks.memory.nbytes), np.uint8).reshape(-1, _BLOCK)
    results = BatchRing().transfer(
        WRITE, descriptor, blocks.offsets, blocks.addresses, _BLOCK, memory=blocks.memory
    )
    assert not results.size
    for at, row in zip(blocks.offsets.tolist(), blocks.memory, strict=True):
        assert os.pread(descriptor, _BLOCK, at) == row.tobytes()


@needs_ring
def test_a_kernel_that_takes_some_entries_at_a_time_gets_the_rest_later(
    descriptor: int, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring, blocks = BatchRing(), Blocks()

    def some(call: SystemCall, number: int, arguments: list[int]) -> int:
        descriptor, queued, wait_for, flags = arguments
        return call(number, descriptor, min(queued, 3), min(wait_for, 1), flags)

    hostile(monkeypatch, some)
    assert not blocks.read_by(ring, descriptor).size
    assert blocks.memory.tobytes() == blocks.expected_of(content)


@needs_ring
def test_signals_that_end_the_wait_do_not_end_the_batch(
    descriptor: int, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring, blocks = BatchRing(), Blocks()
    calls = iter(range(10**6))

    def interrupted(call: SystemCall, number: int, arguments: list[int]) -> int:
        if next(calls) % 2 == 0:
            raise OSError(errno.EINTR, os.strerror(errno.EINTR))
        return call(number, *arguments)

    hostile(monkeypatch, interrupted)
    assert not blocks.read_by(ring, descriptor).size
    assert blocks.memory.tobytes() == blocks.expected_of(content)


@needs_ring
def test_short_and_failed_requests_are_named_and_the_others_are_done(
    descriptor: int, content: bytes
) -> None:
    blocks = Blocks(3)
    blocks.offsets[:] = [0, 999 * _BLOCK + 12, 2000 * _BLOCK]
    assert sorted(blocks.read_by(BatchRing(), descriptor)) == [1, 2]
    assert blocks.memory[0].tobytes() == content[:_BLOCK]
    assert sorted(blocks.read_by(BatchRing(), 10**6)) == [0, 1, 2]


@needs_ring
def test_requests_that_the_kernel_has_no_memory_for_are_not_waited_for(
    descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring, blocks = BatchRing(), Blocks()
    hostile(monkeypatch, failing(errno.EAGAIN))
    assert sorted(blocks.read_by(ring, descriptor)) == list(range(1000))
    monkeypatch.undo()
    assert not blocks.read_by(ring, descriptor).size


@needs_ring
def test_an_interrupted_batch_leaves_nothing_in_flight(
    descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring, blocks = BatchRing(), Blocks()
    interrupts = iter([KeyboardInterrupt])
    in_flight: list[int] = []

    def interrupt(call: SystemCall, number: int, arguments: list[int]) -> int:
        descriptor, queued, wait_for, flags = arguments
        for kind in interrupts:
            call(number, descriptor, queued, 0, flags)
            in_flight.append(ring.ring.in_flight)
            raise kind
        return call(number, descriptor, queued, wait_for, flags)

    hostile(monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        blocks.read_by(ring, descriptor)
    assert in_flight == [ring.ring.entry_count]
    assert (ring.ring.in_flight, ring.ring.queued) == (0, 0)
    assert not blocks.read_by(ring, descriptor).size


@needs_ring
def test_what_a_second_interrupt_left_in_flight_is_waited_for_by_the_next_batch(
    descriptor: int, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring, pipe = BatchRing(), os.pipe()
    target = np.zeros((1, _BLOCK), np.uint8)
    start = np.array([address_of(target.data)])

    def interrupt(call: SystemCall, number: int, arguments: list[int]) -> int:
        descriptor, queued, _wait_for, flags = arguments
        call(number, descriptor, queued, 0, flags)
        raise KeyboardInterrupt

    hostile(monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        ring.transfer(READ, pipe[0], np.array([-1]), start, _BLOCK, memory=target)
    monkeypatch.undo()
    assert ring.ring.in_flight == 1
    os.write(pipe[1], b"late")
    blocks = Blocks()
    assert not blocks.read_by(ring, descriptor).size
    assert blocks.memory.tobytes() == blocks.expected_of(content)
    assert target.tobytes().startswith(b"late")
    for end in pipe:
        os.close(end)


@needs_ring
def test_each_thread_has_a_ring_which_ends_with_the_thread(descriptor: int) -> None:
    def read() -> None:
        blocks = Blocks(4)
        arrays = blocks.offsets, blocks.addresses, _BLOCK
        results = transfer(READ, descriptor, *arrays, memory=blocks.memory)
        found.append(results is not None and bool(not results.size))

    found: list[bool] = []
    read()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    assert found == [True] * 21
    assert len(os.listdir("/proc/self/fd")) == before


# Single requests


@needs_ring
def test_single_requests_complete_by_token_however_many_there_are(
    ring: Ring, descriptor: int, content: bytes
) -> None:
    buffers = [bytearray(_BLOCK) for _ in range(1000)]
    for number, buffer in enumerate(buffers):
        place = address_of(memoryview(buffer))
        ring.submit(number, READ, descriptor, number * _BLOCK, place, _BLOCK)
    done: dict[int, int] = {}
    while len(done) < len(buffers):
        done.update(ring.wait())
    assert done == dict.fromkeys(range(1000), _BLOCK)
    assert b"".join(buffers) == content


@needs_ring
def test_the_eventfd_tells_of_a_completion_and_a_turn_clears_it(ring: Ring) -> None:
    reader, writer = os.pipe()
    eventfd, buffer = ring.eventfd(), bytearray(4)
    ring.submit(7, READ, reader, _NO_OFFSET, address_of(memoryview(buffer)), 4)
    assert ring.turn() == []
    assert select.select([eventfd], [], [], 0)[0] == []
    os.write(writer, b"late")
    assert select.select([eventfd], [], [], _SECONDS)[0] == [eventfd]
    assert ring.turn() == [(7, 4)]
    assert buffer == b"late"
    assert select.select([eventfd], [], [], 0)[0] == []
    assert ring.turn() == []
    os.close(reader)
    os.close(writer)


@needs_ring
def test_more_requests_in_flight_than_completions_have_room_for_wait_in_their_order(
    ring: Ring,
) -> None:
    reader, writer = os.pipe()
    buffers = [bytearray(1) for _ in range(100)]
    for token, buffer in enumerate(buffers):
        ring.submit(token, READ, reader, _NO_OFFSET, address_of(memoryview(buffer)), 1)
    assert ring.turn() == []
    assert ring.in_flight == ring.completion_count < 100
    os.write(writer, bytes(range(100)))
    tokens: set[int] = set()
    while len(tokens) < 100:
        tokens.update(token for token, _result in ring.wait())
    assert sorted(b"".join(buffers)) == list(range(100))
    os.close(reader)
    os.close(writer)


@needs_ring
def test_a_flush_is_a_request_as_well(ring: Ring, descriptor: int) -> None:
    data = memoryview(bytes(_BLOCK))
    ring.submit(1, WRITE, descriptor, 0, address_of(data), _BLOCK)
    assert ring.wait() == [(1, _BLOCK)]
    ring.submit(2, FSYNC, descriptor, flags=FDATASYNC)
    assert ring.wait() == [(2, 0)]


@needs_ring
def test_a_single_request_that_the_kernel_has_no_memory_for_is_complete(
    ring: Ring, descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring.submit(1, FSYNC, descriptor)
    hostile(monkeypatch, failing(errno.EBUSY))
    assert ring.turn() == [(1, -errno.EAGAIN)]


@needs_ring
def test_a_closed_ring_is_an_error(descriptor: int) -> None:
    ring = Ring(8)
    ring.close()
    ring.submit(1, FSYNC, descriptor)
    with pytest.raises(DeviceError, match="io_uring"):
        ring.turn()


# Where there is none


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.ENOMEM])
def test_a_host_without_rings_is_told_apart_from_one_that_fails(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    hostile(monkeypatch, failing(code))
    with pytest.raises(UnsupportedError, match=f"io_uring: {os.strerror(code)}"):
        Ring()
    assert len(os.listdir("/proc/self/fd")) == before


@needs_ring
def test_a_queue_that_cannot_be_mapped_leaves_no_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_arguments: object, **_options: object) -> mmap.mmap:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))  # RLIMIT_MEMLOCK

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(ring_module, "_mapping", refuse)
    with pytest.raises(UnsupportedError):
        Ring()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_thread_that_gets_no_ring_asks_once(
    descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def refuse(_call: SystemCall, number: int, _arguments: list[int]) -> int:
        calls.append(number)
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    hostile(monkeypatch, refuse)
    monkeypatch.setattr(ring_batches, "_kept", ring_batches._Kept())
    blocks = Blocks(4)
    arrays = blocks.offsets, blocks.addresses, _BLOCK
    for _ in range(3):
        assert transfer(READ, descriptor, *arrays, memory=blocks.memory) is None
    assert len(calls) == 1


@needs_ring
def test_a_forked_child_has_none_of_its_parents_rings_and_makes_its_own(descriptor: int) -> None:
    blocks, parents = Blocks(4), Ring(8)
    arrays = blocks.offsets, blocks.addresses, _BLOCK
    assert transfer(READ, descriptor, *arrays, memory=blocks.memory) is not None
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            results = transfer(READ, descriptor, *arrays, memory=blocks.memory)
            if not parents.is_open and results is not None and not results.size:
                os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert parents.is_open
    assert transfer(READ, descriptor, *arrays, memory=blocks.memory) is not None
    parents.close()


def test_single_requests_need_no_numpy() -> None:
    script = "import blobstore.device.ring, sys; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_address_of_memory_is_found_whether_it_may_be_written_or_not() -> None:
    memory = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    writable = memoryview(memory)[mmap.PAGESIZE :]
    assert address_of(writable) % mmap.PAGESIZE == 0
    assert address_of(writable.toreadonly()) == address_of(writable)
    assert address_of(memoryview(bytearray())) == 0
