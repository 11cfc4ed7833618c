"""TLS: required or absent, certificates of both sides, and nothing for anybody else."""

import itertools
import logging
import os
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobstore import InvalidArgumentError, PathNotFoundError, VolumeStore
from blobstore.nbd.constants import Command, Option, OptionReply
from blobstore.nbd.exports import StoreExports
from blobstore.nbd.nbd_server import NbdServer
from blobstore.nbd.tls import server_context
from tests.nbd.certificates import make_certificates
from tests.nbd.programs import call, needs
from tests.nbd.servers import short_directory
from tests.nbd.wire import Wire

pytestmark = needs("openssl")


@pytest.fixture(scope="module")
def certificates() -> Iterator[Path]:
    with short_directory() as place:
        make_certificates(place / "stranger")
        yield make_certificates(place / "known")


@pytest.fixture
def server(place: Path, volumes: VolumeStore, certificates: Path) -> Iterator[NbdServer]:
    context = server_context(certificates)
    with NbdServer(StoreExports(volumes), f"unix:{place}/nbd.sock", tls=context) as server:
        yield server


def client_context(directory: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if directory is not None:
        context.load_cert_chain(directory / "client-cert.pem", directory / "client-key.pem")
    return context


def encrypted(client: Wire, context: ssl.SSLContext) -> Wire:
    assert client.option(Option.STARTTLS) == [(OptionReply.ACK, b"")]
    client.socket = context.wrap_socket(client.socket)
    return client


def uri(server: NbdServer, directory: Path | str) -> str:
    return f"nbds+unix:///web?socket={server.address.path}&tls-certificates={directory}"


def test_a_client_with_a_certificate_reads_and_writes(
    server: NbdServer, certificates: Path
) -> None:
    with Wire(server.address.path).greet() as client:
        encrypted(client, client_context(certificates))
        client.structured = True
        assert client.option(Option.STRUCTURED_REPLY) == [(OptionReply.ACK, b"")]
        assert client.go("web") == OptionReply.ACK
        data = bytes(range(256)) * 8192
        assert client.request(Command.WRITE, 5, data=data).error == 0
        answer = client.request(Command.READ, 5, len(data))
        assert b"".join(answer.data[at] for at in sorted(answer.data)) == data
        assert client.request(Command.READ, 5, 3).data == {5: data[:3]}


def test_a_client_in_clear_gets_one_answer_to_everything_but_starttls(server: NbdServer) -> None:
    with Wire(server.address.path).greet() as client:
        for option in (Option.LIST, Option.GO, Option.INFO, Option.STRUCTURED_REPLY, 99):
            assert client.option(option) == [(OptionReply.TLS_REQUIRED, b"")]


def test_a_client_that_names_an_export_in_clear_is_hung_up_on(server: NbdServer) -> None:
    with Wire(server.address.path).greet() as client:
        client.send(struct.pack(">QII", 0x49484156454F5054, Option.EXPORT_NAME, 3) + b"web")
        with pytest.raises(EOFError):
            client.take(1)


@pytest.mark.parametrize("who", ["nobody", "stranger"])
def test_a_client_that_is_not_known_gets_not_one_byte_of_data(
    server: NbdServer, certificates: Path, who: str
) -> None:
    directory = None if who == "nobody" else certificates.parent / who
    with Wire(server.address.path).greet() as client:
        assert list_encrypted(client, client_context(directory)) == b""


def list_encrypted(client: Wire, context: ssl.SSLContext) -> bytes:
    """Ask for a list inside the encryption, and return the first bytes of the answer."""
    try:
        encrypted(client, context)
        client.send(struct.pack(">QII", 0x49484156454F5054, Option.LIST, 0))
        return client.take(20)  # TLS 1.3 tells the client of the refusal only now
    except (ssl.SSLError, ConnectionError, EOFError):
        return b""


def test_a_client_that_is_known_gets_a_list(server: NbdServer, certificates: Path) -> None:
    with Wire(server.address.path).greet() as client:
        assert list_encrypted(client, client_context(certificates)) != b""


def test_what_was_said_in_clear_is_forgotten(server: NbdServer, certificates: Path) -> None:
    """A second option hidden behind STARTTLS is not taken for one of the encrypted client's."""
    with Wire(server.address.path).greet() as client:
        hidden = struct.pack(">QII", 0x49484156454F5054, Option.STRUCTURED_REPLY, 0)
        client.send(struct.pack(">QII", 0x49484156454F5054, Option.STARTTLS, 0) + hidden)
        assert client.take(20)[12:16] == struct.pack(">I", OptionReply.ACK)
        client.socket = client_context(certificates).wrap_socket(client.socket)
        assert client.go("web") == OptionReply.ACK
        assert client.request(Command.READ, 1 << 20, 7).data == {0: b"tuesday"}  # simple replies


def test_starttls_is_refused_where_there_is_no_tls(volumes: VolumeStore, place: Path) -> None:
    with (
        NbdServer(StoreExports(volumes), f"unix:{place}/clear.sock") as server,
        Wire(server.address.path).greet() as client,
    ):
        assert client.option(Option.STARTTLS) == [(OptionReply.POLICY, b"")]


def test_old_versions_of_tls_are_refused(certificates: Path) -> None:
    assert server_context(certificates).minimum_version == ssl.TLSVersion.TLSv1_2


@needs("nbdinfo", "nbdcopy")
def test_libnbd_is_served_and_without_tls_refused(
    server: NbdServer, volumes: VolumeStore, certificates: Path, place: Path
) -> None:
    assert call("nbdinfo", "--size", uri(server, certificates)).stdout == f"{4 << 20}\n"
    call("nbdcopy", uri(server, certificates), place / "copy.raw")
    with volumes.open_volume("web") as web:
        assert (place / "copy.raw").read_bytes() == web.read(4 << 20)
    call("nbdinfo", "--size", f"nbd+unix:///web?socket={server.address.path}", status=1)
    call("nbdinfo", "--size", uri(server, certificates.parent / "stranger"), status=1)


def test_a_client_in_clear_is_logged_with_the_reason(
    server: NbdServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        with Wire(server.address.path).greet() as client:
            assert client.go("web") == OptionReply.TLS_REQUIRED
        server.close()
    assert caplog.messages == [f"pid {os.getpid()}: left in clear: TLS is required"]


@needs("nbdinfo")
def test_an_encrypted_client_that_only_looks_leaves_no_line_in_the_log(
    server: NbdServer, certificates: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        for _time in range(5):
            call("nbdinfo", "--list", uri(server, certificates))
        server.close()
    assert not caplog.records


@needs("qemu-img")
def test_qemu_is_served_by_tcp_and_without_tls_refused(
    volumes: VolumeStore, certificates: Path
) -> None:
    context = server_context(certificates)
    with NbdServer(StoreExports(volumes), "127.0.0.1:0", tls=context) as server:
        image = f"driver=nbd,host=localhost,port={server.address.port},export=web"
        for directory, status in ((certificates, 0), (certificates.parent / "stranger", 1)):
            credentials = f"tls-creds-x509,id=tls0,endpoint=client,dir={directory}"
            done = call("qemu-img", "info", "--object", credentials, "--image-opts",
                        f"{image},tls-creds=tls0", status=status)  # fmt: skip
            assert ("virtual size" in done.stdout) == (status == 0)
        call("qemu-img", "info", "--image-opts", image, status=1)


def test_a_client_that_stops_in_the_handshake_of_tls_is_hung_up_on(
    server: NbdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blobstore.nbd.handshake._OPTION_TIMEOUT_S", 0.1)
    with Wire(server.address.path).greet() as client:
        assert client.option(Option.STARTTLS) == [(OptionReply.ACK, b"")]
        client.socket.shutdown(socket.SHUT_WR)
        with pytest.raises((EOFError, ConnectionError)):
            client.take(1000)


def test_a_client_that_is_not_known_cannot_stay_by_asking_again_and_again(
    server: NbdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blobstore.nbd.handshake._OPTION_TIMEOUT_S", 0.3)
    with Wire(server.address.path).greet() as client, pytest.raises((EOFError, ConnectionError)):
        ask_for_ever(client)


def ask_for_ever(client: Wire) -> None:
    for _option in itertools.count():
        client.option(Option.LIST)


@pytest.mark.parametrize("missing", ["ca-cert.pem", "server-cert.pem", "server-key.pem"])
def test_a_directory_without_a_file_is_refused(place: Path, missing: str) -> None:
    directory = make_certificates(place / "tls")
    (directory / missing).unlink()
    with pytest.raises(PathNotFoundError, match=f"{missing}: no such file"):
        server_context(directory)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("server-cert.pem", "server-cert.pem with server-key.pem cannot be used for TLS: not PEM"),
        ("ca-cert.pem", "ca-cert.pem cannot be used for TLS: no certificate or crl found"),
        ("ca-crl.pem", "ca-crl.pem cannot be used for TLS: no certificate or crl found"),
    ],
)
def test_a_file_that_is_no_certificate_is_named(place: Path, name: str, message: str) -> None:
    directory = make_certificates(place / "tls")
    (directory / name).write_text("nothing")
    with pytest.raises(InvalidArgumentError, match=message):
        server_context(directory)


def test_the_key_of_another_certificate_is_refused(place: Path) -> None:
    directory = make_certificates(place / "tls")
    (directory / "server-key.pem").write_bytes((directory / "client-key.pem").read_bytes())
    with pytest.raises(InvalidArgumentError, match=r"server-key\.pem .*: key values mismatch"):
        server_context(directory)


def test_a_key_with_a_password_is_refused_and_not_asked_for(place: Path) -> None:
    directory = make_certificates(place / "tls")
    key, plain = directory / "server-key.pem", directory / "plain.pem"
    key.rename(plain)
    call("openssl", "pkey", "-in", plain, "-aes128", "-passout", "pass:abc", "-out", key)
    with pytest.raises(InvalidArgumentError, match="the key has a password, expected none"):
        server_context(directory)
