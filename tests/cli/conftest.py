"""A small store in an image file, made with the library."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from blobstore import Blobstore

CLUSTER: Final = 64 * 1024


@dataclass(frozen=True)
class Image:
    """A clean store with a thick blob of 4 clusters and a thin one of 16, one of them allocated."""

    path: Path
    thick: int
    thin: int


@pytest.fixture
def image(tmp_path: Path) -> Image:
    path = tmp_path / "disk.img"
    with Blobstore.create(path, size="8MiB", cluster_size=CLUSTER, bstype=b"test") as store:
        thick = store.create_blob(4 * CLUSTER, xattrs={"name": b"alpha"})
        thick.write(b"thick" * 1000)
        thin = store.create_blob(16 * CLUSTER, thin=True, xattrs={"name": b"beta"})
        thin.write(b"thin" * 1000, 2 * CLUSTER)
        return Image(path, thick.id, thin.id)


@pytest.fixture
def dirty_image(image: Image, tmp_path: Path) -> Image:
    """The same after a stop in the middle: a third blob is durable, and nobody unloaded."""
    copy = tmp_path / "dirty.img"
    with Blobstore.open(image.path) as store:
        store.create_blob(CLUSTER, xattrs={"name": b"gamma"}).flush()
        shutil.copyfile(image.path, copy)
    return Image(copy, image.thick, image.thin)


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A clean store without blobs."""
    path = tmp_path / "empty.img"
    Blobstore.create(path, size="8MiB", cluster_size=CLUSTER).close()
    return path
