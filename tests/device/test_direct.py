"""Direct I/O: what goes to the host as it is, what is copied, and updates that are not lost."""

import ctypes
import errno
import fcntl
import mmap
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from blobstore.api.blobstore import Blobstore
from blobstore.device import alignment
from blobstore.device.address import open_device
from blobstore.device.alignment import Alignment, alignment_of
from blobstore.device.bounce import BOUNCE_SIZE, Bounce, Cursor
from blobstore.device.file import DirectFileDevice, FileDevice
from blobstore.errors import DeviceError, InvalidArgumentError, UnsupportedError
from blobstore.testing.device_contract import pattern
from blobstore.testing.internals import device_of
from blobstore.units import KIB, MIB

SIZE = 8 * MIB


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name an image on a file system that has direct I/O."""
    path = tmp_path / "disk.img"
    try:
        FileDevice.create(path, SIZE, direct=True).close()
    except UnsupportedError as error:
        pytest.skip(str(error))
    return path


@pytest.fixture
def unit(path: Path) -> int:
    with path.open() as file:
        found = alignment_of(file.fileno())
    assert found is not None
    return found.offset


@pytest.fixture
def device(path: Path) -> Iterator[FileDevice]:
    with FileDevice.open(path, direct=True) as device:
        yield device


class Calls:
    """Records what goes to the host, as (call, offset, length, address)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[str, int, int, int]] = []
        for name in ("preadv", "pwritev"):
            monkeypatch.setattr(os, name, self._recorded(name, getattr(os, name)))

    def _recorded(self, name: str, call: Callable[..., int]) -> Callable[..., int]:
        def recorded(descriptor: int, buffers: Sequence[Any], offset: int) -> int:
            views = [memoryview(buffer) for buffer in buffers]
            length = sum(view.nbytes for view in views)
            self.seen.append((name, offset, length, address(views[0])))
            return call(descriptor, buffers, offset)

        return recorded

    def ranges(self) -> list[tuple[str, int, int]]:
        return [seen[:3] for seen in self.seen]


