import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest

from blobstore import InvalidArgumentError
from blobstore.rpc.server import RpcServer
from tests.rpc.client import Client, Failure
from tests.rpc.test_lvol_methods import DECODE, failed, refused

UUID_TEXT: Final = "a9959197-b5e2-4f2d-8095-251ffb6985a5"
TRUE_OF_MALLOC: Final = {
    "read", "write", "unmap", "flush", "reset", "write_zeroes", "zcopy", "compare", "abort", "copy",
}  # fmt: skip


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.touch()
    os.truncate(path, 8 << 20)
    return path


def test_a_malloc_device_is_described_with_its_members_in_order(client: Client) -> None:
    given = {"num_blocks": 2048, "block_size": 512, "uuid": UUID_TEXT}
    assert client("bdev_malloc_create", **given) == "Malloc0"
    (found,) = client("bdev_get_bdevs")
    assert list(found) == [
        "name", "aliases", "product_name", "block_size", "num_blocks", "preferred_write_alignment",
        "preferred_write_granularity", "optimal_write_size", "preferred_unmap_alignment",
        "preferred_unmap_granularity", "uuid", "numa_id", "assigned_rate_limits", "claimed",
        "zoned", "supported_io_types", "driver_specific",
    ]  # fmt: skip
    assert (found["name"], found["aliases"], found["uuid"]) == ("Malloc0", [UUID_TEXT], UUID_TEXT)
    assert {name for name, is_true in found["supported_io_types"].items() if is_true} == (
        TRUE_OF_MALLOC
    )
    assert client("bdev_get_bdevs", name=UUID_TEXT) == [found]


def test_unnamed_malloc_devices_are_counted(client: Client) -> None:
    given = {"num_blocks": 8, "block_size": 512}
    names = [client("bdev_malloc_create", **given) for _number in range(2)]
    assert names == ["Malloc0", "Malloc1"]
    assert client("bdev_malloc_create", name="Malloc2", **given) == "Malloc2"
    assert client("bdev_malloc_create", **given) == refused(errno.EEXIST)
    assert client("bdev_malloc_create", **given) == "Malloc3"


@pytest.mark.parametrize(
    ("given", "failure"),
    [
        ({"block_size": 512}, DECODE),
        ({"block_size": 512, "num_blocks": 0}, refused(errno.EINVAL)),
        ({"block_size": 500, "num_blocks": 8}, refused(errno.EINVAL)),
        ({"block_size": 1536, "num_blocks": 8}, refused(errno.EINVAL)),
        ({"block_size": 512, "num_blocks": 1 << 60}, refused(errno.ENOMEM)),
        ({"block_size": 512, "num_blocks": 8, "md_size": 7}, refused(errno.EINVAL)),
        ({"block_size": 512, "num_blocks": 8, "name": ""}, refused(errno.EINVAL)),
        ({"block_size": 512, "num_blocks": 8, "numa_id": 9}, refused(errno.EINVAL)),
        ({"block_size": 512, "num_blocks": 8, "uuid": "x"}, DECODE),
    ],
)
def test_a_malloc_device_that_cannot_be(
    client: Client, given: dict[str, Any], failure: Failure
) -> None:
    assert client("bdev_malloc_create", **given) == failure
    assert client("bdev_get_bdevs") == []


def test_an_aio_device_says_what_it_was_made_of(client: Client, image: Path) -> None:
    given = {"name": "aio0", "filename": str(image), "block_size": 4096}
    assert client("bdev_aio_create", **given) == "aio0"
    (found,) = client("bdev_get_bdevs", name="aio0")
    assert (found["product_name"], found["num_blocks"]) == ("AIO disk", 2048)
    assert "numa_id" not in found
    assert not found["supported_io_types"]["unmap"]
    assert found["driver_specific"]["aio"] == {
        "filename": str(image),
        "block_size_override": True,
        "readonly": False,
        "fallocate": False,
        "nowait": False,
    }


