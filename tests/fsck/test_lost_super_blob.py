"""A volume store whose super blob is lost is a volume store again when it is repaired."""

from pathlib import Path
from uuid import UUID

import pytest

from blobstore import Blobstore, Severity, VolumeStore, check, repair, undo
from blobstore.format.geometry import root_of
from tests.cli.runner import run
from tests.rpc.command import running

CLUSTER = 65536
SAID = "so nothing loads the volumes; `check STORE --repair all` makes a super blob"


def damaged(path: Path, *, is_clean: bool) -> UUID | None:
    """Make a volume store that has lost its super blob's root; return a volume's uuid."""
    store = VolumeStore.create(path, name="vms", size="16MiB", cluster_size=CLUSTER)
    disk = store.create_volume("disk", 4 * CLUSTER, thin=True)
    disk.write(b"data")
    disk.snapshot("monday")
    assert store.info.super_blob is not None
    at, uuid = store.info.md_start + root_of(store.info.super_blob), disk.uuid
    store.flush()
    before = path.read_bytes()
    store.close()
    if not is_clean:
        path.write_bytes(before)  # as a program that is killed leaves it
    with path.open("r+b") as file:
        file.seek(4096 * at)
        file.write(bytes(4096))
    return uuid


states = pytest.mark.parametrize("is_clean", [True, False], ids=["clean", "dirty"])


@states
def test_it_is_a_volume_store_with_a_new_uuid_after_a_repair(
    is_clean: bool, tmp_path: Path
) -> None:
    path = tmp_path / "disk.img"
    uuid = damaged(path, is_clean=is_clean)
    assert not check(path).clean
    report = repair(path, "all")
    assert report.after.findings == ()
    (line,) = [line for line in report.repaired if "is the super blob now" in line]
    with VolumeStore.open(path) as store:
        assert store.name == f"restored-{str(store.uuid)[:8]}"
        assert f"made with name {store.name} and uuid {store.uuid}" in line
        assert sorted(volume.name for volume in store) == ["disk", "monday"]
        assert (store["disk"].uuid, store["disk"].read(4)) == (uuid, b"data")
    assert run("rename-store", path, "vms").status == 0
    assert repair(path, "all").repaired == ()


def test_undo_restores_the_store_without_super_blob(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    damaged(path, is_clean=False)
    before = path.read_bytes()
    report = repair(path, "all")
    assert report.undo is not None
    undo(path, report.undo)
    assert path.read_bytes() == before


@pytest.mark.slow
@states
def test_the_original_s_client_lists_the_store_after_the_repair(
    is_clean: bool, tmp_path: Path
) -> None:
    path = tmp_path / "disk.img"
    damaged(path, is_clean=is_clean)
    repair(path, "all")
    with running(tmp_path) as (_process, client):
        client("bdev_aio_create", name="a", filename=str(path), block_size=4096)
        (found,) = client("bdev_lvol_get_lvstores")
        assert found["name"].startswith("restored-")
        assert client("bdev_lvol_rename_lvstore", old_name=found["name"], new_name="vms") is True
        assert len(client("bdev_lvol_get_lvols", lvs_name="vms")) == 2


def test_a_safe_repair_leaves_the_loss_as_an_error_that_names_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    damaged(path, is_clean=False)
    for report in (check(path), repair(path, "safe").after, check(path)):
        (error,) = [each for each in report.findings if each.severity is Severity.ERROR]
        assert error.invariant == 8
        assert error.message.startswith(f"volume store: its super blob is lost, {SAID}")
    checked = run("check", path)
    assert checked.status != 0
    assert SAID in checked.text
    assert run("check", path, "--repair", "all").status in (0, 1)
    assert run("check", path).status == 0


def test_a_super_blob_without_uuid_keeps_the_name_of_the_store(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with VolumeStore.create(path, name="vms", size="16MiB", cluster_size=CLUSTER) as store:
        store.create_volume("disk", CLUSTER)
    with Blobstore.open(path) as blobs:
        assert blobs.info.super_blob is not None
        with blobs.open_blob(blobs.info.super_blob) as blob:
            blob.remove_xattr("uuid")
    (error,) = check(path).findings
    assert "store uuid None, expected 36 characters and a NUL, so nothing loads" in error.message
    repair(path, "all")
    with VolumeStore.open(path) as store:
        assert (store.name, "disk" in store) == ("vms", True)


def test_a_super_blob_with_one_wrong_byte_keeps_name_and_uuid_and_can_be_changed(
    tmp_path: Path,
) -> None:
    path = tmp_path / "disk.img"
    with VolumeStore.create(path, name="vms", size="16MiB", cluster_size=CLUSTER) as store:
        store.create_volume("disk", CLUSTER)
        assert store.info.super_blob is not None
        page, uuid = store.info.md_start + root_of(store.info.super_blob), store.uuid
    with path.open("r+b") as file:
        file.seek(4096 * page + 4096 - 300)
        file.write(b"?")
    assert repair(path, "all").after.findings == ()
    with VolumeStore.open(path) as store:
        assert (store.name, store.uuid) == ("vms", uuid)
        store.rename("new")
        assert store.name == "new"
    assert repair(path, "all").repaired == ()


def test_a_super_blob_that_is_not_set_is_set_again(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with VolumeStore.create(path, name="vms", size="16MiB", cluster_size=CLUSTER) as store:
        store.create_volume("disk", CLUSTER)
        before = store.uuid, store.info.super_blob
    with Blobstore.open(path) as blobs:
        blobs.set_super_blob(None)
    assert not check(path).clean
    assert repair(path, "all").after.findings == ()
    with VolumeStore.open(path) as store:
        assert (store.name, store.uuid, store.info.super_blob) == ("vms", *before)


def test_no_page_for_a_super_blob_leaves_the_error(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with VolumeStore.create(
        path, name="vms", size="16MiB", cluster_size=CLUSTER, md_pages=8
    ) as store:
        for number in range(7):
            store.create_volume(f"{number}", 0)
    with Blobstore.open(path) as blobs:
        assert blobs.info.super_blob is not None
        super_blob = blobs.info.super_blob
        blobs.set_super_blob(None)
        blobs.delete_blob(super_blob)
        blobs.create_blob(0).close()
    assert not repair(path, "all").after.clean
    with Blobstore.open(path) as blobs:
        assert len(list(blobs.blob_ids())) == 8
