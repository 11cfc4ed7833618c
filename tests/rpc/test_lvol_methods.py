import errno
import os
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest

from blobstore import MemoryDevice, VolumeStore, check
from blobstore.rpc.background_copies import ShallowCopies
from blobstore.rpc.server import RpcServer
from tests.rpc.client import Client, Failure

DECODE: Final = Failure(-32603, "spdk_json_decode_object failed")
MIB: Final = 1 << 20


def refused(number: int) -> Failure:
    return Failure(-number, os.strerror(number))


def failed(number: int, code: int = -32602) -> Failure:
    return Failure(code, os.strerror(number))


@pytest.fixture
def store(client: Client) -> str:
    """Make a store `lvs` of 64 MiB in memory, with clusters of 1 MiB; return its uuid."""
    assert client("bdev_malloc_create", num_blocks=131072, block_size=512) == "Malloc0"
    uuid = client("bdev_lvol_create_lvstore", bdev_name="Malloc0", lvs_name="lvs", cluster_sz=MIB)
    assert str(UUID(uuid)) == uuid
    return str(uuid)


def volume(client: Client, name: str = "v", size: int = 4, *, thin: bool = True) -> str:
    uuid = client(
        "bdev_lvol_create", lvol_name=name, size_in_mib=size, thin_provision=thin, lvs_name="lvs"
    )
    assert str(UUID(uuid)) == uuid
    return str(uuid)


def described(client: Client, name: str) -> dict[str, Any]:
    (found,) = client("bdev_get_bdevs", name=name)
    return dict(found)


def test_a_store_is_listed_with_its_members_in_order(client: Client, store: str) -> None:
    (found,) = client("bdev_lvol_get_lvstores", uuid=store)
    assert list(found.items()) == [
        ("uuid", store),
        ("name", "lvs"),
        ("base_bdev", "Malloc0"),
        ("total_data_clusters", 63),
        ("free_clusters", 63),
        ("block_size", 512),
        ("cluster_size", MIB),
        ("max_growable_size", found["max_growable_size"]),
    ]
    assert client("bdev_lvol_get_lvstores") == [found]
    assert client("bdev_lvol_get_lvstores", lvs_name="lvs") == [found]


@pytest.mark.parametrize(
    ("given", "failure"),
    [
        pytest.param({}, DECODE, id="nothing"),
        pytest.param({"bdev_name": "M", "lvs_name": "l", "clear_method": "x"}, DECODE, id="enum"),
        pytest.param({"bdev_name": "M", "lvs_name": "l", "md_page_size": "8"}, DECODE, id="text"),
        pytest.param({"bdev_name": "M", "lvs_name": ""}, refused(errno.EINVAL), id="no name"),
        pytest.param({"bdev_name": "M", "lvs_name": "x" * 64}, refused(errno.EINVAL), id="long"),
        pytest.param(
            {"bdev_name": "M", "lvs_name": "l", "md_page_size": 5000},
            refused(errno.EINVAL),
            id="page",
        ),
        pytest.param({"bdev_name": "no", "lvs_name": "l"}, refused(errno.ENODEV), id="no device"),
        pytest.param({"bdev_name": "Malloc0", "lvs_name": "l"}, refused(errno.EPERM), id="claimed"),
        pytest.param(
            {"bdev_name": "M", "lvs_name": "l", "cluster_sz": 1000},
            refused(errno.EINVAL),
            id="cluster no multiple of the block",
        ),
        pytest.param({"bdev_name": "M", "lvs_name": "lvs"}, refused(errno.EEXIST), id="name taken"),
        pytest.param(
            {"bdev_name": "M", "lvs_name": "l", "cluster_sz": 5120},
            failed(errno.EINVAL),
            id="cluster no multiple of 4096",
        ),
        pytest.param(
            {"bdev_name": "M", "lvs_name": "l", "cluster_sz": 1 << 30},
            failed(errno.ENOSPC),
            id="device smaller than a cluster",
        ),
        pytest.param(
            {"bdev_name": "M", "lvs_name": "l", "num_md_pages_per_cluster_ratio": 1},
            failed(errno.EINVAL),
            id="no metadata page",
        ),
        pytest.param(
            {"bdev_name": "M", "lvs_name": "l", "num_md_pages_per_cluster_ratio": 1000000},
            failed(errno.ENOMEM),
            id="metadata does not fit",
        ),
    ],
)
@pytest.mark.usefixtures("store")
def test_a_store_that_cannot_be_made(
    client: Client, given: dict[str, Any], failure: Failure
) -> None:
    client("bdev_malloc_create", name="M", num_blocks=32768, block_size=512)
    assert client("bdev_lvol_create_lvstore", **given) == failure
    assert [found["name"] for found in client("bdev_lvol_get_lvstores")] == ["lvs"]


