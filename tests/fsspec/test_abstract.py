"""fsspec's own tests of a file system, all of them.

They run in a directory, as those of other object stores do: fsspec copies a directory without
slash in its path, such as `src`, as if it was `src/`.
"""

import posixpath
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fsspec.tests import abstract

from blobstore import VolumeStore
from blobstore.fsspec.filesystem import BlobstoreFileSystem
from tests.fsspec.conftest import CLUSTER


@pytest.fixture(scope="module")
def store() -> Iterator[VolumeStore]:
    with VolumeStore.create("memory:64MiB", name="vms", cluster_size=CLUSTER) as store:
        yield store


class Fixtures(abstract.AbstractFixtures):
    @pytest.fixture
    def fs(self, store: VolumeStore) -> BlobstoreFileSystem:
        return BlobstoreFileSystem(store)

    @pytest.fixture
    def fs_path(self) -> str:
        return "tests"

    @pytest.fixture
    def fs_join(self) -> Callable[..., str]:
        return posixpath.join

    @pytest.fixture
    def local_path(self, tmp_path: Path) -> str:
        return str(tmp_path)

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        return False


class TestCopy(abstract.AbstractCopyTests, Fixtures):
    pass


class TestGet(abstract.AbstractGetTests, Fixtures):
    pass


class TestPut(abstract.AbstractPutTests, Fixtures):
    pass


class TestOpen(abstract.AbstractOpenTests, Fixtures):
    pass


class TestPipe(abstract.AbstractPipeTests, Fixtures):
    pass
