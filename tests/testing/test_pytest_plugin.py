import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from blobstore import Blobstore, BlobstoreError, VolumeStore
from blobstore.device.address import open_device
from blobstore.rpc.server import RpcServer
from blobstore.testing.power_cut import PowerCut
from tests.rpc.client import Client
from tests.shared import CHECKOUT

FIXTURES = ("blob_store", "volume_store", "rpc_server", "nbd_address", "power_cut")
pytest_plugins = ["blobstore.testing.pytest_plugin"]


def test_a_server_and_a_store_are_there_for_a_test(
    rpc_server: RpcServer, volume_store: VolumeStore
) -> None:
    client = Client(rpc_server.path)
    assert client("bdev_malloc_create", num_blocks=8, block_size=512) == "Malloc0"
    client.close()
    volume_store.create_volume("v", "1MiB")
    assert "v" in volume_store


@pytest.mark.slow
def test_a_project_of_its_own_can_use_the_fixtures(tmp_path: Path) -> None:
    plugin = 'pytest_plugins = ["blobstore.testing.pytest_plugin"]\n'
    (tmp_path / "conftest.py").write_text(plugin)
    names = ", ".join(FIXTURES)
    test = f"def test_it({names}):\n    assert None not in ({names})\n"
    (tmp_path / "test_it.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    long_path = tmp_path / "a long path of a temporary directory" / ("x" * 100)
    long_path.parent.mkdir()
    command.append(f"--basetemp={long_path}")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout


def test_every_fixture_is_in_the_guide() -> None:
    plugin = (CHECKOUT / "src/blobstore/testing/pytest_plugin.py").read_text()
    guide = (CHECKOUT / "docs/guide-testing.md").read_text()
    found = re.findall(r"@pytest.fixture\ndef (\w+)", plugin)
    assert found == re.findall(r"^\| `(\w+)` \|", guide, re.MULTILINE) == list(FIXTURES)


def test_a_volume_is_served_by_nbd(
    nbd_address: Callable[[str], str], volume_store: VolumeStore
) -> None:
    with volume_store.create_volume("web 1", "1MiB") as volume:
        volume.write(b"served")
    with open_device(nbd_address("web 1"), read_only=True) as device:
        assert device.size_bytes == 1 << 20
        assert device.read(0, 6) == b"served"


def test_a_store_of_blobs_is_there_for_a_test(blob_store: Blobstore) -> None:
    with blob_store.create_blob("1MiB") as blob:
        blob.write(b"x")
    assert blob_store.cluster_size == 65536


def run_counter(power_cut: PowerCut[int], *, flushing: bool) -> None:
    """Write 1 to 3 into a blob, and promise each."""
    with Blobstore.create(power_cut.device, cluster_size=4096, md_pages=16) as store:
        blob = store.create_blob(4096, name="counter")
        power_cut.begin()
        for number in range(1, 4):
            blob.write(bytes([number]))
            if flushing:
                blob.flush()
            power_cut.promise(number)


def numbers_left(power_cut: PowerCut[int]) -> list[tuple[int, int]]:
    """Return what was promised last and what is there, for every moment of a power failure."""
    found = []
    for left in power_cut.states():
        with Blobstore.open(left.device) as store, store.open_blob(name="counter") as blob:
            found.append((max(left.promises, default=0), blob.read(1)[0]))
    return found


@pytest.mark.slow
def test_a_promise_that_was_flushed_survives_every_power_failure(power_cut: PowerCut[int]) -> None:
    run_counter(power_cut, flushing=True)
    found = numbers_left(power_cut)
    assert all(promised <= number for promised, number in found)
    assert {promised for promised, _number in found} == {0, 1, 2, 3}


@pytest.mark.slow
def test_a_promise_without_a_flush_is_broken_by_a_power_failure(power_cut: PowerCut[int]) -> None:
    run_counter(power_cut, flushing=False)
    assert any(promised > number for promised, number in numbers_left(power_cut))


@pytest.mark.slow
def test_without_a_beginning_the_making_of_the_store_is_looked_at_as_well() -> None:
    power_cut = PowerCut[None]("256KiB", atomic_write_size=4096)
    Blobstore.create(
        power_cut.device, cluster_size=4096, md_pages=16, atomic_write_size=4096
    ).close()
    opened = failed = 0
    for left in power_cut.states():
        try:
            Blobstore.open(left.device).close()
            opened += 1
        except BlobstoreError:
            failed += 1
    assert min(opened, failed) > 0
