"""Rolling blobs back: what they read as, what is released, and what stays."""

import threading
from contextlib import suppress
from pathlib import Path

import pytest

from blobstore import (
    Blob,
    BlobId,
    Blobstore,
    InvalidArgumentError,
    MemoryDevice,
    NoSpaceError,
    ReadOnlyError,
    VolumeStore,
    check,
)
from blobstore.testing.simulated_disk import Flushed, Written
from blobstore.testing.workload import CLUSTER as CLUSTER_OF_WORKLOADS
from blobstore.testing.workload import Workload, new_disk

CLUSTER = 16384
SIZE = 4 * CLUSTER


@pytest.fixture
def device() -> MemoryDevice:
    return MemoryDevice(8 << 20)


def chain_on(store: Blobstore, *, extent_table: bool = True) -> tuple[Blob, Blob, Blob]:
    """Make a blob, and two snapshots of it: all `1`, then one cluster of `2`, then one of `3`."""
    blob = store.create_blob(SIZE, name="disk", extent_table=extent_table)
    blob.write(b"1" * SIZE)
    first = blob.snapshot()
    blob.write(b"2" * CLUSTER, CLUSTER)
    second = blob.snapshot()
    blob.write(b"3" * CLUSTER, 2 * CLUSTER)
    return blob, first, second


@pytest.mark.parametrize("extent_table", [True, False], ids=["table", "runs"])
@pytest.mark.parametrize("target", ["parent", "grandparent"])
def test_a_blob_reads_as_the_snapshot_again_and_keeps_its_id_and_attributes(
    tmp_path: Path, target: str, extent_table: bool
) -> None:
    device = tmp_path / "disk.img"
    with Blobstore.create(device, size=8 << 20, cluster_size=CLUSTER) as store:
        blob, first, second = chain_on(store, extent_table=extent_table)
        wanted = second if target == "parent" else first
        blob.rollback(wanted.id)
        assert blob.read(SIZE) == wanted.read(SIZE)
        before = blob.info
        assert (before.parent, before.allocated_clusters, before.thin) == (wanted.id, 0, True)
    with Blobstore.open(device) as store, store.open_blob(name="disk") as blob:
        assert blob.info == before
        assert blob.read(SIZE) == b"1" * CLUSTER + (
            (b"2" if target == "parent" else b"1") * CLUSTER + b"1" * 2 * CLUSTER
        )
    assert check(device).clean


def test_later_snapshots_stay_as_a_branch_of_their_own(device: MemoryDevice) -> None:
    with Blobstore.create(device, cluster_size=CLUSTER) as store:
        blob, first, second = chain_on(store)
        blob.rollback(first.id)
        assert (second.info.parent, second.info.clones) == (first.id, [])
        assert first.info.clones == sorted([blob.id, second.id])
        assert second.read(CLUSTER, CLUSTER) == b"2" * CLUSTER
        blob.write(b"4" * CLUSTER)
        assert second.clone().read(SIZE) == b"1" * CLUSTER + b"2" * CLUSTER + b"1" * 2 * CLUSTER


def test_the_clusters_that_the_blob_had_written_are_free_afterwards(device: MemoryDevice) -> None:
    with Blobstore.create(device, cluster_size=CLUSTER) as store:
        blob, first, _second = chain_on(store)
        blob.flush()
        free = store.info.free_clusters
        blob.write(b"5" * CLUSTER, 0)
        blob.rollback(first.id)
        assert store.info.free_clusters == free + 1
        store.flush()
        other = store.create_blob(store.info.free_clusters * CLUSTER)
        other.write(b"6" * other.size)
        assert blob.read(SIZE) == b"1" * SIZE


@pytest.mark.parametrize("clusters", [2, 4, 700], ids=["smaller", "as it was", "larger"])
def test_a_blob_that_was_resized_gets_the_size_of_the_snapshot(
    tmp_path: Path, clusters: int
) -> None:
    device = tmp_path / "disk.img"
    with Blobstore.create(device, size=8 << 20, cluster_size=CLUSTER) as store:
        blob, first, _second = chain_on(store)
        blob.resize(clusters * CLUSTER)
        blob.write(b"7" * CLUSTER, (clusters - 1) * CLUSTER)
        blob.rollback(first.id)
        assert blob.size == SIZE
        assert blob.read(SIZE) == b"1" * SIZE
    assert check(device).clean


