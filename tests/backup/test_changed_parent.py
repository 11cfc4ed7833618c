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
        with pytest.raises(InvalidArgumentError, match="another parent since it was taken"):
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
