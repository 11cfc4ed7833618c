"""Fixtures for pytest.

Say `pytest_plugins = ["blobstore.testing.pytest_plugin"]` in `conftest.py` to have them. This is
the one module of `blobstore.testing` that needs pytest.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blobstore.api.blobstore import Blobstore
from blobstore.api.volumes import VolumeStore
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
def rpc_server(tmp_path: Path) -> Iterator[RpcServer]:
    """Yield a server at a socket of the test's directory, its `path`; it has no devices yet."""
    with RpcServer(tmp_path / "spdk.sock") as server:
        yield server


@pytest.fixture
def power_cut() -> PowerCut[Any]:
    """Return a device of 1 MiB in memory that can lose its power."""
    return PowerCut()
