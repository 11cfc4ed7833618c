"""A flush that has returned covers what was written before it, whatever goes on beside it."""

from collections.abc import Callable
from typing import Any

import pytest

from blobstore import Blob, Blobstore, MemoryDevice
from blobstore.blob.write import flush_blob, write
from blobstore.drivers.perform import perform
from blobstore.operations import Core, Operation, Park
from blobstore.store.lifecycle import flush_store
from blobstore.testing.internals import core_of, state_of

SIZE = 2 << 20
CLUSTER = 16 << 10
OPERATIONS = 12
"""More than a flush of a blob takes."""


class VolatileDevice(MemoryDevice):
    """Memory of which a power cut leaves what was flushed."""

    durable = b""

    def flush(self) -> None:
        super().flush()
        self.durable = self.read(0, self.size_bytes)


class Task:
    """A coroutine of the core that is run operation by operation.

    An operation has been performed when it was asked for, and the task learns of that with the
    next step: so what is written in between is not covered by a flush that has begun.
    """

    def __init__(self, core: Core[Any], device: MemoryDevice) -> None:
        self._core, self._device = core, device
        self._waiting: Park | None = None
        self._value: object = None
        self.is_done = False
        self._step()

    def _step(self) -> None:
        try:
            operation: Operation[Any] = self._core.send(self._value)
        except StopIteration:
            self.is_done = True
            return
        self._waiting = operation if isinstance(operation, Park) else None
        self._value = None if self._waiting else perform(self._device, operation)

    def advance(self, count: int) -> int:
        """Take so many steps, fewer if the task ends or waits; return how many."""
        for taken in range(count):
            if self.is_done or (self._waiting is not None and not self._waiting.wakeup.fired):
                return taken
            self._step()
        return count


def left_by_a_power_cut(device: VolatileDevice, blob: Blob) -> bytes:
    copy = MemoryDevice(SIZE)
    copy.write(0, [device.durable])
    with Blobstore.open(copy) as store, store.open_blob(blob.id) as left:
        return left.read(12)


def flush_of_blob(store: Blobstore, blob: Blob) -> Core[None]:
    return flush_blob(core_of(store), state_of(blob))


def flush_of_store(store: Blobstore, _blob: Blob) -> Core[None]:
    return flush_store(core_of(store))


@pytest.mark.parametrize("begun", range(OPERATIONS))
@pytest.mark.parametrize("other", [flush_of_blob, flush_of_store])
def test_a_flush_beside_one_that_has_not_committed_yet_returns_with_everything_durable(
    begun: int, other: Callable[[Blobstore, Blob], Core[None]]
) -> None:
    device = VolatileDevice(SIZE)
    store = Blobstore.create(device, cluster_size=CLUSTER)
    blob = store.create_blob(CLUSTER, thin=True)
    blob.write(b"first.")
    one = Task(flush_of_blob(store, blob), device)
    one.advance(begun)
    between = Task(write(core_of(store), state_of(blob), memoryview(b"second"), 6), device)
    between.advance(OPERATIONS)
    assert between.is_done
    two = Task(other(store, blob), device)
    while not two.is_done:
        two.advance(OPERATIONS)
        if not two.is_done:
            assert one.advance(1), "the two wait for each other"
    assert left_by_a_power_cut(device, blob) == b"first.second"
    while not one.is_done:
        assert one.advance(1)
    store.close()
