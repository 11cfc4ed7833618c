"""A volume store that has lost its super block is a volume store again when it is repaired."""

from pathlib import Path
from uuid import UUID

from blobstore import BlobId, Blobstore, Severity, VolumeStore, check, repair
from blobstore.format.geometry import root_of
from blobstore.volumes.identity import store_xattrs
from tests.cli.runner import run

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


def damaged_store(path: Path, *, super_blobs: int) -> list[BlobId]:
    """Make a volume store without super block, with blobs that look like a super blob each."""
    with VolumeStore.create(path, name="vms", size="16MiB", cluster_size=CLUSTER) as store:
        store.create_volume("disk", CLUSTER).write(b"data")
        store.create_volume("small", CLUSTER).resize(0)
        renamed = store.create_volume("new", CLUSTER)
        renamed.resize(0)
        renamed.rename("old")
        assert store.info.super_blob is not None
        found = [store.info.super_blob]
    with Blobstore.open(path) as blobs:
        for number in range(1, super_blobs):
            xattrs = store_xattrs(f"vms{number}", UUID(int=number))
            found.append(blobs.create_blob(0, xattrs=xattrs).id)
        if not super_blobs:
            blobs.set_super_blob(None)
            blobs.delete_blob(found.pop())
    lose_super_block(path)
    return found


def test_a_super_blob_is_told_from_volumes_without_clusters(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    (super_blob,) = damaged_store(path, super_blobs=1)
    assert repair(path, "all").after.findings == ()
    with VolumeStore.open(path) as store:
        assert (store.name, store.info.super_blob) == ("vms", super_blob)
        assert sorted(volume.name for volume in store) == ["disk", "old", "small"]


def test_a_volume_whose_attributes_are_lost_too_is_no_reason_against_it(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with VolumeStore.create(path, name="vms", size="16MiB", cluster_size=CLUSTER) as store:
        root = store.info.md_start + root_of(store.create_volume("disk", 4 * CLUSTER).id)
        store.create_volume("other", CLUSTER)
    with path.open("r+b") as file:
        file.seek(4096 * root + 3584)
        file.write(bytes([0xAA]) * 512)
    lose_super_block(path)
    repaired = repair(path, "all").repaired
    assert [line for line in repaired if "salvaged" in line]
    assert [line for line in repaired if "a volume store again" in line]
    with VolumeStore.open(path) as store:
        assert (store.name, sorted(volume.name for volume in store)) == ("vms", ["", "other"])


def test_a_check_names_the_blobs_that_can_be_the_super_blob_if_several_can(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    ids = damaged_store(path, super_blobs=2)
    report = repair(path, "all")
    assert not [line for line in report.repaired if "a volume store again" in line]
    (note,) = check(path).findings
    assert report.after.findings == (note,)
    assert (note.invariant, note.severity) == (9, Severity.NOTE)
    assert "`super set STORE BLOB --volumes`" in note.message
    assert note.message.endswith(f"BLOB can be {ids[0]:#x} or {ids[1]:#x}")
    with Blobstore.open(path) as blobs:
        assert (blobs.info.super_blob, any(blobs.info.bstype)) == (None, False)


def test_a_volume_without_clusters_is_not_taken_for_a_lost_super_blob(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    assert damaged_store(path, super_blobs=0) == []
    assert not [line for line in repair(path, "all").repaired if "volume store" in line]
    with Blobstore.open(path) as blobs:
        assert blobs.info.super_blob is None


def test_super_set_makes_it_a_volume_store_again(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    super_blob, _other = damaged_store(path, super_blobs=2)
    repair(path, "all")
    refused = run("super", "set", path, "disk", "--volumes")
    assert refused.status == 1
    assert run("super", "set", path, f"{super_blob:#x}", "--volumes").status == 0
    assert check(path).findings == ()
    with VolumeStore.open(path) as store:
        assert (store.name, store.info.super_blob) == ("vms", super_blob)
        assert store["disk"].read(4) == b"data"


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
