import pytest

from blobstore.errors import InvalidArgumentError
from blobstore.nbd.client_address import DEFAULT_PORT, DEFAULT_TIMEOUT_S, NbdAddress


def test_an_address_of_tcp_has_a_host_a_port_and_an_export() -> None:
    found = NbdAddress.parse("nbd://storage.example:1234/vm%20disks/web")
    assert (found.host, found.port, found.export) == ("storage.example", 1234, "vm disks/web")
    assert (found.encrypts, found.socket_path) == (False, "")
    assert found.timeout_s == DEFAULT_TIMEOUT_S


def test_the_default_export_and_port_need_not_be_written() -> None:
    for text in ("nbd://host", "nbd://host/"):
        found = NbdAddress.parse(text)
        assert (found.port, found.export) == (DEFAULT_PORT, "")


def test_an_address_of_ipv6_is_in_brackets() -> None:
    found = NbdAddress.parse("nbd://[::1]:1234/disk")
    assert (found.host, found.port) == ("::1", 1234)


def test_an_address_of_a_socket_has_its_path_as_a_parameter() -> None:
    found = NbdAddress.parse("nbd+unix:///disk?socket=/run/a%20b.sock&timeout=5")
    assert (found.socket_path, found.export, found.timeout_s) == ("/run/a b.sock", "disk", 5.0)


def test_an_encrypted_address_verifies_the_host_it_names_or_another_name() -> None:
    assert NbdAddress.parse("nbds://host/disk").tls_name == "host"
    found = NbdAddress.parse(
        "nbds+unix:///?socket=/s&tls-hostname=storage&tls-certificates=/etc/pki/nbd"
    )
    assert (found.encrypts, found.tls_name, found.certificates) == (True, "storage", "/etc/pki/nbd")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("nbd:///disk", "nbd://HOST", id="no host"),
        pytest.param("nbd+unix:///disk", "socket=PATH", id="no socket"),
        pytest.param("nbd+unix:///disk?socket=", "socket=PATH", id="an empty socket"),
        pytest.param("nbd+unix://host/disk?socket=/s", "socket=PATH", id="a host and a socket"),
        pytest.param("nbd://host/disk?socket=/s", "parameter 'socket'", id="a socket with TCP"),
        pytest.param("nbd://host?tls-certificates=/d", "parameter 'tls-", id="TLS without nbds"),
        pytest.param("nbds://host?tls-verify-peer=false", "tls-verify-peer", id="no verification"),
        pytest.param("nbd://host?timeout=1&timeout=2", "twice", id="a parameter given twice"),
        pytest.param("nbd://host?timeout=0", "timeout '0'", id="no time"),
        pytest.param("nbd://host?timeout=soon", "timeout 'soon'", id="a time that is none"),
        pytest.param("nbd://host?timeout", "parameters 'timeout'", id="a parameter without value"),
        pytest.param("nbd://host:port/", "Port", id="a port that is no number"),
        pytest.param("nbd://[::1/disk", "IPv6", id="a bracket that stays open"),
        pytest.param("nbd://user@host/", "a user", id="a user"),
        pytest.param("nbd://host/disk#part", "a fragment", id="a fragment"),
        pytest.param("nbd://host/" + "x" * 4097, "too long", id="a name that is too long"),
    ],
)
def test_a_malformed_address_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        NbdAddress.parse(text)
