"""What a task awaits while a request is under way: a future that cannot be cancelled."""

import asyncio
from pathlib import Path

import pytest

from blobstore import AsyncBlob, AsyncBlobstore
from blobstore.drivers.completions import Completion
from blobstore.units import KIB
from tests.aio.loops import LOOPS, run


@pytest.mark.parametrize("loop", LOOPS)
def test_a_cancelled_task_waits_until_its_request_has_ended(loop: str) -> None:
    completion = Completion()
    seen: list[object] = []

    async def wait() -> None:
        try:
            await completion
        except asyncio.CancelledError:
            seen.append((completion.is_done, completion.outcome()))
            raise

    async def main() -> None:
        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        asyncio.get_running_loop().call_soon(completion.finish, 7)
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main(), loop)
    assert seen == [(True, 7)]


def test_a_failure_is_still_there_for_a_task_that_was_cancelled() -> None:
    completion = Completion()

    async def wait() -> None:
        try:
            await completion
        except asyncio.CancelledError:
            completion.outcome()

    async def main() -> None:
        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        asyncio.get_running_loop().call_soon(completion.fail, OSError("told to fail"))
        with pytest.raises(OSError, match="told to fail"):
            await task

    run(main())


@pytest.mark.parametrize("loop", LOOPS)
def test_requests_of_other_tasks_end_though_one_task_ends_the_loop(
    tmp_path: Path, loop: str
) -> None:
    """All complete in one turn; the program runs the loop again."""
    runner = asyncio.Runner(loop_factory=LOOPS[loop])

    async def create() -> tuple[AsyncBlobstore, AsyncBlob]:
        store = await AsyncBlobstore.create(tmp_path / "disk.img", size="4MiB", direct=True)
        return store, await store.create_blob(64 * KIB)

    async def read(number: int) -> None:
        await blob.read(4 * KIB)
        if number == 3:
            raise SystemExit(number)

    async def begin() -> list[asyncio.Task[None]]:
        return [asyncio.create_task(read(number)) for number in range(8)]

    with runner:
        store, blob = runner.run(create())
        runner.run(blob.write(b"x" * 64 * KIB))
        tasks = runner.run(begin())
        with pytest.raises(SystemExit):
            runner.run(asyncio.wait(tasks))
        runner.run(asyncio.wait(tasks))
        assert [type(task.exception()) for task in tasks].count(SystemExit) == 1
        assert all(task.done() for task in tasks)
        runner.run(store.close())
