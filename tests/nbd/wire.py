"""A client of bytes, for what real clients do not send; and a store to serve."""

import socket
import struct
from dataclasses import dataclass
from typing import Final, Self

from blobstore.nbd.constants import (
    EXTENDED_REPLY_MAGIC,
    EXTENDED_REQUEST_MAGIC,
    OPTION_MAGIC,
    OPTION_REPLY_MAGIC,
    REQUEST_MAGIC,
    SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC,
    Chunk,
    Command,
    Info,
    Option,
    OptionReply,
)

_TIMEOUT_S: Final = 60


@dataclass(frozen=True)
class Answer:
    """What a request was answered with: data by offset, or an error, or ranges by context."""

    error: int
    data: dict[int, bytes]
    holes: dict[int, int]
    status: dict[int, list[tuple[int, int]]]
    chunks: int


class Wire:
    """A connection of bytes, with a handshake and requests on top."""

    def __init__(self, place: str | tuple[str, int]) -> None:
        """Connect to a Unix socket, or to a host and a port."""
        self.socket = socket.socket(socket.AF_UNIX if isinstance(place, str) else socket.AF_INET)
        self.socket.settimeout(_TIMEOUT_S)
        self.socket.connect(place)
        self.structured = self.extended = False
        self.size = self.flags = 0
        self._cookie = 0

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def take(self, count: int) -> bytes:
        """Receive exactly so many bytes.

        Raises:
            EOFError: The server has hung up.
        """
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise EOFError(f"{len(data)} of {count} bytes")
            data += more
        return data

    # The handshake

    def greet(self) -> Self:
        self.take(18)
        self.send(struct.pack(">I", 3))
        return self

    def option(self, number: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        """Send an option, and return the (kind, data) of all its replies."""
        self.send(struct.pack(">QII", OPTION_MAGIC, number, len(data)) + data)
        found = []
        while True:
            magic, answered, kind, length = struct.unpack(">QIII", self.take(20))
            assert (magic, answered) == (OPTION_REPLY_MAGIC, number)
            found.append((kind, self.take(length)))
            if kind == OptionReply.ACK or OptionReply(kind).is_error:
                return found

    def contexts(self, number: int, name: str, *queries: str) -> list[str]:
        data = _text(name) + struct.pack(">I", len(queries)) + b"".join(map(_text, queries))
        answers = self.option(number, data)
        return [body[4:].decode() for kind, body in answers if kind == OptionReply.META_CONTEXT]

    def go(self, name: str) -> int:
        """Choose an export; return the kind of the last reply."""
        answers = self.option(Option.GO, _text(name) + struct.pack(">H", 0))
        for kind, body in answers:
            if kind == OptionReply.INFO and body[:2] == struct.pack(">H", Info.EXPORT):
                _info, self.size, self.flags = struct.unpack(">HQH", body)
        return answers[-1][0]

    def begin(
        self, name: str, *queries: str, structured: bool = True, extended: bool = False
    ) -> Self:
        """Do the whole handshake."""
        self.greet()
        self.structured, self.extended = structured or extended, extended
        if extended:
            assert self.option(Option.EXTENDED_HEADERS) == [(OptionReply.ACK, b"")]
        elif structured:
            assert self.option(Option.STRUCTURED_REPLY) == [(OptionReply.ACK, b"")]
        if queries:
            assert self.contexts(Option.SET_META_CONTEXT, name, *queries) == list(queries)
        assert self.go(name) == OptionReply.ACK
        return self

    # Requests

    def request(
        self, command: int, offset: int = 0, length: int = 0, data: bytes = b"", flags: int = 0
    ) -> Answer:
        """Send a request, and return its answer."""
        self.send(self.encoded(command, offset, length or len(data), data, flags))
        return self.answer(command, length)

    def encoded(
        self, command: int, offset: int, length: int, data: bytes = b"", flags: int = 0
    ) -> bytes:
        self._cookie += 1
        head = struct.Struct(">IHHQQQ" if self.extended else ">IHHQQI")
        magic = EXTENDED_REQUEST_MAGIC if self.extended else REQUEST_MAGIC
        return head.pack(magic, flags, command, self._cookie, offset, length) + data

    def answer(self, command: int, length: int = 0) -> Answer:
        if not self.structured:
            magic, error, _cookie = struct.unpack(">IIQ", self.take(16))
            assert magic == SIMPLE_REPLY_MAGIC
            has_data = command == Command.READ and not error
            return Answer(error, {0: self.take(length)} if has_data else {}, {}, {}, 1)
        found = Answer(0, {}, {}, {}, 0)
        while True:
            is_last, kind, body = self._chunk()
            found = _with_chunk(found, kind, body)
            if is_last:
                return found

    def _chunk(self) -> tuple[bool, int, bytes]:
        if self.extended:
            magic, flags, kind, _c, _o, length = struct.unpack(">IHHQQQ", self.take(32))
            assert magic == EXTENDED_REPLY_MAGIC
        else:
            magic, flags, kind, _c, length = struct.unpack(">IHHQI", self.take(20))
            assert magic == STRUCTURED_REPLY_MAGIC
        return bool(flags & 1), kind, self.take(length)

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def _text(value: str) -> bytes:
    return struct.pack(">I", len(value.encode())) + value.encode()


def _with_chunk(found: Answer, kind: int, body: bytes) -> Answer:
    error, data, holes, status = found.error, found.data, found.holes, found.status
    if kind == Chunk.OFFSET_DATA:
        data[int.from_bytes(body[:8], "big")] = body[8:]
    elif kind == Chunk.OFFSET_HOLE:
        offset, length = struct.unpack(">QI", body)
        holes[offset] = length
    elif kind == Chunk.BLOCK_STATUS:
        (number,) = struct.unpack_from(">I", body)
        status[number] = list(struct.iter_unpack(">II", body[4:]))
    elif kind == Chunk.BLOCK_STATUS_EXT:
        number, count = struct.unpack_from(">II", body)
        status[number] = list(struct.iter_unpack(">QQ", body[8:]))
        assert len(status[number]) == count
    elif kind & 0x8000:
        (error,) = struct.unpack_from(">I", body)
    return Answer(error, data, holes, status, found.chunks + 1)
