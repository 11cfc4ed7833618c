"""The blocking driver: steps under one lock, I/O outside of it, failures go into the coroutine."""

import threading
from collections import deque

import pytest

from blobstore.device.memory import MemoryDevice
from blobstore.drivers.blocking import BlockingDriver
from blobstore.epochs import Epochs, Pin
from blobstore.errors import DeviceError, InvalidArgumentError
from blobstore.locks import Mutex, SharedFlush, fire_all, park
from blobstore.operations import Batch, Flush, GracePeriod, Read, Wakeup, Write


def test_what_a_coroutine_returns_is_returned() -> None:
    async def copy() -> bytes:
        await Batch([Write(0, b"abc"), Write(3, b"def")])
        await Flush()
        return await Read(0, 6)

    assert BlockingDriver(MemoryDevice(4096)).run(copy()) == b"abcdef"


def test_a_failed_operation_is_raised_inside_the_coroutine() -> None:
    async def read_beyond() -> str:
        try:
            await Read(4096, 1)
        except InvalidArgumentError as error:
            return error.message
        return "read"

    assert "outside" in BlockingDriver(MemoryDevice(4096)).run(read_beyond())


def test_a_batch_tries_all_parts_and_raises_the_first_failure() -> None:
    device = MemoryDevice(4096)

    async def write_three() -> None:
        await Batch([Write(5000, b"x"), Write(0, b"y"), Write(6000, b"z")])

    with pytest.raises(InvalidArgumentError, match="5000"):
        BlockingDriver(device).run(write_three())
    assert device.read(0, 1) == b"y"


def test_an_interrupt_during_an_operation_reaches_the_coroutine() -> None:
    seen: list[str] = []

    class InterruptedDevice(MemoryDevice):
        def read(self, offset: int, length: int) -> bytes:
            raise KeyboardInterrupt

    async def read() -> None:
        try:
            await Read(0, 1)
        finally:
            seen.append("cleaned up")

    with pytest.raises(KeyboardInterrupt):
        BlockingDriver(InterruptedDevice(4096)).run(read())
    assert seen == ["cleaned up"]


def test_the_mutex_lets_one_thread_in_at_a_time_and_nobody_waits_for_ever() -> None:
    driver = BlockingDriver(MemoryDevice(4096))
    mutex = Mutex()
    inside: list[int] = []
    most: list[int] = []

    async def enter(number: int) -> None:
        async with mutex:
            inside.append(number)
            most.append(len(inside))
            await Write(0, b"x")
            inside.remove(number)

    threads = [
        threading.Thread(target=lambda n=n: [driver.run(enter(n)) for _ in range(50)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (max(most), len(most), mutex.held) == (1, 200, False)


def test_a_parked_thread_goes_on_when_another_one_fires() -> None:
    driver = BlockingDriver(MemoryDevice(4096))
    waiting: deque[Wakeup] = deque()
    order: list[str] = []
    parked = threading.Event()

    async def wait() -> None:
        order.append("waits")
        parked.set()
        await park(waiting)
        order.append("goes on")

    async def fire() -> None:
        order.append("fires")
        fire_all(waiting)

    thread = threading.Thread(target=lambda: driver.run(wait()))
    thread.start()
    parked.wait()
    driver.run(fire())
    thread.join()
    assert order == ["waits", "fires", "goes on"]


def test_a_pinned_epoch_is_waited_for() -> None:
    driver = BlockingDriver(MemoryDevice(4096))
    epochs = Epochs()
    pin = Pin()
    pin.epoch = epochs.current
    epochs.pins.append(pin)
    looked = threading.Event()
    done: list[bool] = []

    def drain() -> None:
        looked.set()
        driver.run(epochs.grace_period())
        done.append(pin.epoch == 0)

    thread = threading.Thread(target=drain)
    thread.start()
    looked.wait()
    pin.epoch = 0
    thread.join()
    assert done == [True]


def test_a_request_that_begins_later_is_not_waited_for() -> None:
    driver = BlockingDriver(MemoryDevice(4096))
    epochs = Epochs()
    pin = Pin()
    epochs.pins.append(pin)
    driver.run(epochs.grace_period())
    pin.epoch = epochs.current
    token = epochs.enter()
    epochs.leave(token)
    assert pin.epoch == epochs.current


def test_a_grace_period_is_looked_at_until_it_is_over() -> None:
    answers = iter([False, False, True])

    async def wait() -> str:
        await GracePeriod(lambda: next(answers))
        return "over"

    assert BlockingDriver(MemoryDevice(4096)).run(wait()) == "over"


def test_flushes_that_are_asked_for_together_are_one() -> None:
    flushed: list[int] = []
    started, go_on = threading.Event(), threading.Event()

    class SlowDevice(MemoryDevice):
        def flush(self) -> None:
            flushed.append(1)
            started.set()
            go_on.wait()

    driver = BlockingDriver(SlowDevice(4096))

    async def flush_once() -> None:
        await Flush()

    shared = SharedFlush(flush_once)
    first = threading.Thread(target=lambda: driver.run(shared()))
    first.start()
    started.wait()
    arrived = threading.Barrier(4)

    async def arrive_and_flush() -> None:
        await shared()

    def later() -> None:
        arrived.wait()
        driver.run(arrive_and_flush())

    others = [threading.Thread(target=later) for _ in range(3)]
    for thread in others:
        thread.start()
    arrived.wait()
    go_on.set()
    for thread in (first, *others):
        thread.join()
    assert 2 <= len(flushed) <= 4


def test_a_flush_that_fails_fails_for_who_ran_it_and_is_tried_by_the_next() -> None:
    outcomes = iter([DeviceError("no"), None])

    async def flush_once() -> None:
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome

    driver = BlockingDriver(MemoryDevice(4096))
    shared = SharedFlush(flush_once)
    with pytest.raises(DeviceError):
        driver.run(shared())
    driver.run(shared())
