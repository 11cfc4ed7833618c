"""Every method by the original's command, `spdk-rpc`, beside its client library."""

import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from blobstore.rpc.methods import METHODS
from blobstore.rpc.server import RpcServer
from tests.rpc.client import Client
from tests.rpc.command import spdk_rpc

MIB: Final = 1 << 20
ESNAP: Final = "e4b40d8b-f623-416d-8234-baf5a4c83cbd"

LIFE: Final = [
    "bdev_set_options --no-auto-examine",
    "framework_start_init",
    "framework_wait_init",
    "bdev_malloc_create -b m 8 512 -u e4b40d8b-f623-416d-8234-baf5a4c83cbd",
    "bdev_aio_create {image} aio0 4096",
    "bdev_aio_rescan aio0",
    "bdev_examine -b aio0",
    "bdev_wait_for_examine",
    "bdev_lvol_create_lvstore aio0 lvs -c 1048576",
    "bdev_lvol_create -l lvs -t v 4",
    "bdev_lvol_create -l lvs w 2",
    "bdev_lvol_snapshot lvs/v s",
    "bdev_lvol_clone lvs/s c",
    "bdev_lvol_clone_bdev m lvs e",
    "bdev_lvol_rename lvs/c c2",
    "bdev_lvol_resize lvs/w 3",
    "bdev_lvol_inflate lvs/c2",
    "bdev_lvol_decouple_parent lvs/v",
    "bdev_lvol_set_parent lvs/v lvs/s",
    "bdev_lvol_set_parent_bdev lvs/v m",
    "bdev_lvol_set_read_only lvs/w",
    "bdev_malloc_create -b copy 4 512",
    "bdev_lvol_start_shallow_copy lvs/w copy",
    "bdev_lvol_check_shallow_copy 1",
    "bdev_lvol_rename_lvstore lvs vms",
    "bdev_lvol_grow_lvstore -l vms",
    "bdev_lvol_delete vms/e",
    "nbd_start_disk vms/v {image}.nbd",
    "nbd_get_disks",
    "nbd_stop_disk {image}.nbd",
    "bdev_get_bdevs",
    "bdev_get_bdevs -b vms/v",
    "bdev_get_iostat",
    "bdev_get_iostat --names aio0",
    "bdev_lvol_get_lvstores",
    "bdev_lvol_get_lvstores -l vms",
    "bdev_lvol_get_lvols",
    "bdev_lvol_get_lvols -l vms",
    "bdev_reset_iostat",
    "notify_get_notifications -i 0 -n 5",
    "rpc_get_methods",
    "spdk_get_version",
    "framework_get_subsystems",
    "framework_get_config bdev",
    "bdev_lvol_delete_lvstore -l vms",
    "bdev_aio_delete aio0",
    "bdev_malloc_delete copy",
    "bdev_malloc_delete m",
]
ASKING: Final = ("_get_", "spdk_get_version")
CEPH: Final = {name for name in METHODS if name.startswith("bdev_rbd_")}  # tests/ceph has them
BY_OTHER_TESTS: Final = {"spdk_kill_instance", "nbd_get_statistics"} | CEPH
TIMES: Final = ("tsc_rate", "ticks")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.touch()
    os.truncate(path, 64 * MIB)
    return path


def by_library(client: Client, line: str) -> Any:
    """Make a call of the list that only asks, by the client library."""
    names = {"-b": "name", "-l": "lvs_name", "-i": "id", "-n": "max", "--names": "names"}
    method, *words = line.split()
    given: dict[str, Any] = {}
    while words and words[0] in names:
        name, value = names[words[0]], words[1]
        given[name] = [value] if name == "names" else int(value) if value.isdigit() else value
        words = words[2:]
    return client(method, **given, **({"name": words[0]} if words else {}))


def comparable(answer: Any) -> Any:
    if isinstance(answer, dict):
        return {name: None if name in TIMES else answer[name] for name in answer}
    return answer


@pytest.mark.slow
def test_a_whole_life_by_the_command_and_what_it_prints_is_what_the_library_returns(
    tmp_path: Path, image: Path
) -> None:
    path = tmp_path / "rpc.sock"
    with RpcServer(path, wait_for_rpc=True) as server, closing(Client(server.path)) as client:
        for line in LIFE:
            done = spdk_rpc(server.path, *line.format(image=image).split())
            assert (done.returncode, done.stderr) == (0, ""), line
            if any(part in line for part in ASKING):
                printed, returned = json.loads(done.stdout), by_library(client, line)
                assert comparable(printed) == comparable(returned), line


def test_the_life_has_every_method() -> None:
    assert {line.split()[0] for line in LIFE} | BY_OTHER_TESTS == set(METHODS)


def test_an_error_is_printed_by_the_command_and_ends_it_with_1(server: RpcServer) -> None:
    done = spdk_rpc(server.path, "bdev_lvol_delete", "lvs/no")
    assert done.returncode == 1
    answer = json.loads(
        done.stderr.partition("response:")[2] or done.stdout.partition("response:")[2]
    )
    assert answer == {"code": -19, "message": "No such device"}


def test_lines_on_standard_input_run_as_a_batch(server: RpcServer, client: Client) -> None:
    lines = "bdev_malloc_create -b a 1 512\nbdev_malloc_create -b b 1 512\n"
    done = spdk_rpc(server.path, "-b", given=lines)
    assert done.returncode == 0, done.stderr
    assert [found["name"] for found in client("bdev_get_bdevs")] == ["a", "b"]


@pytest.mark.slow
def test_a_saved_configuration_is_loaded_by_the_command_and_brings_volumes_back(
    tmp_path: Path, image: Path
) -> None:
    path = tmp_path / "rpc.sock"
    with RpcServer(path) as server, closing(Client(server.path)) as client:
        client("bdev_malloc_create", name="m", num_blocks=8192, block_size=512, uuid=ESNAP)
        client("bdev_aio_create", name="aio0", filename=str(image), block_size=4096)
        client("bdev_lvol_create_lvstore", bdev_name="aio0", lvs_name="lvs", cluster_sz=MIB)
        client("bdev_lvol_create", lvol_name="v", size_in_mib=4, lvs_name="lvs")
        client("bdev_lvol_clone_bdev", bdev="m", lvs_name="lvs", clone_name="e")
        before = client("bdev_lvol_get_lvols"), client("bdev_lvol_get_lvstores")
        saved = spdk_rpc(server.path, "save_config")
        assert saved.returncode == 0, saved.stderr
    with RpcServer(path, wait_for_rpc=True) as server:
        loaded = spdk_rpc(server.path, "load_config", given=saved.stdout)
        assert loaded.returncode == 0, loaded.stderr
        with closing(Client(server.path)) as client:
            assert (client("bdev_lvol_get_lvols"), client("bdev_lvol_get_lvstores")) == before
        assert spdk_rpc(server.path, "save_config").stdout == saved.stdout
