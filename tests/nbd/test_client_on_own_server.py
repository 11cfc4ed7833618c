"""The NBD client on this package's own server: a store in a volume of another store."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobstore import Blobstore, CorruptError, MemoryDevice, VolumeStore, check
from blobstore.device.address import open_device
from blobstore.device.base import Device
from blobstore.nbd.exports import StoreExports
from blobstore.nbd.nbd_server import NbdServer
from blobstore.testing.device_contract import ReadOnlyContract, pattern
from blobstore.units import MIB
from tests.nbd.servers import short_directory


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


@pytest.fixture(scope="module")
def exported(directory: Path) -> Iterator[str]:
    """The address of a thin clone of 16 MiB, whose parent holds something."""
    with VolumeStore.create(MemoryDevice(64 * MIB), name="vms", cluster_size="64KiB") as vms:
        with vms.create_volume("debian", "16MiB", thin=True) as debian:
            debian.write(pattern(MIB, seed=9), offset=MIB)
            debian.snapshot("monday").clone("web").close()
            vms["monday"].close()
        with NbdServer(StoreExports(vms), f"unix:{directory}/nbd.sock"):
            yield f"nbd+unix:///web?socket={directory}/nbd.sock"


class TestOnOwnServer(ReadOnlyContract):
    @pytest.fixture
    def device(self, exported: str) -> Iterator[Device]:
        with open_device(exported, read_only=False) as device:
            yield device

    @pytest.fixture
    def read_only_device(self, exported: str) -> Iterator[Device]:
        with open_device(exported, read_only=True) as device:
            yield device


def test_a_store_on_an_export_that_is_smaller_is_refused_and_not_changed(directory: Path) -> None:
    address = f"nbd+unix:///disk?socket={directory}/small.sock"
    with (
        VolumeStore.create(MemoryDevice(64 * MIB), name="vms", cluster_size="64KiB") as vms,
        vms.create_volume("disk", "16MiB") as disk,
        NbdServer(StoreExports(vms), f"unix:{directory}/small.sock"),
    ):
        VolumeStore.create(address, name="inner").close()
        disk.resize("8MiB")
        before = disk.read(8 * MIB)
        for read_only in (True, False):
            with pytest.raises(
                CorruptError, match="the store has 16777216 bytes, the device 8388608"
            ):
                VolumeStore.open(address, read_only=read_only)
        assert disk.read(8 * MIB) == before
        disk.resize("16MiB")
        VolumeStore.open(address).close()


def test_a_store_in_a_volume_of_a_store_is_clean(exported: str) -> None:
    with Blobstore.create(exported, overwrite=True) as store:
        blob = store.create_blob(size=4 * MIB, thin=True)

        def work(number: int) -> None:
            for turn in range(20):
                blob.write(pattern(4096, seed=turn), offset=number * MIB + turn * 4096)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        blob.flush()
        for number in range(4):
            assert blob.read(4096, offset=number * MIB + 19 * 4096) == pattern(4096, seed=19)
    report = check(exported)
    assert report.clean, report.findings
