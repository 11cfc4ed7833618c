"""`serve` as its users run it: a process with sockets, ended by a signal."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from blobstore import Blobstore, VolumeStore, check
from blobstore.nbd.constants import Command, ExportFlag, OptionReply, WireError
from tests.cli.runner import COMMAND, Terminal, run
from tests.nbd.certificates import make_certificates
from tests.nbd.programs import call, needs
from tests.nbd.servers import short_directory
from tests.nbd.wire import Wire
from tests.rpc.client import Client

pytestmark = pytest.mark.slow
_PATIENCE_S = 60


@pytest.fixture
def place() -> Iterator[Path]:
    with short_directory() as path:
        with VolumeStore.create(
            path / "disk.img", name="vms", size="64MiB", cluster_size="64KiB"
        ) as store:
            with store.create_volume("web", "4MiB", thin=True) as web:
                web.write(b"monday")
                web.snapshot("monday").close()
            store.create_volume("db", "2MiB", thin=True).close()
        yield path


@dataclass
class Serving:
    """A running server and what it said of itself."""

    process: subprocess.Popen[bytes]
    said: dict[str, Any]

    def wire(self) -> Wire:
        return Wire(self.said["nbd"][0].removeprefix("unix:"))

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(_PATIENCE_S)


@contextmanager
def serving(place: Path, *arguments: str, image: str = "disk.img") -> Iterator[Serving]:
    command = [*COMMAND, "serve", str(place / image), "--json", "--quiet", *arguments]
    if "--nbd" not in arguments:
        command += ["--nbd", f"unix:{place}/nbd.sock"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield Serving(process, json.loads(process.stdout.readline()))
        finally:
            process.kill()


def test_a_volume_is_served_until_a_signal_and_the_store_is_clean_then(place: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with serving(place) as server:
            assert server.said == {
                "schema_version": 1, "nbd": [f"unix:{place}/nbd.sock"], "rpc": None,
                "metrics": None,
            }  # fmt: skip
            with server.wire().begin("web") as client:
                assert client.request(Command.WRITE, 0, data=b"before the signal").error == 0
                assert server.stop(number) == 0
        assert not (place / "nbd.sock").exists()
        assert check(place / "disk.img").clean
        with VolumeStore.open(place / "disk.img", read_only=True) as store:
            assert store.info.clean
            assert store["web"].read(17) == b"before the signal"


def test_the_log_begins_with_what_is_wrong_with_the_store(place: Path) -> None:
    with (place / "disk.img").open("r+b") as image:
        image.seek(4096 * 5 + 100)  # in the root page of `web`
        image.write(b"X")
    command = [*COMMAND, "serve", str(place / "disk.img"), "--nbd", f"unix:{place}/nbd.sock"]
    with (
        (place / "log").open("wb") as log,
        subprocess.Popen([*command, "--quiet"], stdout=subprocess.PIPE, stderr=log) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline().endswith(b"nbd.sock\n")
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
    (line,) = (place / "log").read_text().splitlines()
    assert " WARNING " in line
    assert line.endswith("it cannot be used, `blobstore check` says more")


def test_several_addresses_serve_one_store(place: Path) -> None:
    with serving(place, "--nbd", f"unix:{place}/a.sock", "--nbd", "127.0.0.1:0") as server:
        first, second = server.said["nbd"]
        assert first == f"unix:{place}/a.sock"
        assert second.startswith("127.0.0.1:")
        assert not second.endswith(":0")


def test_read_only_changes_no_byte_of_the_store(place: Path) -> None:
    before = (place / "disk.img").read_bytes()
    with serving(place, "--read-only") as server:
        with server.wire().begin("web") as client:
            assert client.flags & ExportFlag.READ_ONLY
            assert client.request(Command.READ, 0, 6).data == {0: b"monday"}
            assert client.request(Command.WRITE, 0, data=b"x").error == WireError.PERM
        assert server.stop() == 0
    assert (place / "disk.img").read_bytes() == before


def test_named_blobs_alone_are_exported_and_all_with_export_all(place: Path) -> None:
    with serving(place, "db") as server, server.wire().greet() as client:
        assert client.go("web") == OptionReply.UNKNOWN
        assert client.go("") == OptionReply.ACK
        assert client.size == 2 << 20
    with serving(place, "db", "--export-all") as server:
        for name, size in (("", 2), ("web", 4)):
            with server.wire().begin(name) as client:
                assert client.size == size << 20


def test_a_store_of_blobs_is_served(place: Path) -> None:
    with Blobstore.create(place / "blobs.img", size="16MiB", cluster_size="64KiB") as store:
        blob_id = store.create_blob("1MiB", name="one").id
    with serving(place, "--rpc", f"{place}/rpc.sock", image="blobs.img") as server:
        for name in ("one", str(blob_id), f"{blob_id:#x}"):
            with server.wire().begin(name) as client:
                assert client.size == 1 << 20
        with closing(Client(server.said["rpc"])) as rpc:
            assert rpc("bdev_get_bdevs") == []


def test_changes_by_rpc_are_seen_by_clients(place: Path) -> None:
    with serving(place, "--rpc", f"{place}/rpc.sock") as server:
        with closing(Client(server.said["rpc"])) as rpc, server.wire().begin("web") as client:
            rpc("bdev_lvol_create", lvol_name="new", size_in_mib=1, lvs_name="vms")
            rpc("bdev_lvol_snapshot", lvol_name="vms/web", snapshot_name="tuesday")
            client.request(Command.WRITE, 0, data=b"wednesday")
            rpc("bdev_lvol_resize", name="vms/web", size_in_mib=8)
            with server.wire().begin("new") as new:
                assert new.size == 1 << 20
            with server.wire().begin("tuesday") as tuesday:
                assert tuesday.request(Command.READ, 0, 9).data == {0: b"monday\0\0\0"}
            with server.wire().begin("web") as again:
                assert again.size == 8 << 20
            assert rpc("bdev_lvol_delete", name="vms/web").message == "Device or resource busy"
            assert rpc("bdev_lvol_resize", name="vms/web", size_in_mib=1).code == -32602
            counted = rpc("nbd_get_statistics")
            assert "web" in [each["export"] for each in counted["connections"]]
        with closing(Client(server.said["rpc"])) as rpc:
            while rpc("nbd_get_statistics")["connections"]:
                pass
            assert rpc("bdev_lvol_delete", name="vms/new") is True
            assert rpc("bdev_lvol_delete_lvstore", lvs_name="vms") is True
        with server.wire().greet() as client:
            assert client.go("web").real & 1 << 31
        assert server.stop() == 0


def test_an_address_that_other_machines_reach_is_refused_without_tls(place: Path) -> None:
    done = run("serve", place / "disk.img", "--nbd", "0.0.0.0:0", "--json")
    assert done.status == 1
    assert "TLS is required" in done.error["message"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--nbd", "unix:{place}/taken"), "{place}/taken: in use: another program listens there"),
        (("--rpc", "{place}/taken"), "{place}/taken: in use: another program listens there"),
        (("--nbd", "unix:{place}/file"), "{place}/file: exists, and is no socket"),
        (("--rpc", "{place}/file"), "{place}/file: exists, and is no socket"),
        (("--nbd", "unix:{place}/none/s"),
         "{place}/none/s: a socket cannot be made there: no such directory"),
        (("--rpc", "{place}/none/s"),
         "{place}/none/s: a socket cannot be made there: no such directory"),
        (("--rpc", "{place}/nbd.sock"), "{place}/nbd.sock: in use by this process"),
        (("--nbd", "{port}"), "{port}: Address already in use"),
        (("--metrics", "{port}"), "{port}: Address already in use"),
        (("--metrics", "a..b:1"), "a..b:1: not the name of a host"),
        (("--tls", "{place}"), "{place}/ca-cert.pem: no such file"),
    ],
)  # fmt: skip
def test_what_hinders_the_start_is_named_and_nothing_is_left(
    place: Path, options: tuple[str, str], message: str
) -> None:
    (place / "file").write_text("kept")
    with socket.socket(socket.AF_UNIX) as taken, socket.create_server(("127.0.0.1", 0)) as port:
        taken.bind(f"{place}/taken")
        taken.listen()
        known = {"place": str(place), "port": f"127.0.0.1:{port.getsockname()[1]}"}
        given = [option.format(**known) for option in options]
        done = run("serve", place / "disk.img", "--nbd", f"unix:{place}/nbd.sock", *given)
    assert (done.status, done.stdout) == (1, b"")
    assert done.stderr.startswith(message.format(**known))
    assert done.stderr.count("\n") == 1
    assert {path.name for path in place.iterdir()} == {"disk.img", "file", "taken"}
    assert (place / "file").read_text() == "kept"
    assert check(place / "disk.img").clean


def test_another_blob_or_address_or_directory_is_an_error(place: Path) -> None:
    image, address = place / "disk.img", f"unix:{place}/nbd.sock"
    assert run("serve", image).status == 2
    assert run("serve", image, "--nbd", "nowhere").status == 1
    assert run("serve", image, "none", "--nbd", address, "--json").error["errno"] == "ENOENT"
    assert run("serve", image, "--nbd", address, "--tls", place).status == 1
    assert check(image).clean


@needs("nbdinfo", "openssl")
def test_with_tls_other_clients_are_refused(place: Path) -> None:
    directory = make_certificates(place / "tls")
    with serving(place, "--tls", str(directory)) as server:
        path = server.said["nbd"][0].removeprefix("unix:")
        call("nbdinfo", f"nbd+unix:///web?socket={path}", status=1)
        call("nbdinfo", f"nbds+unix:///web?socket={path}&tls-certificates={directory}")


def test_top_shows_clients_live_on_a_terminal_until_ctrl_c(place: Path) -> None:
    rpc = f"{place}/rpc.sock"
    with (
        serving(place, "--rpc", rpc) as server,
        server.wire().begin("web"),
        Terminal("top", rpc, "--interval", "0.1") as terminal,
    ):
        terminal.type("", until="EXPORT")
        terminal.type("", until="web")
        terminal.type("", until="web")
        assert terminal.end_by(signal.SIGINT) == 0


def test_a_server_imports_no_numpy_and_no_asyncio_before_it_needs_them(place: Path) -> None:
    code = "import sys, blobstore.nbd.nbd_server; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert not {"numpy", "asyncio", "rich", "click"} & set(done.stdout.split())
