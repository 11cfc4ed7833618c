import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from blobstore import DeviceError, VolumeStore, check
from blobstore.device.base import Device
from blobstore.nbd.constants import Command, WireError
from blobstore.rpc.nbd_exports import BdevExports
from blobstore.rpc.server import RpcServer
from blobstore.rpc.stores import VolumeBdev
from tests.nbd.programs import answer, call, needs
from tests.nbd.servers import short_directory
from tests.nbd.wire import Wire
from tests.rpc.client import Client, Failure


@pytest.fixture
def place() -> Iterator[Path]:
    with short_directory() as path:
        yield path


@pytest.fixture
def server(place: Path) -> Iterator[RpcServer]:
    with RpcServer(place / "rpc.sock") as server:
        yield server


@pytest.fixture
def client(server: RpcServer, place: Path) -> Iterator[Client]:
    """A client of a server with a store `lvs`, which has a volume `v` of 4 MiB."""
    image = place / "disk.img"
    image.touch()
    os.truncate(image, 64 << 20)
    with closing(Client(server.path)) as client:
        client("bdev_aio_create", name="aio0", filename=str(image), block_size=512)
        client("bdev_lvol_create_lvstore", bdev_name="aio0", lvs_name="lvs", cluster_sz=65536)
        create(client, "v", 4)
        yield client


def create(client: Client, name: str, size: int) -> None:
    given: dict[str, Any] = {"size_in_mib": size, "thin_provision": True}
    client("bdev_lvol_create", lvol_name=name, lvs_name="lvs", **given)


def start(client: Client, bdev: str, path: Path) -> Wire:
    assert client("nbd_start_disk", bdev_name=bdev, nbd_device=str(path)) == str(path)
    return Wire(str(path))


def test_a_volume_is_a_disk_at_a_socket_of_the_owner_alone(client: Client, place: Path) -> None:
    path = place / "v.sock"
    client("bdev_reset_iostat", name="lvs/v")
    with start(client, "lvs/v", path).begin("") as disk:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert disk.size == 4 << 20
        assert disk.request(Command.WRITE, 65536, data=b"hello").error == 0
        assert disk.request(Command.READ, 65536, 5).data == {65536: b"hello"}
    counted = client("bdev_get_iostat", names=["lvs/v"])["bdevs"][0]
    assert (counted["bytes_written"], counted["bytes_read"]) == (5, 5)
    assert client("nbd_stop_disk", nbd_device=str(path)) is True
    assert not path.exists()


def test_a_path_is_chosen_beside_the_servers_socket_if_none_is_given(
    client: Client, place: Path
) -> None:
    assert client("nbd_start_disk", bdev_name="lvs/v") == f"{place}/nbd0.sock"
    assert client("nbd_start_disk", bdev_name="lvs/v") == f"{place}/nbd1.sock"


def test_disks_are_listed_in_the_order_of_their_start(client: Client, place: Path) -> None:
    client("bdev_malloc_create", name="m", num_blocks=2048, block_size=512)
    uuid = client("bdev_lvol_get_lvols")[0]["uuid"]
    disks = [
        {"nbd_device": f"{place}/b.sock", "bdev_name": uuid},
        {"nbd_device": f"{place}/a.sock", "bdev_name": "m"},
    ]
    for disk in disks:
        client("nbd_start_disk", **disk)
    assert client("nbd_get_disks") == disks
    assert client("nbd_get_disks", nbd_device=f"{place}/a.sock") == disks[1:]
    (saved,) = [client("framework_get_config", name="nbd")]
    assert saved == [{"method": "nbd_start_disk", "params": disk} for disk in disks]


