"""A store whose masks are many pages long: 64 GiB in clusters of 64 KiB, in a sparse file."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from blobstore import Blobstore, NoSpaceError
from blobstore.device.base import Device
from blobstore.device.file import FileDevice
from blobstore.operations import Buffer
from blobstore.testing.internals import core_of, device_of
from blobstore.units import GIB, KIB, MIB, BlobId

CLUSTER: Final = 64 * KIB
SIZE: Final = 64 * GIB
CLUSTER_COUNT: Final = SIZE // CLUSTER
MASK_PAGES: Final = 33
MD_PAGES: Final = CLUSTER_COUNT // 8
MD_MASK_PAGES: Final = 5
MARKS: Final = [0, 511 * CLUSTER, 512 * CLUSTER + 5, 30 * GIB + 4096, 60 * GIB - 100]


class CountingDevice(Device):
    """Counts the reads that reach a device; it offers no descriptor, so that none passes by."""

    def __init__(self, below: Device) -> None:
        super().__init__(
            name=below.name,
            size_bytes=below.size_bytes,
            block_size=below.block_size,
            read_only=below.read_only,
            unmap_zeroes=below.unmap_zeroes,
        )
        self.lengths: list[int] = []
        self._below = below

    def read(self, offset: int, length: int) -> bytes:
        self.lengths.append(length)
        return self._below.read(offset, length)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        self.lengths.append(sum(view.nbytes for view in buffers))
        self._below.read_into(offset, buffers)

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        self._below.write(offset, buffers)

    def write_zeroes(self, offset: int, length: int) -> None:
        self._below.write_zeroes(offset, length)

    def unmap(self, offset: int, length: int) -> None:
        self._below.unmap(offset, length)

    def flush(self) -> None:
        self._below.flush()

    def close(self) -> None:
        super().close()
        self._below.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the file of a store that was made, filled here and there, and left clean."""
    path = tmp_path_factory.mktemp("long") / "store.img"
    with Blobstore.create(path, size=SIZE, cluster_size=CLUSTER, md_pages=MD_PAGES) as store:
        fill(store)
    yield path
    path.unlink()


def fill(store: Blobstore) -> None:
    """Make a thin blob written at far places, and a thick one written at its ends."""
    thin = store.create_blob(60 * GIB, thin=True, xattrs={"name": b"thin"})
    for at in MARKS:
        thin.write(mark(at), at)
    thick = store.create_blob(700 * CLUSTER, xattrs={"name": b"thick"})
    thick.write(mark(1), 0)
    thick.write(mark(2), thick.size - 100)
    runs = store.create_blob(10 * GIB, thin=True, extent_table=False, xattrs={"name": b"runs"})
    for at in (0, 7 * GIB):
        runs.write(mark(at), at)
    store.set_super_blob(thin.id)


def mark(number: int) -> bytes:
    return number.to_bytes(10, "little") * 10


def check(store: Blobstore) -> None:
    """Look at everything that `fill` made."""
    names = {}
    for blob_id in store.blob_ids():
        with store.open_blob(blob_id) as blob:
            names[blob.get_xattr("name")] = blob_id
    assert set(names) >= {b"thin", b"thick", b"runs"}
    assert store.super_blob == names[b"thin"]
    check_blob(store, names[b"thin"], {at: mark(at) for at in MARKS})
    check_blob(store, names[b"thick"], {0: mark(1), 700 * CLUSTER - 100: mark(2)})
    check_blob(store, names[b"runs"], {0: mark(0), 7 * GIB: mark(7 * GIB)})


