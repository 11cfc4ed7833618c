"""Part C: what the original's tests of its device layer show, through the RPC server."""

import errno
import os
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from blobstore import Blobstore, VolumeStore, check
from blobstore.rpc.bdevs import WRITE_ONE
from blobstore.rpc.server import RpcServer
from tests.rpc.client import Client, Failure
from tests.rpc.test_examination import FaultyBdev, FaultyDevice, image_of

MIB = 1 << 20
UUID_TEXT = "a27fd8fe-d4b9-431e-a044-271016228ce4"


def code_of(answer: Any) -> int:
    """Return the errno that a call was refused with, as its code or as its text."""
    assert isinstance(answer, Failure)
    texts = {os.strerror(number): number for number in errno.errorcode}
    return -answer.code if answer.code > -1000 else texts[answer.message]


def malloc(client: Client, name: str = "bdev", mib: int = 64, **more: Any) -> None:
    blocks = mib * MIB // 512
    assert (
        client("bdev_malloc_create", name=name, num_blocks=blocks, block_size=512, **more) == name
    )


def aio(client: Client, image: Path) -> Any:
    return client("bdev_aio_create", name="aio0", filename=str(image), block_size=512)


@pytest.fixture
def store(client: Client) -> str:
    """A store `lvs` with clusters of 1 MiB on the device `bdev`."""
    malloc(client, uuid=UUID_TEXT)
    made = client("bdev_lvol_create_lvstore", bdev_name="bdev", lvs_name="lvs", cluster_sz=MIB)
    return str(UUID(made))


def create(client: Client, name: str = "lvol", size: int = 1, **more: Any) -> Any:
    return client("bdev_lvol_create", lvol_name=name, size_in_mib=size, lvs_name="lvs", **more)


def described(client: Client, name: str) -> dict[str, Any]:
    (found,) = client("bdev_get_bdevs", name=name)
    return dict(found)


def stores(client: Client) -> list[str]:
    return [found["name"] for found in client("bdev_lvol_get_lvstores")]


def volumes(client: Client) -> list[str]:
    return [found["name"] for found in client("bdev_lvol_get_lvols")]


def test_ut_lvs_init(client: Client) -> None:
    malloc(client)
    call = {"bdev_name": "bdev", "lvs_name": "lvs"}
    refused = client("bdev_lvol_create_lvstore", **call, cluster_sz=1000)
    assert code_of(refused) == errno.EINVAL
    failed = client("bdev_lvol_create_lvstore", **call, cluster_sz=1 << 30)
    assert code_of(failed) == errno.ENOSPC
    assert stores(client) == []
    assert UUID(client("bdev_lvol_create_lvstore", **call))
    second = client("bdev_lvol_create_lvstore", bdev_name="bdev", lvs_name="second")
    assert code_of(second) == errno.EPERM
    assert client("bdev_lvol_delete_lvstore", lvs_name="lvs") is True


@pytest.mark.usefixtures("store")
def test_ut_lvol_init(client: Client) -> None:
    uuid = create(client, size=10)
    assert described(client, uuid)["num_blocks"] == 10 * MIB // 512
    assert client("bdev_lvol_delete", name=uuid) is True
    assert code_of(client("bdev_get_bdevs", name=uuid)) == errno.ENODEV


@pytest.mark.usefixtures("store")
def test_ut_lvol_snapshot(client: Client) -> None:
    create(client)
    snapshot = client("bdev_lvol_snapshot", lvol_name="lvs/lvol", snapshot_name="snap")
    assert described(client, "lvs/snap")["name"] == snapshot
    assert client("bdev_lvol_delete", name="lvs/snap") is True
    assert client("bdev_lvol_delete", name="lvs/lvol") is True


@pytest.mark.usefixtures("store")
def test_ut_lvol_clone(client: Client) -> None:
    create(client)
    client("bdev_lvol_snapshot", lvol_name="lvs/lvol", snapshot_name="snap")
    clone = client("bdev_lvol_clone", snapshot_name="lvs/snap", clone_name="clone")
    assert described(client, "lvs/clone")["name"] == clone
    for name in ("lvol", "clone", "snap"):
        assert client("bdev_lvol_delete", name=f"lvs/{name}") is True
    assert volumes(client) == []


