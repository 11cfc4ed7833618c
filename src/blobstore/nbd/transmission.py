"""Requests and replies of the transmission, without I/O.

`RequestStream` cuts what arrives into requests: many can lie in one receive. Its buffer has a
fixed size, whatever a peer asks for: a write that does not fit comes in parts. A write that is
longer than is accepted is not an error that ends the connection: its payload is skipped, and
the request is refused.

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
from blobstore.nbd.wire_structs import CHUNK, ERROR, HOLE, REQUEST, SIMPLE_REPLY

_EXTENDED_REQUEST: Final = struct.Struct(">IHHQQQ")
_DATA_HEAD: Final = struct.Struct(">IHHQIQ")
_OFFSET_DATA: Final = int(Chunk.OFFSET_DATA)
_EXTENDED_CHUNK: Final = struct.Struct(">IHHQQQ")
_U32: Final = struct.Struct(">I")
_U64: Final = struct.Struct(">Q")
_COUNT: Final = struct.Struct(">II")
_WRITE: Final = int(Command.WRITE)
_PAYLOAD_LEN: Final = int(CommandFlag.PAYLOAD_LEN)
_EMPTY: Final = memoryview(b"")

BUFFER_SIZE: Final = (1024 + 64) * 1024
"""Bytes that a connection's requests take: a write of 1 MiB and many small requests."""


@dataclass(slots=True)
class Request:
    """One request; `payload` is a write's data, and valid until the next `space`.

    A write that is longer than the buffer comes in parts, each with its own offset and length;
    `is_last` tells which one is answered. `too_long` tells that the payload is longer than is
    accepted, and is skipped.
    """

    command: int
    flags: int
    cookie: int
    offset: int
    length: int
    payload: memoryview = _EMPTY
    too_long: bool = False
    is_last: bool = True


class RequestStream:
    """Cuts the bytes of one connection into requests.

    The stream has the buffer: its owner receives into `space`, and tells `received` how much
    that was. The buffer never grows.
    """

    def __init__(
        self,
        *,
        extended: bool,
        buffer_size: int = BUFFER_SIZE,
        payload_max: int = PAYLOAD_MAX,
    ) -> None:
        self._head = _EXTENDED_REQUEST if extended else REQUEST
        self._magic = EXTENDED_REQUEST_MAGIC if extended else REQUEST_MAGIC
        self._extended = extended
        self._payload_max = payload_max
        self._buffer = memoryview(bytearray(buffer_size))
        self._begin = self._end = 0
        self._skip = 0
        self._long: Request | None = None  # what is left of a write that comes in parts

    @property
    def is_within_request(self) -> bool:
        """Whether a request has begun to arrive and is not whole."""
        return self._begin < self._end or self._long is not None or self._skip > 0

    def space(self) -> memoryview:
        """Return where to receive next; it is never empty. Payloads are invalid from now on."""
        begin, end = self._begin, self._end
        if begin:
            self._buffer[: end - begin] = self._buffer[begin:end]
            self._begin, self._end = 0, end - begin
        return self._buffer[self._end :]

    def received(self, count: int) -> Iterator[Request]:
        """Take the `count` bytes that were received, and yield the requests that are whole.

        Raises:
            NbdProtocolError: The peer does not keep to the protocol.
        """
        self._end += count
        unpack, size, buffer = self._head.unpack_from, self._head.size, self._buffer
        while True:
            if self._skip:
                self._skip_payload()
            if self._long is not None:
                part = self._next_part(self._long)
                if part is None:
                    return
                yield part
                continue
            at = self._begin
            if self._end - at < size:
                return
            magic, flags, command, cookie, offset, length = unpack(buffer, at)
            if magic != self._magic:
                raise NbdProtocolError(f"request magic {magic:#x}, expected {self._magic:#x}")
            if command != _WRITE and not (self._extended and flags & _PAYLOAD_LEN):
                self._begin = at + size
                yield Request(command, flags, cookie, offset, length)
                continue
            request = self._with_payload(Request(command, flags, cookie, offset, length))
            if request is None:
                return
            if request is not self._long:
                yield request

    def _with_payload(self, request: Request) -> Request | None:
        """Take a payload; None where it is not whole yet."""
        at, length = self._begin + self._head.size, request.length
        fits = self._head.size + length <= len(self._buffer)
        if length > self._payload_max or not (fits or request.command == _WRITE):
            self._begin, self._skip = at, length
            request.too_long = True
        elif not fits:
            self._begin, self._long = at, request
        elif self._end - at < length:
            return None
        else:
            request.payload = self._buffer[at : at + length]
            self._begin = at + length
        return request

    def _next_part(self, rest: Request) -> Request | None:
        """Take the next part of a long write: a full buffer, or the last part; None for less."""
        length = min(self._end - self._begin, rest.length)
        is_last = length == rest.length
        if not is_last and (self._begin or self._end < len(self._buffer)):
            return None
        payload = self._buffer[self._begin : self._begin + length]
        part = Request(
            rest.command, rest.flags, rest.cookie, rest.offset, length, payload, is_last=is_last
        )
        self._begin += length
        rest.offset, rest.length = rest.offset + length, rest.length - length
        if is_last:
            self._long = None
        return part

    def _skip_payload(self) -> None:
        skipped = min(self._skip, self._end - self._begin)
        self._skip -= skipped
        self._begin += skipped


@dataclass(frozen=True, slots=True)
class Replies:
    """Encodes the replies of one connection in the form that both sides agreed on."""

    structured: bool
    extended: bool

    def done(self, request: Request) -> bytes:
        """Return the reply to a request that was done and has no data."""
        if self.structured:
            return self._chunk(request, Chunk.NONE, 0, is_last=True)
        return SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, WireError.OK, request.cookie)

    def failed(self, request: Request, error: WireError, message: str = "") -> bytes:
        """Return the reply to a request that failed."""
        if not self.structured:
            return SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, error, request.cookie)
        text = message.encode()[:4096]
        detail = ERROR.pack(error, len(text)) + text
        return self._chunk(request, Chunk.ERROR, len(detail), is_last=True) + detail

    def data_head(
        self, request: Request, offset: int, length: int, *, is_last: bool = True
    ) -> bytes:
        """Return what precedes `length` bytes of data of a read, read from `offset`."""
        if not self.structured:
            return SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, 0, request.cookie)
        if not self.extended:  # nearly all clients: in one step
            flags, size = int(is_last), _U64.size + length
            return _DATA_HEAD.pack(
                STRUCTURED_REPLY_MAGIC, flags, _OFFSET_DATA, request.cookie, size, offset
            )
        head = self._chunk(request, Chunk.OFFSET_DATA, _U64.size + length, is_last=is_last)
        return head + _U64.pack(offset)

    def hole(self, request: Request, offset: int, length: int, *, is_last: bool) -> bytes:
        """Return the part of a read's reply that says that a range is zero."""
        head = self._chunk(request, Chunk.OFFSET_HOLE, HOLE.size, is_last=is_last)
        return head + HOLE.pack(offset, length)

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
        return CHUNK.pack(STRUCTURED_REPLY_MAGIC, flags, kind, request.cookie, length)
