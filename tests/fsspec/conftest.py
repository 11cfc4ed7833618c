from pathlib import Path

import fsspec
import pytest

from blobstore import VolumeStore
from blobstore.fsspec.filesystem import BlobstoreFileSystem

CLUSTER = 64 * 1024


@pytest.fixture(autouse=True, scope="session")
def _registered() -> None:
    """The entry point does the same in an environment where the package was installed."""
    fsspec.register_implementation("blobstore", BlobstoreFileSystem, clobber=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "store.img"
    VolumeStore.create(path, name="vms", size="16MiB", cluster_size=CLUSTER).close()
    return path


@pytest.fixture
def filesystem(path: Path) -> BlobstoreFileSystem:
    return BlobstoreFileSystem(str(path))