@pytest.mark.usefixtures("store")
def test_ut_lvs_destroy(client: Client) -> None:
    uuid = create(client)
    assert client("bdev_lvol_delete_lvstore", lvs_name="lvs") is True
    assert stores(client) == volumes(client) == []
    assert code_of(client("bdev_get_bdevs", name=uuid)) == errno.ENODEV


def filled(tmp_path: Path, count: int = 1) -> Path:
    """Make an image with a store `lvs` that has volumes v0, v1, ..."""
    image = tmp_path / "disk.img"
    with VolumeStore.create(image, name="lvs", size="32MiB", cluster_size=MIB) as vms:
        for number in range(count):
            vms.create_volume(f"v{number}", MIB)
    return image


def test_ut_lvs_unload(client: Client, tmp_path: Path) -> None:
    image = filled(tmp_path)
    aio(client, image)
    assert stores(client) == ["lvs"]
    assert client("bdev_aio_delete", name="aio0") is True
    assert stores(client) == volumes(client) == []
    assert check(image).clean


@pytest.mark.usefixtures("store")
def test_ut_lvol_resize(client: Client) -> None:
    uuid = create(client, thin_provision=True)
    assert client("bdev_lvol_resize", name=uuid, size_in_mib=20) is True
    assert described(client, uuid)["num_blocks"] == 20 * MIB // 512
    assert code_of(client("bdev_lvol_resize", name="no", size_in_mib=1)) == errno.ENODEV
    assert described(client, uuid)["num_blocks"] == 20 * MIB // 512


@pytest.mark.usefixtures("store")
def test_ut_lvol_set_read_only(client: Client) -> None:
    create(client)
    assert client("bdev_lvol_set_read_only", name="lvs/lvol") is True
    assert code_of(client("bdev_lvol_resize", name="lvs/lvol", size_in_mib=2)) == errno.EPERM


@pytest.mark.usefixtures("store")
def test_ut_lvol_hotremove(client: Client) -> None:
    assert code_of(client("bdev_malloc_delete", name="no")) == errno.ENODEV
    assert stores(client) == ["lvs"]
    assert client("bdev_malloc_delete", name="bdev") is True
    assert stores(client) == []


def test_ut_vbdev_lvol_io_type_supported(client: Client, tmp_path: Path) -> None:
    image = filled(tmp_path, 2)
    with VolumeStore.open(image) as vms:
        vms["v1"].set_read_only()
    aio(client, image)
    reading = {"read", "reset", "seek_data", "seek_hole"}
    for name, wanted in (("v0", {*reading, "write", "unmap", "write_zeroes"}), ("v1", reading)):
        types = described(client, f"lvs/{name}")["supported_io_types"]
        shown = {*reading, "write", "unmap", "write_zeroes", "flush", "nvme_admin", "nvme_io"}
        assert {each for each in shown if types[each]} == wanted