@pytest.mark.parametrize(
    ("method", "given", "failure"),
    [
        ("bdev_lvol_get_lvstores", {"uuid": "x", "lvs_name": "lvs"}, refused(errno.EINVAL)),
        ("bdev_lvol_get_lvstores", {"uuid": "x"}, refused(errno.ENODEV)),
        ("bdev_lvol_get_lvstores", {"lvs_name": "no"}, refused(errno.ENODEV)),
        ("bdev_lvol_get_lvols", {"lvs_name": "no"}, refused(errno.ENODEV)),
        ("bdev_lvol_get_lvols", {"uuid": "x"}, DECODE),
        ("bdev_lvol_delete_lvstore", {"lvs_name": "no"}, refused(errno.ENODEV)),
        ("bdev_lvol_grow_lvstore", {"lvs_name": "no"}, refused(errno.ENODEV)),
        (
            "bdev_lvol_rename_lvstore",
            {"old_name": "no", "new_name": "x"},
            Failure(-2, "Lvol store no not found"),
        ),
        ("bdev_lvol_rename_lvstore", {"old_name": "lvs", "new_name": ""}, failed(errno.EEXIST)),
        ("bdev_lvol_create", {"lvol_name": "a", "size_in_mib": 1}, refused(errno.EINVAL)),
        (
            "bdev_lvol_create",
            {"lvol_name": "", "size_in_mib": 1, "lvs_name": "lvs"},
            refused(errno.EINVAL),
        ),
        (
            "bdev_lvol_create",
            {"lvol_name": "v", "size_in_mib": 1, "lvs_name": "lvs"},
            refused(errno.EEXIST),
        ),
        (
            "bdev_lvol_create",
            {"lvol_name": "a", "size_in_mib": 100, "lvs_name": "lvs"},
            failed(errno.ENOSPC),
        ),
        (
            "bdev_lvol_create",
            {"lvol_name": "a", "size_in_mib": -1, "lvs_name": "lvs"},
            DECODE,
        ),
        ("bdev_lvol_snapshot", {"lvol_name": "lvs/v", "snapshot_name": ""}, failed(errno.EINVAL)),
        ("bdev_lvol_snapshot", {"lvol_name": "lvs/v", "snapshot_name": "s"}, failed(errno.EEXIST)),
        ("bdev_lvol_snapshot", {"lvol_name": "lvs/s", "snapshot_name": "t"}, failed(errno.EINVAL)),
        ("bdev_lvol_snapshot", {"lvol_name": "v", "snapshot_name": "t"}, refused(errno.ENODEV)),
        ("bdev_lvol_clone", {"snapshot_name": "lvs/v", "clone_name": "c"}, failed(errno.EINVAL)),
        ("bdev_lvol_clone", {"snapshot_name": "lvs/s", "clone_name": "v"}, failed(errno.EEXIST)),
        (
            "bdev_lvol_clone_bdev",
            {"bdev": "Malloc0", "lvs_name": "no", "clone_name": "c"},
            Failure(-32602, "lvs does not exist"),
        ),
        (
            "bdev_lvol_clone_bdev",
            {"bdev": "no", "lvs_name": "lvs", "clone_name": "c"},
            Failure(-32602, "bdev does not exist"),
        ),
        (
            "bdev_lvol_clone_bdev",
            {"bdev": "lvs/v", "lvs_name": "lvs", "clone_name": "c"},
            Failure(-32602, "bdev is an lvol in same lvs as clone; use bdev_lvol_clone instead"),
        ),
        ("bdev_lvol_rename", {"old_name": "v", "new_name": "w"}, refused(errno.ENODEV)),
        ("bdev_lvol_rename", {"old_name": "lvs/v", "new_name": "v"}, failed(errno.EEXIST)),
        ("bdev_lvol_rename", {"old_name": "lvs/v", "new_name": "s"}, failed(errno.EEXIST)),
        ("bdev_lvol_rename", {"old_name": "lvs/s", "new_name": "t"}, failed(errno.EPERM)),
        ("bdev_lvol_rename", {"old_name": "lvs/v", "new_name": "x" * 64}, failed(errno.EINVAL)),
        ("bdev_lvol_rename", {"old_name": "lvs/v", "new_name": "x" * 5000}, failed(errno.ENOMEM)),
        ("bdev_lvol_resize", {"name": "lvs/s", "size_in_mib": 1}, failed(errno.EPERM)),
        ("bdev_lvol_resize", {"name": "no", "size_in_mib": 1}, refused(errno.ENODEV)),
        ("bdev_lvol_decouple_parent", {"name": "lvs/s"}, failed(errno.EINVAL)),
        ("bdev_lvol_delete", {"name": "lvs/no"}, refused(errno.ENODEV)),
        (
            "bdev_lvol_set_parent",
            {"lvol_name": "lvs/v", "parent_name": "lvs/v"},
            failed(errno.EINVAL),
        ),
        (
            "bdev_lvol_set_parent",
            {"lvol_name": "lvs/v", "parent_name": "lvs/s"},
            failed(errno.EEXIST),
        ),
        (
            "bdev_lvol_set_parent",
            {"lvol_name": "lvs/v", "parent_name": "no"},
            refused(errno.ENODEV),
        ),
        (
            "bdev_lvol_set_parent_bdev",
            {"lvol_name": "lvs/v", "parent_name": "no"},
            failed(errno.ENODEV),
        ),
        (
            "bdev_lvol_set_parent_bdev",
            {"lvol_name": "lvs/v", "parent_name": "lvs/v"},
            failed(errno.EINVAL),
        ),
        (
            "bdev_lvol_start_shallow_copy",
            {"src_lvol_name": "lvs/s", "dst_bdev_name": "no"},
            failed(errno.ENODEV),
        ),
        (
            "bdev_lvol_start_shallow_copy",
            {"src_lvol_name": "lvs/s", "dst_bdev_name": "Malloc0"},
            failed(errno.EPERM),
        ),
        ("bdev_lvol_check_shallow_copy", {"operation_id": 9}, refused(errno.ENODEV)),
    ],
)
def test_what_cannot_be_done_is_answered_as_the_original_does_and_changes_nothing(
    client: Client, store: str, method: str, given: dict[str, Any], failure: Failure
) -> None:
    volume(client)
    client("bdev_lvol_snapshot", lvol_name="lvs/v", snapshot_name="s")
    before = client("bdev_lvol_get_lvols"), client("bdev_get_bdevs")
    assert client(method, **given) == failure
    assert (client("bdev_lvol_get_lvols"), client("bdev_get_bdevs")) == before
    assert client("bdev_lvol_get_lvstores")[0]["uuid"] == store


