"""What the fuzzer of NBD does with an input: a client sends it, and then a server does.

An input is what a client sends, from the first byte on: it
goes through the handshake and the requests of the real server, without a socket, to a volume in
memory. Where TLS is required, nothing but refusals may come back, as no input can encrypt.
"""

import resource
import socket
import struct
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

from blobstore import MemoryDevice, VolumeStore
from blobstore.nbd import handshake, transfer
from blobstore.nbd.activity import Activity
from blobstore.nbd.constants import Command, Option, OptionReply
from blobstore.nbd.exports import StoreExports
from blobstore.nbd.negotiation import NbdProtocolError, Negotiation, SendBytes, Tls, TlsRequested
from blobstore.operations import Buffer
from tests.nbd.wire import Wire
from tests.proof.nbd_fuzz_client import client_seeds, send_to_client

MEMORY_MAX: Final = 64 << 20
"""More than two buffers and the store take; what a client asks for must not matter."""
ANSWERS_MAX: Final = 256 << 20
_SIZE: Final = 1 << 20
_REPLY: Final = struct.Struct(">QIII")
_CLEAR_ANSWERS: Final = frozenset(
    {OptionReply.ACK, OptionReply.TLS_REQUIRED, OptionReply.INVALID, OptionReply.UNSUPPORTED}
)


class HarmError(Exception):
    """An input did harm."""


class _Client(socket.socket):
    """The client's side of a connection, which has sent all of an input and then hangs up."""

    def __init__(self, data: bytes) -> None:
        super().__init__(socket.AF_UNIX)
        self._left = memoryview(data)
        self.received = 0

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        data, self._left = self._left[:bufsize], self._left[bufsize:]
        return bytes(data)

    def receive_into(self, space: memoryview) -> int:
        data = self.recv(len(space))
        space[: len(data)] = data
        return len(data)

    def sendall(self, data: Any, flags: int = 0) -> None:
        self.received += len(data)

    def send_pieces(self, pieces: Sequence[Buffer]) -> None:
        self.received += sum(map(len, pieces))
        if self.received > ANSWERS_MAX:
            raise ConnectionResetError("the client has enough")


class _Transport:
    def __init__(self, client: _Client) -> None:
        self.receive_into = client.receive_into
        self.send = client.send_pieces


@cache
def _exports() -> StoreExports:
    store = VolumeStore.create(MemoryDevice(16 << 20), name="vms", cluster_size="16KiB")
    with store.create_volume("v", _SIZE, thin=True) as volume:
        volume.write(b"x" * 100_000, 5000)
        volume.snapshot("s").close()
        volume.write(b"y", 500_000)
    return StoreExports(store)


def try_input(data: bytes) -> None:
    """Let a client send an input to the server, in clear and where TLS is required, and back.

    Raises:
        HarmError: A client without a certificate got an answer, or memory grew.
        ClientHarmError: The client took what a server cannot have sent.
        Exception: Any other is harm, too.
    """
    before = _peak_bytes()
    _serve(data)
    _refuse(data)
    send_to_client(data)
    if _peak_bytes() - before > MEMORY_MAX:
        raise HarmError(f"{(_peak_bytes() - before) >> 20} MiB of memory")


def _serve(data: bytes) -> None:
    with _Client(data) as client:
        try:
            agreed = handshake.Handshake(
                client, "fuzzer", _exports(), None, lambda _old, _new: None
            ).run()
            if agreed is None:
                return
            try:
                work = transfer.Transfer(
                    agreed.export, agreed.agreement, _Transport(client), Activity()
                )
                work.run(agreed.rest)
            finally:
                agreed.export.close()
        except (NbdProtocolError, ConnectionError, transfer.ConnectionLostError):
            pass


def _refuse(data: bytes) -> None:
    """Negotiate where TLS is required: only refusals may come, until it would begin."""
    negotiation = Negotiation(Tls.REQUIRED)
    negotiation.receive(data)
    try:
        while (event := negotiation.next_event()) is not None:
            if isinstance(event, TlsRequested):
                return
            answer = getattr(event, "data", None)
            if answer is None:
                raise HarmError(f"{event} before TLS")
            if answer and _REPLY.unpack_from(answer)[2] not in _CLEAR_ANSWERS:
                raise HarmError(f"answered {answer!r} before TLS")
            if not isinstance(event, SendBytes):
                return
    except NbdProtocolError:
        return


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def seeds() -> list[bytes]:
    """Return sessions of well-behaved clients and servers, to begin with."""
    flags = struct.pack(">I", 3)
    name = struct.pack(">I", 1) + b"v"
    query = b"base:allocation"
    contexts = name + struct.pack(">II", 1, len(query)) + query

    def option(number: int, body: bytes = b"") -> bytes:
        return struct.pack(">QII", 0x49484156454F5054, number, len(body)) + body

    go = option(Option.GO, name + struct.pack(">HHH", 2, 1, 3))
    chosen = option(Option.SET_META_CONTEXT, contexts)
    listed = option(Option.LIST) + option(Option.LIST_META_CONTEXT, contexts)
    found = [flags + listed + option(Option.STARTTLS) + option(Option.EXPORT_NAME, b"v")]
    for header in (b"", option(Option.STRUCTURED_REPLY), option(Option.EXTENDED_HEADERS)):
        wire = Wire.__new__(Wire)
        wire.extended, wire._cookie = header == option(Option.EXTENDED_HEADERS), 0
        requests = [
            wire.encoded(Command.READ, 4000, 3000),
            wire.encoded(Command.READ, 0, _SIZE),
            wire.encoded(Command.WRITE, 9000, 500, b"z" * 500, 1),
            wire.encoded(Command.BLOCK_STATUS, 0, _SIZE),
            wire.encoded(Command.TRIM, 16384, 65536),
            wire.encoded(Command.WRITE_ZEROES, 100, 70000, b"", 2),
            wire.encoded(Command.CACHE, 0, 4096),
            wire.encoded(Command.FLUSH, 0, 0),
            wire.encoded(Command.DISCONNECT, 0, 0),
        ]
        found.append(flags + header + (chosen if header else b"") + go + b"".join(requests))
    return found + client_seeds()
