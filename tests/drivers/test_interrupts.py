"""Ctrl-C during an operation: held back to its end or its next checkpoint, and never poisoning."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from blobstore import Blobstore, MemoryDevice, PoisonedError, check
from blobstore.blob import read as blob_read
from blobstore.blob import write as blob_write
from blobstore.drivers import interrupts
from blobstore.operations import Buffer
from blobstore.testing.internals import core_of, device_of

CLUSTER = 16 * 1024


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


class PressingDevice(MemoryDevice):
    """A device on which Ctrl-C is pressed inside the next requests, each time as often as told.

    It stays open when its store is closed.
    """

    def __init__(self) -> None:
        super().__init__(4 * 1024 * 1024)
        self.presses: list[int] = []
        self.written: list[int] = []

    def _press(self) -> None:
        for _ in range(self.presses.pop(0) if self.presses else 0):
            press_ctrl_c()

    def close(self) -> None:
        """Let a test look at what is left."""

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        self._press()
        super().read_into(offset, buffers)

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        self._press()
        super().write(offset, buffers)
        self.written.append(sum(map(len, buffers)))


@pytest.fixture(autouse=True)
def pythons_own_handler() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def device() -> PressingDevice:
    return PressingDevice()


@pytest.fixture
def store(device: PressingDevice) -> Blobstore:
    return Blobstore.create(device, cluster_size=CLUSTER, md_pages=64)


def test_an_interrupted_write_ends_and_is_there_and_the_store_stays_usable(
    store: Blobstore, device: PressingDevice
) -> None:
    blob = store.create_blob(CLUSTER, thin=True)
    device.presses = [1]
    with pytest.raises(KeyboardInterrupt):
        blob.write(b"x" * CLUSTER)
    assert blob.read(CLUSTER) == b"x" * CLUSTER
    blob.write(b"y")
    blob.flush()
    store.close()
    assert check(device).clean


def test_leaving_with_after_an_interrupt_unloads_clean_with_all_that_was_acknowledged(
    device: PressingDevice,
) -> None:
    def work() -> None:
        with Blobstore.create(device, cluster_size=CLUSTER, md_pages=64) as store:
            blob = store.create_blob(4 * CLUSTER, thin=True, name="mine")
            blob.write(b"acknowledged")
            blob.xattrs["key"] = b"value"
            device.presses = [1]
            blob.write(b"interrupted", 2 * CLUSTER)

    with pytest.raises(KeyboardInterrupt):
        work()
    with Blobstore.open(device) as again:
        assert not core_of(again).was_recovered
        with again.open_blob(name="mine") as found:
            assert found.read(12) == b"acknowledged"
            assert found.xattrs["key"] == b"value"


def test_a_long_write_stops_between_two_parts(
    store: Blobstore, device: PressingDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_write, "AT_ONCE", 2 * CLUSTER)
    blob = store.create_blob(10 * CLUSTER, thin=True)
    free = store.free_clusters
    device.presses = [0, 0, 1]  # in the second part: each has two clusters
    with pytest.raises(KeyboardInterrupt):
        blob.write(b"x" * 10 * CLUSTER)
    assert blob.read(10 * CLUSTER) == b"x" * 4 * CLUSTER + bytes(6 * CLUSTER)
    assert store.free_clusters == free - 4
    store.close()
    assert core_of(store).poison is None


def test_a_long_read_stops_between_two_parts(
    store: Blobstore, device: PressingDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = store.create_blob(10 * CLUSTER)
    blob.write(b"x" * 10 * CLUSTER)
    monkeypatch.setattr(blob_read, "AT_ONCE", 2 * CLUSTER)
    buffer = bytearray(10 * CLUSTER)
    device.presses = [0, 1]
    with pytest.raises(KeyboardInterrupt):
        blob.read_into(buffer)
    assert buffer == b"x" * 4 * CLUSTER + bytes(6 * CLUSTER)
    assert core_of(store).poison is None


def test_a_second_ctrl_c_ends_the_operation_at_once_and_says_that_the_store_is_poisoned(
    store: Blobstore, device: PressingDevice
) -> None:
    blob = store.create_blob(2 * CLUSTER, thin=True)
    device.presses = [2]
    with pytest.raises(KeyboardInterrupt, match="takes no more changes"):
        blob.write(b"x" * CLUSTER)
    with pytest.raises(PoisonedError, match="interrupted twice"):
        blob.write(b"y")
    with pytest.raises(PoisonedError):
        store.close()


def test_two_interrupts_in_two_operations_poison_nothing(
    store: Blobstore, device: PressingDevice
) -> None:
    blob = store.create_blob(4 * CLUSTER, thin=True)
    for index in range(4):
        device.presses = [1]
        with pytest.raises(KeyboardInterrupt):
            blob.write(b"x", index * CLUSTER)
    assert core_of(store).poison is None


def test_a_handler_of_the_program_is_called_during_the_operation_which_goes_on(
    store: Blobstore, device: PressingDevice
) -> None:
    seen: list[int] = []

    def handler(_number: int, _frame: object) -> None:
        seen.append(len(device.written))

    blob = store.create_blob(CLUSTER, thin=True)
    device.written.clear()
    device.presses = [1]
    signal.signal(signal.SIGINT, handler)
    try:
        assert blob.write(b"x") == 1
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert seen == [0]
    assert core_of(store).poison is None


def test_a_handler_that_is_installed_during_an_operation_stays(
    store: Blobstore, device: PressingDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def handler(_number: int, _frame: object) -> None:
        """Nothing is to be done."""

    blob = store.create_blob(CLUSTER, thin=True)
    monkeypatch.setattr(device, "_press", lambda: signal.signal(signal.SIGINT, handler))
    blob.write(b"x")
    assert signal.signal(signal.SIGINT, signal.default_int_handler) is handler


def test_another_signal_that_ends_the_program_is_held_back_as_ctrl_c_is(
    store: Blobstore, device: PressingDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminated = KeyboardInterrupt("terminated")

    def handler(_number: int, _frame: object) -> None:
        interrupts.interrupt(terminated)

    blob = store.create_blob(CLUSTER, thin=True)
    monkeypatch.setattr(device, "_press", lambda: signal.raise_signal(signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            blob.write(b"x")
        with pytest.raises(KeyboardInterrupt, match="terminated"):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught.value is terminated
    assert blob.read(1) == b"x"
    assert core_of(store).poison is None


def test_another_signal_is_held_back_where_sigint_is_ignored(
    store: Blobstore, device: PressingDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = store.create_blob(CLUSTER, thin=True)
    terminated = KeyboardInterrupt("terminated")
    monkeypatch.setattr(device, "_press", lambda: interrupts.interrupt(terminated))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt, match="terminated"):
            blob.write(b"x")
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert core_of(store).poison is None


def test_another_thread_holds_nothing_back(store: Blobstore) -> None:
    blob = store.create_blob(CLUSTER, thin=True)
    handlers: list[object] = []

    def look() -> None:
        handlers.append(signal.getsignal(signal.SIGINT))

    def run() -> None:
        blob.write(b"x")
        with interrupts.Held():
            look()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]


def test_ctrl_c_while_a_store_closes_is_raised_when_it_is_closed(
    store: Blobstore, device: PressingDevice
) -> None:
    store.create_blob(CLUSTER, thin=True).write(b"x")
    device.presses = [1]
    with pytest.raises(KeyboardInterrupt):
        store.close()
    assert store.closed
    assert core_of(store).poison is None
    assert not core_of(store).is_marked_dirty or core_of(store).super_block.clean


@pytest.mark.parametrize("end", [Blobstore.close, Blobstore.unload])
def test_guards_may_be_nested_and_only_the_outermost_raises(
    store: Blobstore, end: Callable[[Blobstore], None]
) -> None:
    reached: list[str] = []

    def end_guarded() -> None:
        with interrupts.Held():
            press_ctrl_c()
            end(store)
            reached.append("the end of the inner one")

    with pytest.raises(KeyboardInterrupt):
        end_guarded()
    assert reached == ["the end of the inner one"]
    assert store.closed


def test_a_blob_whose_handle_was_lost_does_not_keep_the_store_from_closing(
    store: Blobstore, device: PressingDevice
) -> None:
    for _ in range(3):
        device.presses = [1]
        with pytest.raises(KeyboardInterrupt):
            store.create_blob(CLUSTER)
    assert sum(blob.open_count for blob in core_of(store).open_blobs.values()) == 3
    store.close()
    assert core_of(store).super_block.clean


def test_a_read_of_another_stores_blob_stops_nothing_half_way(
    store: Blobstore, device: PressingDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_read, "AT_ONCE", CLUSTER)
    outside = Blobstore.create("memory:4MiB", cluster_size=4 * CLUSTER)
    source = outside.create_blob(4 * CLUSTER)
    store.register_external(b"outside", source)
    blob = store.create_blob(4 * CLUSTER, external_snapshot=b"outside")
    monkeypatch.setattr(device_of(outside), "read_into", pressing(device_of(outside).read_into))
    with pytest.raises(KeyboardInterrupt):
        blob.write(b"x", 3)
    assert core_of(store).poison is core_of(outside).poison is None
    assert blob.read(5) == b"\0\0\0x\0"


def pressing(
    call: Callable[[int, Sequence[memoryview]], None],
) -> Callable[[int, Sequence[memoryview]], None]:
    """Return a read that presses Ctrl-C once before it reads."""
    presses = [press_ctrl_c]

    def read_into(offset: int, buffers: Sequence[memoryview]) -> None:
        while presses:
            presses.pop()()
        call(offset, buffers)

    return read_into
