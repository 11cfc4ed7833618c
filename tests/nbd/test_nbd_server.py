import logging
import os
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from blobstore import (
    Blob,
    BlobId,
    Blobstore,
    BusyError,
    CorruptError,
    DeviceError,
    InvalidArgumentError,
    NoSpaceError,
    PoisonedError,
    VolumeStore,
    check,
)
from blobstore.nbd import handshake
from blobstore.nbd.activity import Activity
from blobstore.nbd.constants import (
    OPTION_MAGIC,
    PAYLOAD_MAX,
    REQUEST_MAGIC,
    Command,
    CommandFlag,
    ExportFlag,
    Option,
    OptionReply,
    WireError,
)
from blobstore.nbd.exports import BlobExport, OpenExport, StoreExports
from blobstore.nbd.handshake import Handshake
from blobstore.nbd.nbd_server import Address, NbdServer
from blobstore.nbd.negotiation import Agreement, Export
from blobstore.nbd.transfer import Transfer
from blobstore.operations import Buffer
from blobstore.units import MIB
from tests.nbd.wire import Wire

FORMS = [
    pytest.param(False, False, id="simple"),
    pytest.param(True, False, id="structured"),
    pytest.param(True, True, id="extended"),
]
DATA = bytes(range(256)) * 1024


def wire(server: NbdServer) -> Wire:
    return Wire(server.address.path)


def option_bytes(number: int, data: bytes = b"") -> bytes:
    return struct.pack(">QII", OPTION_MAGIC, number, len(data)) + data


GO_WEB = struct.pack(">I", 3) + b"web" + struct.pack(">H", 0)


def put_together(found: dict[int, bytes], holes: dict[int, int]) -> bytes:
    parts = {**found, **{offset: bytes(length) for offset, length in holes.items()}}
    return b"".join(parts[offset] for offset in sorted(parts))


@pytest.mark.parametrize(("structured", "extended"), FORMS)
def test_what_was_written_is_read(server: NbdServer, structured: bool, extended: bool) -> None:
    with wire(server).begin("web", structured=structured, extended=extended) as client:
        assert client.size == 4 << 20
        data = Random(1).randbytes(3 << 20)
        for offset, length in ((5, 100), (65000, 70_000), (200_001, len(data))):
            assert client.request(Command.WRITE, offset, data=data[:length]).error == 0
            answer = client.request(Command.READ, offset, length)
            assert put_together(answer.data, answer.holes) == data[:length]


def test_holes_of_a_long_read_are_not_sent(server: NbdServer) -> None:
    with wire(server).begin("web") as client:
        answer = client.request(Command.READ, 0, 4 << 20)
        assert answer.data[65536] == DATA
        assert answer.holes[0] == 65536
        assert sum(map(len, answer.data.values())) == len(DATA) + 65536


def test_a_read_that_must_not_be_fragmented_is_one_chunk(server: NbdServer) -> None:
    with wire(server).begin("web") as client:
        answer = client.request(Command.READ, 0, 4 << 20, flags=CommandFlag.DF)
        assert (answer.chunks, list(answer.data)) == (1, [0])
        assert answer.data[0][65536:][: len(DATA)] == DATA


def test_df_is_offered_with_structured_replies_alone(server: NbdServer) -> None:
    with wire(server).begin("web", structured=False) as client:
        assert not client.flags & ExportFlag.SEND_DF
    with wire(server).begin("web") as client:
        assert client.flags & ExportFlag.SEND_DF


def test_many_requests_in_one_send_are_all_answered_in_order(server: NbdServer) -> None:
    with wire(server).begin("web", structured=False) as client:
        client.send(
            b"".join(client.encoded(Command.READ, 65536 + at, 1) for at in range(5000))
            + client.encoded(Command.FLUSH, 0, 0)
        )
        for at in range(5000):
            assert client.answer(Command.READ, 1).data[0] == DATA[at : at + 1]
        assert client.answer(Command.FLUSH).error == 0


