import json
import logging
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spdk.rpc.client import JSONRPCException

from blobstore import Blobstore, BusyError, VolumeStore, check
from blobstore.rpc.json_stream import MAX_VALUE_BYTES
from blobstore.rpc.methods import METHODS
from blobstore.rpc.server import RpcServer
from blobstore.units import MIB
from tests.rpc.client import Client
from tests.rpc.command import running, stop

KILLS: Final = int(os.environ.get("BLOBSTORE_RPC_KILLS", "5"))
VERSION: Final = b'{"jsonrpc":"2.0","id":%d,"method":"spdk_get_version"}'


class Wire:
    """A connection of bytes."""

    def __init__(self, server: RpcServer) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(server.path)
        self._lines = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> Any:
        """Return the next answer, or None when the server has hung up."""
        line = self._lines.readline()
        return json.loads(line) if line else None

    def close(self) -> None:
        self._lines.close()
        self.socket.close()


@pytest.fixture
def wire(server: RpcServer) -> Iterator[Wire]:
    wire = Wire(server)
    yield wire
    wire.close()


def test_the_socket_is_the_owners_alone_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "rpc.sock"
    with RpcServer(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not list(tmp_path.iterdir())


def test_a_second_server_at_one_socket_is_refused_and_a_stale_socket_is_not(tmp_path: Path) -> None:
    path = tmp_path / "rpc.sock"
    with RpcServer(path), pytest.raises(BusyError, match="in use by this process"):
        RpcServer(path)
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(os.fspath(path))
    stale.close()
    with RpcServer(path) as server:
        client = Client(server.path)
        assert client("framework_wait_init") is True
        client.close()


def test_requests_that_follow_each_other_without_framing_are_all_answered(wire: Wire) -> None:
    wire.send(b"".join(VERSION % number for number in range(50)))
    assert [wire.answer()["id"] for _number in range(50)] == list(range(50))


def test_a_request_in_pieces_is_answered_when_it_is_whole(wire: Wire) -> None:
    for at in range(0, len(VERSION % 1), 7):
        wire.send((VERSION % 1)[at : at + 7])
    assert wire.answer()["id"] == 1


def test_answers_are_compact_and_keep_the_order_of_members(server: RpcServer) -> None:
    wire = Wire(server)
    wire.send(b'{ "id" : 1.0, "method": "framework_wait_init" }')
    assert wire.socket.recv(100) == b'{"jsonrpc":"2.0","id":1.0,"result":true}\n'
    wire.close()


def test_an_unknown_method_is_answered(wire: Wire) -> None:
    wire.send(b'{"id":"x","method":"no"}')
    error = {"code": -32601, "message": "Method not found"}
    assert wire.answer() == {"jsonrpc": "2.0", "id": "x", "error": error}


def test_a_success_without_an_id_has_no_answer_and_a_failure_has(wire: Wire) -> None:
    wire.send(b'{"method":"framework_wait_init"}{"method":"no"}')
    assert wire.answer()["error"]["code"] == -32601


def test_a_batch_is_answered_as_one(wire: Wire) -> None:
    wire.send(b"[" + VERSION % 1 + b',{"method":"no","id":2},3]')
    first, second, third = wire.answer()
    assert first["result"]["fields"]["major"] == 26
    assert (second["id"], second["error"]["code"]) == (2, -32601)
    assert (third["id"], third["error"]["code"]) == (None, -32600)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"no JSON", id="malformed"),
        pytest.param(b"[" * 65, id="nested too deep"),
        pytest.param(b'{"id":"' + b"x" * MAX_VALUE_BYTES, id="oversized"),
        pytest.param(b"[" + b"1," * 8192, id="too many tokens"),
    ],
)
def test_a_peer_that_breaks_a_limit_is_told_so_and_hung_up_on_and_others_are_served(
    server: RpcServer, data: bytes
) -> None:
    bad, good = Wire(server), Wire(server)
    bad.send(VERSION % 1 + data)
    assert bad.answer()["id"] == 1
    assert bad.answer()["error"] == {"code": -32700, "message": "Parse error"}
    good.send(VERSION % 2)
    assert good.answer()["id"] == 2
    bad.close()
    good.close()


