"""A device between a store and what it lives on, which counts what is done.

The store closes its device when it ends; the block device below goes on. So closing this
one closes nothing below.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from blobstore.device.base import Device
from blobstore.operations import Buffer

TICK_RATE = 1_000_000_000
"""Ticks in a second: latencies are nanoseconds."""


@dataclass(slots=True)
class Count:
    """Operations of one kind: how many, of how many bytes, and how long they took in ticks."""

    operations: int = 0
    bytes: int = 0
    ticks: int = 0
    most_ticks: int = 0
    least_ticks: int = 0

    def add(self, length: int, ticks: int) -> None:
        """Count one more operation."""
        self.least_ticks = ticks if not self.operations else min(self.least_ticks, ticks)
        self.operations += 1
        self.bytes += length
        self.ticks += ticks
        self.most_ticks = max(self.most_ticks, ticks)


@dataclass(slots=True)
class Statistics:
    """What was done on a block device since it was made, or since the last reset."""

    read: Count = field(default_factory=Count)
    write: Count = field(default_factory=Count)
    unmap: Count = field(default_factory=Count)
    copy: Count = field(default_factory=Count)
    failures: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def measure(self, count: Count, length: int) -> Iterator[None]:
        """Count what is done inside, and how long it takes."""
        begin = time.perf_counter_ns()
        try:
            yield
        except OSError:
            with self._lock:
                self.failures += 1
            raise
        ticks = time.perf_counter_ns() - begin
        with self._lock:
            count.add(length, ticks)

    def reset(self, mode: str) -> None:
        """Forget what `all`, `maxmin` or `error` says; `none` forgets nothing."""
        with self._lock:
            if mode in ("all", "error"):
                self.failures = 0
            for count in (self.read, self.write, self.unmap, self.copy):
                if mode in ("all", "maxmin"):
                    count.most_ticks = count.least_ticks = 0
                if mode == "all":
                    count.operations = count.bytes = count.ticks = 0

    def members(self) -> dict[str, object]:
        """Return the members of an answer, in the original's order."""
        kinds = {"read": self.read, "write": self.write, "unmap": self.unmap, "copy": self.copy}
        past = {"read": "read", "write": "written", "unmap": "unmapped", "copy": "copied"}
        totals: dict[str, object] = {}
        latencies: dict[str, object] = {}
        for name, count in kinds.items():
            totals[f"bytes_{past[name]}"] = count.bytes
            totals[f"num_{name}_ops"] = count.operations
            latencies[f"{name}_latency_ticks"] = count.ticks
            latencies[f"max_{name}_latency_ticks"] = count.most_ticks
            latencies[f"min_{name}_latency_ticks"] = count.least_ticks
        errors = {"failed": self.failures} if self.failures else {}
        return {**totals, **latencies, "io_error": errors}


class CountingDevice(Device):
    """A view of a device that counts, and that can be closed without closing the device."""

    def __init__(self, below: Device, statistics: Statistics) -> None:
        super().__init__(
            name=below.name,
            size_bytes=below.size_bytes,
            block_size=below.block_size,
            physical_block_size=below.physical_block_size,
            atomic_write_size=below.atomic_write_size,
            read_only=below.read_only,
            unmap_zeroes=below.unmap_zeroes,
        )
        self._below = below
        self._statistics = statistics

    def refresh_size(self) -> int:
        self._set_size(self._below.refresh_size())
        return self.size_bytes

    def allocate(self, offset: int, length: int) -> None:
        self.check_write(offset, length)
        self._below.allocate(offset, length)

    def next_data(self, offset: int) -> int:
        self.check_open()
        return self._below.next_data(offset)

    def read(self, offset: int, length: int) -> bytes:
        self.check_read(offset, length)
        with self._statistics.measure(self._statistics.read, length):
            return self._below.read(offset, length)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        length = sum(map(len, buffers))
        self.check_read(offset, length)
        with self._statistics.measure(self._statistics.read, length):
            self._below.read_into(offset, buffers)

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        length = sum(map(len, buffers))
        self.check_write(offset, length)
        with self._statistics.measure(self._statistics.write, length):
            self._below.write(offset, buffers)

    def write_zeroes(self, offset: int, length: int) -> None:
        self._measured(self._below.write_zeroes, offset, length, self._statistics.write)

    def unmap(self, offset: int, length: int) -> None:
        self._measured(self._below.unmap, offset, length, self._statistics.unmap)

    def _measured(
        self, function: Callable[[int, int], None], offset: int, length: int, count: Count
    ) -> None:
        self.check_write(offset, length)
        with self._statistics.measure(count, length):
            function(offset, length)

    def flush(self) -> None:
        self.check_open()
        self._below.flush()