@pytest.mark.parametrize(
    ("given", "failure"),
    [
        ({"filename": "{}/no"}, refused(errno.ENOENT)),
        ({"filename": "{}"}, refused(errno.EISDIR)),
        ({"block_size": 0}, refused(errno.EINVAL)),
        ({"block_size": 256}, refused(errno.EINVAL)),
        ({"block_size": 1000}, refused(errno.EINVAL)),
        ({"block_size": 1 << 24}, refused(errno.EINVAL)),
        ({"nowait": True}, refused(errno.ENOTSUP)),
        ({"name": ""}, refused(errno.EINVAL)),
        ({"name": "taken"}, refused(errno.EEXIST)),
        ({"uuid": "x"}, DECODE),
        ({"filename": None}, DECODE),
    ],
)
def test_an_aio_device_that_cannot_be(
    client: Client, image: Path, given: dict[str, Any], failure: Failure
) -> None:
    client("bdev_malloc_create", name="taken", num_blocks=8, block_size=512)
    wanted = {"name": "aio0", "filename": str(image), "block_size": 512} | given
    if isinstance(given.get("filename"), str):
        wanted["filename"] = given["filename"].format(image.parent)
    assert (
        client("bdev_aio_create", **{k: v for k, v in wanted.items() if v is not None}) == failure
    )
    assert [found["name"] for found in client("bdev_get_bdevs")] == ["taken"]


def test_a_file_that_a_device_writes_to_is_no_second_device(client: Client, image: Path) -> None:
    given = {"filename": str(image), "block_size": 512}
    assert client("bdev_aio_create", name="one", **given) == "one"
    assert client("bdev_aio_create", name="two", **given) == refused(errno.EBUSY)
    assert client("bdev_aio_delete", name="one") is True
    for name in ("one", "two"):
        assert client("bdev_aio_create", name=name, readonly=True, **given) == name


def test_a_rescan_sees_growth_and_refuses_less(client: Client, image: Path) -> None:
    client("bdev_aio_create", name="aio0", filename=str(image), block_size=512)
    os.truncate(image, 16 << 20)
    assert client("bdev_aio_rescan", name="aio0") is True
    assert client("bdev_get_bdevs", name="aio0")[0]["num_blocks"] == 32768
    os.truncate(image, 4 << 20)
    assert client("bdev_aio_rescan", name="aio0") == refused(errno.EBUSY)
    assert client("bdev_aio_rescan", name="no") == refused(errno.ENODEV)


def test_a_device_is_removed_by_its_own_method_only(client: Client, image: Path) -> None:
    client("bdev_malloc_create", name="m", num_blocks=8, block_size=512)
    client("bdev_aio_create", name="a", filename=str(image), block_size=512)
    assert client("bdev_aio_delete", name="m") == refused(errno.ENODEV)
    assert client("bdev_malloc_delete", name="a") == refused(errno.ENODEV)
    assert client("bdev_malloc_delete", name="m") is True
    assert client("bdev_aio_delete", name="a") is True
    assert client("bdev_get_bdevs") == []


def test_a_wait_for_a_device_that_does_not_come_ends(client: Client) -> None:
    assert client("bdev_get_bdevs", name="no") == refused(errno.ENODEV)
    assert client("bdev_get_bdevs", name="no", timeout=150) == refused(errno.ETIMEDOUT)


def test_statistics_count_what_a_store_does_on_its_device(client: Client) -> None:
    client("bdev_malloc_create", num_blocks=131072, block_size=512)
    assert client("bdev_get_iostat")["bdevs"][0]["num_write_ops"] == 0
    client("bdev_lvol_create_lvstore", bdev_name="Malloc0", lvs_name="lvs")
    found = client("bdev_get_iostat", names=["Malloc0"])
    counted = found["bdevs"][0]
    assert found["tick_rate"] == 10**9
    assert counted["num_write_ops"] > 0
    assert counted["bytes_written"] >= 4096
    assert counted["max_write_latency_ticks"] >= counted["min_write_latency_ticks"] > 0
    assert counted["write_latency_ticks"] >= counted["max_write_latency_ticks"]
    channel = client("bdev_get_iostat", names=["Malloc0"], per_channel=True)
    assert channel["channels"][0]["num_write_ops"] == counted["num_write_ops"]
    assert client("bdev_reset_iostat", name="Malloc0") is True
    assert client("bdev_get_iostat")["bdevs"][0]["num_write_ops"] == 0
    assert client("bdev_get_iostat", per_channel=True) == refused(errno.EINVAL)
    assert client("bdev_get_iostat", names=["no"]) == refused(errno.ENODEV)


