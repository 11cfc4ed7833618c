"""The life of stores and volumes by the original's client, with the bytes that volumes read."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from blobstore import NoSpaceError, ReadOnlyError, check
from blobstore.rpc.server import RpcServer
from tests.rpc.client import Client
from tests.rpc.command import running, stop
from tests.rpc.test_lvol_methods import failed, refused

MIB: Final = 1 << 20
ESNAP: Final = "e4b40d8b-f623-416d-8234-baf5a4c83cbd"
DISK: Final = "0f4d3a52-0f0e-4f3c-9a53-3b8f6d1c5a77"


def file_of(path: Path, size_bytes: int) -> Path:
    with open(path, "wb") as file:
        file.truncate(size_bytes)
    return path


def aio(client: Client, name: str, path: Path, **more: Any) -> None:
    answer = client("bdev_aio_create", name=name, filename=str(path), block_size=4096, **more)
    assert answer == name


def described(client: Client, name: str) -> dict[str, Any]:
    (found,) = client("bdev_get_bdevs", name=name)
    return dict(found)


def lvol(client: Client, alias: str) -> dict[str, Any]:
    return dict(described(client, alias)["driver_specific"]["lvol"])


@pytest.fixture
def image(tmp_path: Path, client: Client) -> Path:
    """Make a store `lvs` of 64 MiB on a file, with clusters of 1 MiB."""
    path = file_of(tmp_path / "disk.img", 64 * MIB)
    aio(client, "aio0", path)
    client("bdev_lvol_create_lvstore", bdev_name="aio0", lvs_name="lvs", cluster_sz=MIB)
    return path


def create(client: Client, name: str, size: int, *, thin: bool, store: str = "lvs") -> str:
    given = {"lvol_name": name, "size_in_mib": size, "thin_provision": thin, "lvs_name": store}
    return str(client("bdev_lvol_create", **given))


@contextmanager
def opened(server: RpcServer, name: str) -> Iterator[Any]:
    bdev = server.target.table.find(name)
    assert bdev is not None
    device = bdev.open_device()
    yield device
    device.close()


def write(server: RpcServer, name: str, at_mib: int, text: bytes) -> None:
    with opened(server, name) as device:
        device.write(at_mib * MIB, [text * (MIB // len(text))])


def read(server: RpcServer, name: str, at_mib: int) -> bytes:
    with opened(server, name) as device:
        return bytes(device.read(at_mib * MIB, 4))


def free_clusters(client: Client) -> int:
    (found,) = client("bdev_lvol_get_lvstores", lvs_name="lvs")
    return int(found["free_clusters"])


# Basic


@pytest.mark.usefixtures("image")
def test_volumes_fill_a_store_and_give_everything_back(client: Client) -> None:
    (store,) = client("bdev_lvol_get_lvstores")
    size = store["total_data_clusters"] // 4
    for _round in range(2):
        uuids = [create(client, f"v{number}", size, thin=False) for number in range(4)]
        assert [described(client, uuid)["aliases"] for uuid in uuids] == [
            [f"lvs/v{number}"] for number in range(4)
        ]
        over = {"lvol_name": "over", "size_in_mib": size, "lvs_name": "lvs"}
        assert client("bdev_lvol_create", **over) == failed(errno.ENOSPC)
        assert all(client("bdev_lvol_delete", name=uuid) is True for uuid in uuids)
        assert client("bdev_lvol_get_lvstores") == [store]


@pytest.mark.usefixtures("image")
def test_an_alias_that_another_device_has_is_refused_and_free_again_later(client: Client) -> None:
    client("bdev_malloc_create", name="lvs/v", num_blocks=2048, block_size=512)
    given = {"lvol_name": "v", "size_in_mib": 1, "lvs_name": "lvs"}
    assert client("bdev_lvol_create", **given) == failed(errno.EEXIST)
    assert client("bdev_lvol_get_lvols") == []
    assert client("bdev_malloc_delete", name="lvs/v") is True
    assert described(client, create(client, "v", 1, thin=True))["aliases"] == ["lvs/v"]


@pytest.mark.parametrize("method", ["none", "unmap", "write_zeroes"])
def test_a_volume_without_contents_reads_as_its_clear_method_says(
    client: Client, server: RpcServer, image: Path, method: str
) -> None:
    given = {"lvol_name": "v", "size_in_mib": 2, "lvs_name": "lvs", "clear_method": method}
    client("bdev_lvol_create", **given)
    write(server, "lvs/v", 0, b"old!")
    assert read(server, "lvs/v", 0) == b"old!"
    assert client("bdev_lvol_delete", name="lvs/v") is True
    client("bdev_lvol_create", **given)
    # Whatever the method: nobody reads what was not written to this volume.
    assert read(server, "lvs/v", 0) == bytes(4)
    assert client("bdev_aio_delete", name="aio0") is True
    assert check(image).clean


# Thin provisioning


@pytest.mark.usefixtures("image")
def test_a_thin_volume_takes_clusters_as_it_is_written_and_gives_them_back(
    client: Client, server: RpcServer
) -> None:
    free = free_clusters(client)
    create(client, "thin", 2 * free, thin=True)  # larger than the store
    assert (free_clusters(client), read(server, "lvs/thin", free)) == (free, bytes(4))
    write(server, "lvs/thin", 0, b"abcd")
    write(server, "lvs/thin", free, b"efgh")
    assert free_clusters(client) == free - 2
    assert lvol(client, "lvs/thin")["num_allocated_clusters"] == 2
    assert (read(server, "lvs/thin", 0), read(server, "lvs/thin", 1)) == (b"abcd", bytes(4))
    with opened(server, "lvs/thin") as device:
        device.unmap(0, MIB)
    assert (free_clusters(client), read(server, "lvs/thin", 0)) == (free - 1, bytes(4))
    assert client("bdev_lvol_delete", name="lvs/thin") is True
    assert free_clusters(client) == free


@pytest.mark.usefixtures("image")
def test_two_thin_volumes_share_the_space_until_it_ends(client: Client, server: RpcServer) -> None:
    free = free_clusters(client)
    for name in ("a", "b"):
        create(client, name, free, thin=True)
    for at in range(free):
        write(server, "lvs/a" if at % 2 else "lvs/b", at, b"full")
    with opened(server, "lvs/a") as device, pytest.raises(NoSpaceError):
        device.write(0, [b"x" * 4096])
    assert read(server, "lvs/a", 1) == b"full"


# Snapshots and clones


@pytest.mark.usefixtures("image")
def test_a_snapshot_keeps_what_was_there_and_clones_go_their_own_ways(
    client: Client, server: RpcServer
) -> None:
    create(client, "v", 4, thin=False)
    write(server, "lvs/v", 0, b"once")
    client("bdev_lvol_snapshot", lvol_name="lvs/v", snapshot_name="s")
    client("bdev_lvol_clone", snapshot_name="lvs/s", clone_name="c")
    write(server, "lvs/v", 0, b"then")
    write(server, "lvs/c", 1, b"mine")
    found = [read(server, f"lvs/{name}", at) for name in "vsc" for at in (0, 1)]
    assert found == [b"then", bytes(4), b"once", bytes(4), b"once", b"mine"]
    assert not described(client, "lvs/s")["supported_io_types"]["write"]
    with opened(server, "lvs/s") as device, pytest.raises(ReadOnlyError):
        device.write(0, [b"x" * 4096])


@pytest.mark.usefixtures("image")
@pytest.mark.parametrize("method", ["bdev_lvol_inflate", "bdev_lvol_decouple_parent"])
def test_a_clone_that_left_its_parent_reads_the_same(
    client: Client, server: RpcServer, method: str
) -> None:
    create(client, "v", 4, thin=True)
    write(server, "lvs/v", 2, b"deep")
    client("bdev_lvol_snapshot", lvol_name="lvs/v", snapshot_name="s")
    client("bdev_lvol_clone", snapshot_name="lvs/s", clone_name="c")
    assert client(method, name="lvs/c") is True
    assert not lvol(client, "lvs/c")["clone"]
    is_whole = method == "bdev_lvol_inflate"
    assert lvol(client, "lvs/c")["num_allocated_clusters"] == (4 if is_whole else 1)
    assert client("bdev_lvol_delete", name="lvs/v") is True
    assert client("bdev_lvol_delete", name="lvs/s") is True
    assert (read(server, "lvs/c", 2), read(server, "lvs/c", 0)) == (b"deep", bytes(4))


@pytest.mark.usefixtures("image")
def test_a_chain_of_snapshots_is_deleted_from_the_middle_and_a_parent_is_set(
    client: Client, server: RpcServer
) -> None:
    create(client, "v", 4, thin=True)
    for number in range(3):
        write(server, "lvs/v", number, b"s%03d" % number)
        client("bdev_lvol_snapshot", lvol_name="lvs/v", snapshot_name=f"s{number}")
    assert client("bdev_lvol_delete", name="lvs/s1") is True
    assert [read(server, "lvs/v", at) for at in range(3)] == [b"s000", b"s001", b"s002"]
    assert lvol(client, "lvs/s2")["base_snapshot"] == "s0"
    assert client("bdev_lvol_set_parent", lvol_name="lvs/v", parent_name="lvs/s0") is True
    assert [read(server, "lvs/v", at) for at in range(3)] == [b"s000", bytes(4), bytes(4)]


# External snapshots


def test_a_clone_of_a_device_outside_lives_without_it_degraded_and_with_it_again(
    client: Client, server: RpcServer, image: Path, tmp_path: Path
) -> None:
    golden = tmp_path / "golden"
    golden.write_bytes(b"gold".ljust(4 * MIB, b"\0"))
    aio(client, "esnap", golden, readonly=True, uuid=ESNAP)
    client("bdev_lvol_clone_bdev", bdev=ESNAP, lvs_name="lvs", clone_name="eclone")
    write(server, "lvs/eclone", 1, b"mine")
    assert [read(server, "lvs/eclone", at) for at in (0, 1)] == [b"gold", b"mine"]
    assert client("bdev_aio_delete", name="aio0") is True
    assert client("bdev_aio_delete", name="esnap") is True
    aio(client, "aio0", image)
    (found,) = client("bdev_lvol_get_lvols")
    assert (found["name"], found["is_esnap_clone"], found["is_degraded"]) == ("eclone", True, True)
    assert client("bdev_get_bdevs", name="lvs/eclone") == refused(errno.ENODEV)
    aio(client, "esnap", golden, readonly=True, uuid=ESNAP)
    assert [read(server, "lvs/eclone", at) for at in (0, 1)] == [b"gold", b"mine"]
    client("bdev_lvol_snapshot", lvol_name="lvs/eclone", snapshot_name="s")
    assert lvol(client, "lvs/s")["esnap_clone"]
    assert not lvol(client, "lvs/eclone")["esnap_clone"]
    assert client("bdev_lvol_inflate", name="lvs/eclone") is True
    assert client("bdev_lvol_delete", name="lvs/s") is True
    assert client("bdev_aio_delete", name="esnap") is True
    assert [read(server, "lvs/eclone", at) for at in (0, 1)] == [b"gold", b"mine"]


@pytest.mark.usefixtures("image")
def test_a_snapshot_of_another_store_is_an_external_snapshot(
    client: Client, server: RpcServer
) -> None:
    client("bdev_malloc_create", name="m", num_blocks=32768, block_size=4096)
    client("bdev_lvol_create_lvstore", bdev_name="m", lvs_name="other", cluster_sz=MIB)
    create(client, "v", 2, thin=True, store="other")
    write(server, "other/v", 0, b"away")
    uuid = client("bdev_lvol_snapshot", lvol_name="other/v", snapshot_name="s")
    client("bdev_lvol_clone_bdev", bdev=uuid, lvs_name="lvs", clone_name="e")
    assert read(server, "lvs/e", 0) == b"away"
    assert lvol(client, "lvs/e")["external_snapshot_name"] == uuid
    assert client("bdev_lvol_delete", name="other/s") == failed(errno.EBUSY, -32603)
    create(client, "plain", 2, thin=True)
    assert client("bdev_lvol_set_parent_bdev", lvol_name="lvs/plain", parent_name=uuid) is True
    assert read(server, "lvs/plain", 0) == b"away"


# Rename


def test_new_names_are_there_after_a_reload(client: Client, image: Path) -> None:
    uuids = {name: create(client, name, 2, thin=True) for name in ("a", "b")}
    for name in uuids:
        assert client("bdev_lvol_rename", old_name=f"lvs/{name}", new_name=f"{name}2") is True
    assert client("bdev_lvol_rename_lvstore", old_name="lvs", new_name="new") is True
    assert client("bdev_lvol_rename", old_name="lvs/a2", new_name="x") == refused(errno.ENODEV)
    assert client("bdev_aio_delete", name="aio0") is True
    aio(client, "aio0", image)
    assert [store["name"] for store in client("bdev_lvol_get_lvstores")] == ["new"]
    for name, uuid in uuids.items():
        assert described(client, f"new/{name}2")["name"] == uuid
    assert client("bdev_lvol_rename_lvstore", old_name="new", new_name="new") is True


# Resize


@pytest.mark.usefixtures("image")
def test_a_resized_volume_keeps_its_start_and_reads_zeroes_after_it(
    client: Client, server: RpcServer
) -> None:
    create(client, "v", 4, thin=False)
    write(server, "lvs/v", 0, b"head")
    write(server, "lvs/v", 3, b"tail")
    assert client("bdev_lvol_resize", name="lvs/v", size_in_mib=2) is True
    assert client("bdev_lvol_resize", name="lvs/v", size_in_mib=8) is True
    assert described(client, "lvs/v")["num_blocks"] * 4096 == 8 * MIB
    assert [read(server, "lvs/v", at) for at in (0, 3, 7)] == [b"head", bytes(4), bytes(4)]
    too_much = free_clusters(client) + 9
    answer = client("bdev_lvol_resize", name="lvs/v", size_in_mib=too_much)
    assert answer == failed(errno.ENOSPC)
    assert described(client, "lvs/v")["num_blocks"] * 4096 == 8 * MIB


def test_a_store_grows_onto_a_larger_file_also_after_a_reload(client: Client, image: Path) -> None:
    os.truncate(image, 128 * MIB)
    assert client("bdev_aio_delete", name="aio0") is True
    aio(client, "aio0", image)
    before = free_clusters(client)
    assert client("bdev_lvol_grow_lvstore", lvs_name="lvs") is True
    assert free_clusters(client) == before + 64
    create(client, "large", before + 32, thin=False)
    assert client("bdev_aio_delete", name="aio0") is True
    assert check(image).clean


# Tasting and hot removal


@pytest.mark.parametrize("cluster_size", [8192, 65536, MIB, 4 * MIB])
def test_stores_are_found_on_devices_that_come_back(
    client: Client, tmp_path: Path, cluster_size: int
) -> None:
    paths = [file_of(tmp_path / f"{number}.img", 32 * MIB) for number in range(2)]
    for number, path in enumerate(paths):
        aio(client, f"aio{number}", path)
    assert client("bdev_lvol_get_lvstores") == []
    for number in range(2):
        given = {"bdev_name": f"aio{number}", "lvs_name": f"lvs{number}"}
        client("bdev_lvol_create_lvstore", **given, cluster_sz=cluster_size)
        for name in range(3):
            create(client, f"v{name}", 4, thin=True, store=f"lvs{number}")
    before = client("bdev_lvol_get_lvstores"), client("bdev_lvol_get_lvols")
    for number in range(2):
        assert client("bdev_aio_delete", name=f"aio{number}") is True
    assert (client("bdev_lvol_get_lvstores"), client("bdev_get_bdevs")) == ([], [])
    for number, path in enumerate(paths):
        aio(client, f"aio{number}", path)
    assert (client("bdev_lvol_get_lvstores"), client("bdev_lvol_get_lvols")) == before
    assert client("bdev_lvol_delete_lvstore", lvs_name="lvs0") is True
    assert client("bdev_aio_delete", name="aio0") is True
    aio(client, "aio0", paths[0])
    assert [store["name"] for store in client("bdev_lvol_get_lvstores")] == ["lvs1"]


@pytest.mark.usefixtures("image")
def test_a_device_that_goes_takes_its_store_and_the_store_inside_that(client: Client) -> None:
    create(client, "outer", 32, thin=False)
    inner = {"bdev_name": "lvs/outer", "lvs_name": "inner", "cluster_sz": MIB}
    client("bdev_lvol_create_lvstore", **inner)
    create(client, "x", 2, thin=True, store="inner")
    assert client("bdev_aio_delete", name="aio0") is True
    assert client("bdev_get_bdevs") == []
    assert client("bdev_lvol_get_lvstores") == []
    assert client("bdev_lvol_delete", name="inner/x") == refused(errno.ENODEV)


# Shallow copies


@pytest.mark.usefixtures("image")
def test_a_shallow_copy_on_top_of_its_parents_copy_gives_the_volume(
    client: Client, server: RpcServer
) -> None:
    create(client, "v", 4, thin=True)
    write(server, "lvs/v", 0, b"base")
    client("bdev_lvol_snapshot", lvol_name="lvs/v", snapshot_name="s")
    write(server, "lvs/v", 1, b"more")
    client("bdev_lvol_set_read_only", name="lvs/v")
    client("bdev_malloc_create", name="m", num_blocks=1024, block_size=4096)
    for number, source in enumerate(("lvs/s", "lvs/v"), 1):
        client("bdev_lvol_start_shallow_copy", src_lvol_name=source, dst_bdev_name="m")
        while True:
            state = client("bdev_lvol_check_shallow_copy", operation_id=number)
            if state["state"] != "in progress":
                break
        assert state == {"copied_clusters": 1, "total_clusters": 1, "state": "complete"}
    assert [read(server, "m", at) for at in (0, 1, 2)] == [b"base", b"more", bytes(4)]


# A server that is killed


@pytest.mark.slow
def test_a_server_that_is_killed_comes_back_with_the_same_state(tmp_path: Path) -> None:
    image = file_of(tmp_path / "disk.img", 64 * MIB)
    golden = tmp_path / "golden"
    golden.write_bytes(b"gold".ljust(4 * MIB, b"\0"))

    def devices(client: Client) -> None:
        aio(client, "esnap", golden, readonly=True, uuid=ESNAP)
        aio(client, "aio0", image, uuid=DISK)

    with running(tmp_path) as (process, client):
        devices(client)
        client("bdev_lvol_create_lvstore", bdev_name="aio0", lvs_name="lvs", cluster_sz=MIB)
        for name, thin in (("thick", False), ("thin", True), ("gone", True)):
            create(client, name, 4, thin=thin)
        client("bdev_lvol_snapshot", lvol_name="lvs/thick", snapshot_name="s")
        for name in ("c1", "c2", "c3"):
            client("bdev_lvol_clone", snapshot_name="lvs/s", clone_name=name)
        assert client("bdev_lvol_resize", name="lvs/thin", size_in_mib=7) is True
        assert client("bdev_lvol_inflate", name="lvs/c1") is True
        assert client("bdev_lvol_decouple_parent", name="lvs/c2") is True
        assert client("bdev_lvol_set_parent", lvol_name="lvs/thick", parent_name="lvs/s") == failed(
            errno.EEXIST
        )
        client("bdev_lvol_clone_bdev", bdev="esnap", lvs_name="lvs", clone_name="e")
        assert client("bdev_lvol_rename", old_name="lvs/c3", new_name="renamed") is True
        assert client("bdev_lvol_delete", name="lvs/gone") is True
        assert client("bdev_lvol_rename_lvstore", old_name="lvs", new_name="vms") is True
        before = [client(f"bdev_lvol_get_{what}") for what in ("lvstores", "lvols")]
        bdevs = {found["name"]: found for found in client("bdev_get_bdevs")}
        process.kill()
        process.wait()
    with running(tmp_path) as (process, client):
        devices(client)
        assert [client(f"bdev_lvol_get_{what}") for what in ("lvstores", "lvols")] == before
        assert {found["name"]: found for found in client("bdev_get_bdevs")} == bdevs
        stop(client, process)
    assert check(image).clean
