"""The bytes between this client and its server: plain or encrypted.

One thread may send while another one receives. OpenSSL allows only one call at a time for each
connection. So encryption happens in memory, under a lock, and the system calls outside of it.
"""

import os
import socket
import ssl
import struct
import threading
from collections.abc import Sequence
from typing import Final, Protocol

from blobstore.nbd.client_address import NbdAddress

_IOV_MAX: Final = os.sysconf("SC_IOV_MAX")
_TIMEVAL: Final = struct.Struct("ll")
_ENCRYPTED_AT_ONCE: Final = 256 * 1024
_RECEIVED_AT_ONCE: Final = 256 * 1024


class Transport(Protocol):
    """A connection as a stream of bytes; every call raises `OSError` when it is lost."""

    def send(self, buffers: Sequence[memoryview]) -> None:
        """Send all of the buffers, one after the other."""

    def receive_into(self, views: Sequence[memoryview]) -> int:
        """Wait for bytes, fill the views from the first on; return how many, 0 at the end."""


def connect(address: NbdAddress) -> socket.socket:
    """Connect within the address's timeout.

    Raises:
        OSError: The server is not there.
    """
    if address.socket_path:
        found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            found.settimeout(address.timeout_s)
            found.connect(address.socket_path)
        except BaseException:
            found.close()
            raise
    else:
        found = socket.create_connection((address.host, address.port), timeout=address.timeout_s)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    _set_timeout(found, address.timeout_s)
    return found


def _set_timeout(connection: socket.socket, timeout_s: float) -> None:
    """Have the kernel count the time: Python would poll before each call."""
    connection.settimeout(None)
    value = _TIMEVAL.pack(int(timeout_s), 0)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, value)


class PlainTransport:
    """A socket as it is."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def send(self, buffers: Sequence[memoryview]) -> None:
        """Send all of the buffers, one after the other."""
        rest = list(buffers)
        while rest:
            sent = self._socket.sendmsg(rest[:_IOV_MAX])
            while rest and sent >= len(rest[0]):
                sent -= len(rest.pop(0))
            if sent:
                rest[0] = rest[0][sent:]

    def receive_into(self, views: Sequence[memoryview]) -> int:
        """Wait for bytes, fill the views from the first on; return how many, 0 at the end."""
        if len(views) == 1:
            return self._socket.recv_into(views[0])
        return self._socket.recvmsg_into(views[:_IOV_MAX])[0]


class TlsTransport:
    """A socket below TLS; made when both sides begin to encrypt."""

    def __init__(self, connection: socket.socket, address: NbdAddress) -> None:
        """Shake hands.

        Raises:
            OSError: The certificates do not convince one of both sides, or the connection is lost.
        """
        self._socket = connection
        self._lock = threading.Lock()
        self._arrived = ssl.MemoryBIO()
        self._leaving = ssl.MemoryBIO()
        self._tls = _context(address).wrap_bio(
            self._arrived, self._leaving, server_hostname=address.tls_name
        )
        self._shake_hands()

    def _shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._socket.sendall(self._leaving.read())
                self._take(self._socket.recv(_RECEIVED_AT_ONCE))
            except ssl.SSLError:
                self._socket.sendall(self._leaving.read())  # the alert that says why
                raise
            else:
                self._socket.sendall(self._leaving.read())
                return

    def _take(self, data: bytes) -> None:
        if data:
            self._arrived.write(data)
        else:
            self._arrived.write_eof()

    def send(self, buffers: Sequence[memoryview]) -> None:
        """Send all of the buffers, one after the other."""
        for buffer in buffers:
            for at in range(0, len(buffer), _ENCRYPTED_AT_ONCE):
                rest = buffer[at : at + _ENCRYPTED_AT_ONCE]
                with self._lock:
                    while rest:
                        rest = rest[self._tls.write(rest) :]
                    encrypted = self._leaving.read()
                self._socket.sendall(encrypted)

    def receive_into(self, views: Sequence[memoryview]) -> int:
        """Wait for bytes, fill the views from the first on; return how many, 0 at the end."""
        view = views[0]
        while True:
            try:
                with self._lock:
                    data = self._tls.read(len(view))
                view[: len(data)] = data
                return len(data)
            except ssl.SSLWantReadError:
                pass
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return 0
            data = self._socket.recv(_RECEIVED_AT_ONCE)
            with self._lock:
                self._take(data)


def _context(address: NbdAddress) -> ssl.SSLContext:
    """Return a context that verifies the server, and shows the client's certificate if it has one.

    Raises:
        OSError: A file is missing or makes no sense.
    """
    if not address.certificates:
        return ssl.create_default_context()
    directory = address.certificates
    authority = os.path.join(directory, "ca-cert.pem")
    os.stat(authority)  # whose error names the file
    context = ssl.create_default_context(cafile=authority)
    certificate = os.path.join(directory, "client-cert.pem")
    if os.path.exists(certificate):
        context.load_cert_chain(certificate, os.path.join(directory, "client-key.pem"))
    return context
