"""Making a store on a device that holds one already: what a crash in the middle leaves."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from blobstore import Blobstore, CorruptError, Device, MemoryDevice, UnsupportedError
from blobstore.device.file import FileDevice
from blobstore.operations import Buffer
from blobstore.units import MIB

CLUSTER = 16384


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a store of 8 MiB."""
    path = tmp_path / "disk.img"
    with Blobstore.create(path, size=8 * MIB, cluster_size=CLUSTER) as store:
        store.create_blob(size=MIB).close()
    return path


class StoppedError(Exception):
    """The machine stops here."""


def stop(*_: object) -> None:
    raise StoppedError


def test_a_file_shrinks_after_its_old_store_is_durably_gone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def noted(name: str, call: Callable[..., None]) -> Callable[..., None]:
        def run(device: FileDevice, *arguments: object) -> None:
            events.append(name)
            call(device, *arguments)

        return run

    for name in ("write", "flush"):
        monkeypatch.setattr(FileDevice, name, noted(name, getattr(FileDevice, name)))
    monkeypatch.setattr(FileDevice, "resize", stop)
    with pytest.raises(StoppedError):
        Blobstore.create(path, size=4 * MIB, cluster_size=CLUSTER, overwrite=True)
    assert events[-2:] == ["write", "flush"]
    assert path.stat().st_size == 8 * MIB
    with pytest.raises(CorruptError):
        Blobstore.open(path)


class FixedDevice(MemoryDevice):
    """Memory that cannot be resized, and outlives its store."""

    resize = Device.resize

    def close(self) -> None:
        pass


@pytest.mark.parametrize("size", [4 * MIB, 16 * MIB])
def test_a_device_of_fixed_size_keeps_its_store_when_another_size_is_asked_for(size: int) -> None:
    device = FixedDevice(8 * MIB)
    with Blobstore.create(device, cluster_size=CLUSTER) as store:
        blob_id = store.create_blob(size=MIB).id
    with pytest.raises(UnsupportedError, match=f"fixed size: 8388608 bytes, expected {size}"):
        Blobstore.create(device, size=size, cluster_size=CLUSTER, overwrite=True)
    with Blobstore.open(device) as store:
        assert store.blob_ids() == [blob_id]


def test_space_is_taken_before_the_old_store_is_touched(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()
    monkeypatch.setattr(FileDevice, "allocate", stop)
    for size in (8 * MIB, 4 * MIB):
        with pytest.raises(StoppedError):
            Blobstore.create(path, size=size, cluster_size=CLUSTER, overwrite=True)
        assert path.read_bytes() == before
    with Blobstore.open(path) as store:
        assert len(store.blob_ids()) == 1


class OrderedDevice(MemoryDevice):
    """A device that notes what is written and flushed, the super block apart from the rest."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.events: list[str] = []

    def _note(self, event: str) -> None:
        if self.events[-1:] != [event]:
            self.events.append(event)

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        self._note("rest" if offset else "super")
        super().write(offset, buffers)

    def write_zeroes(self, offset: int, length: int) -> None:
        self._note("rest")
        super().write_zeroes(offset, length)

    def flush(self) -> None:
        self._note("flush")
        super().flush()


def test_init_writes_the_super_block_last_after_the_old_one_is_gone() -> None:
    device = OrderedDevice(8 * MIB)
    store = Blobstore.create(device, cluster_size=CLUSTER)
    assert device.events == ["super", "flush", "rest", "flush", "super", "flush"]
    store.close()
