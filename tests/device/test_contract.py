"""Every device of ours keeps the contract."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobstore.device.base import Device
from blobstore.device.block import BlockDevice
from blobstore.device.file import FileDevice
from blobstore.device.memory import MemoryDevice
from blobstore.device.zeroes import ZeroesDevice
from blobstore.errors import ClosedError, InvalidArgumentError, ReadOnlyError, UnsupportedError
from blobstore.testing.device_contract import CHANGES, MINIMUM_SIZE, ReadOnlyContract
from blobstore.testing.simulated_device import SimulatedDevice
from blobstore.testing.simulated_disk import SimulatedDisk
from tests.device.loops import Loop, attached

SHARED_MEMORY = Path("/dev/shm")


class TestMemoryDevice(ReadOnlyContract):
    @pytest.fixture
    def device(self) -> Device:
        return MemoryDevice(MINIMUM_SIZE, fill=0xDD)

    @pytest.fixture
    def read_only_device(self) -> Device:
        return MemoryDevice(MINIMUM_SIZE, fill=0xDD, read_only=True)


class TestSimulatedDevice(ReadOnlyContract):
    @pytest.fixture
    def device(self) -> Device:
        return SimulatedDevice(SimulatedDisk(b"\xdd" * MINIMUM_SIZE))

    @pytest.fixture
    def read_only_device(self) -> Device:
        return SimulatedDevice(SimulatedDisk(b"\xdd" * MINIMUM_SIZE), read_only=True)


class FileDeviceContract(ReadOnlyContract):
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        return tmp_path

    @pytest.fixture
    def device(self, directory: Path) -> Iterator[Device]:
        with FileDevice.create(directory / "disk.img", MINIMUM_SIZE) as device:
            yield device

    @pytest.fixture
    def read_only_device(self, directory: Path) -> Iterator[Device]:
        FileDevice.create(directory / "read-only.img", MINIMUM_SIZE).close()
        with FileDevice.open(directory / "read-only.img", read_only=True) as device:
            yield device


class TestFileDevice(FileDeviceContract):
    pass


@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no /dev/shm")
class TestFileDeviceOnTmpfs(FileDeviceContract):
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as directory:
            yield Path(directory)


class TestFileDeviceWithoutFallocate(FileDeviceContract):
    """On a file system that can neither zero a range nor punch a hole."""

    @pytest.fixture
    def device(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
        monkeypatch.setattr("blobstore.device.fallocate._libc_fallocate", lambda: None)
        with FileDevice.create(directory / "disk.img", MINIMUM_SIZE) as device:
            yield device


class TestDirectFileDevice(ReadOnlyContract):
    @pytest.fixture
    def device(self, tmp_path: Path) -> Iterator[Device]:
        with direct_file(tmp_path) as device:
            yield device

    @pytest.fixture
    def read_only_device(self, tmp_path: Path) -> Iterator[Device]:
        direct_file(tmp_path).close()
        with FileDevice.open(tmp_path / "disk.img", read_only=True, direct=True) as device:
            yield device


def direct_file(directory: Path) -> FileDevice:
    try:
        return FileDevice.create(directory / "disk.img", MINIMUM_SIZE, direct=True)
    except UnsupportedError as error:
        pytest.skip(str(error))


class TestDirectFileDeviceInPages(TestDirectFileDevice):
    """On a host that does not say what direct I/O needs, whose disk has 4096-byte blocks."""

    @pytest.fixture(autouse=True)
    def blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("blobstore.device.alignment._libc_statx", lambda: None)
        monkeypatch.setattr("blobstore.device.alignment._logical_block_below", lambda _: 4096)


@pytest.fixture(scope="module", params=[512, 4096])
def loop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Loop]:
    backing = tmp_path_factory.mktemp("loop") / "backing.img"
    with attached(backing, block_size=request.param, size=MINIMUM_SIZE) as loop:
        yield loop


class TestBlockDevice(ReadOnlyContract):
    IS_DIRECT = False

    @pytest.fixture
    def device(self, loop: Loop) -> Iterator[Device]:
        with BlockDevice.open(loop.path, direct=self.IS_DIRECT) as device:
            yield device

    @pytest.fixture
    def read_only_device(self, loop: Loop) -> Iterator[Device]:
        with BlockDevice.open(loop.path, read_only=True, direct=self.IS_DIRECT) as device:
            yield device


class TestDirectBlockDevice(TestBlockDevice):
    IS_DIRECT = True


class TestBlockDeviceWithoutZeroing(TestBlockDevice):
    """On a device that can neither discard nor zero a range."""

    @pytest.fixture(autouse=True)
    def requests(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(BlockDevice, "_try_range", lambda *_: False)


# The memory device


def test_a_memory_device_starts_with_its_fill() -> None:
    assert MemoryDevice(1024, fill=0xDD).read(0, 1024) == b"\xdd" * 1024
    assert MemoryDevice(1024).read(0, 1024) == bytes(1024)


def test_a_fill_that_is_no_byte_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="fill 256"):
        MemoryDevice(1024, fill=256)


@pytest.mark.parametrize("size", [-1, 2**63])
def test_an_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(InvalidArgumentError, match=f"size {size}"):
        MemoryDevice(size)
    with pytest.raises(InvalidArgumentError, match=f"size {size}"):
        MemoryDevice(1024).resize(size)


@pytest.mark.parametrize("block_size", [0, 256, 513, 1000, -512])
def test_a_block_size_that_is_no_power_of_two_is_refused(block_size: int) -> None:
    with pytest.raises(InvalidArgumentError, match="block size"):
        MemoryDevice(1024, block_size)


def test_a_grown_memory_device_reads_zeroes_in_what_was_added() -> None:
    device = MemoryDevice(1024, fill=0xDD)
    device.resize(2048)
    assert device.read(0, 2048) == b"\xdd" * 1024 + bytes(1024)


def test_a_memory_device_cut_and_grown_again_reads_zeroes_there() -> None:
    device = MemoryDevice(2048, fill=0xDD)
    device.resize(1024)
    with pytest.raises(InvalidArgumentError, match="outside of 1024 bytes"):
        device.read(1024, 1)
    device.resize(2048)
    assert device.read(1024, 1024) == bytes(1024)


# The zeroes device


def test_a_zeroes_device_reads_zeroes() -> None:
    device = ZeroesDevice(8192)
    buffer = bytearray(b"x" * 4096)
    device.read_into(4096, [memoryview(buffer)[:512], memoryview(buffer)[512:]])
    assert buffer == bytes(4096)
    assert device.read(0, 8192) == bytes(8192)
    device.flush()


def test_a_zeroes_device_has_bounds() -> None:
    with pytest.raises(InvalidArgumentError, match="outside"):
        ZeroesDevice(8192).read(8192, 1)


@pytest.mark.parametrize("request_name", CHANGES)
def test_a_zeroes_device_refuses_every_change(request_name: str) -> None:
    with pytest.raises(ReadOnlyError):
        CHANGES[request_name](ZeroesDevice(MINIMUM_SIZE))


def test_a_closed_zeroes_device_refuses_reads_and_writes() -> None:
    device = ZeroesDevice(8192)
    device.close()
    with pytest.raises(ClosedError):
        device.read(0, 1)
    with pytest.raises(ClosedError):
        device.write(0, [b"x"])
