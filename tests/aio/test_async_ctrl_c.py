"""Ctrl-C under asyncio: the first never leaves an operation half done, and never poisons."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from blobstore import AsyncBlobstore, Blobstore, MemoryDevice, PoisonedError, check
from blobstore.device.descriptor import DescriptorDevice
from blobstore.units import KIB, MIB
from tests.aio.loops import LOOPS, no_ring, run

CLUSTER: Final = 4 * KIB


@pytest.fixture(autouse=True)
def _pythons_own_handler() -> Iterator[None]:
    """A process that was started in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("loop", LOOPS)
def test_ctrl_c_waits_for_a_snapshot_and_leaves_a_store_that_is_unloaded(
    tmp_path: Path, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "disk.img"
    flush = DescriptorDevice.flush
    signals = [signal.SIGINT]

    def interrupting_flush(device: DescriptorDevice) -> None:
        if signals:
            os.kill(os.getpid(), signals.pop())
        flush(device)

    async def main() -> None:
        async with AsyncBlobstore.create(path, size="4MiB", cluster_size=CLUSTER) as store:
            blob = await store.create_blob(4 * CLUSTER, name="blob")
            await blob.write(b"kept")
            monkeypatch.setattr(DescriptorDevice, "flush", interrupting_flush)
            await blob.snapshot("monday")
            pytest.fail("it was not interrupted")

    with no_ring(), pytest.raises(KeyboardInterrupt):
        run(main(), loop)
    assert check(path).unloaded
    with Blobstore.open(path) as store:
        assert store.open_blob(name="monday").read(4) == b"kept"


async def copy(store: AsyncBlobstore, during: Callable[[], None]) -> int:
    """Copy a snapshot of four clusters; `during` is called inside of a step of the core."""
    blob = await store.create_blob(4 * CLUSTER)
    await blob.write(b"d" * 4 * CLUSTER)
    snapshot = await blob.snapshot()
    return await snapshot.shallow_copy(
        MemoryDevice(4 * MIB), lambda copied, _count: during() if copied == 2 else None
    )


def test_without_asyncio_run_ctrl_c_ends_the_loop_after_the_step_and_the_operation_goes_on() -> (
    None
):
    loop = asyncio.new_event_loop()

    async def open_store() -> AsyncBlobstore:
        return await AsyncBlobstore.create(MemoryDevice(4 * MIB), cluster_size=CLUSTER)

    store = loop.run_until_complete(open_store())
    copying = loop.create_task(copy(store, lambda: signal.raise_signal(signal.SIGINT)))
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(copying)
    assert loop.run_until_complete(copying) == 4
    loop.run_until_complete(store.close())
    assert store.closed
    loop.close()


def test_a_second_ctrl_c_is_raised_at_once_and_poisons() -> None:
    stores: list[AsyncBlobstore] = []

    def interrupt_twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second was not raised")

    async def main() -> None:
        store = await AsyncBlobstore.create(MemoryDevice(4 * MIB), cluster_size=CLUSTER)
        stores.append(store)
        await copy(store, interrupt_twice)

    async def close() -> None:
        with pytest.raises(PoisonedError):
            await stores[0].close()

    with asyncio.Runner() as runner:
        with pytest.raises(KeyboardInterrupt):
            runner.run(main())
        runner.run(close())