def check_blob(store: Blobstore, blob_id: BlobId, marks: dict[int, bytes]) -> None:
    with store.open_blob(blob_id) as blob:
        for at, data in marks.items():
            assert blob.read(100, at) == data
            if at + 300 < blob.size:
                assert blob.read(100, at + 200) == bytes(100)
        assert blob.read(100, blob.size // 2 + 12345) == bytes(100)


def used_clusters() -> int:
    return len(MARKS) + 700 + 2


def host_bytes(path: Path) -> int:
    return os.stat(path).st_blocks * 512


def test_a_mask_of_33_pages_is_written_and_read(path: Path) -> None:
    with Blobstore.open(path, read_only=True) as store:
        geometry = core_of(store).geometry
        assert geometry.used_clusters.length == MASK_PAGES
        assert geometry.used_pages.length == geometry.used_blob_ids.length == MD_MASK_PAGES
        assert not core_of(store).was_recovered
        assert store.free_clusters == geometry.data_clusters - used_clusters()
        check(store)


def test_with_a_metadata_page_for_each_cluster_all_three_masks_are_as_long(tmp_path: Path) -> None:
    path = tmp_path / "store.img"
    with Blobstore.create(path, size=SIZE, cluster_size=CLUSTER) as store:
        fill(store)
        free = store.free_clusters
    with Blobstore.open(path) as store:
        geometry = core_of(store).geometry
        assert geometry.used_clusters.length == geometry.used_pages.length == MASK_PAGES
        assert geometry.used_blob_ids.length == MASK_PAGES
        assert not core_of(store).was_recovered
        assert store.free_clusters == free
        check(store)
    path.unlink()


def test_a_clean_store_is_opened_with_one_read_for_each_mask_and_few_for_the_roots(
    path: Path,
) -> None:
    device = CountingDevice(FileDevice.open(path, read_only=True))
    with Blobstore.open(device) as store:
        assert len(device.lengths) <= 6
        assert sum(device.lengths) < (MASK_PAGES + 2 * MD_MASK_PAGES) * 4096 + 2 * MIB
        assert not core_of(store).was_recovered


def test_recovery_reads_the_metadata_in_large_pieces_and_finds_the_same(path: Path) -> None:
    with Blobstore.open(path, read_only=True) as store:
        used = core_of(store).clusters.used.copy(), core_of(store).pages.used.copy()
    device = CountingDevice(FileDevice.open(path, read_only=True))
    with Blobstore.open(device, force_recovery=True) as store:
        region = MD_PAGES * 4096
        assert len(device.lengths) <= region // MIB + 50
        assert region <= sum(device.lengths) <= region + 2 * MIB
        assert core_of(store).was_recovered
        assert (core_of(store).clusters.used, core_of(store).pages.used) == used
        check(store)


def test_a_store_that_was_not_unloaded_is_recovered_and_goes_on(path: Path) -> None:
    store = Blobstore.open(path)
    blob = store.create_blob(3 * CLUSTER, thin=True, xattrs={"name": b"late"})
    blob.write(mark(9), 2 * CLUSTER)
    blob.flush()
    device_of(store).close()
    with Blobstore.open(path) as again:
        assert core_of(again).was_recovered
        check(again)
        with again.open_blob(blob.id) as late:
            assert late.read(100, 2 * CLUSTER) == mark(9)
        again.delete_blob(blob.id)
    with Blobstore.open(path) as clean:
        assert not core_of(clean).was_recovered
        assert clean.free_clusters == core_of(clean).geometry.data_clusters - used_clusters()


def test_a_store_grows_with_its_device_as_far_as_its_mask_has_room(path: Path) -> None:
    with Blobstore.open(path) as store:
        before = store.info
        device_of(store).resize(SIZE + 100 * CLUSTER)
        info = store.grow()
        assert info.total_clusters == before.total_clusters + 100
        assert info.free_clusters == before.free_clusters + 100
        check(store)
        thick = store.create_blob(50 * CLUSTER)
        thick.write(mark(3), thick.size - 100)
        thick.close()
        store.delete_blob(thick.id)
    with Blobstore.open(path) as store:
        assert store.info.size == SIZE + 100 * CLUSTER
        check(store)


def test_beyond_the_room_of_its_mask_a_store_does_not_grow(path: Path) -> None:
    size = (MASK_PAGES * 4096 - 5) * 8 * CLUSTER
    with Blobstore.open(path) as store:
        before = store.info
        device_of(store).resize(size + CLUSTER)
        with pytest.raises(NoSpaceError):
            store.grow()
        assert replace(store.info, clean=before.clean) == before
        device_of(store).resize(size)
        assert store.grow().total_clusters == (MASK_PAGES * 4096 - 5) * 8
        check(store)


def test_little_more_than_the_metadata_and_what_was_written_takes_space_on_the_host(
    path: Path,
) -> None:
    metadata = (1 + MASK_PAGES + 2 * MD_MASK_PAGES + MD_PAGES) * 4096
    assert host_bytes(path) < metadata + used_clusters() * CLUSTER + 32 * MIB
