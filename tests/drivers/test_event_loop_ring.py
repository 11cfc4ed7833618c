"""The io_uring of an event loop: submitted together, and never the only way."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from blobstore import AsyncBlob, AsyncBlobstore, DeviceError
from blobstore.device.ring import Ring
from blobstore.drivers.completions import Completion
from blobstore.drivers.event_loop_io import EventLoopIO
from blobstore.units import KIB
from tests.aio.loops import LOOPS, run

CLUSTER: Final = 64 * KIB
BLOCKS: Final = 16
PAGE: Final = 4 * KIB


@asynccontextmanager
async def new_blob(path: Path, *, direct: bool = True) -> AsyncIterator[AsyncBlob]:
    """Have a blob of one cluster; all its pages differ."""
    store = AsyncBlobstore.create(path, size="4MiB", cluster_size=CLUSTER, direct=direct)
    async with store as opened:
        blob = await opened.create_blob(CLUSTER)
        await blob.write(b"".join(bytes([number]) * PAGE for number in range(BLOCKS)))
        yield blob


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "disk.img"


@pytest.mark.parametrize("loop", LOOPS)
def test_the_requests_of_one_turn_enter_the_kernel_sixteen_at_a_time(
    path: Path, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device works while the tasks that come later still run."""
    entered: list[int] = []
    enter = Ring.enter

    def noted(ring: Ring, wait_for: int = 0) -> bool:
        entered.append(ring.queued)
        return enter(ring, wait_for)

    async def main() -> None:
        async with new_blob(path) as blob:
            monkeypatch.setattr(Ring, "enter", noted)
            reads = [blob.read(PAGE, PAGE * (number % BLOCKS)) for number in range(100)]
            found = await asyncio.gather(*reads)
            assert found == [bytes([number % BLOCKS]) * PAGE for number in range(100)]

    run(main(), loop)
    assert [count for count in entered if count][:7] == [16] * 6 + [4]


def test_more_requests_than_the_ring_has_room_for_wait_in_their_order(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[int] = []
    enter = Ring.enter

    def noted(ring: Ring, wait_for: int = 0) -> bool:
        entered.append(ring.queued)
        return enter(ring, wait_for)

    async def main() -> None:
        async with new_blob(path) as blob:
            monkeypatch.setattr(Ring, "enter", noted)
            reads = [blob.read(PAGE, PAGE * (number % BLOCKS)) for number in range(3000)]
            found = asyncio.gather(*reads)
            await asyncio.sleep(0)  # all are submitted
            assert len(entered) <= 3000 // 16 + 1
            assert await found == [bytes([number % BLOCKS]) * PAGE for number in range(3000)]

    run(main())


@pytest.mark.parametrize("direct", [True, False])
def test_a_request_in_memory_that_the_device_does_not_take_is_copied(
    path: Path, direct: bool
) -> None:
    async def main() -> None:
        async with new_blob(path, direct=direct) as blob:
            buffer = memoryview(bytearray(PAGE + 1))[1:]
            await blob.write(b"A" * PAGE, PAGE)
            await blob.read_into(buffer, PAGE)
            assert buffer == b"A" * PAGE
            buffer[:] = b"B" * PAGE
            await blob.write(buffer, 2 * PAGE)
            await blob.write(b"odd", 2 * PAGE + 7)
            assert await blob.read(20, 2 * PAGE) == b"B" * 7 + b"odd" + b"B" * 10

    run(main())


def test_writes_to_parts_of_blocks_and_to_whole_blocks_lose_no_update(path: Path) -> None:
    """Whole blocks go to the ring; parts are read, changed and written back on threads."""

    async def main() -> None:
        async with new_blob(path) as blob:
            rng = random.Random(5)
            for _ in range(20):
                parts = rng.sample(range(1, 4096), 12)
                whole = blob.write(b"w" * PAGE)
                writes = [blob.write(b"p", at) for at in parts]
                await asyncio.gather(*rng.sample([whole, *writes], 13))
                found = await blob.read(PAGE)
                # Each part was written before the whole block, or is still there.
                assert set(found) <= {ord("w"), ord("p")}
                assert all(found[at] == ord("w") for at in range(PAGE) if at not in parts)
                await blob.write(b"p" * 512, 512)
                await asyncio.gather(*[blob.write(bytes([at % 251]), at) for at in parts])
                found = await blob.read(PAGE)
                assert [found[at] for at in parts] == [at % 251 for at in parts]

    run(main())


@pytest.mark.parametrize("direct", [True, False])
def test_a_file_that_became_shorter_is_an_error_and_not_zeroes(path: Path, direct: bool) -> None:
    async def main() -> None:
        async with new_blob(path, direct=direct) as blob:
            await blob.flush()
            os.truncate(path, 64 * KIB)
            with pytest.raises(DeviceError, match="65536 bytes found"):
                await blob.read(PAGE, PAGE)
            os.truncate(path, 4 << 20)

    run(main())


def test_a_ring_that_breaks_is_replaced_by_threads(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_ring: Ring) -> None:
        raise DeviceError("told to break")

    async def main() -> None:
        async with new_blob(path) as blob:
            with monkeypatch.context() as patch:
                patch.setattr(Ring, "turn", broken)
                assert await blob.read(PAGE, PAGE) == bytes([1]) * PAGE
            await blob.write(b"x" * PAGE, PAGE)
            await blob.flush()
            assert await blob.read(PAGE, PAGE) == b"x" * PAGE

    run(main())


def test_a_request_that_fails_at_once_waits_for_those_that_began_with_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the memory of the others would be released while the kernel fills it."""
    started: list[int] = []
    read_into = EventLoopIO._read

    def fail_second(
        io: EventLoopIO, completion: Completion, offset: int, view: memoryview
    ) -> Completion:
        started.append(offset)
        if len(started) == 2:
            raise DeviceError("told to fail")
        return read_into(io, completion, offset, view)

    async def main() -> None:
        async with new_blob(path) as blob:
            await blob.resize(2 * CLUSTER)
            clone = await (await blob.snapshot()).clone()
            await clone.write(b"x" * PAGE)
            monkeypatch.setattr(EventLoopIO, "_read", fail_second)
            with pytest.raises(DeviceError, match="told to fail"):
                await clone.read(2 * CLUSTER)
            assert len(started) == 2

    run(main())