def test_a_rollback_is_one_write_of_the_root_and_a_flush() -> None:
    disk = new_disk(sector=True)
    workload = Workload(disk)
    workload.run([("init",), ("create", "a", 4, "thin"), ("write", "a", 0, 9)])
    workload.run([("snapshot", "a", "s"), ("write", "a", 3, 9), ("sync", "a")])
    first = len(disk.events)
    workload.step("rollback", "a", "s")
    written = [event for event in disk.events[first:] if isinstance(event, Written)]
    root = (4 + workload.open["a"].root) * CLUSTER_OF_WORKLOADS
    assert [(event.offset, len(event.data)) for event in written] == [(root + 3584, 512)]
    assert isinstance(disk.events[first + 1], Flushed)


def test_without_pages_for_a_copy_of_a_long_chain_it_is_refused_and_nothing_changes() -> None:
    cluster, places = 4096, 2600
    with Blobstore.create(MemoryDevice(24 << 20), cluster_size=cluster, md_pages=24) as store:
        blob = store.create_blob(places * cluster, thin=True, extent_table=False)
        snapshot = blob.snapshot()
        for place in range(0, places, 2):  # runs of one cluster, so that the chain is long
            blob.write(b"new!", place * cluster)
        blob.flush()
        fillers: list[BlobId] = []
        with suppress(NoSpaceError):
            while True:
                with store.create_blob() as filler:
                    fillers.append(filler.id)
        refused = 0
        while blob.info.allocated_clusters:
            before = blob.info
            try:
                blob.rollback(snapshot.id)
            except NoSpaceError:
                refused += 1
                assert blob.info == before, refused
                assert blob.read(4) == b"new!"
                store.delete_blob(fillers.pop())
                store.flush()
        assert refused > 4
        assert blob.read(4) == bytes(4)


def test_a_volume_keeps_its_name_and_uuid(device: MemoryDevice) -> None:
    with VolumeStore.create(device, name="vms", cluster_size=CLUSTER) as vms:
        web = vms.create_volume("web", SIZE, thin=True)
        web.write(b"good")
        good = web.snapshot("web@good")
        web.write(b"evil")
        before = web.uuid
        web.rollback(good.id)
        assert (web.name, web.uuid, web.read(4)) == ("web", before, b"good")


def test_what_is_no_ancestor_is_refused_and_nothing_changes(device: MemoryDevice) -> None:
    with Blobstore.create(device, cluster_size=CLUSTER) as store:
        blob, first, second = chain_on(store)
        clone = second.clone()
        clone.write(b"8" * CLUSTER)
        side = clone.snapshot()
        for other in (side.id, blob.id, clone.id, 0x1_0000_4444):
            with pytest.raises(InvalidArgumentError, match="no ancestor"):
                blob.rollback(other)
        with pytest.raises(ReadOnlyError):
            second.rollback(first.id)
        assert blob.read(CLUSTER, 2 * CLUSTER) == b"3" * CLUSTER


def test_readers_and_writers_beside_a_rollback_see_the_blob_before_or_after_it(
    device: MemoryDevice,
) -> None:
    with Blobstore.create(device, cluster_size=CLUSTER) as store:
        blob, first, _second = chain_on(store)
        found: set[bytes] = set()
        done = threading.Event()

        def read() -> None:
            with store.open_blob(blob.id) as own:
                while not done.is_set():
                    found.add(own.read(CLUSTER, 2 * CLUSTER))

        thread = threading.Thread(target=read)
        thread.start()
        try:
            for _round in range(30):
                blob.write(b"3" * CLUSTER, 2 * CLUSTER)
                blob.rollback(first.id)
        finally:
            done.set()
            thread.join()
        # A write over a snapshot's cluster replaces it whole: no reader sees a mixture.
        assert found <= {b"1" * CLUSTER, b"3" * CLUSTER}