@pytest.mark.parametrize(
    ("name", "command", "offset", "length", "flags", "error"),
    [
        pytest.param("web", Command.READ, 4 << 20, 1, 0, WireError.INVALID, id="read beyond"),
        pytest.param("web", Command.READ, 0, 5 << 20, 0, WireError.INVALID, id="long beyond"),
        pytest.param("web", Command.TRIM, 1 << 40, 1, 0, WireError.NO_SPACE, id="trim beyond"),
        pytest.param("web", Command.WRITE_ZEROES, 1, 4 << 20, 0, WireError.NO_SPACE, id="zeroes"),
        pytest.param("web", Command.CACHE, 0, 5 << 20, 0, WireError.INVALID, id="cache beyond"),
        pytest.param("web", Command.RESIZE, 0, 1, 0, WireError.INVALID, id="resize"),
        pytest.param("web", 99, 0, 1, 0, WireError.INVALID, id="unknown command"),
        pytest.param("web", Command.FLUSH, 0, 0, 0x8000, WireError.INVALID, id="unknown flag"),
        pytest.param("web", Command.BLOCK_STATUS, 0, 1, 0, WireError.INVALID, id="no context"),
        pytest.param("monday", Command.TRIM, 0, 1, 0, WireError.PERM, id="trim of a snapshot"),
        pytest.param("monday", Command.WRITE_ZEROES, 0, 1, 0, WireError.PERM, id="zero a snapshot"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_and_the_connection_goes_on(
    server: NbdServer, name: str, command: int, offset: int, length: int, flags: int, error: int
) -> None:
    for structured in (False, True):
        with wire(server).begin(name, structured=structured) as client:
            assert client.request(command, offset, length, flags=flags).error == error
            assert client.request(Command.READ, 65536, 256).data.popitem()[1] == DATA[:256]


def test_a_write_to_a_snapshot_or_beyond_the_end_is_refused(server: NbdServer) -> None:
    with wire(server).begin("monday") as client:
        assert client.request(Command.WRITE, 0, data=b"x").error == WireError.PERM
    with wire(server).begin("web") as client:
        long = bytes(3 << 20)
        for offset, data in ((4 << 20, b"x"), (2 << 20, long), ((4 << 20) - 1, b"xx")):
            assert client.request(Command.WRITE, offset, data=data).error == WireError.NO_SPACE
        assert client.request(Command.READ, 0, 3).data == {0: b"\0\0\0"}


def test_requests_longer_than_the_limit_are_refused_and_the_connection_goes_on(
    server: NbdServer,
) -> None:
    with wire(server).begin("web") as client:
        client.send(client.encoded(Command.WRITE, 0, PAYLOAD_MAX + 1))
        for _part in range(PAYLOAD_MAX // (1 << 20)):
            client.send(bytes(1 << 20))
        client.send(b"x")
        assert client.answer(Command.WRITE).error == WireError.OVERFLOW
        assert client.request(Command.FLUSH).error == 0


def test_a_part_of_a_long_write_that_fails_is_answered_once(
    server: NbdServer, volumes: VolumeStore
) -> None:
    with volumes.open_volume("web") as volume, wire(server).begin("web") as client:
        volume.resize("1MiB")
        assert client.request(Command.WRITE, 0, data=bytes(3 << 20)).error == WireError.NO_SPACE
        assert client.request(Command.FLUSH).error == 0


def test_zero_bytes_are_read_and_written(server: NbdServer) -> None:
    for structured in (False, True):
        with wire(server).begin("web", structured=structured) as client:
            client.send(client.encoded(Command.WRITE, 0, 0))
            assert client.answer(Command.WRITE).error == 0
            client.send(client.encoded(Command.READ, 0, 0))
            assert client.answer(Command.READ).error == 0


def test_zeroes_without_holes_are_allocated_and_others_are_not(
    server: NbdServer, volumes: VolumeStore
) -> None:
    volumes.create_volume("thin", "1MiB", thin=True)
    with volumes.open_volume("thin") as thin, wire(server).begin("thin") as client:
        assert client.request(Command.WRITE_ZEROES, 0, 1 << 20).error == 0
        assert thin.info.allocated_clusters == 0
        flags = CommandFlag.NO_HOLE | CommandFlag.FUA
        assert client.request(Command.WRITE_ZEROES, 0, 1 << 20, flags=flags).error == 0
        assert thin.info.allocated_clusters == 16
        assert client.request(Command.TRIM, 0, 1 << 19, flags=CommandFlag.FUA).error == 0
        assert thin.info.allocated_clusters == 8


def test_zeroes_that_need_a_copy_are_not_fast(server: NbdServer, volumes: VolumeStore) -> None:
    fast = CommandFlag.FAST_ZERO
    with wire(server).begin("web") as client:
        shared, own = 65536, 1 << 20
        refused = client.request(Command.WRITE_ZEROES, shared, 4096, flags=fast)
        assert refused.error == WireError.NOT_SUPPORTED
        assert client.request(Command.READ, shared, 256).data == {shared: DATA[:256]}
        assert client.request(Command.WRITE_ZEROES, own, 4096, flags=fast).error == 0
        assert client.request(Command.READ, own, 7).data == {own: bytes(7)}
        assert client.request(Command.WRITE_ZEROES, shared, 4096).error == 0
        assert client.request(Command.READ, shared, 7).data == {shared: bytes(7)}


def test_zeroes_in_a_clone_take_no_space_where_nothing_is_held(
    server: NbdServer, volumes: VolumeStore
) -> None:
    with volumes.open_volume("web") as web, wire(server).begin("web") as client:
        assert client.request(Command.WRITE_ZEROES, 2 << 20, 2 << 20).error == 0
        assert web.info.allocated_clusters == 1


@pytest.mark.parametrize("extended", [False, True])
def test_contexts_tell_allocation_depth_and_changes(server: NbdServer, extended: bool) -> None:
    queries = ("base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:monday")
    kib = 1024
    rest = (4 << 20) - (1 << 20) - 64 * kib
    with wire(server).begin("web", *queries, extended=extended) as client:
        status = client.request(Command.BLOCK_STATUS, 0, 4 << 20).status
        assert status == {
            1: [(64 * kib, 3), (256 * kib, 0), (704 * kib, 3), (64 * kib, 0), (rest, 3)],
            2: [(64 * kib, 0), (256 * kib, 2), (704 * kib, 0), (64 * kib, 1), (rest, 0)],
            3: [(1024 * kib, 0), (64 * kib, 1), (rest, 0)],
        }
        one = client.request(Command.BLOCK_STATUS, 100, 4000, flags=CommandFlag.REQ_ONE).status
        assert one == {1: [(4000, 3)], 2: [(4000, 0)], 3: [(4000, 0)]}


@pytest.mark.slow
def test_answers_about_many_ranges_do_not_pile_up(volumes: VolumeStore) -> None:
    cluster, count = volumes.cluster_size, 500
    with volumes.create_volume("split", count * cluster, thin=True) as split:
        for place in range(0, count, 2):
            split.write(b"x", place * cluster)
        export = BlobExport("split", split, read_only=True)
        described = Export("split", split.size, export.flags)
        contexts = ((1, "qemu:allocation-depth"),)
        sent = SentSizes()
        request = struct.pack(">IHHQQI", REQUEST_MAGIC, 0, Command.BLOCK_STATUS, 7, 0, split.size)
        agreement = Agreement(described, structured=True, contexts=contexts)
        Transfer(export, agreement, sent, Activity()).run(request * 500)
    assert sum(sent.sizes) > 500 * count * 8
    assert max(sent.sizes) < 1.25 * MIB


class SentSizes:
    """A connection that brings nothing, and takes note of how much is sent at once."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def receive_into(self, space: memoryview) -> int:
        return 0

    def send(self, pieces: Sequence[Buffer]) -> None:
        self.sizes.append(sum(map(len, pieces)))


def test_contexts_are_listed_by_prefix(server: NbdServer) -> None:
    with wire(server).greet() as client:
        client.option(Option.STRUCTURED_REPLY)
        listed = Option.LIST_META_CONTEXT
        assert client.contexts(listed, "web") == [
            "base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:monday"
        ]  # fmt: skip
        assert client.contexts(listed, "web", "qemu:dirty-bitmap:") == ["qemu:dirty-bitmap:monday"]
        assert client.contexts(listed, "monday", "base:", "nothing:") == ["base:allocation"]
        assert client.contexts(Option.SET_META_CONTEXT, "web", "base:") == []


def test_changes_since_a_snapshot_that_was_deleted_are_an_error(
    server: NbdServer, volumes: VolumeStore
) -> None:
    with wire(server).begin("web", "qemu:dirty-bitmap:monday") as client:
        volumes.delete_volume("monday")
        assert client.request(Command.BLOCK_STATUS, 0, 4096).error == WireError.INVALID


def test_a_snapshot_made_while_serving_keeps_what_was_written_before(
    server: NbdServer, volumes: VolumeStore
) -> None:
    with wire(server).begin("web") as client, volumes.open_volume("web") as web:
        client.request(Command.WRITE, 0, data=b"before")
        with web.snapshot("now") as now:
            client.request(Command.WRITE, 0, data=b"after!")
            assert now.read(6, 0) == b"before"
        assert client.request(Command.READ, 0, 6).data == {0: b"after!"}


def test_a_new_size_is_announced_to_a_client_that_connects_again(
    server: NbdServer, volumes: VolumeStore
) -> None:
    with volumes.open_volume("web") as web:
        web.resize("8MiB")
    with wire(server).begin("web") as client:
        assert client.size == 8 << 20


def test_an_export_that_a_client_has_open_cannot_be_deleted(
    server: NbdServer, volumes: VolumeStore
) -> None:
    with wire(server).begin("web"), pytest.raises(BusyError):
        volumes.delete_volume("web")


def test_a_flush_covers_what_other_connections_wrote(
    server: NbdServer, volumes: VolumeStore, place: Path
) -> None:
    with wire(server).begin("web") as one, wire(server).begin("web") as other:
        assert one.flags & ExportFlag.CAN_MULTI_CONN
        one.request(Command.WRITE, 3 << 20, data=b"written by one")
        other.request(Command.FLUSH)
        copy = place / "copy.img"
        copy.write_bytes((place / "disk.img").read_bytes())  # what a power cut now would leave
    blob_id = volumes.volume_info("web").id
    with Blobstore.open(copy, read_only=True) as left, left.open_blob(blob_id) as web:
        assert web.read(14, 3 << 20) == b"written by one"


def test_an_unknown_export_is_refused_and_the_client_may_ask_again(server: NbdServer) -> None:
    with wire(server).greet() as client:
        assert client.go("nobody") == OptionReply.UNKNOWN
        assert client.go("") == OptionReply.UNKNOWN
        assert client.go("web") == OptionReply.ACK


def test_bytes_that_are_no_request_end_that_connection_alone(
    server: NbdServer, caplog: pytest.LogCaptureFixture
) -> None:
    with wire(server).begin("web") as other:
        with wire(server).begin("web") as client, caplog.at_level(logging.WARNING):
            client.send(client.encoded(Command.FLUSH, 0, 0) + b"GET / HTTP/1.0\r\n\r\n" * 3)
            assert client.answer(Command.FLUSH).error == 0
            with pytest.raises(EOFError):
                client.take(1)
        assert "protocol error" in caplog.text
        assert other.request(Command.FLUSH).error == 0


def test_a_client_that_does_not_finish_its_handshake_is_hung_up_on(
    server: NbdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "_OPTION_TIMEOUT_S", 0.05)
    with wire(server) as client:
        client.take(18)
        with pytest.raises(EOFError):
            client.take(1)


class LeavingExports(StoreExports):
    """Exports of a store, whose client leaves while it waits for an answer."""

    def __init__(self, volumes: VolumeStore, client: socket.socket) -> None:
        super().__init__(volumes)
        self._client = client

    def listed(self) -> Iterator[tuple[str, str]]:
        self._client.close()
        yield from super().listed()

    def open(self, name: str) -> BlobExport:
        self._client.close()
        return super().open(name)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(None, id="before the greeting"),
        pytest.param(option_bytes(Option.LIST), id="before the list"),
        pytest.param(option_bytes(Option.GO, GO_WEB), id="before the export"),
        pytest.param(option_bytes(Option.ABORT), id="with a last option"),
    ],
)
def test_a_client_that_leaves_in_its_handshake_is_no_lost_connection(
    volumes: VolumeStore, caplog: pytest.LogCaptureFixture, options: bytes | None
) -> None:
    ours, theirs = socket.socketpair()
    if options is None:
        theirs.close()
    else:
        theirs.sendall(struct.pack(">I", 3) + options)
    with ours, theirs, caplog.at_level(logging.INFO):
        exports = LeavingExports(volumes, theirs)
        assert Handshake(ours, "client", exports, None, lambda old, new: None).run() is None
    assert not caplog.records
    volumes.delete_volume("web")  # no export of it is left open


def test_a_client_that_leaves_within_a_request_is_a_lost_connection(
    server: NbdServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        with wire(server).begin("web") as client:
            client.send(client.encoded(Command.WRITE, 0, 4096, b"a part of it"))
        server.close()
    assert "connection lost: it ended within a request" in caplog.text
    assert "WARNING" in caplog.text


def test_a_client_that_leaves_before_its_answers_is_a_lost_connection(
    server: NbdServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        with wire(server).begin("web") as client:
            fill(client)
        server.close()
    assert "connection lost: Broken pipe" in caplog.text


def test_a_refused_export_is_logged_once_with_the_client(
    server: NbdServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), wire(server).greet() as client:
        client.option(Option.STRUCTURED_REPLY)
        client.contexts(Option.SET_META_CONTEXT, "none", "base:allocation")
        assert client.go("none") == OptionReply.UNKNOWN
    (refused,) = caplog.messages
    assert refused.startswith(f"pid {os.getpid()}: export 'none' refused: ")


def test_what_is_no_nbd_client_is_shown_with_its_first_bytes(
    server: NbdServer, caplog: pytest.LogCaptureFixture
) -> None:
    with wire(server) as client:
        client.take(18)
        client.send(b"GET / HTTP/1.0")
        with pytest.raises((EOFError, ConnectionError)):
            client.take(1)
        server.close()
    assert "begins with b'GET ', expected the flags of an NBD client" in caplog.text


def fill(slow: Wire) -> None:
    """Ask for data and take none until the server can send no more."""
    for _request in range(20):
        slow.send(slow.encoded(Command.READ, 0, 4 << 20, flags=CommandFlag.DF))


def test_a_client_that_takes_no_answers_does_not_slow_down_others(
    volumes: VolumeStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blobstore.nbd.nbd_server._GRACE_S", 0.1)
    with (
        NbdServer(StoreExports(volumes), f"unix:{place}/nbd.sock") as server,
        wire(server).begin("web") as slow,
        wire(server).begin("web") as client,
        volumes.open_volume("web") as web,
    ):
        fill(slow)
        for _request in range(100):
            assert client.request(Command.WRITE, 0, data=b"x" * 4096).error == 0
        web.snapshot("while it is slow").close()
        assert client.request(Command.FLUSH).error == 0


def test_a_connection_beyond_the_limit_waits_for_one_to_end(
    volumes: VolumeStore, place: Path
) -> None:
    address = f"unix:{place}/nbd.sock"
    with NbdServer(StoreExports(volumes), address, connections_max=1) as server:
        first = wire(server).begin("web")
        second = wire(server)
        second.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            second.take(18)
        first.close()
        second.socket.settimeout(60)
        second.begin("web").close()


def test_a_connection_for_which_there_is_no_thread_is_closed_and_the_next_one_served(
    server: NbdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("blobstore.serving.threading.Thread", ThreadThatCannotStart)
        with wire(server) as refused, pytest.raises(EOFError):
            refused.take(18)
    wire(server).begin("web").close()


class ThreadThatCannotStart(threading.Thread):
    def start(self) -> None:
        raise RuntimeError("can't start new thread")


def test_the_end_answers_what_was_received_and_flushes(place: Path) -> None:
    with VolumeStore.create(place / "a.img", name="a", size="32MiB") as store:
        store.create_volume("web", "8MiB", thin=True).close()
        server = NbdServer(StoreExports(store), f"unix:{place}/nbd.sock")
        with wire(server).begin("web", structured=False) as client:
            for at in range(100):
                client.send(client.encoded(Command.WRITE, at << 12, 4096, b"%04d" % at * 1024))
            server.close()
            for _write in range(100):
                assert client.answer(Command.WRITE).error == 0
            with pytest.raises(EOFError):
                client.take(1)
    assert not list(place.glob("nbd*"))
    assert check(place / "a.img").clean
    with VolumeStore.open(place / "a.img", read_only=True) as store:
        assert store["web"].read(4096, 99 << 12) == b"0099" * 1024


def test_the_end_does_not_wait_for_a_client_that_takes_no_answers(
    volumes: VolumeStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blobstore.nbd.nbd_server._GRACE_S", 0.1)
    server = NbdServer(StoreExports(volumes), f"unix:{place}/nbd.sock")
    with wire(server).begin("web") as slow:
        fill(slow)
        server.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "nbd"]


def test_a_socket_that_another_server_has_is_refused(
    server: NbdServer, volumes: VolumeStore
) -> None:
    with pytest.raises(BusyError, match="in use by this process"):
        NbdServer(StoreExports(volumes), str(server.address))


@pytest.mark.parametrize(
    ("text", "shown", "is_local"),
    [
        ("unix:/run/nbd.sock", "unix:/run/nbd.sock", True),
        ("127.0.0.1:10809", "127.0.0.1:10809", True),
        ("localhost:0", "localhost:0", True),
        ("[::1]:5", "[::1]:5", True),
        ("0.0.0.0:10809", "0.0.0.0:10809", False),
        ("[::]:10809", "[::]:10809", False),
        ("host.example:1", "host.example:1", False),
    ],
)
def test_addresses_say_whether_other_machines_can_connect(
    text: str, shown: str, is_local: bool
) -> None:
    address = Address.parse(text)
    assert (str(address), address.is_local) == (shown, is_local)


@pytest.mark.parametrize("text", ["", "unix:", "host", ":1", "host:", "host:x", "host:65536"])
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="expected unix:PATH or HOST:PORT"):
        Address.parse(text)


def test_an_address_that_other_machines_reach_needs_tls(volumes: VolumeStore) -> None:
    with pytest.raises(InvalidArgumentError, match="TLS is required"):
        NbdServer(StoreExports(volumes), "0.0.0.0:0")


def test_a_client_is_named_by_its_process_or_its_address(
    server: NbdServer, volumes: VolumeStore
) -> None:
    with wire(server).begin("web") as client:
        client.request(Command.FLUSH)  # its answer says that the handshake is over
        assert [each.peer for each in server.connections()] == [f"pid {os.getpid()}"]
    with (
        NbdServer(StoreExports(volumes), "127.0.0.1:0") as on_tcp,
        Wire((on_tcp.address.host, on_tcp.address.port)).begin("web") as client,
    ):
        client.request(Command.FLUSH)
        host, port = client.socket.getsockname()
        assert [each.peer for each in on_tcp.connections()] == [f"{host}:{port}"]


def test_a_client_is_listed_until_its_export_is_closed(place: Path, volumes: VolumeStore) -> None:
    """Before, the list was empty for a moment while the volume could not be deleted yet."""
    listed: list[int] = []
    closed = threading.Event()

    class WatchedExport(BlobExport):
        def close(self) -> None:
            super().close()
            listed.append(len(server.connections()))
            closed.set()

    class WatchedExports(StoreExports):
        def _opened(self, name: str, blob: Blob) -> BlobExport:
            return WatchedExport(name, blob, read_only=False)

    with NbdServer(WatchedExports(volumes), f"unix:{place}/nbd.sock") as server:
        with wire(server).begin("web") as client:
            client.request(Command.FLUSH)
        assert closed.wait(60)
        assert listed == [1]


def test_a_tcp_client_is_served(volumes: VolumeStore) -> None:
    with NbdServer(StoreExports(volumes), "127.0.0.1:0") as server:
        connection = socket.create_connection(("127.0.0.1", server.address.port))
        with connection, connection.makefile("rb") as stream:
            assert struct.unpack(">Q", stream.read(8)) == (0x4E42444D41474943,)


class FailingDisk:
    """A disk of 4 MiB whose second half cannot be read, and which cannot be written."""

    size = 4 << 20
    closed = False

    def read(self, length: int, offset: int = 0) -> bytes:
        data = bytearray(length)
        self.read_into(data, offset)
        return bytes(data)

    def read_into(self, buffer: Any, offset: int = 0) -> int:
        if offset + len(buffer) > self.size // 2:
            raise DeviceError("bad: read fails")
        buffer[:] = b"d" * len(buffer)
        return len(buffer)

    def write(self, data: Any, offset: int = 0) -> int:
        raise DeviceError("bad: write fails")

    def write_zeroes(self, offset: int, length: int) -> None:
        raise NoSpaceError("bad: no cluster is left")

    def unmap(self, offset: int, length: int) -> None:
        raise PoisonedError("bad: failed before")

    def flush(self) -> None:
        raise DeviceError("bad: flush fails")

    def close(self) -> None:
        pass


class FailingExports:
    """One export of such a disk."""

    def listed(self) -> list[tuple[str, str]]:
        return [("bad", "a disk that fails")]

    def open(self, name: str) -> OpenExport:
        return DiskExport(name, FailingDisk(), read_only=False, description="")


class DiskExport(OpenExport):
    """A disk that holds all of its bytes."""

    def depths(self, offset: int, length: int, limit: int = 1) -> list[tuple[int, int, int]]:
        return [(offset, length, 1)]

    def changes(
        self, base: int, offset: int, length: int, limit: int
    ) -> list[tuple[int, int, int]]:
        return []

    def bases(self) -> dict[str, BlobId]:
        return {}

    def clear(self, offset: int, length: int) -> None:
        self.disk.write_zeroes(offset, length)


class ClosingDisk(FailingDisk):
    """A disk that takes note of its end."""

    def __init__(self) -> None:
        self.is_closed = threading.Event()

    def close(self) -> None:
        self.is_closed.set()


class DamagedExport(DiskExport):
    """A disk whose snapshots can be found once, and not again."""

    def __init__(self, disk: ClosingDisk, *, is_damaged: bool) -> None:
        super().__init__("damaged", disk, read_only=False, description="")
        self._is_damaged = is_damaged

    def bases(self) -> dict[str, BlobId]:
        if self._is_damaged:
            raise CorruptError("damaged: no snapshot is found")
        return {"monday": BlobId(1)}


class DamagedExports(FailingExports):
    """An export that is damaged after a client has chosen its contexts."""

    def __init__(self) -> None:
        self.disks: list[ClosingDisk] = []

    def open(self, name: str) -> OpenExport:
        self.disks.append(ClosingDisk())
        return DamagedExport(self.disks[-1], is_damaged=len(self.disks) > 1)


def test_an_export_that_fails_as_its_transmission_begins_is_closed(place: Path) -> None:
    exports = DamagedExports()
    with NbdServer(exports, f"unix:{place}/damaged.sock") as server:
        client = wire(server).begin("damaged", "qemu:dirty-bitmap:monday")
        with client, pytest.raises(EOFError):
            client.take(1)
        assert exports.disks[1].is_closed.wait(60)
        assert server.connections() == []


@pytest.fixture
def failing(place: Path) -> Iterator[NbdServer]:
    with NbdServer(FailingExports(), f"unix:{place}/bad.sock") as server:
        yield server


@pytest.mark.parametrize("structured", [False, True])
def test_a_device_that_fails_is_an_error_of_its_request_alone(
    failing: NbdServer, structured: bool
) -> None:
    with wire(failing).begin("bad", structured=structured) as client:
        half = 2 << 20
        for command, length, error in (
            (Command.READ, 4096, WireError.IO),
            (Command.READ, 1 << 20, WireError.IO),
            (Command.CACHE, 4096, WireError.IO),
            (Command.WRITE_ZEROES, 4096, WireError.NO_SPACE),
            (Command.TRIM, 4096, WireError.IO),
            (Command.FLUSH, 0, WireError.IO),
        ):
            assert client.request(command, half, length).error == error
        assert client.request(Command.WRITE, 0, data=b"x").error == WireError.IO
        assert client.request(Command.READ, 0, 3).data.popitem()[1] == b"ddd"


def test_a_long_read_that_fails_in_the_middle_says_so_in_chunks(failing: NbdServer) -> None:
    with wire(failing).begin("bad") as client:
        answer = client.request(Command.READ, 0, 4 << 20)
        assert answer.error == WireError.IO
        assert sorted(answer.data) == [0, 1 << 20]
        assert client.request(Command.READ, 0, 3).data == {0: b"ddd"}


def test_a_long_read_that_was_promised_whole_and_fails_ends_the_connection(
    failing: NbdServer,
) -> None:
    with wire(failing).begin("bad", structured=False) as client, pytest.raises(EOFError):
        client.request(Command.READ, 0, 4 << 20)


def test_a_client_with_too_many_options_is_hung_up_on(
    server: NbdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "_OPTIONS_MAX", 5)
    with wire(server).greet() as client:
        for _option in range(5):
            client.option(99)
        with pytest.raises((EOFError, ConnectionError)):
            client.option(99)


def test_what_was_done_is_counted_per_export(server: NbdServer) -> None:
    with wire(server).begin("web") as client:
        client.request(Command.READ, 0, 1000)
        client.request(Command.WRITE, 0, data=bytes(500))
        client.request(Command.READ, 4 << 20, 1)
        (connection,) = server.connections()
        assert (connection.export, connection.peer) == ("web", f"pid {os.getpid()}")
        ((export, activity),) = server.totals()
        read, write = activity.meters["read"], activity.meters["write"]
        assert (export, read.requests, read.bytes, read.errors) == ("web", 1, 1000, 1)
        assert (write.requests, write.bytes) == (1, 500)
        assert sum(requests for _bound, requests in read.latencies()) == 1


def test_a_full_store_is_logged_once_a_connection(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        VolumeStore.create(
            place / "full.img", name="vms", size="4MiB", cluster_size="64KiB"
        ) as full,
        full.create_volume("large", "64MiB", thin=True),
        NbdServer(StoreExports(full), f"unix:{place}/full.sock") as server,
    ):
        for _connection in range(2):
            with wire(server).begin("large") as client:
                for _time in range(3):
                    answer = client.request(Command.WRITE, 0, data=bytes(range(256)) * (1 << 15))
                    assert answer.error == WireError.NO_SPACE
    told = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(told) == 2
    assert all(line.startswith(f"export 'large': {place}/full.img: ") for line in told)