def address(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def aligned(length: int, *, fill: bytes = b"") -> memoryview:
    view = memoryview(mmap.mmap(-1, length))
    view[: len(fill)] = fill
    return view


# What goes to the host


def test_the_descriptor_is_direct_and_not_for_others_to_use(device: FileDevice) -> None:
    assert isinstance(device, DirectFileDevice)
    assert device.fast_descriptor is None
    assert fcntl.fcntl(device._descriptor, fcntl.F_GETFL) & os.O_DIRECT


def test_whole_blocks_in_aligned_memory_are_not_copied(
    device: FileDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, found = aligned(8192, fill=pattern(8192)), aligned(8192)
    calls = Calls(monkeypatch)
    device.write(4096, [data])
    device.read_into(4096, [found])
    device.write(0, [data[:4096], data[4096:]])
    assert calls.seen == [
        ("pwritev", 4096, 8192, address(data)),
        ("preadv", 4096, 8192, address(found)),
        ("pwritev", 0, 8192, address(data)),
    ]
    assert found == data


def test_whole_blocks_in_other_memory_are_copied_and_nothing_is_read_first(
    device: FileDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch)
    device.write(4096, [pattern(8192)])
    device.write(0, [aligned(8193)[1:]])
    device.write(0, [aligned(8193)[1:]])
    assert set(calls.ranges()) == {("pwritev", 4096, 8192), ("pwritev", 0, 8192)}
    at_page_starts = [place % mmap.PAGESIZE == 0 for *_, place in calls.seen]
    assert at_page_starts in ([True, False, True, True], [True, False, False])


def test_only_the_blocks_at_the_edges_are_read_first(
    device: FileDevice, unit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch)
    device.write(unit - 1, [bytes(8 * unit + 2)])
    assert calls.ranges() == [
        ("preadv", 0, unit),
        ("preadv", 9 * unit, unit),
        ("pwritev", 0, 10 * unit),
    ]


def test_a_part_of_one_block_reads_and_writes_that_block(
    device: FileDevice, unit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.write(unit, [pattern(unit)])
    calls = Calls(monkeypatch)
    device.write(unit + 3, [b"part"])
    assert calls.ranges() == [("preadv", unit, unit), ("pwritev", unit, unit)]
    assert device.read(unit, unit) == pattern(unit)[:3] + b"part" + pattern(unit)[7:]


def test_large_requests_are_copied_in_pieces(
    device: FileDevice, unit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch)
    device.write(1, [pattern(2 * BOUNCE_SIZE)])
    assert calls.ranges() == [
        ("preadv", 0, unit),
        ("pwritev", 0, BOUNCE_SIZE),
        ("pwritev", BOUNCE_SIZE, BOUNCE_SIZE),
        ("preadv", 2 * BOUNCE_SIZE, unit),
        ("pwritev", 2 * BOUNCE_SIZE, unit),
    ]
    assert device.read(1, 2 * BOUNCE_SIZE) == pattern(2 * BOUNCE_SIZE)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_any_requests_leave_what_the_same_requests_leave_in_memory(
    device: FileDevice, seed: int
) -> None:
    chance = random.Random(seed)
    expected = bytearray(SIZE)
    for _ in range(150):
        offset = chance.randrange(SIZE // 2)
        length = chance.choice([1, 511, 512, 4096, chance.randrange(3 * MIB)])
        if chance.random() < 0.5:
            offset -= offset % 512
        kind = chance.choice(["write", "parts", "zeroes", "unmap"])
        data = pattern(length, seed=chance.randrange(9)) if kind in ("write", "parts") else b""
        if kind == "write":
            device.write(offset, [data])
        elif kind == "parts":
            cut = chance.randrange(length + 1)
            device.write(offset, [data[:cut], b"", bytearray(data[cut:])])
        else:
            data = bytes(length)
            (device.write_zeroes if kind == "zeroes" else device.unmap)(offset, length)
        expected[offset : offset + length] = data
        start = chance.randrange(SIZE)
        assert device.read(start, SIZE - start) == expected[start:]
    found = bytearray(SIZE)
    device.read_into(0, [memoryview(found)[:777], memoryview(found)[777:]])
    assert found == expected


# Updates


def in_threads(*work: Callable[[], None]) -> None:
    failures: list[BaseException] = []

    def guarded(task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=[task]) for task in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_writes_of_different_bytes_of_one_block_are_never_lost(device: FileDevice) -> None:
    def count_at(place: int) -> Callable[[], None]:
        def count() -> None:
            for number in range(1, 301):
                device.write(place, [number.to_bytes(2, "little")])
                assert device.read(place, 2) == number.to_bytes(2, "little")

        return count

    in_threads(*(count_at(place) for place in (0, 100, 510)))
    for place in (0, 100, 510):
        assert device.read(place, 2) == (300).to_bytes(2, "little")


def test_without_exclusion_updates_would_be_lost(
    device: FileDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other writer's bytes arrive between this one's read and its write."""
    assert isinstance(device, DirectFileDevice)
    fill = device._fill_edges
    overtaken = threading.Event()

    def overtake() -> None:
        device.write(100, [b"other"])
        overtaken.set()

    def fill_and_be_overtaken(start: int, piece: memoryview, part: slice) -> None:
        fill(start, piece, part)
        if threading.current_thread() is threading.main_thread():
            started.append(threading.Thread(target=overtake))
            started[-1].start()
            overtaken.wait(timeout=0 if excluded else 5)

    started: list[threading.Thread] = []
    for excluded in (True, False):
        device.write(0, [bytes(4096)])
        overtaken.clear()
        with monkeypatch.context() as patch:
            patch.setattr(device, "_fill_edges", fill_and_be_overtaken)
            if not excluded:
                patch.setattr("blobstore.device.ranges.excludes", lambda *_: False)
            device.write(0, [b"mine"])
        started.pop().join()
        assert device.read(0, 4) == b"mine"
        assert (device.read(100, 5) == b"other") == excluded


def test_a_write_of_the_whole_block_is_not_undone_by_one_of_a_part(device: FileDevice) -> None:
    block = aligned(4096)

    def write_whole() -> None:
        for number in range(300):
            block[:] = bytes([number % 250 + 1]) * 4096
            device.write(0, [block])
            assert device.read(8, 4088) == block[8:]

    def write_part() -> None:
        for _ in range(300):
            device.write(0, [b"part"])

    in_threads(write_whole, write_part)


def test_zeroing_is_not_undone_by_a_write_beside_it(device: FileDevice) -> None:
    def zero() -> None:
        for _ in range(100):
            device.write(MIB, [pattern(256 * KIB)])
            device.write_zeroes(MIB, 256 * KIB - 700)
            assert device.read(MIB, 256 * KIB - 700) == bytes(256 * KIB - 700)

    def write_beside() -> None:
        for _ in range(200):
            device.write(MIB + 256 * KIB - 100, [b"beside"])
            device.write(MIB - 100, [bytes(100)])

    in_threads(zero, write_beside)


# Memory


def test_a_thread_uses_one_buffer_again_and_again() -> None:
    with Bounce() as first:
        first[:4] = b"kept"
    with Bounce() as second:
        assert second is first
    assert address(first) % mmap.PAGESIZE == 0


def test_a_request_inside_another_one_gets_memory_of_its_own() -> None:
    with Bounce() as outer:
        with Bounce() as inner:
            assert inner is not outer
        assert len(outer) == len(inner) == BOUNCE_SIZE


def test_threads_do_not_share_memory() -> None:
    found: list[memoryview] = []

    def borrow() -> None:
        with Bounce() as mine:
            found.append(mine)

    with Bounce() as mine:
        in_threads(borrow)
    assert found[0] is not mine


def test_a_cursor_goes_through_views_of_any_length() -> None:
    source = [memoryview(b"ab"), memoryview(b""), memoryview(b"cdef")]
    target = bytearray(3)
    cursor = Cursor(source)
    cursor.fill(memoryview(target))
    assert target == b"abc"
    cursor.fill(memoryview(target))
    assert target == b"def"
    first, second = bytearray(2), bytearray(3)
    cursor = Cursor([memoryview(first), memoryview(bytearray()), memoryview(second)])
    cursor.drain(memoryview(b"a"))
    cursor.drain(memoryview(b"bcde"))
    assert bytes(first + second) == b"abcde"


# Opening, sizes, failures


def test_an_address_can_be_opened_direct(path: Path) -> None:
    with open_device(path, read_only=True, direct=True) as device:
        assert isinstance(device, DirectFileDevice)
        assert device.read(100, 100) == bytes(100)
    with pytest.raises(UnsupportedError, match="direct"):
        open_device("memory:1MiB", read_only=False, direct=True)


def test_a_size_that_ends_inside_a_block_is_refused(path: Path, unit: int, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=f"a multiple of {unit}"):
        FileDevice.create(tmp_path / "new.img", 10 * unit + 1, direct=True)
    assert not (tmp_path / "new.img").exists()
    with FileDevice.open(path, direct=True) as device:
        with pytest.raises(InvalidArgumentError, match=f"a multiple of {unit}"):
            device.resize(SIZE + 7)
        assert path.stat().st_size == device.size_bytes == SIZE
        device.resize(SIZE + unit)
    os.truncate(path, SIZE - 1)
    with pytest.raises(InvalidArgumentError, match=f"a multiple of {unit}"):
        FileDevice.open(path, direct=True)
    FileDevice.open(path).close()


@pytest.mark.parametrize("refusal", ["no alignment", "EINVAL"])
def test_a_file_system_without_direct_io_is_refused_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: str
) -> None:
    if refusal == "EINVAL":
        control = fcntl.fcntl

        def refuse(descriptor: int, command: int, argument: int = 0) -> int:
            if command == fcntl.F_SETFL and argument & os.O_DIRECT:
                raise OSError(errno.EINVAL, "refused")
            return control(descriptor, command, argument)

        monkeypatch.setattr(fcntl, "fcntl", refuse)
    else:
        monkeypatch.setattr(alignment, "_statx_alignment", lambda _: (0, 0))
    with pytest.raises(UnsupportedError, match="no direct I/O"):
        FileDevice.create(tmp_path / "disk.img", MIB, direct=True)
    assert list(tmp_path.iterdir()) == []
    FileDevice.create(tmp_path / "disk.img", MIB).close()
    with pytest.raises(UnsupportedError, match="no direct I/O"):
        FileDevice.open(tmp_path / "disk.img", direct=True)
    FileDevice.open(tmp_path / "disk.img").close()


def test_another_failure_to_go_direct_keeps_its_errno(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: int) -> int:
        raise OSError(errno.EPERM, "append only")

    monkeypatch.setattr(fcntl, "fcntl", fail)
    with pytest.raises(DeviceError) as caught:
        FileDevice.open(path, direct=True)
    assert caught.value.errno == errno.EPERM


@pytest.mark.parametrize("left", [0, 2 * MIB, 2 * MIB + 100])
def test_a_file_that_shrank_is_an_error_and_never_zeroes(
    path: Path, device: FileDevice, left: int
) -> None:
    os.truncate(path, left)
    whole = aligned(MIB)
    reads: list[Callable[[], object]] = [
        lambda: device.read(2 * MIB, 4096),
        lambda: device.read(2 * MIB + 50, 100),
        lambda: device.read_into(2 * MIB - 4096, [whole]),
    ]
    for read in reads:
        with pytest.raises(DeviceError, match=f"file of {left} bytes found") as caught:
            read()
        assert caught.value.errno == errno.EIO


def test_a_host_error_is_a_device_error_and_leaves_the_device_usable(
    device: FileDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "broken")

    for name in ("preadv", "pwritev"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(DeviceError):
                device.write(100, [b"part"])
    device.write(100, [b"part"])
    assert device.read(100, 4) == b"part"


def test_a_host_without_an_answer_is_taken_to_need_the_disks_blocks_or_pages(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alignment, "_libc_statx", lambda: None)
    with path.open() as file:
        found = alignment_of(file.fileno())
        assert found is not None
        assert found.memory == found.offset
        assert found.offset in (512, 4096)
    with open("/proc/self/status") as file:
        assert alignment_of(file.fileno()) == Alignment(memory=4096, offset=4096)


# A store


def test_a_store_on_a_direct_file_is_the_store_of_a_buffered_one(path: Path) -> None:
    with Blobstore.create(path, cluster_size="64KiB", direct=True) as store:
        blob = store.create_blob(MIB, thin=True, xattrs={"name": b"direct"})
        blob.write(pattern(200_001), 12_345)
        blob_id = blob.id
    for direct in (False, True):
        with Blobstore.open(path, direct=direct) as store:
            blob = store.open_blob(blob_id)
            assert blob.read(200_001, 12_345) == pattern(200_001)
            assert blob.get_xattr("name") == b"direct"
            blob.set_xattr("opened", str(direct).encode())


def test_a_store_is_made_in_a_new_file_by_direct_io(tmp_path: Path, path: Path) -> None:
    with Blobstore.create(tmp_path / "new.img", size="8MiB", direct=True) as store:
        assert isinstance(device_of(store), DirectFileDevice)
