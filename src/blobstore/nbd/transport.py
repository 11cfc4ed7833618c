"""Bytes of a connection, in clear or encrypted: receive into a buffer, send many pieces at once."""

import socket
import ssl
import time
from collections.abc import Sequence
from typing import Final, Protocol

from blobstore.operations import Buffer

_PIECES_MAX: Final = 1024
"""What the system takes in one call (IOV_MAX)."""
_JOINED_MAX: Final = 64 * 1024
"""Pieces of fewer bytes in all are joined and encrypted as one; a TLS record has 16 KiB."""


class Transport(Protocol):
    """A connection after its handshake."""

    def receive_into(self, space: memoryview) -> int:
        """Receive at least one byte; 0 when the peer has ended."""

    def send(self, pieces: Sequence[Buffer]) -> None:
        """Send all pieces, one after the other."""


class ClearTransport:
    """A connection that is not encrypted."""

    def __init__(self, connection: socket.socket) -> None:
        self.receive_into = connection.recv_into
        self._sendmsg = connection.sendmsg

    def send(self, pieces: Sequence[Buffer]) -> None:
        for first in range(0, len(pieces), _PIECES_MAX):
            some = pieces[first : first + _PIECES_MAX]
            left = sum(map(len, some)) - self._sendmsg(some)
            if left:
                self._send_rest(some, left)

    def _send_rest(self, pieces: Sequence[Buffer], left: int) -> None:
        """Send the last `left` bytes of the pieces."""
        sent = sum(map(len, pieces)) - left
        for piece in pieces:
            view = memoryview(piece)[sent:]
            sent = max(0, sent - len(piece))
            while view:
                view = view[self._sendmsg([view]) :]


class TlsTransport:
    """A connection that is encrypted."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection

    def receive_into(self, space: memoryview) -> int:
        return self._connection.recv_into(space)

    def send(self, pieces: Sequence[Buffer]) -> None:
        if sum(map(len, pieces)) <= _JOINED_MAX:
            self._connection.sendall(b"".join(pieces))
            return
        for piece in pieces:
            self._connection.sendall(piece)


class Deadline:
    """The time until which a peer must have done something."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def apply(self, connection: socket.socket) -> None:
        """Let the connection's next call end at the deadline.

        Raises:
            TimeoutError: It is over.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the peer took too long")
        connection.settimeout(left)