def test_a_device_that_is_no_volume_is_a_disk_too(client: Client, place: Path) -> None:
    client("bdev_malloc_create", name="m", num_blocks=2048, block_size=512)
    client("bdev_reset_iostat", name="m")
    with start(client, "m", place / "m.sock").begin("m", "base:allocation") as disk:
        assert disk.request(Command.WRITE, 100, data=b"x" * 4096).error == 0
        assert disk.request(Command.WRITE_ZEROES, 0, 512).error == 0
        assert disk.request(Command.READ, 511, 2).data == {511: b"\0x"}
        assert disk.request(Command.TRIM, 0, 4096).error == 0
        assert disk.request(Command.FLUSH).error == 0
        status = disk.request(Command.BLOCK_STATUS, 0, 1 << 20).status
        assert status == {1: [(1 << 20, 0)]}
    counted = client("bdev_get_iostat", names=["m"])["bdevs"][0]
    assert (counted["num_write_ops"], counted["num_read_ops"]) == (2, 1)


def test_writes_to_a_snapshots_disk_fail(client: Client, place: Path) -> None:
    client("bdev_lvol_snapshot", lvol_name="lvs/v", snapshot_name="s")
    with start(client, "lvs/s", place / "s.sock").begin("") as disk:
        assert disk.request(Command.WRITE, 0, data=b"x").error == WireError.PERM


@pytest.mark.parametrize(
    ("bdev", "path", "failure"),
    [
        ("none", "{place}/v.sock", Failure(-16, os.strerror(16))),
        ("none", "/dev/nbd0", Failure(-19, "illegal nbd device /dev/nbd0")),
        ("none", "relative", Failure(-19, "illegal nbd device relative")),
        ("none", "/" + "x" * 107, Failure(-19, "illegal nbd device /" + "x" * 107)),
        ("none", "{place}/n.sock", Failure(-19, os.strerror(19))),
        ("aio0", "{place}/n.sock", Failure(-1, os.strerror(1))),
        ("lvs/v", "{place}/no/n.sock", Failure(-2, os.strerror(2))),
        ("lvs/v", "{place}/disk.img", Failure(-17, os.strerror(17))),
    ],
)
def test_a_disk_that_cannot_be_started_is_answered_as_the_original_does(
    client: Client, place: Path, bdev: str, path: str, failure: Failure
) -> None:
    with start(client, "lvs/v", place / "v.sock"):
        path = path.format(place=place)
        assert client("nbd_start_disk", bdev_name=bdev, nbd_device=path) == failure
    assert (place / "disk.img").stat().st_size == 64 << 20


def test_a_disk_that_was_not_started_is_answered(client: Client) -> None:
    gone = Failure(-19, os.strerror(19))
    assert client("nbd_stop_disk", nbd_device="/run/no.sock") == gone
    assert client("nbd_get_disks", nbd_device="/run/no.sock") == gone


def test_a_volume_that_is_exported_is_not_cut(client: Client, place: Path) -> None:
    with start(client, "lvs/v", place / "v.sock").begin("") as disk:
        cut = client("bdev_lvol_resize", name="lvs/v", size_in_mib=1)
        assert cut == Failure(-32602, os.strerror(16))
        assert disk.request(Command.WRITE, 2 << 20, data=b"still there").error == 0


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("bdev_lvol_delete", {"name": "lvs/v"}),
        ("bdev_lvol_delete_lvstore", {"lvs_name": "lvs"}),
        ("bdev_aio_delete", {"name": "aio0"}),
    ],
)
def test_what_is_removed_ends_its_exports(
    client: Client, place: Path, method: str, given: dict[str, str]
) -> None:
    path = place / "v.sock"
    with start(client, "lvs/v", path).begin("") as disk:
        assert disk.request(Command.WRITE, 0, data=b"kept").error == 0
        assert client(method, **given) is True
        with pytest.raises((EOFError, ConnectionError)):
            disk.request(Command.READ, 0, 4)
    assert client("nbd_get_disks") == client("bdev_lvol_get_lvols") == []
    assert not path.exists()


def test_a_removed_device_keeps_what_its_export_wrote(client: Client, place: Path) -> None:
    with start(client, "lvs/v", place / "v.sock").begin("") as disk:
        assert disk.request(Command.WRITE, 0, data=b"kept").error == 0
        assert client("bdev_aio_delete", name="aio0") is True
    assert check(place / "disk.img").clean
    with VolumeStore.open(place / "disk.img", read_only=True) as store:
        assert store["v"].read(4) == b"kept"


