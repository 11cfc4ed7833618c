"""One connection to an NBD server, shared by threads that each wait for their own request.

There is no thread of its own. One of the threads that wait is the *leader*: it receives for all of
them. When its own reply is there, it hands the lead to another one that waits. So a
single thread sends and receives without waking any other, and many requests are in flight when many
threads call. A thread that has sent a request receives or waits for a leader that does; no
thread sends a second request before. That is why the server is never left with replies that it
cannot send while this side cannot send requests.

A connection is lost by any doubt: an error of the socket, a server that is silent for too long
or does not keep to the protocol, an exception between two system calls. Then every request
in flight and every later one fails. Nothing is sent twice: a request without a reply
may or may not have been done. Ctrl-C is held back while a request runs, as in the drivers; a
second Ctrl-C ends the request, and the connection with it.
"""

import errno
import itertools
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from blobstore.drivers import interrupts
from blobstore.errors import DeviceError
from blobstore.nbd.client_address import NbdAddress
from blobstore.nbd.client_failures import describe_failure, opening_failure
from blobstore.nbd.client_negotiation import (
    BeginTls,
    ClientNegotiation,
    NbdRefusedError,
    SendToServer,
)
from blobstore.nbd.client_transmission import Call, ReplyStream
from blobstore.nbd.client_transport import PlainTransport, TlsTransport, Transport, connect
from blobstore.nbd.constants import Command, CommandFlag
from blobstore.nbd.negotiation import Agreement, NbdProtocolError

_RECEIVED_AT_ONCE: Final = 4096


class NbdConnection:
    """An open connection in its transmission.

    Attributes:
        agreement: What the server said of the export.
    """

    def __init__(
        self, connection: socket.socket, transport: Transport, agreement: Agreement, name: str
    ) -> None:
        """Take over a socket; `open` is the way to get here."""
        self.agreement = agreement
        self._name = name
        self._socket = connection
        self._transport = transport
        self._cookies = itertools.count(1)
        self._replies = ReplyStream(structured=agreement.structured)
        self._sending = threading.Lock()
        self._turn = threading.Lock()  # guards the lead, the waiting, and `_lost`
        self._leader: Call | None = None
        self._waiting: dict[int, threading.Lock] = {}
        self._lost: tuple[int, str] | None = None  # the errno and the reason

    @classmethod
    def open(cls, address: NbdAddress) -> "NbdConnection":
        """Connect, encrypt if the address says so, and agree on the export.

        Raises:
            NotFoundError: No such socket, or no such export.
            AccessError: The server or the operating system does not let this client in.
            DeviceError: The server is not there, or is no NBD server.
        """
        try:
            connection = connect(address)
            try:
                transport, agreement = _negotiate(connection, address)
            except BaseException:
                connection.close()
                raise
        except (OSError, NbdProtocolError, NbdRefusedError) as error:
            raise opening_failure(address.text, error) from error
        return cls(connection, transport, agreement, address.text)

    # Requests

    def call(
        self,
        command: Command,
        offset: int = 0,
        length: int = 0,
        *,
        flags: CommandFlag = CommandFlag.NONE,
        data: Sequence[memoryview] = (),
        views: Sequence[memoryview] = (),
    ) -> Call:
        """Send one request, and return it when its reply is there, which may be an error.

        `data` are a write's bytes, `views` the memory of a read.

        Raises:
            DeviceError: The connection is lost; it is unknown whether the request was done.
        """
        call = Call(command, next(self._cookies), offset, length, list(views))
        is_held = interrupts.hold()
        try:
            self._send(call, flags, data)
            self._wait(call)
        finally:
            if is_held:
                interrupts.release()
        return call

    def _send(self, call: Call, flags: CommandFlag, data: Sequence[memoryview]) -> None:
        with self._sending:
            self._check_alive()
            try:
                self._replies.expect(call)
                self._transport.send([memoryview(call.encode(flags)), *data])
            except (OSError, NbdProtocolError) as error:
                raise self._lose(error) from error
            except BaseException as error:
                self._lose(error)
                raise

    def _wait(self, call: Call) -> None:
        """Return when a request has its reply; receive for all while no other thread does."""
        while True:
            with self._turn:
                if call.is_done:
                    return
                self._check_alive()
                if self._leader is None:
                    self._leader = call
                    break
                woken = self._waiting[call.cookie] = threading.Lock()
                woken.acquire()
            woken.acquire()  # released when the reply is there, the lead is free, or all is lost
        try:
            self._receive_until_done(call)
        except (OSError, NbdProtocolError) as error:
            raise self._lose(error) from error
        except BaseException as error:
            self._lose(error)
            raise
        finally:
            self._hand_over()

    def _receive_until_done(self, call: Call) -> None:
        replies, transport = self._replies, self._transport
        while not call.is_done:
            count = transport.receive_into(replies.targets())
            if not count:
                raise ConnectionResetError(errno.ECONNRESET, "the server closed the connection")
            for done in replies.advance(count):
                if done is not call:
                    self._wake(done)

    def _wake(self, call: Call) -> None:
        with self._turn:
            woken = self._waiting.pop(call.cookie, None)
        if woken is not None:
            woken.release()

    def _hand_over(self) -> None:
        """End the lead; one of those that wait takes it."""
        with self._turn:
            self._leader = None
            for cookie in self._waiting:
                self._waiting.pop(cookie).release()
                return

    # The end

    def _lose(self, error: BaseException) -> DeviceError:
        """Give the connection up, and return what a request that needs it raises."""
        with self._turn:
            if self._lost is None:
                self._lost = describe_failure(error)
            waiting = list(self._waiting.values())
            self._waiting.clear()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # ends the calls of other threads
        for woken in waiting:
            woken.release()
        return self._lost_error(*self._lost)

    def _check_alive(self) -> None:
        if self._lost is not None:
            raise self._lost_error(*self._lost)

    def _lost_error(self, number: int, reason: str) -> DeviceError:
        return DeviceError(f"{self._name}: connection lost: {reason}", errno=number)

    def close(self) -> None:
        """Tell the server that the client leaves, without waiting for an answer."""
        if self._lost is None:
            leave = Call(Command.DISCONNECT, next(self._cookies), 0, 0)
            with suppress(OSError):
                self._transport.send([memoryview(leave.encode())])
        self._socket.close()

    def close_in_child(self) -> None:
        """Close a forked child's copy: nothing is sent, the connection is its parent's."""
        self._socket.close()


def _negotiate(connection: socket.socket, address: NbdAddress) -> tuple[Transport, Agreement]:
    transport: Transport = PlainTransport(connection)
    negotiation = ClientNegotiation(address.export, encrypts=address.encrypts)
    received = memoryview(bytearray(_RECEIVED_AT_ONCE))
    while True:
        step = negotiation.next_step()
        if isinstance(step, BeginTls):
            transport = TlsTransport(connection, address)
            step = negotiation.tls_active()
        if isinstance(step, Agreement):
            return transport, step
        if isinstance(step, SendToServer):
            transport.send([memoryview(step.data)])
        count = transport.receive_into([received])
        if not count:
            raise ConnectionResetError(errno.ECONNRESET, "the server closed the connection")
        negotiation.receive(bytes(received[:count]))
