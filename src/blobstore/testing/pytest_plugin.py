"""Fixtures for pytest.

Say `pytest_plugins = ["blobstore.testing.pytest_plugin"]` in `conftest.py` to have them. This is
the one module of `blobstore.testing` that needs pytest.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from blobstore.api.blobstore import Blobstore
from blobstore.api.volumes import VolumeStore
from blobstore.nbd.exports import StoreExports
from blobstore.nbd.nbd_server import NbdServer
from blobstore.rpc.server import RpcServer
from blobstore.testing.power_cut import PowerCut


@pytest.fixture
def blob_store(tmp_path: Path) -> Iterator[Blobstore]:
    """Yield an empty store of blobs of 64 MiB in a file of the test's directory."""
    path = tmp_path / "blobs.img"
    with Blobstore.create(path, size="64MiB", cluster_size="64KiB") as store:
        yield store


@pytest.fixture
def volume_store(tmp_path: Path) -> Iterator[VolumeStore]:
    """Yield an empty volume store `volumes` of 64 MiB in a file of the test's directory."""
    path = tmp_path / "volumes.img"
    with VolumeStore.create(path, name="volumes", size="64MiB", cluster_size="64KiB") as store:
        yield store


@pytest.fixture
def rpc_server() -> Iterator[RpcServer]:
    """Yield a server at a temporary socket, its `path`; it has no devices yet."""
    with (
        tempfile.TemporaryDirectory(prefix="rpc-") as directory,  # a socket's path must be short
        RpcServer(f"{directory}/spdk.sock") as server,
    ):
        yield server


@pytest.fixture
def nbd_address(volume_store: VolumeStore) -> Iterator[Callable[[str], str]]:
    """Yield what gives the NBD address of a volume of `volume_store`, which a server serves.

    The volume may be made before or after the address. Clients close before the test ends.
    """
    with tempfile.TemporaryDirectory(prefix="nbd-") as directory:  # a socket's path must be short
        path = f"{directory}/socket"
        with NbdServer(StoreExports(volume_store), f"unix:{path}"):
            yield lambda name: f"nbd+unix:///{quote(name, safe='')}?socket={path}"


@pytest.fixture
def power_cut() -> PowerCut[Any]:
    """Return a device of 1 MiB in memory that can lose its power."""
    return PowerCut()
