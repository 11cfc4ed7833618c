"""`top`: rates and percentiles of a server's clients, by its RPC socket."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blobstore import VolumeStore
from blobstore.cli.traffic import difference
from blobstore.nbd.constants import Command
from blobstore.nbd.exports import StoreExports
from blobstore.nbd.nbd_server import NbdServer
from blobstore.rpc.server import RpcServer
from tests.cli.runner import run_here
from tests.cli.schema import conforms
from tests.nbd.servers import short_directory
from tests.nbd.wire import Wire

RATE = {
    "requests_per_s": float,
    "bytes_per_s": float,
    "errors_per_s": float,
    "latency_us": {"p50": float, "p95": float, "p99": float},
}
KINDS = ("read", "write", "flush", "trim", "write_zeroes", "cache", "block_status")
TOP = {
    "interval_s": float,
    "connections": [
        {"address": str, "export": str, "peer": str, **dict.fromkeys(KINDS, RATE)},
    ],
}


@pytest.fixture
def served() -> Iterator[tuple[Path, Wire]]:
    """The RPC socket of a server, and a client of it that has an export open."""
    with short_directory() as place:
        store = VolumeStore.create(place / "d.img", name="vms", size="32MiB")
        store.create_volume("web", "4MiB", thin=True).close()
        with (
            RpcServer(place / "rpc.sock", open_store=store) as rpc,
            NbdServer(StoreExports(store), f"unix:{place}/n.sock") as server,
        ):
            rpc.target.nbd_servers.append(server)
            with Wire(server.address.path).begin("web") as client:
                yield place / "rpc.sock", client


class Load(threading.Thread):
    """Reads and writes until it is told to stop."""

    def __init__(self, client: Wire) -> None:
        super().__init__(daemon=True)
        self.client = client
        self.is_enough = threading.Event()

    def run(self) -> None:
        while not self.is_enough.is_set():
            self.client.request(Command.READ, 0, 4096)
            self.client.request(Command.WRITE, 0, data=bytes(8192))

    def stop(self) -> None:
        self.is_enough.set()
        self.join()


def test_one_interval_as_json_has_rates_and_latencies(served: tuple[Path, Wire]) -> None:
    path, client = served
    load = Load(client)
    load.start()
    found = run_here("top", path, "--interval", "0.2", "--json").json
    load.stop()
    assert conforms(found, TOP)
    (connection,) = found["connections"]
    assert connection["export"] == "web"
    read, write = connection["read"], connection["write"]
    assert read["bytes_per_s"] == pytest.approx(4096 * read["requests_per_s"])
    assert write["bytes_per_s"] == pytest.approx(8192 * write["requests_per_s"])
    assert 0 < read["latency_us"]["p50"] <= read["latency_us"]["p95"] <= read["latency_us"]["p99"]
    assert connection["flush"]["requests_per_s"] == 0


def test_one_interval_as_text_has_a_line_for_each_client(served: tuple[Path, Wire]) -> None:
    path, client = served
    load = Load(client)
    load.start()
    shown = run_here("top", path, "--interval", "0.1")
    load.stop()
    assert shown.status == 0
    assert "web" in shown.text
    assert "EXPORT" in shown.text


def test_a_socket_without_a_server_is_an_error(tmp_path: Path) -> None:
    assert (
        "no server with statistics" in run_here("top", tmp_path / "no", "--json").error["message"]
    )


def kind(requests: int, *latencies: tuple[int, int]) -> dict[str, Any]:
    return {"requests": requests, "bytes": requests * 10, "errors": 0, "latencies": latencies}


def statistics(*connections: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    idle = dict.fromkeys(KINDS, kind(0))
    return {
        "connections": [
            {"address": "a", "export": export, "peer": "p", **idle, "read": read}
            for export, read in connections
        ]
    }


def test_rates_are_of_the_interval_alone_and_the_busiest_is_first() -> None:
    before = statistics(("slow", kind(10, (1000, 10))), ("fast", kind(5, (2000, 5))))
    now = statistics(
        ("slow", kind(12, (1000, 10), (5000, 2))),
        ("fast", kind(105, (2000, 95), (9000, 10))),
        ("new", kind(20, (3000, 20))),
    )
    fast, new, slow = difference(before, now, 2.0)
    assert [each.export for each in (fast, new, slow)] == ["fast", "new", "slow"]
    assert (fast.rates["read"].requests, fast.rates["read"].bytes) == (50, 500)
    assert fast.rates["read"].latency_us == {"p50": 2, "p95": 9, "p99": 9}
    assert slow.rates["read"].latency_us["p50"] == 5
    assert new.rates["read"].requests == 10


def test_several_connections_of_one_client_are_one_line() -> None:
    now = statistics(("web", kind(1, (1000, 1))), ("web", kind(3, (1000, 2), (4000, 1))))
    (only,) = difference(statistics(), now, 1.0)
    assert only.rates["read"].requests == 4
    assert only.rates["read"].latency_us == {"p50": 1, "p95": 4, "p99": 4}
    (fewer,) = difference(now, statistics(("web", kind(3, (1000, 3)))), 1.0)
    assert fewer.rates["read"].requests == 0
