"""An address becomes the device it names."""

from pathlib import Path

import pytest

from blobstore.device.address import open_device
from blobstore.device.file import FileDevice
from blobstore.device.memory import MemoryDevice
from blobstore.errors import InvalidArgumentError, NotFoundError, UnsupportedError
from blobstore.units import MIB


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    FileDevice.create(path, MIB).close()
    return path


@pytest.mark.parametrize("as_text", [True, False], ids=["text", "path object"])
def test_a_path_is_a_file_device(image: Path, as_text: bool) -> None:
    with open_device(str(image) if as_text else image, read_only=True) as device:
        assert isinstance(device, FileDevice)
        assert (device.size_bytes, device.read_only) == (MIB, True)
        assert (device.block_size, device.atomic_write_size) == (512, 512)


def test_sizes_that_are_given_are_the_devices_own(image: Path) -> None:
    with open_device(image, read_only=False, atomic_write_size=4096, block_size=4096) as device:
        assert (device.block_size, device.atomic_write_size) == (4096, 4096)
        assert not device.read_only


@pytest.mark.parametrize("address", ["memory:", "memory:64MiB", "memory:67108864"])
def test_memory_is_a_new_memory_device(address: str) -> None:
    with open_device(address, read_only=False) as device:
        assert isinstance(device, MemoryDevice)
        assert device.size_bytes == 64 * MIB
        assert device.name == address


def test_a_memory_device_may_be_read_only() -> None:
    with open_device("memory:1MiB", read_only=True, atomic_write_size=4096) as device:
        assert (device.read_only, device.atomic_write_size) == (True, 4096)


@pytest.mark.parametrize("address", ["memory:much", "memory:-1"])
def test_a_memory_size_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(InvalidArgumentError, match="size"):
        open_device(address, read_only=False)


@pytest.mark.parametrize("address", ["iscsi://host/disk", "nbd+ssh://host/disk", "x:"])
def test_an_unknown_kind_of_address_is_refused(address: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        open_device(address, read_only=True)
    assert address in caught.value.message


def test_a_file_with_a_colon_in_its_name_is_reached_by_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FileDevice.create(tmp_path / "a:b.img", MIB).close()
    monkeypatch.chdir(tmp_path)
    for address in ("./a:b.img", Path("a:b.img"), str(tmp_path / "a:b.img")):
        with open_device(address, read_only=True) as device:
            assert device.size_bytes == MIB


@pytest.mark.parametrize("name", ["absent.img", ""])
def test_an_absent_file_is_not_found(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFoundError):
        open_device(name, read_only=False)


@pytest.mark.parametrize("size", [0, 100])
def test_an_atomic_write_size_that_is_none_is_refused(image: Path, size: int) -> None:
    with pytest.raises(InvalidArgumentError, match="atomic write size"):
        open_device(image, read_only=False, atomic_write_size=size)
    open_device(image, read_only=False).close()