@pytest.mark.usefixtures("store")
def test_a_volume_is_listed_with_its_members_in_order(client: Client, store: str) -> None:
    uuid = volume(client, thin=False)
    (found,) = client("bdev_lvol_get_lvols", lvs_uuid=store)
    assert list(found.items()) == [
        ("alias", "lvs/v"),
        ("uuid", uuid),
        ("name", "v"),
        ("is_thin_provisioned", False),
        ("is_snapshot", False),
        ("is_clone", False),
        ("is_esnap_clone", False),
        ("is_degraded", False),
        ("num_allocated_clusters", 4),
        ("lvs", {"name": "lvs", "uuid": store}),
    ]


@pytest.mark.usefixtures("store")
def test_snapshots_and_clones_name_each_other(client: Client) -> None:
    volume(client)
    client("bdev_lvol_snapshot", lvol_name="lvs/v", snapshot_name="s")
    client("bdev_lvol_clone", snapshot_name="lvs/s", clone_name="c")
    snapshot = described(client, "lvs/s")["driver_specific"]["lvol"]
    assert snapshot["snapshot"]
    assert sorted(snapshot["clones"]) == ["c", "v"]
    clone = described(client, "lvs/c")["driver_specific"]["lvol"]
    assert clone["clone"]
    assert clone["base_snapshot"] == "s"
    assert "external_snapshot_name" not in clone
    assert client("bdev_lvol_delete", name="lvs/s") == failed(errno.EPERM, -32603)
    assert client("bdev_lvol_delete", name="lvs/c") is True
    assert client("bdev_lvol_delete", name="lvs/s") is True
    assert not described(client, "lvs/v")["driver_specific"]["lvol"]["clone"]


@pytest.mark.usefixtures("store")
def test_a_rename_changes_the_alias_and_nothing_else(client: Client) -> None:
    uuid = volume(client)
    assert client("bdev_lvol_rename", old_name="lvs/v", new_name="w") is True
    assert client("bdev_get_bdevs", name="lvs/v") == refused(errno.ENODEV)
    assert described(client, "lvs/w")["name"] == uuid
    assert client("bdev_lvol_rename_lvstore", old_name="lvs", new_name="x" * 70) is True
    assert described(client, uuid)["aliases"] == ["x" * 63 + "/w"]


