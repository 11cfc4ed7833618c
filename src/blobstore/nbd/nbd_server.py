"""The NBD server: a socket, one thread for each connection, and a clean end.

Each connection has its own thread, its own open blob and two buffers of about a megabyte. A
client that is slow, or sends nothing, holds these and no lock.
"""

import ipaddress
import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from blobstore import BlobstoreError, InvalidArgumentError
from blobstore.nbd.activity import Activity
from blobstore.nbd.exports import Exports, OpenExport
from blobstore.nbd.handshake import Agreed, Handshake
from blobstore.nbd.negotiation import NbdProtocolError
from blobstore.nbd.transfer import Transfer
from blobstore.serving import ConnectionThreads, UnixListener, listen_tcp

_LOG: Final = logging.getLogger("blobstore.nbd")
_UNIX: Final = "unix:"
_PORT: Final = 10809
CONNECTIONS_MAX: Final = 64
_GRACE_S: Final = 10


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: a Unix socket's path, or a host and a port."""

    path: str = ""
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Parse ``unix:PATH``, ``HOST:PORT`` or ``[V6]:PORT``; port 0 is any free one.

        Raises:
            InvalidArgumentError: It is none of these.
        """
        if text.startswith(_UNIX) and len(text) > len(_UNIX):
            return cls(path=text[len(_UNIX) :])
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not (colon and host and port.isdecimal() and int(port) < 1 << 16):
            raise InvalidArgumentError(f"{text!r}: expected unix:PATH or HOST:PORT")
        return cls(host=host, port=int(port))

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.path:
            return f"{_UNIX}{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(eq=False, slots=True)
class Connection:
    """A client that has an export open."""

    peer: str
    export: str
    activity: Activity


class NbdServer:
    """Serves exports by NBD. Leaving its `with` stops it; the store stays open.

    With `tls` (see `blobstore.nbd.tls.server_context`) every client must encrypt, and show a
    certificate; without it none can. Addresses that other machines reach need it.
    """

    def __init__(
        self,
        exports: Exports,
        address: str,
        *,
        tls: ssl.SSLContext | None = None,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        """Listen at ``unix:PATH`` or ``HOST:PORT``.

        Raises:
            InvalidArgumentError: Not such an address, or other machines can reach it without TLS.
            BusyError: Another server has the socket.
            OSError: The socket cannot be made.
        """
        wanted = Address.parse(address)
        if tls is None and not wanted.is_local:
            raise InvalidArgumentError(f"{address}: other machines can reach it: TLS is required")
        self._exports = exports
        self._tls = tls
        self._guard = threading.Lock()
        self._open: dict[Connection, None] = {}
        self._ended: dict[str, Activity] = {}
        self._unix = UnixListener(wanted.path) if wanted.path else None
        try:
            listener = self._unix.listen() if self._unix else listen_tcp(wanted.host, wanted.port)
        except BaseException:
            self._remove_socket()
            raise
        self.address = wanted if wanted.path else Address("", *listener.getsockname()[:2])
        self._closed = False
        self._threads = ConnectionThreads(
            listener, self._serve, name="nbd", connections_max=connections_max
        )
        self._threads.start()

    # One connection

    def _serve(self, connection: socket.socket) -> None:
        _set_options(connection)
        peer = _peer_of(connection)
        handshake = Handshake(connection, peer, self._exports, self._tls, self._replace)
        try:
            agreed = handshake.run()
            if agreed is not None:
                self._transfer(agreed, peer)
        except NbdProtocolError as error:
            _LOG.warning("%s: protocol error: %s", peer, error)
        except ssl.SSLError as error:
            _LOG.warning("%s: TLS: %s", peer, error)
        except BlobstoreError as error:
            _LOG.error("%s: %s", peer, error)
        except OSError as error:
            _LOG.warning("%s: connection lost: %s", peer, error.strerror or error)
        except Exception:
            _LOG.exception("%s: a fault of this server", peer)
        finally:
            self._threads.forget(handshake.connection)
            handshake.connection.close()

    def _replace(self, old: socket.socket, new: socket.socket) -> None:
        self._threads.forget(old)
        self._threads.track(new)

    def _transfer(self, agreed: Agreed, peer: str) -> None:
        export = agreed.export
        listed = Connection(peer, export.name, Activity())
        with self._guard:
            self._open[listed] = None
        _LOG.info("%s: export %r opened", peer, export.name)
        has_written = False
        try:
            transfer = Transfer(export, agreed.agreement, agreed.transport, listed.activity)
            try:
                transfer.run(agreed.rest)
            finally:
                has_written = transfer.has_written
        finally:
            try:
                _close(export, flush=has_written)
            finally:
                # Last: whoever sees that a volume has no client any more can delete it.
                self._end(listed)
            _LOG.info("%s: export %r closed", peer, export.name)

    def _end(self, connection: Connection) -> None:
        with self._guard:
            del self._open[connection]
            total = self._ended.setdefault(connection.export, Activity())
            total.add(connection.activity)

    # What goes on

    def connections(self) -> list[Connection]:
        """Return the clients that have an export open."""
        with self._guard:
            return list(self._open)

    def totals(self) -> Iterator[tuple[str, Activity]]:
        """Yield (export, what was done on it by all connections so far), by name."""
        with self._guard:
            sums: dict[str, Activity] = {}
            for export, activity in self._ended.items():
                sums.setdefault(export, Activity()).add(activity)
            for connection in self._open:
                sums.setdefault(connection.export, Activity()).add(connection.activity)
        yield from sorted(sums.items(), key=lambda item: item[0])

    # The end

    def close(self) -> None:
        """Finish the requests that were received, flush, and remove the socket.

        A client that does not take its answers for some seconds is cut off. Calling it again
        does nothing.
        """
        if not self._closed:
            self._closed = True
            self._threads.stop(_GRACE_S)
            self._remove_socket()

    def _remove_socket(self) -> None:
        if self._unix is not None:
            self._unix.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _close(export: OpenExport, *, flush: bool) -> None:
    """Close an export; first make durable what a client wrote and did not flush."""
    try:
        if flush and not export.disk.closed:
            export.disk.flush()
        export.close()
    except BlobstoreError as error:
        _LOG.error("export %r: %s", export.name, error)


def _set_options(connection: socket.socket) -> None:
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _peer_of(connection: socket.socket) -> str:
    """Return the name of a client: its address, or the process at a Unix socket."""
    if connection.family == socket.AF_UNIX:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return f"pid {int.from_bytes(credentials[:4], 'little')}"
    return str(Address("", *connection.getpeername()[:2]))