def test_examination_by_hand_where_it_is_not_done_by_itself(tmp_path: Path, image: Path) -> None:
    with RpcServer(tmp_path / "rpc.sock") as server:
        client = Client(server.path)
        client("bdev_aio_create", name="a", filename=str(image), block_size=512)
        client("bdev_lvol_create_lvstore", bdev_name="a", lvs_name="lvs", cluster_sz=65536)
        assert client("bdev_examine", name="a") == refused(errno.EINVAL)
        client.close()
    with RpcServer(tmp_path / "rpc.sock", wait_for_rpc=True) as server:
        client = Client(server.path)
        client("bdev_set_options", bdev_auto_examine=False)
        client("framework_start_init")
        client("bdev_aio_create", name="a", filename=str(image), block_size=512)
        assert client("bdev_lvol_get_lvstores") == []
        assert client("bdev_examine", name="a") is True
        assert client("bdev_examine", name="a") == refused(errno.EEXIST)
        assert client("bdev_wait_for_examine") is True
        assert client("bdev_lvol_get_lvstores")[0]["name"] == "lvs"
        client.close()


def test_a_configuration_that_was_saved_brings_everything_back(tmp_path: Path, image: Path) -> None:
    with RpcServer(tmp_path / "rpc.sock") as server:
        client = Client(server.path)
        client("bdev_malloc_create", name="m", num_blocks=8192, block_size=512, uuid=UUID_TEXT)
        client("bdev_aio_create", name="a", filename=str(image), block_size=512)
        client("bdev_lvol_create_lvstore", bdev_name="a", lvs_name="lvs", cluster_sz=65536)
        client("bdev_lvol_create", lvol_name="v", size_in_mib=1, lvs_name="lvs")
        before = client("bdev_lvol_get_lvols"), client("bdev_get_bdevs")
        names = [found["subsystem"] for found in client("framework_get_subsystems")]
        saved = [{"subsystem": n, "config": client("framework_get_config", name=n)} for n in names]
        client.close()
    config = tmp_path / "spdk.json"
    config.write_text(json.dumps({"subsystems": saved}))
    with RpcServer(tmp_path / "rpc.sock", configuration=config) as server:
        client = Client(server.path)
        after = client("bdev_lvol_get_lvols"), client("bdev_get_bdevs")
        assert after[0] == before[0]
        assert sorted(after[1], key=str) == sorted(before[1], key=str)
        client.close()


NO_FILE = {
    "method": "bdev_aio_create",
    "params": {"name": "a", "filename": "/none", "block_size": 512},
}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no configuration"),
        ('{"subsystems": [{"subsystem": "bdev", "config": [{"params": {}}]}]}', "no configuration"),
        (
            '{"subsystems": [{"config": [{"method": "bdev_malloc_create", "params": {}}]}]}',
            r"spdk\.json: bdev_malloc_create \{\}: spdk_json_decode_object failed",
        ),
        (
            json.dumps({"subsystems": [{"config": [NO_FILE]}]}),
            r"spdk\.json: bdev_aio_create .*/none.*: No such file or directory",
        ),
        ("{}", r'spdk\.json: no configuration: expected \{"subsystems": '),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_by_name(
    tmp_path: Path, text: str, message: str
) -> None:
    config = tmp_path / "spdk.json"
    config.write_text(text)
    with pytest.raises(InvalidArgumentError, match=message):
        RpcServer(tmp_path / "rpc.sock", configuration=config)
    assert [path.name for path in tmp_path.iterdir()] == ["spdk.json"]


@pytest.mark.parametrize(
    ("method", "given", "failure"),
    [
        (
            "bdev_wait_for_examine",
            {"x": 1},
            Failure(-32602, "bdev_wait_for_examine requires no parameters"),
        ),
        (
            "spdk_get_version",
            {"x": 1},
            Failure(-32602, "spdk_get_version method requires no parameters"),
        ),
        (
            "framework_get_subsystems",
            {"x": 1},
            Failure(-32602, "'framework_get_subsystems' requires no arguments"),
        ),
        ("framework_get_config", {"x": 1}, Failure(-32602, "Invalid arguments")),
        ("framework_get_config", {"name": "x"}, Failure(-32602, "Subsystem 'x' not found")),
        ("rpc_get_methods", {"x": 1}, Failure(-32602, "Invalid parameters")),
        ("spdk_kill_instance", {"sig_name": "9"}, Failure(-32602, "Invalid parameters")),
        ("bdev_examine", {}, Failure(-32602, "spdk_json_decode_object failed")),
    ],
)
def test_methods_of_the_process_have_texts_of_their_own(
    client: Client, method: str, given: dict[str, Any], failure: Failure
) -> None:
    assert client(method, **given) == failure