@pytest.mark.usefixtures("store")
def test_a_volume_is_resized_to_whole_clusters(client: Client) -> None:
    volume(client)
    for size in (10, 1, 0, 6):
        assert client("bdev_lvol_resize", name="lvs/v", size_in_mib=size) is True
        assert described(client, "lvs/v")["num_blocks"] * 512 == size * MIB


@pytest.mark.usefixtures("store")
def test_a_read_only_volume_can_be_cloned(client: Client) -> None:
    volume(client)
    assert client("bdev_lvol_set_read_only", name="lvs/v") is True
    assert client("bdev_lvol_set_read_only", name="lvs/v") is True
    assert UUID(client("bdev_lvol_clone", snapshot_name="lvs/v", clone_name="c"))


@pytest.mark.usefixtures("store")
def test_a_volume_is_deleted_by_any_of_its_names(client: Client) -> None:
    uuid = volume(client, "a")
    assert client("bdev_lvol_delete", name=uuid.upper()) is True
    uuid = volume(client, "a")
    assert client("bdev_lvol_delete", name=uuid) is True
    volume(client, "a")
    assert client("bdev_lvol_delete", name="lvs/a") is True
    assert client("bdev_lvol_get_lvols") == []


@pytest.mark.usefixtures("store")
def test_inflating_gives_a_clone_all_clusters(client: Client) -> None:
    volume(client, thin=False)
    client("bdev_lvol_snapshot", lvol_name="lvs/v", snapshot_name="s")
    assert client("bdev_lvol_inflate", name="lvs/v") is True
    lvol = described(client, "lvs/v")["driver_specific"]["lvol"]
    assert (lvol["clone"], lvol["thin_provision"], lvol["num_allocated_clusters"]) == (
        False,
        False,
        4,
    )


@pytest.mark.usefixtures("store")
def test_a_clone_of_a_device_reads_it_and_waits_for_it_when_it_is_missing(
    client: Client, server: RpcServer, tmp_path: Path
) -> None:
    golden = tmp_path / "golden"
    golden.write_bytes(b"golden".ljust(4 * MIB, b"."))
    uuid = "a9959197-b5e2-4f2d-8095-251ffb6985a5"
    aio = {"name": "g", "filename": str(golden), "block_size": 512, "uuid": uuid}
    assert client("bdev_aio_create", **aio, readonly=True) == "g"
    client("bdev_lvol_clone_bdev", bdev="g", lvs_name="lvs", clone_name="e")
    lvol = described(client, "lvs/e")["driver_specific"]["lvol"]
    assert (lvol["esnap_clone"], lvol["external_snapshot_name"]) == (True, uuid)
    assert described(client, "g")["claim_type"] == "read_many_write_none"
    assert client("bdev_aio_delete", name="g") == refused(errno.EBUSY)
    (store,) = server.target.stores
    (volume,) = store.open.values()
    assert volume.read(6) == b"golden"


