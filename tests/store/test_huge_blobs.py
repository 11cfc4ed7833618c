"""Thin blobs of the largest size: they take memory and time for what is in them."""

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from blobstore import Blob, Blobstore, InvalidArgumentError, NoSpaceError
from blobstore.alloc.leaves import LEAF_SIZE
from blobstore.device.base import Device
from blobstore.device.file import FileDevice
from blobstore.format.descriptors import READ_ONLY
from blobstore.metadata.blob_state import SparsePages
from blobstore.units import KIB, MIB
from tests.proof.forge import Forge, clone_of, extents, flags, table
from tests.proof.image_device import ImageDevice, SparseDevice

CLUSTER: Final = 4096
SIZE: Final = (1 << 26) * CLUSTER
LEAF_BYTES: Final = LEAF_SIZE * CLUSTER
PLACES: Final = (0, CLUSTER * 7, SIZE // 2 + 5, SIZE - CLUSTER)
CHAINED: Final = 300
PAGES: Final = 128

Opener = Callable[[], Device]


def chain_of(count: int) -> SparseDevice:
    """Return a store with huge snapshots of each other, each with one extent page."""
    forge = Forge(md_len=2 * count, cluster_count=4 * count + 256)
    first = forge.cluster_count - count
    for number in range(count):
        head = clone_of(2 * number - 2, data_ro=READ_ONLY) if number else flags(data_ro=READ_ONLY)
        page = 2 * number + 1
        forge.root(2 * number, head, table(1 << 26, (page, 1), (0, (1 << 26) // LEAF_SIZE - 1)))
        forge.put(page, 2 * number, extents(0, [first + number] + [0] * (LEAF_SIZE - 1)))
    return forge.device(read_only=True)


def test_a_chain_of_huge_blobs_with_an_extent_page_each_takes_little_memory() -> None:
    with Blobstore.open(chain_of(CHAINED), read_only=True) as store:
        blob_id = store.blob_ids()[-1]
        tracemalloc.start()
        begun = time.process_time()
        with store.open_blob(blob_id) as blob:
            taken, _peak = tracemalloc.get_traced_memory()
            assert blob.next_data(1 << 20) is None
        assert time.process_time() - begun < 5
        tracemalloc.stop()
    assert taken < CHAINED * 16 * KIB


@pytest.fixture(params=["memory", "file"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Make an empty store, and return what opens its device: with the one lane, or the other."""
    path, image = tmp_path / "image", bytearray(4 * MIB)
    if request.param == "memory":
        Blobstore.create(ImageDevice(image), cluster_size=CLUSTER, md_pages=PAGES).close()
        return lambda: ImageDevice(image)
    Blobstore.create(FileDevice.create(path, 4 * MIB), cluster_size=CLUSTER, md_pages=PAGES).close()
    return lambda: FileDevice.open(path)


def contents(blob: Blob) -> list[bytes]:
    return [blob.read(10, place) for place in PLACES if place < blob.size]


def fill(blob: Blob, mark: bytes) -> None:
    for place in PLACES:
        if place < blob.size:
            blob.write(mark * 10, place)


def data_in(blob: Blob) -> list[int]:
    """Return where each cluster begins that the blob or a parent holds."""
    found: list[int] = []
    at = blob.next_data(0)
    while at is not None:
        found.append(at)
        at = blob.next_data(at + CLUSTER) if at + CLUSTER < blob.size else None
    return found


def test_a_huge_blob_holds_what_was_written_to_it(opener: Opener) -> None:
    with Blobstore.open(opener()) as store, store.create_blob(SIZE, thin=True) as blob:
        blob_id = blob.id
        for mark in (b"a", b"b"):
            fill(blob, mark)
            blob.flush()
        assert contents(blob) == [b"b" * 10] * len(PLACES)
        assert isinstance(blob._state.extent_pages, SparsePages)
        with pytest.raises(InvalidArgumentError):
            blob.read(1, SIZE)
        with pytest.raises(InvalidArgumentError):
            blob.write(b"x", SIZE)
        with pytest.raises(InvalidArgumentError):
            blob.read(1, SIZE + 5 * LEAF_BYTES)
        free = store.free_clusters
    with Blobstore.open(opener()) as store, store.open_blob(blob_id) as blob:
        assert contents(blob) == [b"b" * 10] * len(PLACES)
        assert data_in(blob) == [place // CLUSTER * CLUSTER for place in PLACES]
        assert store.free_clusters == free
        assert blob.info.allocated_clusters == len(PLACES)
        with pytest.raises(NoSpaceError):
            blob.inflate()


def test_a_huge_blob_is_made_smaller_and_larger(opener: Opener) -> None:
    with Blobstore.open(opener()) as store, store.create_blob(SIZE, thin=True) as blob:
        free = store.free_clusters
        fill(blob, b"a")
        blob.resize(SIZE // 2)
        blob.flush()
        assert contents(blob) == [b"a" * 10] * 2
        with pytest.raises(InvalidArgumentError):
            blob.read(1, SIZE // 2)
        assert store.free_clusters == free - 2
        blob.resize(SIZE)
        assert blob.read(10, SIZE // 2 + 5) == blob.read(10, SIZE - CLUSTER) == bytes(10)
        fill(blob, b"b")
        blob.resize(SIZE - CLUSTER)
        blob.resize(SIZE)
        blob_id = blob.id
    with Blobstore.open(opener()) as store, store.open_blob(blob_id) as blob:
        assert contents(blob) == [b"b" * 10] * 3 + [bytes(10)]
        blob.resize(0)
        blob.flush()
        assert store.free_clusters == free
    with Blobstore.open(opener()) as store:
        assert store.free_clusters == free
        store.delete_blob(blob_id)


def test_a_small_blob_becomes_huge_and_small_again(opener: Opener) -> None:
    with Blobstore.open(opener()) as store, store.create_blob(CLUSTER, thin=True) as blob:
        blob.write(b"a" * 10)
        blob.resize(SIZE)
        fill(blob, b"b")
        blob.snapshot().close()
        assert contents(blob) == [b"b" * 10] * len(PLACES)
        blob.resize(CLUSTER)
        blob_id = blob.id
    with Blobstore.open(opener()) as store, store.open_blob(blob_id) as blob:
        assert (blob.size, blob.read(10)) == (CLUSTER, b"b" * 10)


def test_huge_blobs_have_snapshots_and_clones(opener: Opener) -> None:
    with Blobstore.open(opener()) as store:
        free = store.free_clusters
        blob = store.create_blob(SIZE, thin=True)
        fill(blob, b"a")
        snapshot = blob.snapshot()
        assert contents(blob) == contents(snapshot) == [b"a" * 10] * len(PLACES)
        blob.write(b"b", 0)
        blob.write(b"b", SIZE // 4)
        clone = snapshot.clone()
        assert data_in(blob) == sorted({*data_in(snapshot), SIZE // 4})
        clone.write(b"c", 1)
        clone.decouple()
        assert clone.read(3) == b"aca"
        ids = [blob.id, snapshot.id, clone.id]
    with Blobstore.open(opener()) as store:
        store.delete_blob(ids[2])
        store.delete_blob(ids[1])
        with store.open_blob(ids[0]) as blob:
            assert contents(blob) == [b"b" + b"a" * 9, *[b"a" * 10] * (len(PLACES) - 1)]
            assert blob.read(2, SIZE // 4) == b"b\0"
    with Blobstore.open(opener()) as store:
        with store.open_blob(ids[0]) as blob:
            assert contents(blob) == [b"b" + b"a" * 9, *[b"a" * 10] * (len(PLACES) - 1)]
        store.delete_blob(ids[0])
        assert store.free_clusters == free


def test_a_huge_blob_without_an_extent_table_is_as_sparse(opener: Opener) -> None:
    store = Blobstore.open(opener())
    with store, store.create_blob(SIZE, thin=True, extent_table=False) as blob:
        fill(blob, b"a")
        blob_id = blob.id
    with Blobstore.open(opener()) as store, store.open_blob(blob_id) as blob:
        assert contents(blob) == [b"a" * 10] * len(PLACES)
        assert len(blob._state.clusters.leaves) == 3
