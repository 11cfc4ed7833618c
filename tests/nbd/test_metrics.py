"""Metrics as a scraper reads them."""

import re
import socket
from http.client import HTTPConnection
from pathlib import Path

import pytest

from blobstore import InvalidArgumentError, VolumeStore
from blobstore.nbd.constants import Command
from blobstore.nbd.exports import StoreExports
from blobstore.nbd.metrics import CONTENT_TYPE, MetricsServer, render
from blobstore.nbd.nbd_server import NbdServer
from tests.nbd.wire import Wire

SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\]|\\.)*",?)+)\})? ([0-9.e+-]+)')
SUFFIXES = {
    "gauge": {""},
    "counter": {"_total"},
    "histogram": {"_bucket", "_sum", "_count"},
}


def samples(text: str) -> dict[str, float]:
    """Read metrics by the rules of OpenMetrics: families, suffixes, units, and an end."""
    lines = text.split("\n")
    assert lines[-2:] == ["# EOF", ""]
    found: dict[str, float] = {}
    family, kind = "", ""
    for line in lines[:-2]:
        if line.startswith("# "):
            _hash, what, name, rest = line.split(" ", 3)
            if what == "TYPE":
                family, kind = name, rest
            assert name == family
            assert what != "UNIT" or family.endswith(f"_{rest}")
            continue
        match = SAMPLE.fullmatch(line)
        assert match is not None, line
        assert match[1].removeprefix(family) in SUFFIXES[kind]
        sample = line.rpartition(" ")[0]
        assert sample not in found
        found[sample] = float(match[3])
    return found


def scraped(server: MetricsServer) -> tuple[str | None, dict[str, float]]:
    connection = HTTPConnection(server.address.host, server.address.port, timeout=30)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.getheader("Content-Type"), samples(answer.read().decode())
    finally:
        connection.close()


def test_requests_bytes_errors_and_latencies_are_counted_per_export(server: NbdServer) -> None:
    with MetricsServer("127.0.0.1:0", lambda: render([server], 12345)) as metrics:
        with Wire(server.address.path).begin("web") as client:
            for _request in range(3):
                client.request(Command.READ, 0, 1000)
            client.request(Command.WRITE, 4 << 20, data=b"beyond")
            kind, found = scraped(metrics)
            assert kind == CONTENT_TYPE
            assert found["blobstore_free_bytes"] == 12345
            assert found['blobstore_nbd_connections{export="web"}'] == 1
            read = '{export="web",kind="read"}'
            assert found[f"blobstore_nbd_requests_total{read}"] == 3
            assert found[f"blobstore_nbd_bytes_total{read}"] == 3000
            assert found['blobstore_nbd_errors_total{export="web",kind="write"}'] == 1
            name = "blobstore_nbd_duration_seconds"
            assert found[f"{name}_count{read}"] == 3
            assert found[name + '_bucket{export="web",kind="read",le="+Inf"}'] == 3
            assert 0 < found[f"{name}_sum{read}"] < 60
            below = [
                value for sample, value in found.items() if f"{name}_bucket{read[:-1]},le" in sample
            ]
            assert below == sorted(below)
        _kind, after = scraped(metrics)
        assert after[f"blobstore_nbd_requests_total{read}"] == 3


def test_names_of_any_characters_are_labels(volumes: VolumeStore, place: Path) -> None:
    name = 'a"b\\c\nd'
    volumes.create_volume(name, "64KiB").close()
    with (
        NbdServer(StoreExports(volumes), f"unix:{place}/n.sock") as server,
        Wire(server.address.path).begin(name) as client,
    ):
        client.request(Command.FLUSH)  # its answer says that the handshake is over
        found = samples(render([server], 0))
        assert found[r'blobstore_nbd_connections{export="a\"b\\c\nd"}'] == 1


def test_an_export_is_counted_by_one_name_whatever_clients_call_it(
    server: NbdServer, volumes: VolumeStore
) -> None:
    uuid = str(volumes.volume_info("web").uuid)
    path = server.address.path
    with Wire(path).begin("web") as one, Wire(path).begin(uuid) as other:
        one.request(Command.FLUSH)
        other.request(Command.FLUSH)
        assert [export for export, _activity in server.totals()] == ["web"]


def test_a_client_that_asks_nothing_holds_up_no_other(server: NbdServer) -> None:
    with (
        MetricsServer("127.0.0.1:0", lambda: render([server], 0)) as metrics,
        socket.create_connection(("127.0.0.1", metrics.address.port)) as silent,
    ):
        assert scraped(metrics)[1]["blobstore_free_bytes"] == 0
        silent.settimeout(0)
        with pytest.raises(BlockingIOError):
            silent.recv(1)  # still connected


def test_a_client_that_asks_nothing_is_hung_up_on(
    server: NbdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blobstore.nbd.metrics._TIMEOUT_S", 0.1)
    with (
        MetricsServer("127.0.0.1:0", lambda: render([server], 0)) as metrics,
        socket.create_connection(("127.0.0.1", metrics.address.port)) as silent,
    ):
        assert silent.recv(1) == b""


def test_metrics_are_answered_to_other_machines_where_that_is_asked_for() -> None:
    with MetricsServer("0.0.0.0:0", lambda: render([], 7)) as metrics:
        assert not metrics.address.is_local
        assert scraped(metrics)[1]["blobstore_free_bytes"] == 7


def test_metrics_are_answered_at_an_address_of_ipv6() -> None:
    try:
        metrics = MetricsServer("[::1]:0", lambda: render([], 7))
    except OSError:
        pytest.skip("this machine has no IPv6")
    with metrics:
        assert str(metrics.address) == f"[::1]:{metrics.address.port}"
        assert scraped(metrics)[1]["blobstore_free_bytes"] == 7


def test_metrics_need_a_host_and_a_port() -> None:
    with pytest.raises(InvalidArgumentError, match="expected HOST:PORT"):
        MetricsServer("unix:/run/metrics", lambda: "")
