"""`open(wait=...)`: a store that is in use is tried again, in both colours."""

import asyncio
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from blobstore import (
    AsyncBlobstore,
    AsyncVolumeStore,
    Blobstore,
    BusyError,
    InvalidArgumentError,
    VolumeStore,
)
from blobstore.api import waiting
from blobstore.api.aio import async_session


@pytest.fixture
def held(tmp_path: Path) -> Iterator[VolumeStore]:
    with VolumeStore.create(tmp_path / "disk.img", name="vms", size="64MiB") as store:
        yield store


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    fake = SimpleNamespace(monotonic=clock.monotonic, sleep=clock.sleep)
    monkeypatch.setattr(waiting, "time", fake)
    return clock


def test_a_store_that_is_let_go_while_another_waits_is_opened(
    held: VolumeStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = held.device_name
    monkeypatch.setattr("blobstore.api.waiting.time.sleep", lambda _seconds: held.close())
    with VolumeStore.open(path, wait=60) as store:
        assert store.name == "vms"
    assert held.closed


def test_the_pauses_grow_and_end_with_the_wait(held: VolumeStore, clock: Clock) -> None:
    with pytest.raises(BusyError, match="in use by this process"):
        Blobstore.open(held.device_name, wait=3.1)
    assert clock.now == pytest.approx(3.1)
    assert all(first <= second for first, second in pairwise(clock.slept[:-1]))
    assert (clock.slept[0], max(clock.slept)) == (0.005, 0.25)


def test_without_wait_nothing_is_tried_again(held: VolumeStore, clock: Clock) -> None:
    with pytest.raises(BusyError):
        Blobstore.open(held.device_name)
    assert clock.slept == []


def test_ctrl_c_ends_the_wait(held: VolumeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "blobstore.api.waiting.time.sleep", lambda _s: signal.raise_signal(signal.SIGINT)
    )
    with pytest.raises(KeyboardInterrupt):
        Blobstore.open(held.device_name, wait=3600)


@pytest.mark.parametrize("wait", [-1, -0.5, float("nan")])
def test_a_wait_that_cannot_be_is_refused(held: VolumeStore, wait: float) -> None:
    with pytest.raises(InvalidArgumentError, match="wait: expected 0 seconds or more"):
        VolumeStore.open(held.device_name, wait=wait)


def test_asyncio_waits_too(held: VolumeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def let_go(_wait: float) -> Iterator[float]:
        yield 0.0
        held.close()
        yield 0.0

    async def wait() -> str:
        async with AsyncVolumeStore.open(held.device_name, wait=60) as store:
            return store.name

    monkeypatch.setattr(async_session, "pauses", let_go)
    assert asyncio.run(wait()) == "vms"


def test_a_cancelled_task_does_not_wait_for_its_store(
    held: VolumeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cancel() -> None:
        waits = asyncio.Event()

        async def pause(_seconds: float) -> None:
            waits.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(
            async_session, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": pause})
        )
        task = asyncio.ensure_future(AsyncBlobstore.open(held.device_name, wait=3600))
        await waits.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
