from collections.abc import Iterator
from pathlib import Path

import pytest

from blobstore import VolumeStore
from blobstore.nbd.exports import StoreExports
from blobstore.nbd.nbd_server import NbdServer
from tests.nbd.servers import short_directory


@pytest.fixture
def place() -> Iterator[Path]:
    with short_directory() as path:
        yield path


@pytest.fixture
def volumes(place: Path) -> Iterator[VolumeStore]:
    """A store with a volume of 4 MiB, a clone of its own snapshot, which differs in one cluster."""
    with VolumeStore.create(
        place / "disk.img", name="vms", size="64MiB", cluster_size="64KiB"
    ) as store:
        web = store.create_volume("web", "4MiB", thin=True)
        web.write(bytes(range(256)) * 1024, 65536)
        with web.snapshot("monday"):
            pass
        web.write(b"tuesday", 1 << 20)
        web.close()
        yield store


@pytest.fixture
def server(place: Path, volumes: VolumeStore) -> Iterator[NbdServer]:
    with NbdServer(StoreExports(volumes), f"unix:{place}/nbd.sock") as server:
        yield server