def test_a_store_on_a_file_comes_back_with_its_device(client: Client, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    os.truncate(os.open(image, os.O_CREAT | os.O_RDWR), 32 * MIB)
    aio = {"name": "aio0", "filename": str(image), "block_size": 512}
    assert client("bdev_aio_create", **aio) == "aio0"
    client("bdev_lvol_create_lvstore", bdev_name="aio0", lvs_name="lvs", cluster_sz=MIB)
    volume(client)
    before = client("bdev_lvol_get_lvols")
    assert client("bdev_aio_delete", name="aio0") is True
    assert client("bdev_lvol_get_lvols") == []
    assert check(image).clean
    assert client("bdev_aio_create", **aio) == "aio0"
    assert client("bdev_lvol_get_lvols") == before


def test_a_degraded_volume_is_listed_and_gets_its_device_when_its_snapshot_comes(
    client: Client, tmp_path: Path
) -> None:
    uuid = "a9959197-b5e2-4f2d-8095-251ffb6985a5"
    image = tmp_path / "disk.img"
    with VolumeStore.create(image, name="lvs", size="32MiB", cluster_size=MIB) as vms:
        vms.create_volume("e", 4 * MIB, external_snapshot=UUID(uuid))
    client("bdev_aio_create", name="aio0", filename=str(image), block_size=512)
    (found,) = client("bdev_lvol_get_lvols")
    assert (found["is_degraded"], found["is_esnap_clone"]) == (True, True)
    assert client("bdev_get_bdevs", name="lvs/e") == refused(errno.ENODEV)
    client("bdev_malloc_create", name="m", num_blocks=8192, block_size=512, uuid=uuid)
    (found,) = client("bdev_lvol_get_lvols")
    assert not found["is_degraded"]
    assert described(client, "lvs/e")["num_blocks"] == 8192
    assert client("bdev_lvol_delete", name="lvs/e") is True
    assert client("bdev_malloc_delete", name="m") is True


def test_a_degraded_volume_can_be_deleted(client: Client, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with VolumeStore.create(image, name="lvs", size="32MiB", cluster_size=MIB) as vms:
        vms.create_volume("e", 4 * MIB, external_snapshot=UUID(int=7))
    client("bdev_aio_create", name="aio0", filename=str(image), block_size=512)
    assert client("bdev_lvol_delete", name="lvs/e") is True
    assert client("bdev_lvol_get_lvols") == []


@pytest.mark.usefixtures("store")
def test_a_shallow_copy_runs_in_the_background_and_its_end_is_told_once(client: Client) -> None:
    volume(client, thin=False)
    client("bdev_malloc_create", name="m", num_blocks=8192, block_size=512)
    start = {"src_lvol_name": "lvs/v", "dst_bdev_name": "m"}
    assert client("bdev_lvol_start_shallow_copy", **start) == {"operation_id": 1}
    assert ended(client, 1) == {
        "copied_clusters": 0,
        "total_clusters": 4,
        "state": "error",
        "error": "Operation not permitted",
    }
    client("bdev_lvol_set_read_only", name="lvs/v")
    assert client("bdev_lvol_start_shallow_copy", **start) == {"operation_id": 2}
    assert ended(client, 2) == {"copied_clusters": 4, "total_clusters": 4, "state": "complete"}
    assert client("bdev_lvol_check_shallow_copy", operation_id=2) == refused(errno.ENODEV)
    assert client("bdev_malloc_delete", name="m") is True


def ended(client: Client, number: int) -> dict[str, Any]:
    while True:
        found: dict[str, Any] = client("bdev_lvol_check_shallow_copy", operation_id=number)
        if found["state"] != "in progress":
            return found


def test_the_target_of_a_shallow_copy_is_free_when_its_end_is_told() -> None:
    copies, seen = ShallowCopies(), []
    with VolumeStore.create("memory:", name="lvs", size="32MiB", cluster_size=MIB) as vms:
        volume = vms.create_volume("v", MIB)
        volume.set_read_only()
        volume.sync_md()
        with MemoryDevice(MIB) as device:
            number = copies.take_number()
            copies.start(number, volume, device, lambda: seen.append(copies.check(number)))
            copies.close()
            last = copies.check(number)
    assert [found and found["state"] for found in (*seen, last)] == ["in progress", "complete"]


@pytest.mark.usefixtures("store")
def test_stores_inside_volumes_work(client: Client) -> None:
    volume(client, "outer", 32, thin=False)
    inner = {"bdev_name": "lvs/outer", "lvs_name": "inner", "cluster_sz": MIB}
    assert UUID(client("bdev_lvol_create_lvstore", **inner))
    made = {"lvol_name": "x", "size_in_mib": 2, "lvs_name": "inner"}
    assert UUID(client("bdev_lvol_create", **made))
    assert described(client, "lvs/outer")["claim_type"] == "read_many_write_one"
    assert client("bdev_lvol_delete_lvstore", lvs_name="inner") is True
    assert client("bdev_lvol_delete", name="lvs/outer") is True


def test_deleting_a_store_deletes_its_volumes_and_frees_the_device(
    client: Client, store: str
) -> None:
    volume(client)
    client("bdev_lvol_snapshot", lvol_name="lvs/v", snapshot_name="s")
    client("bdev_lvol_clone", snapshot_name="lvs/s", clone_name="c")
    assert client("bdev_lvol_delete_lvstore", uuid=store) is True
    assert [found["name"] for found in client("bdev_get_bdevs")] == ["Malloc0"]
    assert not described(client, "Malloc0")["claimed"]
    assert UUID(client("bdev_lvol_create_lvstore", bdev_name="Malloc0", lvs_name="lvs"))


def test_a_store_grows_with_its_device(client: Client, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    os.truncate(os.open(image, os.O_CREAT | os.O_RDWR), 32 * MIB)
    client("bdev_aio_create", name="aio0", filename=str(image), block_size=512)
    client("bdev_lvol_create_lvstore", bdev_name="aio0", lvs_name="lvs", cluster_sz=MIB)
    assert client("bdev_lvol_grow_lvstore", lvs_name="lvs") is True
    os.truncate(image, 48 * MIB)
    assert client("bdev_aio_rescan", name="aio0") is True
    (before,) = client("bdev_lvol_get_lvstores")
    assert client("bdev_lvol_grow_lvstore", lvs_name="lvs") is True
    (after,) = client("bdev_lvol_get_lvstores")
    assert after["total_data_clusters"] == before["total_data_clusters"] + 16