def test_a_volume_grows_and_is_snapshotted_while_it_is_exported(
    client: Client, place: Path
) -> None:
    path = place / "v.sock"
    with start(client, "lvs/v", path).begin("") as disk:
        disk.request(Command.WRITE, 0, data=b"before")
        client("bdev_lvol_snapshot", lvol_name="lvs/v", snapshot_name="s")
        client("bdev_lvol_resize", name="lvs/v", size_in_mib=8)
        disk.request(Command.WRITE, 0, data=b"after!")
    with Wire(str(path)).begin("") as disk:
        assert disk.size == 8 << 20
    with start(client, "lvs/s", place / "s.sock").begin("") as disk:
        assert disk.request(Command.READ, 0, 6).data == {0: b"before"}


def test_the_end_of_the_server_stops_its_disks_and_leaves_the_store_clean(place: Path) -> None:
    image = place / "disk.img"
    with VolumeStore.create(image, name="lvs", size="64MiB", cluster_size="64KiB") as store:
        store.create_volume("v", "4MiB", thin=True).close()
    with (
        RpcServer(place / "rpc.sock", stores=[image]) as server,
        closing(Client(server.path)) as client,
    ):
        disk = start(client, "lvs/v", place / "v.sock").begin("")
        assert disk.request(Command.WRITE, 0, data=b"kept").error == 0
    with disk, pytest.raises(EOFError):
        disk.take(1)
    assert sorted(path.name for path in place.iterdir()) == ["disk.img"]
    assert check(image).clean
    with VolumeStore.open(image, read_only=True) as store:
        assert store["v"].read(4) == b"kept"


def test_statistics_tell_who_did_how_much(client: Client, place: Path) -> None:
    path = place / "v.sock"
    with start(client, "lvs/v", path).begin("lvs/v") as disk:
        disk.request(Command.WRITE, 0, data=bytes(5000))
        found = client("nbd_get_statistics")
        (connection,) = found["connections"]
        assert connection["export"] == "lvs/v"
        assert connection["peer"] == f"pid {os.getpid()}"
        assert connection["address"] == f"unix:{path}"
        write = connection["write"]
        assert (write["requests"], write["bytes"], write["errors"]) == (1, 5000, 0)
        assert write["latencies"][0][0] > write["nanoseconds"] > 0
    assert client("nbd_get_statistics")["exports"][0]["write"]["requests"] == 1


@needs("nbdinfo", "qemu-img")
def test_real_clients_use_a_disk(client: Client, place: Path) -> None:
    path = place / "v.sock"
    start(client, "lvs/v", path).close()
    uri = f"nbd+unix:///?socket={path}"
    (export,) = answer("nbdinfo", "--json", uri)["exports"]
    assert export["export-size"] == 4 << 20
    call("qemu-img", "bench", "-f", "raw", "-w", "-c", "100", uri)


def test_an_export_whose_device_cannot_be_opened_leaves_the_volume_closed(
    server: RpcServer, client: Client
) -> None:
    assert client("bdev_lvol_get_lvols")
    (loaded,) = server.target.stores
    (volume,) = loaded.open.values()

    class FailingBdev(VolumeBdev):
        def open_device(self) -> Device:
            raise DeviceError("no memory", errno=errno.ENOMEM)

    bdev = FailingBdev(loaded, volume)
    with pytest.raises(DeviceError, match="no memory"):
        BdevExports(bdev).open("")
    volume.close()  # the last handle: a leaked one would keep the volume open
    loaded.volumes.delete_volume(bdev.volume.id)


def test_a_socket_of_another_program_is_not_taken_for_an_export(
    client: Client, place: Path
) -> None:
    path = str(place / "theirs")
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(path)
        theirs.listen()
        busy = Failure(-errno.EBUSY, "Device or resource busy")
        assert client("nbd_start_disk", bdev_name="lvs/v", nbd_device=path) == busy
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(path)