def test_64_connections_are_served_and_the_next_waits_for_one_to_end(server: RpcServer) -> None:
    wires = [Wire(server) for _number in range(64)]
    for number, wire in enumerate(wires):
        wire.send(VERSION % number)
    assert [wire.answer()["id"] for wire in wires] == list(range(64))
    late = Wire(server)
    late.send(VERSION % 99)
    late.socket.settimeout(0.2)
    with pytest.raises(TimeoutError):
        late.socket.recv(1)
    wires.pop().close()
    late.socket.settimeout(20)
    assert json.loads(late.socket.recv(1000))["id"] == 99
    for wire in [*wires, late]:
        wire.close()


def test_what_a_client_asked_for_is_done_though_it_dies_before_the_answer(
    server: RpcServer,
) -> None:
    dying = Wire(server)
    params = b'{"name":"m","num_blocks":2048,"block_size":512}'
    dying.send(b'{"id":1,"method":"bdev_malloc_create","params":' + params + b"}" + b'{"id":2,"me')
    dying.close()
    client = Client(server.path)
    assert client("bdev_get_bdevs", name="m", timeout=10000)[0]["num_blocks"] == 2048
    client.close()


def test_a_wait_for_a_device_ends_when_it_comes(server: RpcServer) -> None:
    found: list[Any] = []
    client = Client(server.path)

    def wait() -> None:
        found.append(client("bdev_get_bdevs", name="m", timeout=20000))

    waiting = threading.Thread(target=wait)
    waiting.start()
    other = Client(server.path)
    other("bdev_malloc_create", name="m", num_blocks=2048, block_size=512)
    waiting.join(20)
    assert found[0][0]["name"] == "m"
    for one in (client, other):
        one.close()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=4,
)  # fmt: skip
NAMES = st.sampled_from(
    ["name", "uuid", "lvs_name", "bdev_name", "lvol_name", "size_in_mib", "num_blocks",
     "block_size", "filename", "operation_id", "cluster_sz", "clear_method", "names"]
)  # fmt: skip
HARMLESS = sorted(set(METHODS) - {"spdk_kill_instance", "framework_wait_init"})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    name=st.sampled_from(HARMLESS),
    params=st.dictionaries(NAMES, VALUES, max_size=5) | VALUES,
)
def test_any_parameters_are_answered_and_are_no_fault_of_the_server(
    wire: Wire, name: str, params: Any
) -> None:
    text = json.dumps({"jsonrpc": "2.0", "id": 7, "method": name, "params": params}, allow_nan=True)
    if "NaN" in text or "Infinity" in text:
        return
    wire.send(text.encode("utf-8", "surrogatepass"))
    answer = wire.answer()
    assert answer["id"] == 7
    assert answer.get("error", {}).get("message") != "Internal error"


def test_methods_belong_to_a_state(tmp_path: Path) -> None:
    with RpcServer(tmp_path / "rpc.sock", wait_for_rpc=True) as server:
        client = Client(server.path)
        early = client("bdev_lvol_get_lvstores")
        assert early.code == -1
        assert early.message.startswith("Method may only be called after framework is initialized")
        now = client("rpc_get_methods", current=True)
        assert "framework_start_init" in now
        assert "bdev_lvol_create" not in now
        assert client("bdev_set_options", bdev_auto_examine=False) is True
        assert client("framework_start_init") is True
        late = client("framework_start_init")
        assert late.message.startswith("Method may only be called before framework is initialized")
        assert client("framework_wait_init") is True
        client.close()


def with_store(client: Client, image: Path) -> None:
    """Make a store `lvs` on an image file."""
    image.touch()
    os.truncate(image, 64 << 20)
    client("bdev_aio_create", name="aio0", filename=str(image), block_size=512)
    client("bdev_lvol_create_lvstore", bdev_name="aio0", lvs_name="lvs", cluster_sz=65536)


