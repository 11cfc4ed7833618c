"""Requests and replies of the transmission, without I/O.

`RequestStream` cuts what arrives into requests: many can lie in one receive. Every
length is checked before memory is taken for it. A write that is too long is not an
error that ends the connection: its payload is skipped, and the request is refused.

Replies are values turned into bytes: simple, structured or with extended headers, as
the two sides agreed. The head of a read's reply is separate from its data, so that a
server can send both without a copy.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from blobstore.nbd.constants import (
    CHUNK_DONE,
    EXTENDED_REPLY_MAGIC,
    EXTENDED_REQUEST_MAGIC,
    PAYLOAD_MAX,
    REQUEST_MAGIC,
    SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC,
    Chunk,
    Command,
    CommandFlag,
    WireError,
)
from blobstore.nbd.negotiation import NbdProtocolError

_REQUEST: Final = struct.Struct(">IHHQQI")
_EXTENDED_REQUEST: Final = struct.Struct(">IHHQQQ")
_SIMPLE_REPLY: Final = struct.Struct(">IIQ")
_CHUNK: Final = struct.Struct(">IHHQI")
_EXTENDED_CHUNK: Final = struct.Struct(">IHHQQQ")
_U32: Final = struct.Struct(">I")
_U64: Final = struct.Struct(">Q")
_HOLE: Final = struct.Struct(">QI")
_ERROR: Final = struct.Struct(">IH")
_COUNT: Final = struct.Struct(">II")
_EMPTY: Final = memoryview(b"")


@dataclass(slots=True)
class Request:
    """One request; `payload` is a write's data, and valid until the next `feed`.

    `too_long` tells that the payload was longer than is accepted, and was skipped.
    """

    command: int
    flags: int
    cookie: int
    offset: int
    length: int
    payload: memoryview
    too_long: bool = False


class RequestStream:
    """Cuts the bytes of one connection into requests."""

    def __init__(self, *, extended: bool, payload_max: int = PAYLOAD_MAX) -> None:
        self._head = _EXTENDED_REQUEST if extended else _REQUEST
        self._magic = EXTENDED_REQUEST_MAGIC if extended else REQUEST_MAGIC
        self._extended = extended
        self._payload_max = payload_max
        self._skip = 0
        self._rest = b""

    @property
    def missing(self) -> int:
        """The minimum number of further bytes that the next request needs."""
        rest, head = self._rest, self._head
        if self._skip:
            return self._skip
        if len(rest) < head.size:
            return head.size - len(rest)
        return max(1, head.size + self._payload_length(*head.unpack_from(rest)) - len(rest))

    def feed(self, data: bytes | memoryview) -> Iterator[Request]:
        """Take received bytes, and yield the requests that are whole.

        Raises:
            NbdProtocolError: The peer does not keep to the protocol.
        """
        view = memoryview(self._rest + bytes(data) if self._rest else data)
        self._rest = b""
        head, at, end = self._head, 0, len(view)
        while True:
            if self._skip:
                skipped = min(self._skip, end - at)
                self._skip -= skipped
                at += skipped
            if end - at < head.size:
                break
            magic, flags, command, cookie, offset, length = head.unpack_from(view, at)
            size = self._payload_length(magic, flags, command, cookie, offset, length)
            if size > self._payload_max:
                at += head.size
                self._skip = size
                yield Request(command, flags, cookie, offset, length, _EMPTY, too_long=True)
                continue
            if end - at < head.size + size:
                break
            at += head.size
            payload = view[at : at + size]
            at += size
            yield Request(command, flags, cookie, offset, length, payload)
        self._rest = bytes(view[at:])

    def _payload_length(
        self, magic: int, flags: int, command: int, _cookie: int, _offset: int, length: int
    ) -> int:
        if magic != self._magic:
            raise NbdProtocolError(f"request magic {magic:#x}, expected {self._magic:#x}")
        if command == Command.WRITE:
            return length
        return length if self._extended and flags & CommandFlag.PAYLOAD_LEN else 0


@dataclass(frozen=True, slots=True)
class Replies:
    """Encodes the replies of one connection in the form that both sides agreed on."""

    structured: bool
    extended: bool

    def done(self, request: Request) -> bytes:
        """Return the reply to a request that was done and has no data."""
        if self.structured:
            return self._chunk(request, Chunk.NONE, 0, is_last=True)
        return _SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, WireError.OK, request.cookie)

    def failed(self, request: Request, error: WireError, message: str = "") -> bytes:
        """Return the reply to a request that failed."""
        if not self.structured:
            return _SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, error, request.cookie)
        text = message.encode()[:4096]
        detail = _ERROR.pack(error, len(text)) + text
        return self._chunk(request, Chunk.ERROR, len(detail), is_last=True) + detail

    def data_head(
        self, request: Request, offset: int, length: int, *, is_last: bool = True
    ) -> bytes:
        """Return what precedes `length` bytes of data of a read, read from `offset`."""
        if not self.structured:
            return _SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, WireError.OK, request.cookie)
        head = self._chunk(request, Chunk.OFFSET_DATA, _U64.size + length, is_last=is_last)
        return head + _U64.pack(offset)

    def hole(self, request: Request, offset: int, length: int, *, is_last: bool) -> bytes:
        """Return the part of a read's reply that says that a range is zero."""
        head = self._chunk(request, Chunk.OFFSET_HOLE, _HOLE.size, is_last=is_last)
        return head + _HOLE.pack(offset, length)

    def block_status(
        self,
        request: Request,
        context: int,
        ranges: Sequence[tuple[int, int]],
        *,
        is_last: bool,
    ) -> bytes:
        """Return the (length, flags) of neighbouring ranges in a metadata context."""
        numbers = [number for pair in ranges for number in pair]
        if self.extended:
            body = _COUNT.pack(context, len(ranges)) + struct.pack(f">{len(numbers)}Q", *numbers)
            kind = Chunk.BLOCK_STATUS_EXT
        else:
            body = _U32.pack(context) + struct.pack(f">{len(numbers)}I", *numbers)
            kind = Chunk.BLOCK_STATUS
        return self._chunk(request, kind, len(body), is_last=is_last) + body

    def _chunk(self, request: Request, kind: Chunk, length: int, *, is_last: bool) -> bytes:
        flags = CHUNK_DONE if is_last else 0
        if self.extended:
            return _EXTENDED_CHUNK.pack(
                EXTENDED_REPLY_MAGIC, flags, kind, request.cookie, request.offset, length
            )
        return _CHUNK.pack(STRUCTURED_REPLY_MAGIC, flags, kind, request.cookie, length)
