"""A volume store that has lost its super block is a volume store again when it is repaired."""

from pathlib import Path

from blobstore import Blobstore, VolumeStore, check, repair

CLUSTER = 65536


def lose_super_block(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(4096))


def test_type_and_super_blob_are_rebuilt_with_the_super_block(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with VolumeStore.create(path, name="vms", size="16MiB", cluster_size=CLUSTER) as store:
        disk = store.create_volume("disk", 4 * CLUSTER, thin=True)
        disk.write(b"data")
        disk.snapshot("monday")
        before = store.uuid, store.info.super_blob, disk.uuid
    lose_super_block(path)
    report = repair(path, "all")
    assert report.after.clean
    (line,) = [line for line in report.repaired if "a volume store again" in line]
    assert f"blob {before[1]:#x} is its super blob" in line
    assert check(path).clean
    with VolumeStore.open(path) as store:
        assert (store.name, store.uuid, store.info.super_blob) == ("vms", *before[:2])
        assert store["disk"].uuid == before[2]
        assert store["monday"].read(4) == b"data"
        assert store.create_volume("new", CLUSTER).uuid is not None
    assert repair(path, "all").repaired == ()


def test_a_store_of_blobs_is_none_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with Blobstore.create(path, size="16MiB", cluster_size=CLUSTER) as store:
        blob = store.create_blob(CLUSTER, name="disk")
        blob.write(b"data")
        store.create_blob(0, name="empty")
    lose_super_block(path)
    assert repair(path, "all").after.clean
    with Blobstore.open(path) as store:
        assert (any(store.info.bstype), store.info.super_blob) == (False, None)


def test_of_two_blobs_without_clusters_none_is_taken_for_the_super_blob(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with VolumeStore.create(path, name="vms", size="16MiB", cluster_size=CLUSTER) as store:
        store.create_volume("disk", CLUSTER).write(b"data")
        store.create_volume("small", CLUSTER).resize(0)
    lose_super_block(path)
    assert repair(path, "all").after.clean
    with Blobstore.open(path) as blobs:
        assert blobs.info.super_blob is None


def test_a_type_that_is_still_there_is_not_said_to_be_rebuilt(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with VolumeStore.create(path, name="vms", size="16MiB", cluster_size=CLUSTER) as store:
        store.create_volume("disk", CLUSTER).write(b"data")
    with path.open("r+b") as file:
        file.write(bytes(8))
    repaired = repair(path, "all").repaired
    assert repaired
    assert not [line for line in repaired if "a volume store again" in line]
    with VolumeStore.open(path) as store:
        assert store["disk"].read(4) == b"data"