def test_sigterm_ends_the_command_with_every_store_clean(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with running(tmp_path) as (process, client):
        with_store(client, image)
        client("bdev_lvol_create", lvol_name="v", size_in_mib=4, lvs_name="lvs")
        assert client("spdk_kill_instance", sig_name="SIGTERM") is True
        assert process.wait(20) == 0
    assert check(image).clean
    with VolumeStore.open(image, read_only=True) as vms:
        assert vms.info.clean
        assert "v" in vms


class Worker(threading.Thread):
    """A client that makes and deletes volumes until the server is gone.

    `known` tells of each volume whether it is there, as far as an answer said so: it lacks the
    one that a call is under way for.
    """

    def __init__(self, path: str, number: int) -> None:
        super().__init__()
        self.known: dict[str, bool] = {}
        self._path = path
        self._number = number

    def run(self) -> None:
        client = Client(self._path)
        try:
            for step in range(100000):
                name = f"v{self._number}-{step % 5}"
                is_there = self.known.pop(name, False)
                if is_there:
                    client("bdev_lvol_delete", name=f"lvs/{name}")
                else:
                    given = {"lvol_name": name, "size_in_mib": 1, "thin_provision": True}
                    client("bdev_lvol_create", lvs_name="lvs", **given)
                self.known[name] = not is_there
        except (OSError, JSONRPCException):
            pass  # killed
        finally:
            client.close()


@pytest.mark.parametrize("seed", range(KILLS))
def test_what_was_acknowledged_is_there_after_sigkill(tmp_path: Path, seed: int) -> None:
    image = tmp_path / "disk.img"
    with running(tmp_path) as (process, client):
        with_store(client, image)
        workers = [Worker(client.path, number) for number in range(8)]
        for worker in workers:
            worker.start()
        while not all(worker.known for worker in workers):
            time.sleep(0.01)
        time.sleep(Random(seed).uniform(0, 0.8))
        process.kill()
        for worker in workers:
            worker.join()
    with running(tmp_path) as (process, client):
        client("bdev_aio_create", name="aio0", filename=str(image), block_size=512)
        there = {found["name"] for found in client("bdev_lvol_get_lvols", lvs_name="lvs")}
        for worker in workers:
            assert {name: name in there for name in worker.known} == worker.known
        stop(client, process)
    assert check(image).clean


def test_a_damaged_store_on_a_new_device_is_told_and_something_else_is_not(
    server: RpcServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged, other = tmp_path / "damaged.img", tmp_path / "other.img"
    VolumeStore.create(damaged, name="lvs", size="16MiB", cluster_size="1MiB").close()
    with open(damaged, "r+b") as file:
        file.seek(8)
        file.write(b"\xff" * 4)  # the version
    other.write_bytes(b"text" * 4096)
    with closing(Client(server.path)) as client:
        for path in (damaged, other):
            client("bdev_aio_create", name=path.name, filename=str(path), block_size=512)
        assert client("bdev_lvol_get_lvstores") == []
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert told.startswith("damaged.img: no volume store is loaded from it: ")


def test_a_blank_file_is_served_and_gets_its_first_store(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blank = tmp_path / "blank.img"
    blank.touch()
    os.truncate(blank, 16 * MIB)
    with (
        RpcServer(tmp_path / "rpc.sock", stores=[blank]) as server,
        closing(Client(server.path)) as client,
    ):
        assert "blank.img: holds no store yet" in caplog.text
        client("bdev_lvol_create_lvstore", bdev_name="blank.img", lvs_name="lvs", cluster_sz=MIB)
    with VolumeStore.open(blank, read_only=True) as store:
        assert store.name == "lvs"


def test_of_a_store_of_blobs_the_device_alone_is_served_and_that_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Blobstore.create(tmp_path / "blobs.img", size="16MiB").close()
    with (
        RpcServer(tmp_path / "rpc.sock", stores=[tmp_path / "blobs.img"]) as server,
        closing(Client(server.path)) as client,
    ):
        assert [found["name"] for found in client("bdev_get_bdevs")] == ["blobs.img"]
        assert client("bdev_lvol_get_lvstores") == []
    assert "blobs.img: is no volume store: only the block device is served" in caplog.text


def test_the_log_names_what_a_call_is_about_and_why_it_failed(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    client("bdev_malloc_create", name="m", num_blocks=65536, block_size=512)
    client("bdev_lvol_create_lvstore", bdev_name="m", lvs_name="lvs", cluster_sz=MIB)
    client("bdev_lvol_create", lvol_name="v", size_in_mib=1, lvs_name="lvs")
    with caplog.at_level(logging.INFO):
        client("bdev_lvol_resize", name="lvs/v", size_in_mib=1000)
        client("bdev_lvol_delete", name="lvs/\nv")
    resize, delete = (record.getMessage() for record in caplog.records)
    assert resize.startswith("bdev_lvol_resize name='lvs/v' ")
    assert "ms -32602 No space left on device (m: " in resize
    assert delete.startswith(r"bdev_lvol_delete name='lvs/\nv' ")
    assert delete.endswith(" ms -19 No such device")
