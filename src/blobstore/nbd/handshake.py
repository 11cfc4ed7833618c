"""A connection's handshake on a socket: from the greeting to an open export, within a time.

An export that a client looks at is open only while it is described.

A client may leave at any time of the handshake: nothing was begun, so nothing is lost. Most that
only look at exports send their last option and close the socket without reading the answer.
"""

import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from blobstore import BlobstoreError, NotFoundError
from blobstore.nbd.constants import OptionReply
from blobstore.nbd.exports import Exports, OpenExport
from blobstore.nbd.metadata_contexts import matching
from blobstore.nbd.negotiation import (
    Agreement,
    ContextsRequested,
    Ended,
    Event,
    Export,
    ExportRequested,
    ListRequested,
    NbdProtocolError,
    Negotiation,
    SendBytes,
    Tls,
    TlsRequested,
)
from blobstore.nbd.transport import ClearTransport, Deadline, TlsTransport, Transport

_LOG: Final = logging.getLogger("blobstore.nbd")
_RECEIVED_AT_ONCE: Final = 64 * 1024
_OPTION_TIMEOUT_S: Final = 10
_OPTIONS_MAX: Final = 20_000
"""A client that lists ten thousand exports asks for the details of each."""
_LEFT: Final = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""How a client that has closed its socket shows, with TLS too."""


@dataclass(frozen=True, slots=True)
class Agreed:
    """A connection that is ready for requests; `rest` are bytes of them that were received."""

    export: OpenExport
    agreement: Agreement
    transport: Transport
    rest: bytes


class Handshake:
    """The handshake of one connection."""

    def __init__(
        self,
        connection: socket.socket,
        peer: str,
        exports: Exports,
        tls: ssl.SSLContext | None,
        replace_socket: Callable[[socket.socket, socket.socket], None],
    ) -> None:
        """Begin with a connection; `peer` names the client in logs."""
        self.connection = connection
        self._peer = peer
        self._exports = exports
        self._tls = tls
        self._replace_socket = replace_socket
        self._negotiation = Negotiation(Tls.ABSENT if tls is None else Tls.REQUIRED)
        self._opened: OpenExport | None = None
        self._refused_name: str | None = None

    def run(self) -> Agreed | None:
        """Answer options until the client chooses an export; None when it goes without one.

        A client that sends no option for too long is hung up on.

        Raises:
            NbdProtocolError: The client does not keep to the protocol.
            OSError: The connection failed.
        """
        agreed = None
        try:
            agreed = self._converse()
            self.connection.settimeout(None)
        except _LEFT as error:
            _LOG.debug("%s: left in the handshake: %s", self._peer, error)
        except TimeoutError:
            _LOG.info("%s: hung up on: no option within %s s", self._peer, _OPTION_TIMEOUT_S)
        finally:
            if agreed is None and self._opened is not None:
                self._opened.close()
        if agreed is None and not self._is_trusted:
            _LOG.info("%s: left in clear: TLS is required", self._peer)
        return agreed

    def _converse(self) -> Agreed | None:
        negotiation = self._negotiation
        deadline = Deadline(_OPTION_TIMEOUT_S)
        self._send(negotiation.greeting, deadline)
        for _number in range(_OPTIONS_MAX):
            event = self._next_event(deadline)
            if event is None:
                return None
            if self._is_trusted:
                deadline = Deadline(_OPTION_TIMEOUT_S)
            if isinstance(event, Ended):
                self._send(event.data, deadline)
                return None
            if isinstance(event, TlsRequested):
                self._begin_tls(deadline)
                continue
            answer = self._answer(event)
            if not answer:
                return None
            self._send(answer, deadline)
            if self._opened is not None and negotiation.agreement is not None:
                transport = self._transport()
                return Agreed(self._opened, negotiation.agreement, transport, negotiation.rest)
        raise NbdProtocolError(f"more than {_OPTIONS_MAX} options")

    @property
    def _is_trusted(self) -> bool:
        """Whether the client has shown a certificate, or needs none; others have one deadline."""
        return self._tls is None or isinstance(self.connection, ssl.SSLSocket)

    def _next_event(self, deadline: Deadline) -> Event | None:
        while (event := self._negotiation.next_event()) is None:
            deadline.apply(self.connection)
            data = self.connection.recv(_RECEIVED_AT_ONCE)
            if not data:
                return None
            self._negotiation.receive(data)
        return event

    def _send(self, data: bytes, deadline: Deadline) -> None:
        deadline.apply(self.connection)
        self.connection.sendall(data)

    def _answer(self, event: Event) -> bytes:
        if isinstance(event, SendBytes):
            return event.data
        if isinstance(event, ListRequested):
            return self._negotiation.answer_list(self._exports.listed())
        assert isinstance(event, ExportRequested | ContextsRequested)
        try:
            return self._answer_about_export(event)
        except NotFoundError as error:
            return self._refuse(event, OptionReply.UNKNOWN, error)
        except BlobstoreError as error:
            return self._refuse(event, OptionReply.POLICY, error)

    def _answer_about_export(self, event: ExportRequested | ContextsRequested) -> bytes:
        export = self._exports.open(event.name)
        try:
            if isinstance(event, ContextsRequested):
                names = matching(export, event.queries, is_choice=event.is_choice)
                return self._negotiation.answer_contexts(event, names)
            answer = self._negotiation.accept(event, _described(export))
            if event.is_final:
                self._opened = export
            return answer
        finally:
            if self._opened is not export:
                export.close()

    def _refuse(
        self,
        event: ExportRequested | ContextsRequested,
        reason: OptionReply,
        error: BlobstoreError,
    ) -> bytes:
        if event.name != self._refused_name:  # clients ask for its contexts, then for itself
            self._refused_name = event.name
            _LOG.info("%s: export %r refused: %s", self._peer, event.name, error)
        return self._negotiation.refuse_export(event, reason, error.message)

    # Encryption

    def _begin_tls(self, deadline: Deadline) -> None:
        assert self._tls is not None
        self._send(self._negotiation.begin_tls(), deadline)
        self._negotiation.tls_active()
        deadline.apply(self.connection)
        encrypted = self._tls.wrap_socket(
            self.connection, server_side=True, do_handshake_on_connect=False
        )
        self._replace_socket(self.connection, encrypted)
        self.connection = encrypted
        try:
            encrypted.do_handshake()
        except _LEFT as error:
            raise NbdProtocolError("the client left in the handshake of TLS") from error

    def _transport(self) -> Transport:
        if isinstance(self.connection, ssl.SSLSocket):
            return TlsTransport(self.connection)
        return ClearTransport(self.connection)


def _described(export: OpenExport) -> Export:
    return Export(export.name, export.disk.size, export.flags, export.description)
