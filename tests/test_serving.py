"""Sockets that servers listen at: taken ones are refused, stale ones are replaced."""

import errno
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobstore import BusyError
from blobstore.serving import UnixListener, listen_tcp
from tests.nbd.servers import short_directory


@pytest.fixture
def path() -> Iterator[str]:
    with short_directory() as place:
        yield str(place / "s")


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_a_socket_of_another_program_is_not_taken_from_it(path: str, kind: int) -> None:
    with socket.socket(socket.AF_UNIX, kind) as theirs:
        theirs.bind(path)
        if kind != socket.SOCK_DGRAM:
            theirs.listen()
        inode = Path(path).stat().st_ino
        listener = UnixListener(path)
        with pytest.raises(BusyError, match=f"{path}: in use: another program listens there"):
            listener.listen()
        listener.remove()
        assert Path(path).stat().st_ino == inode


def test_a_socket_whose_queue_is_full_is_not_taken(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as theirs, socket.socket(socket.AF_UNIX) as waiting:
        theirs.bind(path)
        theirs.listen(0)
        waiting.connect(path)
        listener = UnixListener(path)
        with pytest.raises(BusyError, match="another program listens there"):
            listener.listen()
        listener.remove()


def test_a_socket_that_a_killed_server_left_is_replaced(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(path)
        killed.listen()
    listener = UnixListener(path)
    with listener.listen(), socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    listener.remove()
    assert not Path(path).exists()


@pytest.mark.parametrize("host", ["a..b", "fe80::1%none"])
def test_a_host_that_is_none_is_named(host: str) -> None:
    with pytest.raises(OSError, match=re.escape(f"{host}:1")) as unknown:
        listen_tcp(host, 1)
    assert unknown.value.errno == errno.EADDRNOTAVAIL
