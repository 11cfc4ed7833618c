"""Another parent changes what snapshots read: no backup takes them for their copies any more."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobstore import (
    Blob,
    Blobstore,
    InvalidArgumentError,
    MemoryDevice,
    VolumeStore,
    check,
)
from blobstore.backup import send, take_snapshot
from blobstore.backup.any_store import AnyStore
from blobstore.backup.snapshot_identity import identity_of
from blobstore.testing.crash_states import Limits
from blobstore.testing.power_cut import PowerCut

CLUSTER = 16384
SIZE = 4 * CLUSTER


@pytest.fixture(params=["blobs", "volumes"])
def store(request: pytest.FixtureRequest) -> Iterator[AnyStore]:
    device = MemoryDevice(16 << 20)
    if request.param == "blobs":
        with Blobstore.create(device, cluster_size=CLUSTER) as blobs:
            yield blobs
    else:
        with VolumeStore.create(device, name="vms", cluster_size=CLUSTER) as volumes:
            yield volumes


def thin(store: AnyStore, name: str) -> Blob:
    if isinstance(store, VolumeStore):
        return store.create_volume(name, SIZE, thin=True)
    return store.create_blob(SIZE, thin=True, name=name)


def test_a_snapshot_with_another_parent_is_no_base_nor_are_those_above_it(
    store: AnyStore,
) -> None:
    disk, other = thin(store, "disk"), thin(store, "other")
    disk.write(b"a")
    first = take_snapshot(disk, "first")
    second = take_snapshot(disk, "second")
    other.write(b"b", 2 * CLUSTER)
    parent = take_snapshot(other, "parent")
    unrelated = take_snapshot(other, "unrelated")
    first.set_parent(parent.id)
    assert disk.read(1, 2 * CLUSTER) == b"b"
    third = take_snapshot(disk, "third")
    for base in (first, second):
        assert identity_of(base.info) is None
        with pytest.raises(InvalidArgumentError, match="by another parent or by a repair"):
            send(third, io.BytesIO(), base=base)
    send(third, io.BytesIO())
    for sound in (parent, unrelated, third):
        assert identity_of(sound.info) is not None


def test_a_disk_with_another_parent_keeps_what_names_it(store: AnyStore) -> None:
    disk, other = thin(store, "disk"), thin(store, "other")
    parent = take_snapshot(other, "parent")
    before = disk.info.xattrs
    disk.set_parent(parent.id)
    assert disk.info.xattrs == before


def test_a_snapshot_made_without_an_identity_gets_no_attribute() -> None:
    with Blobstore.create(MemoryDevice(16 << 20), cluster_size=CLUSTER) as store:
        first = thin(store, "disk").snapshot()
        first.set_parent(thin(store, "other").snapshot().id)
        assert first.info.xattrs == {}


def test_what_was_lost_is_lost_on_the_device_and_the_store_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with Blobstore.create(path, size="16MiB", cluster_size=CLUSTER) as store:
        disk = thin(store, "disk")
        first, second = take_snapshot(disk), take_snapshot(disk)
        ids = first.id, second.id
        other = thin(store, "other").snapshot().id
        second.close()
        first.set_parent(other)
    with Blobstore.open(path) as store:
        infos = {info.blob_id: info for info in store.list_blobs()}
        assert [identity_of(infos[blob_id]) for blob_id in ids] == [None, None]
    assert check(path).clean


@pytest.mark.parametrize("atomic", [512, 4096])
def test_after_a_power_failure_no_snapshot_reads_a_new_parent_under_its_old_identity(
    atomic: int,
) -> None:
    cut: PowerCut[str] = PowerCut("1MiB", atomic_write_size=atomic)
    with Blobstore.create(cut.device, cluster_size=CLUSTER, md_pages=32) as store:
        disk = thin(store, "disk")
        first, second = take_snapshot(disk), take_snapshot(disk)
        other = thin(store, "other")
        other.write(b"new")
        parent = other.snapshot()
        store.flush()
        cut.begin()
        first.set_parent(parent.id)
        cut.promise("done")
        changed = first.id, second.id
        states = list(cut.states(Limits(subsets=64, samples=8, atomic=atomic)))
    seen = set()
    for state in states:
        with Blobstore.open(state.device) as store:
            for blob_id in changed:
                with store.open_blob(blob_id) as snapshot:
                    is_changed = snapshot.read(3) == b"new"
                    has_identity = identity_of(snapshot.info) is not None
                assert not (is_changed and has_identity), state.state
                assert is_changed or not state.promises
                seen.add((is_changed, has_identity))
    assert seen == {(False, True), (False, False), (True, False)}