WITHOUT_CEPH = """
import sys
from blobstore.device import rbd_cluster

sys.modules["rados"] = None
rbd_cluster._SYSTEM_PACKAGES = "/absent"
import blobstore.rpc.server
from blobstore.rpc.methods import METHODS

print([name for name in METHODS if "rbd" in name])
"""


@pytest.mark.slow
def test_a_machine_without_cephs_modules_has_none_of_its_methods() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_CEPH], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_what_happens_to_devices_is_told(client: Client) -> None:
    client("bdev_malloc_create", name="m", num_blocks=8, block_size=512)
    client("bdev_malloc_delete", name="m")
    assert client("notify_get_notifications") == [
        {"type": "bdev_register", "ctx": "m", "id": 0},
        {"type": "bdev_unregister", "ctx": "m", "id": 1},
    ]
    assert [note["id"] for note in client("notify_get_notifications", id=1, max=5)] == [1]


# Deliberate differences


@pytest.fixture
def volumes(client: Client) -> None:
    client("bdev_malloc_create", num_blocks=131072, block_size=512)
    client("bdev_lvol_create_lvstore", bdev_name="Malloc0", lvs_name="lvs", cluster_sz=1 << 20)
    client("bdev_lvol_create", lvol_name="v", size_in_mib=4, lvs_name="lvs", thin_provision=True)


@pytest.mark.usefixtures("volumes")
def test_a_name_that_would_make_a_store_unloadable_is_refused(client: Client) -> None:
    long = "x" * 64
    assert client("bdev_lvol_rename", old_name="lvs/v", new_name=long) == failed(errno.EINVAL)
    assert client("bdev_lvol_rename", old_name="lvs/v", new_name="") == failed(errno.EINVAL)
    assert client("bdev_lvol_get_lvols")[0]["name"] == "v"


@pytest.mark.usefixtures("volumes")
def test_a_rename_that_fails_changes_neither_name_nor_alias(client: Client) -> None:
    client("bdev_lvol_snapshot", lvol_name="lvs/v", snapshot_name="s")
    assert client("bdev_lvol_rename", old_name="lvs/s", new_name="t") == failed(errno.EPERM)
    assert client("bdev_get_bdevs", name="lvs/s")[0]["aliases"] == ["lvs/s"]


@pytest.mark.usefixtures("volumes")
def test_a_volume_that_is_in_use_is_not_cut(client: Client) -> None:
    given = {"bdev_name": "lvs/v", "lvs_name": "inner", "cluster_sz": 65536}
    assert UUID(client("bdev_lvol_create_lvstore", **given))
    assert client("bdev_lvol_resize", name="lvs/v", size_in_mib=1) == failed(errno.EBUSY)
    assert client("bdev_get_bdevs", name="lvs/v")[0]["num_blocks"] == 8192


@pytest.mark.usefixtures("volumes")
def test_a_device_that_is_written_to_elsewhere_is_not_overwritten(
    client: Client, server: RpcServer
) -> None:
    client("bdev_malloc_create", name="m", num_blocks=131072, block_size=512)
    bdev = server.target.table.find("m")
    assert bdev is not None
    bdev.writers = 1
    given = {"bdev_name": "m", "lvs_name": "x"}
    assert client("bdev_lvol_create_lvstore", **given) == failed(errno.EPERM)
    with bdev.open_device() as device:
        assert device.read(0, 4096) == bytes(4096)
    bdev.writers = 0
    assert UUID(client("bdev_lvol_create_lvstore", **given))


@pytest.mark.usefixtures("volumes")
def test_a_parent_of_another_store_is_refused(client: Client) -> None:
    client("bdev_malloc_create", name="m", num_blocks=131072, block_size=512)
    client("bdev_lvol_create_lvstore", bdev_name="m", lvs_name="other", cluster_sz=1 << 20)
    client("bdev_lvol_create", lvol_name="v", size_in_mib=4, lvs_name="other", thin_provision=True)
    client("bdev_lvol_snapshot", lvol_name="other/v", snapshot_name="s")
    given = {"lvol_name": "lvs/v", "parent_name": "other/s"}
    assert client("bdev_lvol_set_parent", **given) == failed(errno.EINVAL)
