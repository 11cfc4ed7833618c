"""How far a store can grow: what is planned when it is made, and what that takes."""

import os
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from blobstore import (
    Blobstore,
    DeviceError,
    InvalidArgumentError,
    MemoryDevice,
    NoSpaceError,
    VolumeStore,
    check,
    grow,
)
from blobstore.format.geometry import Geometry
from blobstore.store.grow import grow_closed
from blobstore.testing.alone import run_alone
from blobstore.testing.simulated_device import SimulatedDevice
from blobstore.testing.simulated_disk import Failure, SimulatedDisk
from blobstore.units import GIB, KIB, MIB, TIB, parse_size

ENOMEM = 12


def layout(
    size: int, cluster: int, max_size: int | None = None, pages: int | None = None
) -> Geometry:
    return Geometry.compute(
        size_bytes=size,
        cluster_size=cluster,
        page_size=4096,
        io_unit_size=512,
        md_pages=pages,
        max_size=max_size,
    )


@pytest.mark.parametrize(
    ("size", "cluster", "max_size"),
    [
        pytest.param(GIB, MIB, GIB, id="no room wanted"),
        pytest.param(GIB, MIB, 10 * GIB, id="ten times as large"),
        pytest.param(100 * GIB, MIB, TIB, id="ten times as large, and large"),
        pytest.param(64 * MIB, MIB, TIB, id="from a small device"),
        pytest.param(GIB, 64 * KIB, TIB, id="small clusters"),
        pytest.param(100 * MIB + 1, 64 * KIB, 200 * MIB + 1, id="odd sizes"),
    ],
)
def test_a_store_can_grow_to_the_size_that_it_was_made_for(
    size: int, cluster: int, max_size: int
) -> None:
    made = layout(size, cluster, max_size)
    assert min(made.max_growable_size, made.growth_limit) >= max_size
    assert made.grown_to(max_size).total_clusters == max_size // cluster
    is_roomy = made.md_len >= max_size // cluster
    assert is_roomy or made.metadata_pages * 4096 > size // 5
    assert made.md_clusters <= made.total_clusters // 4 or made.md_len == made.total_clusters
    assert not list(made.broken_rules(size))


def test_a_store_without_a_wish_is_laid_out_as_the_original_does() -> None:
    for size, cluster in [(GIB, MIB), (GIB, 8 * KIB), (100 * GIB, 64 * KIB), (10 * MIB, 16 * KIB)]:
        assert layout(size, cluster).md_len == size // cluster
    assert layout(GIB, MIB, None, 77) == layout(GIB, MIB, GIB, 77)


@pytest.mark.parametrize("size", ["1MiB", "8MiB", "64MiB", "1GiB", "10GiB"])
def test_small_clusters_are_no_reason_to_fail(size: str) -> None:
    made = layout(parse_size(size), 4 * KIB)
    assert made.md_clusters * 5 > made.total_clusters
    assert made.md_clusters * 4 <= made.total_clusters


def test_a_store_of_small_clusters_is_made_and_used() -> None:
    with Blobstore.create(MemoryDevice(8 * MIB), cluster_size="4KiB") as store:
        assert store.info.total_clusters == 2048
        assert store.info.data_clusters >= 2048 * 3 // 4
        with store.create_blob(size="4MiB") as blob:
            blob.write(b"x" * MIB, MIB)
            assert blob.read(MIB, MIB) == b"x" * MIB


def test_metadata_that_was_asked_for_and_does_not_fit_is_enomem() -> None:
    with pytest.raises(NoSpaceError, match="fewer md_pages") as caught:
        layout(8 * MIB, 4 * KIB, None, 2048)
    assert caught.value.errno == ENOMEM
    with pytest.raises(NoSpaceError, match="smaller max_size") as caught:
        layout(8 * MIB, MIB, 1 << 50)
    assert caught.value.errno == ENOMEM


def test_a_store_made_for_less_than_its_size_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="max_size"):
        Blobstore.create(MemoryDevice(8 * MIB), cluster_size=MIB, max_size="4MiB")


def test_stores_grow_to_their_limit_open_and_closed(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with Blobstore.create(path, size="64MiB", cluster_size="16KiB", max_size="8GiB") as store:
        assert store.info.max_growable_size >= 8 * GIB
        store.create_blob(size=MIB).close()
        os.truncate(path, GIB)
        assert store.grow().total_clusters == GIB // (16 * KIB)
    os.truncate(path, 8 * GIB)
    assert grow(path) == 8 * GIB
    with Blobstore.open(path) as store:
        assert store.info.total_clusters == 8 * GIB // (16 * KIB)
        store.create_blob(size=2 * GIB, thin=True).close()
    assert not check(path).findings


@pytest.mark.slow
def test_a_cut_leaves_the_old_size_or_the_new_one_also_where_the_mask_gets_more_pages() -> None:
    small, large = 32000 * 4096, 34000 * 4096  # a page of the mask has 32,728 bits
    made = SimulatedDisk(bytes(small), unmap_zeroes=True)
    with Blobstore.create(
        SimulatedDevice(made), cluster_size=4096, md_pages=16, max_size=large
    ) as store:
        blob_id = store.create_blob(MIB).id
    sizes: list[int] = []
    disk = made
    for at in count():
        disk = SimulatedDisk(made.content + bytes(large - small))
        disk.failure = Failure(at, forever=True)
        with suppress(DeviceError):
            run_alone(grow_closed(disk.traits), disk)
        is_done = disk.operation_count <= at
        disk.failure = None
        with Blobstore.open(SimulatedDevice(disk)) as store:
            assert (store.read_only, store.blob_ids()) == (False, [blob_id]), at
            sizes.append(store.info.size)
        if is_done:
            break
    assert sizes == sorted(sizes)
    assert {*sizes} == {small, large}
    assert not check(SimulatedDevice(disk)).findings


def test_a_store_that_cannot_grow_says_how_far_it_can_and_what_would_have_helped(
    tmp_path: Path,
) -> None:
    path = tmp_path / "disk.img"
    with Blobstore.create(path, size="64MiB", cluster_size="16KiB") as store:
        limit = store.info.max_growable_size
        assert limit < TIB
        os.truncate(path, TIB)
        with pytest.raises(NoSpaceError, match=rf"can grow to {limit}.*max_size"):
            store.grow()
    with pytest.raises(NoSpaceError, match=rf"can grow to {limit}.*max_size"):
        grow(path)


def test_a_volume_store_has_room_to_grow_as_well(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with VolumeStore.create(path, name="vms", size="1GiB", max_size="4TiB") as store:
        assert store.info.max_growable_size >= 4 * TIB
    with VolumeStore.create(
        tmp_path / "few.img",
        name="vms",
        size="1GiB",
        max_size="8GiB",
        md_pages_per_cluster_ratio=50,
    ) as store:
        assert store.info.md_len == 8 * GIB // (4 * MIB) // 2
