from collections.abc import Iterator
from pathlib import Path

import pytest

from blobstore.rpc.server import RpcServer
from tests.rpc.client import Client


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RpcServer]:
    with RpcServer(tmp_path / "rpc.sock") as server:
        yield server


@pytest.fixture
def client(server: RpcServer) -> Iterator[Client]:
    client = Client(server.path)
    yield client
    client.close()
