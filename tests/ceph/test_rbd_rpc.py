"""The RPC's methods of Ceph, called by SPDK's own client."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blobstore.rpc.server import RpcServer
from blobstore.units import MIB
from tests.ceph.cluster import POOL, CephCluster
from tests.nbd.servers import short_directory
from tests.rpc.client import Client, Failure

pytestmark = pytest.mark.slow

NOT_PERMITTED = Failure(-1, "Operation not permitted")
NO_DEVICE = Failure(-19, "No such device")
INVALID = Failure(-22, "Invalid argument")
EXISTS = Failure(-17, "File exists")
BUSY = Failure(-16, "Device or resource busy")


@pytest.fixture
def server() -> Iterator[RpcServer]:
    with short_directory() as directory, RpcServer(directory / "rpc.sock") as server:
        yield server


@pytest.fixture
def client(server: RpcServer) -> Iterator[Client]:
    client = Client(server.path)
    yield client
    client.close()


@pytest.fixture
def registered(client: Client, ceph: CephCluster) -> None:
    given = {"name": "home", "config_file": str(ceph.configuration)}
    assert client("bdev_rbd_register_cluster", **given) == "home"


@pytest.fixture
def image(address: str) -> str:
    return address.partition("?")[0].removeprefix(f"rbd:{POOL}/")


def spdk_rpc(server: RpcServer, *arguments: object) -> Any:
    """Run SPDK's command, and return what it printed."""
    program = Path(sys.executable).with_name("spdk-rpc")
    command = [sys.executable, str(program), "-s", server.path, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    try:
        return json.loads(done.stdout) if done.stdout else None
    except ValueError:
        return done.stdout.strip()


def test_spdks_command_makes_a_store_on_an_image_and_finds_it_again(
    server: RpcServer, ceph: CephCluster, image: str
) -> None:
    file = ("--config-file", ceph.configuration)
    assert spdk_rpc(server, "bdev_rbd_register_cluster", "home", *file) == "home"
    create = ("bdev_rbd_create", POOL, image, 512, "-c", "home", "-b", "ceph0")
    assert spdk_rpc(server, *create) == "ceph0"
    spdk_rpc(server, "bdev_lvol_create_lvstore", "ceph0", "lvs", "-c", MIB)
    spdk_rpc(server, "bdev_lvol_create", "-l", "lvs", "-t", "db", 16)
    spdk_rpc(server, "bdev_lvol_snapshot", "lvs/db", "monday")
    spdk_rpc(server, "bdev_rbd_delete", "ceph0")
    assert spdk_rpc(server, "bdev_get_bdevs") == []
    assert spdk_rpc(server, *create) == "ceph0"
    (store,) = spdk_rpc(server, "bdev_lvol_get_lvstores")
    assert (store["name"], store["base_bdev"]) == ("lvs", "ceph0")
    assert len(spdk_rpc(server, "bdev_lvol_get_lvols")) == 2
    assert spdk_rpc(server, "bdev_rbd_resize", "ceph0", 128) is True
    spdk_rpc(server, "bdev_lvol_grow_lvstore", "-l", "lvs")
    (grown,) = spdk_rpc(server, "bdev_lvol_get_lvstores")
    assert grown["total_data_clusters"] == store["total_data_clusters"] + 64
    spdk_rpc(server, "bdev_rbd_delete", "ceph0")
    spdk_rpc(server, "bdev_rbd_unregister_cluster", "home")
    assert spdk_rpc(server, "bdev_rbd_get_clusters_info") == []


@pytest.mark.usefixtures("registered")
def test_a_device_describes_its_image_and_its_cluster(
    client: Client, ceph: CephCluster, image: str
) -> None:
    given = {"pool_name": POOL, "rbd_name": image, "block_size": 4096, "cluster_name": "home"}
    assert client("bdev_rbd_create", **given) == "Ceph0"
    (found,) = client("bdev_get_bdevs", name="Ceph0")
    assert found["product_name"] == "Ceph Rbd Disk"
    assert (found["block_size"], found["num_blocks"]) == (4096, 64 * MIB // 4096)
    access = {"cluster_name": "home", "config_file": str(ceph.configuration)}
    assert found["driver_specific"] == {"rbd": {"pool_name": POOL, "rbd_name": image, **access}}
    assert client("bdev_rbd_get_clusters_info", name="home") == access
    assert client("bdev_rbd_get_clusters_info") == [access]


@pytest.mark.usefixtures("registered")
def test_a_saved_configuration_opens_the_images_again(
    client: Client, server: RpcServer, image: str
) -> None:
    given = {"pool_name": POOL, "rbd_name": image, "block_size": 512, "cluster_name": "home"}
    client("bdev_rbd_create", **given)
    config = client("framework_get_config", name="bdev")
    calls = [call for call in config if "rbd" in call["method"]]
    assert [call["method"] for call in calls] == ["bdev_rbd_register_cluster", "bdev_rbd_create"]
    client("bdev_rbd_delete", name="Ceph0")
    client("bdev_rbd_unregister_cluster", name="home")
    assert [client(call["method"], **call["params"]) for call in calls] == ["home", "Ceph0"]


def test_options_stand_in_the_place_of_a_file(
    client: Client, ceph: CephCluster, image: str
) -> None:
    config = {
        name: ceph.rados.conf_get(name)
        for name in ("mon_host", "auth_client_required", "fsid", "ms_bind_msgr1")
    }
    given = {"pool_name": POOL, "rbd_name": image, "block_size": 512, "config": config}
    assert client("bdev_rbd_create", name="c", **given) == "c"
    (found,) = client("bdev_get_bdevs", name="c")
    assert found["driver_specific"]["rbd"]["config"] == config


@pytest.mark.usefixtures("registered")
def test_what_cannot_be_done_is_answered_as_the_original_does(client: Client, image: str) -> None:
    given = {"pool_name": POOL, "rbd_name": image, "block_size": 512, "cluster_name": "home"}
    create = "bdev_rbd_create"
    for block_size in (0, 256, 1000):
        assert client(create, **given | {"block_size": block_size}) == INVALID
    assert client(create, **given | {"rbd_name": "absent"}) == NOT_PERMITTED
    assert client(create, **given | {"pool_name": "absent"}) == NOT_PERMITTED
    assert client(create, **given | {"cluster_name": "absent"}) == NOT_PERMITTED
    assert client(create, name="c", **given) == "c"
    assert client(create, name="d", **given) == NOT_PERMITTED  # the lock is taken
    client("bdev_malloc_create", name="m", num_blocks=2048, block_size=512)
    reading = given | {"read_only": True}
    assert client(create, name="e", **reading) == NOT_PERMITTED
    assert client("bdev_rbd_resize", name="m", new_size=100) == INVALID
    assert client("bdev_rbd_resize", name="absent", new_size=100) == NO_DEVICE
    assert client("bdev_rbd_resize", name="c", new_size=1) == INVALID
    assert client("bdev_rbd_delete", name="m") == NO_DEVICE
    assert client("bdev_rbd_delete", name="absent") == NO_DEVICE
    assert client("bdev_rbd_unregister_cluster", name="home") == BUSY
    assert client("bdev_rbd_unregister_cluster", name="absent") == NO_DEVICE
    assert client("bdev_rbd_get_clusters_info", name="absent") == NO_DEVICE
    assert client("bdev_rbd_register_cluster", name="home") == EXISTS
    assert client("bdev_rbd_delete", name="c") is True
    assert client(create, name="m", **given) == EXISTS
    assert client("bdev_rbd_create", name="c", **reading) == "c"  # the name is free, and the lock
