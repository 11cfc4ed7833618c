"""Stores that are mapped into memory: views without a copy, and what becomes of a shorter file."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from blobstore import (
    Blob,
    Blobstore,
    InvalidArgumentError,
    MemoryDevice,
    UnsupportedError,
    VolumeStore,
    ZeroesDevice,
)
from blobstore.units import KIB

CLUSTER: Final = 16 * KIB


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A store with a snapshot of two clusters and a hole, and a clone with one of its own."""
    path = tmp_path / "disk.img"
    with Blobstore.create(path, size="4MiB", cluster_size=CLUSTER) as store:
        blob = store.create_blob(4 * CLUSTER, thin=True, name="vol")
        blob.write(b"AB" * CLUSTER)
        blob.snapshot()
        blob.write(b"C" * CLUSTER, CLUSTER)
    return path


@pytest.fixture
def blob(image: Path) -> Iterator[Blob]:
    with Blobstore.open(image, read_only=True, mapped=True) as store:
        yield store.open_blob(name="vol")


def test_a_view_shows_the_bytes_of_the_blob_and_of_its_ancestors(blob: Blob) -> None:
    for offset, length in ((0, CLUSTER), (CLUSTER + 5, 7), (3 * CLUSTER, CLUSTER), (9, 0)):
        view = blob.view(offset, length)
        assert view == blob.read(length, offset)
        assert (view.readonly, view.nbytes) == (True, length)


def test_a_view_is_the_file_itself(blob: Blob, image: Path) -> None:
    view = blob.view(CLUSTER, 4)
    place = blob.info.extents[1][0] * CLUSTER
    assert bytes(view) == b"CCCC"
    with image.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"seen", place)
    assert bytes(view) == b"seen"


def test_batches_of_a_mapped_store_read_what_single_requests_read(blob: Blob) -> None:
    for length, step in ((512, 512), (4096, 1024), (192, 64), (100, 50), (CLUSTER, CLUSTER)):
        offsets = np.random.default_rng(1).permutation(np.arange(0, 3 * CLUSTER, step))
        expected = b"".join(blob.read(length, int(offset)) for offset in offsets)
        assert blob.read_many(offsets, length).tobytes() == expected


def test_the_size_of_a_mapped_file_need_not_be_a_multiple_of_the_requests(tmp_path: Path) -> None:
    path = tmp_path / "odd.img"
    with Blobstore.create(path, size=4 * 1024 * KIB + 1536, cluster_size=CLUSTER) as store:
        store.create_blob(2 * CLUSTER, name="vol").write(b"AB" * CLUSTER)
    with Blobstore.open(path, read_only=True, mapped=True) as store:
        rows = store.open_blob(name="vol").read_many([CLUSTER, 0], CLUSTER)
        assert rows.tobytes() == b"AB" * CLUSTER


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b: b.view(CLUSTER - 1, 2), "in 2 clusters, expected one"),
        (lambda b: b.view(4 * CLUSTER, 1), "1 bytes at 65536: outside"),
        (lambda b: b.view(-1, 1), "1 bytes at -1: outside"),
        (lambda b: b.write(b"x"), "read-only"),
    ],
)
def test_what_a_mapped_store_refuses(
    blob: Blob, call: Callable[[Blob], object], message: str
) -> None:
    with pytest.raises((InvalidArgumentError, PermissionError), match=message):
        call(blob)


def test_what_is_not_mapped_has_no_views(image: Path) -> None:
    with Blobstore.open(image, read_only=True) as store, store.open_blob(name="vol") as blob:
        assert blob.view(3 * CLUSTER, 2) == bytes(2)
        with pytest.raises(UnsupportedError, match="open it with mapped=True"):
            blob.view(0, 1)


def test_an_external_snapshot_has_no_views(image: Path) -> None:
    with Blobstore.open(image) as store:
        store.register_external(b"zeroes", ZeroesDevice(CLUSTER))
        store.create_blob(CLUSTER, external_snapshot=b"zeroes", name="web").close()
    with (
        Blobstore.open(image, read_only=True, mapped=True) as store,
        store.open_blob(name="web") as web,
        pytest.raises(UnsupportedError, match="of an external snapshot"),
    ):
        web.view(0, 1)


def test_only_a_store_that_nothing_writes_to_can_be_mapped(image: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="mapped: expected read_only=True"):
        Blobstore.open(image, mapped=True)
    with pytest.raises(UnsupportedError, match="direct I/O goes past"):
        Blobstore.open(image, read_only=True, mapped=True, direct=True)
    with pytest.raises(UnsupportedError, match="cannot be mapped into memory"):
        Blobstore.open(MemoryDevice(1 << 20), read_only=True, mapped=True)
    Blobstore.open(image).close()  # what was refused left nothing open


def test_volumes_can_be_mapped(tmp_path: Path) -> None:
    path = tmp_path / "vms.img"
    with VolumeStore.create(path, name="vms", size="4MiB", cluster_size=CLUSTER) as vms:
        vms.create_volume("debian", CLUSTER).write(b"bytes")
    with VolumeStore.open(path, read_only=True, mapped=True) as vms:
        assert bytes(vms["debian"].view(0, 5)) == b"bytes"


def test_a_view_outlives_its_store_without_keeping_it_locked(image: Path) -> None:
    with Blobstore.open(image, read_only=True, mapped=True) as store:
        view = store.open_blob(name="vol").view(0, 4)
    with Blobstore.open(image) as store:
        assert store.open_blob(name="vol").read(4) == bytes(view) == b"ABAB"


def test_a_mapping_without_views_ends_with_its_store(image: Path) -> None:
    with Blobstore.open(image, read_only=True, mapped=True) as store:
        store.open_blob(name="vol").view(0, 4).release()
        assert str(image) in Path("/proc/self/maps").read_text()
    assert str(image) not in Path("/proc/self/maps").read_text()


# A file that gets shorter

SHORTER: Final = """
import os, sys
from blobstore import Blobstore, DeviceError
path = sys.argv[1]
store = Blobstore.open(path, read_only=True, mapped=True)
blob = store.open_blob(name="vol")
view = blob.view(0, 4096)
os.truncate(path, 4096)
"""
CALLS: Final = """
for call in (lambda: blob.view(0, 1), lambda: blob.read_many([0, 512], 512),
             lambda: blob.read(1), lambda: store.read_many([blob], [5], 1)):
    try:
        call()
    except DeviceError as error:
        assert "4096 bytes found" in error.message, error
    else:
        sys.exit("read what is not there")
"""
LOOK: Final = "bytes(view)\n"


def run_script(script: str, image: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-X", "faulthandler=0", "-c", script, str(image)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_a_file_that_shrank_before_the_call_is_an_error_and_no_signal(image: Path) -> None:
    result = run_script(SHORTER + CALLS, image)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.slow
def test_a_view_from_before_ends_the_process_where_the_file_is_no_more(image: Path) -> None:
    """Nothing can guard this: the documentation says so."""
    assert run_script(SHORTER + LOOK, image).returncode == -signal.SIGBUS