def test_ut_lvol_examine_config(client: Client, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with VolumeStore.create(image, name="lvs", size="32MiB", cluster_size=MIB) as vms:
        vms.create_volume("e", MIB, external_snapshot=UUID(UUID_TEXT))
    aio(client, image)
    malloc(client, "other", 1)
    assert client("bdev_lvol_get_lvols")[0]["is_degraded"]
    malloc(client, "right", 1, uuid=UUID_TEXT)
    assert not client("bdev_lvol_get_lvols")[0]["is_degraded"]


@pytest.mark.parametrize("count", [0, 1, 4])
def test_ut_lvol_examine_disk(client: Client, tmp_path: Path, count: int) -> None:
    aio(client, filled(tmp_path, count))
    assert stores(client) == ["lvs"]
    assert volumes(client) == [f"v{number}" for number in range(count)]
    assert len(client("bdev_get_bdevs")) == 1 + count
    assert client("bdev_lvol_delete_lvstore", lvs_name="lvs") is True


def test_ut_lvol_examine_disk_that_is_in_use_or_fails(server: RpcServer, client: Client) -> None:
    image, _roots = image_of(1)
    used, failing = (FaultyBdev(name, FaultyDevice(image)) for name in ("used", "failing"))
    used.writers, failing.failures_left = 1, 1
    for bdev in (used, failing):
        server.target.stores.register(bdev)
        assert (stores(client), volumes(client)) == ([], [])


@pytest.mark.parametrize(
    ("count", "wrong", "number", "failures", "found"),
    [
        pytest.param(1, 0, errno.EIO, 2, [], id="one that cannot be opened"),
        pytest.param(4, 2, errno.ENOMEM, 2, ["v0", "v1", "v3", "v2"], id="the third again"),
    ],
)
def test_ut_lvol_examine_disk_with_a_volume_that_fails(
    server: RpcServer,
    client: Client,
    count: int,
    wrong: int,
    number: int,
    failures: int,
    found: list[str],
) -> None:
    image, roots = image_of(count)
    device = FaultyDevice(image)
    bdev = FaultyBdev("bdev", device)
    loaded = VolumeStore.open(bdev.open_device())
    device.failing = range(roots[wrong], roots[wrong] + 1)
    device.failures_left, device.number = failures, number
    bdev.claim_for(WRITE_ONE)
    server.target.stores.register(bdev)
    server.target.stores.adopt(loaded, bdev)
    assert (stores(client), volumes(client)) == (["lvs"], found)
    assert len(client("bdev_get_bdevs")) == 1 + len(found)
    assert client("bdev_lvol_delete_lvstore", lvs_name="lvs") is True


@pytest.mark.usefixtures("store")
def test_ut_lvol_rename(client: Client) -> None:
    create(client)
    create(client, "lvol2")
    rename = "bdev_lvol_rename"
    assert client(rename, old_name="lvs/lvol", new_name="new_lvol_name") is True
    taken = client(rename, old_name="lvs/lvol2", new_name="new_lvol_name")
    assert code_of(taken) == errno.EEXIST
    own = client(rename, old_name="lvs/new_lvol_name", new_name="new_lvol_name")
    assert code_of(own) == errno.EEXIST
    assert volumes(client) == ["new_lvol_name", "lvol2"]


@pytest.mark.parametrize("count", [0, 1])
def test_ut_bdev_finish(server: RpcServer, client: Client, tmp_path: Path, count: int) -> None:
    image = filled(tmp_path, count)
    aio(client, image)
    assert len(volumes(client)) == count
    server.close()
    with Blobstore.open(image, read_only=True) as store:
        assert store.info.clean


@pytest.mark.usefixtures("store")
def test_ut_lvs_rename(client: Client) -> None:
    uuid = create(client)
    malloc(client, "second")
    client("bdev_lvol_create_lvstore", bdev_name="second", lvs_name="taken")
    rename = "bdev_lvol_rename_lvstore"
    assert client(rename, old_name="lvs", new_name="new_lvs_name") is True
    assert described(client, uuid)["aliases"] == ["new_lvs_name/lvol"]
    refused = client(rename, old_name="new_lvs_name", new_name="taken")
    assert code_of(refused) == errno.EEXIST
    assert described(client, uuid)["aliases"] == ["new_lvs_name/lvol"]


@pytest.mark.usefixtures("store")
def test_ut_lvol_seek(server: RpcServer, client: Client) -> None:
    create(client, size=40, thin_provision=True)
    (store,) = server.target.stores
    (volume,) = store.open.values()
    volume.write(b"x", 20 * MIB)
    assert volume.next_data(10 * MIB) == 20 * MIB
    assert volume.next_data(30 * MIB) is None
    assert volume.next_hole(10 * MIB) == 10 * MIB
    assert volume.next_hole(20 * MIB) == 21 * MIB


@pytest.mark.parametrize("wanted", [UUID_TEXT, "00000000-0000-0000-0000-000000000007"])
def test_ut_esnap_dev_create(client: Client, tmp_path: Path, wanted: str) -> None:
    image = tmp_path / "disk.img"
    with VolumeStore.create(image, name="lvs", size="32MiB", cluster_size=MIB) as vms:
        vms.create_volume("e", MIB, external_snapshot=UUID(wanted))
    malloc(client, "g", 1, uuid=UUID_TEXT)
    aio(client, image)
    (found,) = client("bdev_lvol_get_lvols")
    assert found["is_degraded"] is (wanted != UUID_TEXT)


@pytest.mark.parametrize("reason", ["claimed", "open for writing", "cannot be opened"])
def test_ut_esnap_dev_create_of_a_device_that_is_not_to_be_had(
    server: RpcServer, client: Client, tmp_path: Path, reason: str
) -> None:
    image = tmp_path / "disk.img"
    with VolumeStore.create(image, name="lvs", size="32MiB", cluster_size=MIB) as vms:
        vms.create_volume("e", MIB, external_snapshot=UUID(UUID_TEXT))
    bdev = FaultyBdev("g", FaultyDevice(bytes(MIB)), UUID(UUID_TEXT))
    server.target.stores.register(bdev)
    if reason == "claimed":
        bdev.claim_for(WRITE_ONE)
    bdev.writers = int(reason == "open for writing")
    bdev.failures_left = int(reason == "cannot be opened")
    aio(client, image)
    (found,) = client("bdev_lvol_get_lvols")
    assert found["is_degraded"]


@pytest.mark.usefixtures("store")
def test_ut_lvol_esnap_clone_bad_args(client: Client) -> None:
    uuid = "00000000-0000-0000-0000-000000000007"
    malloc(client, "g", 1, uuid=uuid)
    clone = "bdev_lvol_clone_bdev"
    for bdev, lvs in (("no", "lvs"), ("g", "no")):
        assert isinstance(client(clone, bdev=bdev, lvs_name=lvs, clone_name="c"), Failure)
    assert volumes(client) == []
    assert UUID(client(clone, bdev=uuid, lvs_name="lvs", clone_name="by_uuid"))
    assert UUID(client(clone, bdev="g", lvs_name="lvs", clone_name="by_name"))
    assert volumes(client) == ["by_uuid", "by_name"]


@pytest.mark.usefixtures("store")
def test_ut_lvol_shallow_copy(client: Client) -> None:
    create(client)
    client("bdev_lvol_set_read_only", name="lvs/lvol")
    malloc(client, "m", 1)
    start = "bdev_lvol_start_shallow_copy"
    for source, target in (("no", "m"), ("lvs/lvol", "no")):
        refused = client(start, src_lvol_name=source, dst_bdev_name=target)
        assert code_of(refused) == errno.ENODEV
    number = client(start, src_lvol_name="lvs/lvol", dst_bdev_name="m")["operation_id"]
    found = {"state": "in progress"}
    while found["state"] == "in progress":
        found = client("bdev_lvol_check_shallow_copy", operation_id=number)
    assert found["state"] == "complete"


@pytest.mark.usefixtures("store")
def test_ut_lvol_set_external_parent(client: Client) -> None:
    uuid = "00000000-0000-0000-0000-000000000007"
    malloc(client, "g", 1, uuid=uuid)
    for name in ("a", "b"):
        create(client, name, thin_provision=True)
    call = "bdev_lvol_set_parent_bdev"
    unknown = client(call, lvol_name="lvs/a", parent_name="no")
    assert code_of(unknown) == errno.ENODEV
    assert client(call, lvol_name="lvs/a", parent_name=uuid) is True
    assert client(call, lvol_name="lvs/b", parent_name="g") is True
    lvol = described(client, "lvs/a")["driver_specific"]["lvol"]
    assert (lvol["esnap_clone"], lvol["external_snapshot_name"]) == (True, uuid)
