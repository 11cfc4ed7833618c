from collections.abc import Iterator
from pathlib import Path

import pytest

from blobstore import VolumeStore
from blobstore.rpc.server import RpcServer
from tests.replay import ReplayDevice
from tests.rpc.client import Client

SIZE = 64 << 20


@pytest.fixture
def device() -> ReplayDevice:
    return ReplayDevice(SIZE, 4096)


@pytest.fixture
def vms(device: ReplayDevice) -> Iterator[VolumeStore]:
    """A store `lvs` with clusters of 1 MiB."""
    vms = VolumeStore.create(device, name="lvs", cluster_size="1MiB")
    yield vms
    device.changes_left = device.reads_left = None
    if not vms.closed:
        vms.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RpcServer]:
    with RpcServer(tmp_path / "rpc.sock") as server:
        yield server


@pytest.fixture
def client(server: RpcServer) -> Iterator[Client]:
    client = Client(server.path)
    yield client
    client.close()
