"""Requests that are in flight, and the replies to them, without I/O.

`ReplyStream` says into which memory the next bytes of the connection go: the data of a read
goes directly into the caller's memory. What arrives with it, or alone, is staged and cut into
replies. Replies come in any order. Those of a structured read come in pieces, which may
also be holes.

Nothing a server sends is believed. A reply that nothing asked for, data outside of what a
request reads, data that comes twice, and a read that ends before all of its bytes are there are
errors, after which the connection is useless. So a read that succeeds has every byte.
"""

import struct
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Final

from blobstore.nbd.client_negotiation import printable
from blobstore.nbd.constants import (
    CHUNK_DONE,
    PAYLOAD_MAX,
    REQUEST_MAGIC,
    SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC,
    Chunk,
    Command,
    CommandFlag,
)
from blobstore.nbd.negotiation import NbdProtocolError
from blobstore.nbd.wire_structs import CHUNK, ERROR, HOLE, REQUEST, SIMPLE_REPLY

_MAGIC: Final = struct.Struct(">I")
_OFFSET: Final = struct.Struct(">Q")
assert (SIMPLE_REPLY.size, CHUNK.size) == (16, 20)

_STAGING_SIZE: Final = 64 * 1024
_DETAIL_MAX: Final = 8192  # of an error: a code, a message of at most 4096 bytes, an offset
_PIECES_MAX: Final = 4096  # of one read that are there at once and do not touch each other
_PARTS_MAX: Final = 2 * PAYLOAD_MAX // 512  # of one reply: more than one for each sector
_IS_ERROR: Final = 1 << 15


class Pieces:
    """Which parts of a read have arrived: (start, end), in order, none touching another."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> None:
        """Take note of a part.

        Raises:
            NbdProtocolError: It was there already, or there are too many.
        """
        starts, ends = self._starts, self._ends
        at = bisect_left(starts, start)
        if (at and ends[at - 1] > start) or (at < len(starts) and starts[at] < end):
            raise NbdProtocolError(f"bytes {start} to {end} of a read came twice")
        joins_before = at > 0 and ends[at - 1] == start
        joins_after = at < len(starts) and starts[at] == end
        if joins_before and joins_after:
            ends[at - 1] = ends.pop(at)
            del starts[at]
        elif joins_before:
            ends[at - 1] = end
        elif joins_after:
            starts[at] = start
        else:
            starts.insert(at, start)
            ends.insert(at, end)
        if len(starts) > _PIECES_MAX:
            raise NbdProtocolError(f"a read in more than {_PIECES_MAX} pieces")

    def is_whole(self, length: int) -> bool:
        """Tell whether all of a read is there."""
        return (self._starts, self._ends) == ([0], [length])


@dataclass(slots=True, eq=False)
class Call:
    """One request, and what became of it.

    `views` are the memory of a read, together as long as `length`. `error` is the server's
    number, 0 for success, and `reason` its words.
    """

    command: Command
    cookie: int
    offset: int
    length: int
    views: list[memoryview] = field(default_factory=list)
    is_done: bool = False
    error: int = 0
    reason: str = ""
    pieces: Pieces | None = None  # of a read, from its first data on
    part_count: int = 0

    def encode(self, flags: CommandFlag = CommandFlag.NONE) -> bytes:
        """Return the request as it is sent; a write's data follows."""
        return REQUEST.pack(
            REQUEST_MAGIC, flags, self.command, self.cookie, self.offset, self.length
        )


class ReplyStream:
    """The requests of one connection that are in flight.

    One thread at a time may ask for `targets` and call `advance`; `expect` may run beside.
    """

    def __init__(self, *, structured: bool) -> None:
        self._structured = structured
        self._calls: dict[int, Call] = {}
        self._staging = memoryview(bytearray(_STAGING_SIZE))
        self._start = self._end = 0  # of what is staged and not parsed
        self._data: list[memoryview] = []  # the memory that the next bytes go to
        self._receiving: Call | None = None  # the request that this memory belongs to
        self._ends_call = False  # whether the request is done when this memory is full

    @property
    def in_flight(self) -> int:
        """How many requests have no whole reply yet."""
        return len(self._calls)

    def expect(self, call: Call) -> None:
        """Take note of a request, before it is sent."""
        self._calls[call.cookie] = call

    def targets(self) -> list[memoryview]:
        """Return the memory for the next bytes, never empty."""
        return [*self._data, self._staging[self._end :]]

    def advance(self, count: int) -> list[Call]:
        """Take note that `count` bytes were received into `targets`; return what is done now.

        Raises:
            NbdProtocolError: The server does not keep to the protocol.
        """
        finished: list[Call] = []
        self._end += count - self._fill(count, finished)
        while not self._data and self._parse(finished):
            pass
        self._compact()
        return finished

    def _fill(self, count: int, finished: list[Call]) -> int:
        """Return how many of the received bytes went into a request's memory."""
        rest = count
        while self._data and rest:
            view = self._data[0]
            if rest < len(view):
                self._data[0] = view[rest:]
                return count
            rest -= len(view)
            del self._data[0]
        if self._receiving is not None and not self._data:
            self._end_data(finished)
        return count - rest

    def _compact(self) -> None:
        """Move what is staged to the front, so that a whole reply always has room."""
        length = self._end - self._start
        if self._start:
            self._staging[:length] = self._staging[self._start : self._end]
            self._start, self._end = 0, length

    # Replies

    def _parse(self, finished: list[Call]) -> bool:
        """Take one reply, or its head; false if more bytes are needed."""
        staged = self._end - self._start
        if staged < SIMPLE_REPLY.size:
            return False
        (magic,) = _MAGIC.unpack_from(self._staging, self._start)
        if magic == SIMPLE_REPLY_MAGIC:
            self._take_simple(finished)
            return True
        if magic != STRUCTURED_REPLY_MAGIC or not self._structured:
            raise NbdProtocolError(f"reply magic {magic:#x}")
        return staged >= CHUNK.size and self._take_chunk(staged - CHUNK.size, finished)

    def _take_simple(self, finished: list[Call]) -> None:
        _magic, error, cookie = SIMPLE_REPLY.unpack_from(self._staging, self._start)
        self._start += SIMPLE_REPLY.size
        call = self._call(cookie)
        if call.command is Command.READ and self._structured:
            raise NbdProtocolError("a read's reply is not structured, as both sides agreed")
        call.error = call.error or error
        if error or call.command is not Command.READ:
            self._finish(call, finished)
        else:
            self._begin_data(call, 0, call.length, ends_call=True, finished=finished)

    def _take_chunk(self, staged: int, finished: list[Call]) -> bool:
        """Take a part of a structured reply whose head is staged, if its details are as well."""
        _magic, flags, kind, cookie, length = CHUNK.unpack_from(self._staging, self._start)
        call, is_last = self._call(cookie), bool(flags & CHUNK_DONE)
        if call.part_count == _PARTS_MAX:
            raise NbdProtocolError(f"a reply of more than {_PARTS_MAX} parts")
        needed = _details_length(kind, length)
        if staged < needed:
            return False
        call.part_count += 1
        at = self._start + CHUNK.size
        details = bytes(self._staging[at : at + needed])
        self._start = at + needed
        if kind == Chunk.OFFSET_DATA:
            (offset,) = _OFFSET.unpack(details)
            start, size = offset - call.offset, length - needed
            self._begin_data(call, start, size, ends_call=is_last, finished=finished)
            return True
        if kind == Chunk.OFFSET_HOLE:
            offset, size = HOLE.unpack(details)
            for view in self._claim(call, offset - call.offset, size):
                view[:] = bytes(len(view))
        elif kind != Chunk.NONE:
            _take_error(call, details)
        elif not is_last:
            raise NbdProtocolError("an empty part of a reply that is not its last")
        if is_last:
            self._finish(call, finished)
        return True

    def _call(self, cookie: int) -> Call:
        call = self._calls.get(cookie)
        if call is None:
            raise NbdProtocolError(f"a reply to request {cookie:#x}, which is not in flight")
        return call

    def _claim(self, call: Call, start: int, length: int) -> list[memoryview]:
        """Return the memory of a part of a read.

        Raises:
            NbdProtocolError: The request reads no such part, or has it already.
        """
        if call.command is not Command.READ or not 0 <= start <= call.length - length or not length:
            raise NbdProtocolError(
                f"{length} bytes at {call.offset + start}: not what a request asked for"
            )
        if call.pieces is None:
            call.pieces = Pieces()
        call.pieces.add(start, start + length)
        return views_between(call.views, start, length)

    def _begin_data(
        self, call: Call, start: int, length: int, *, ends_call: bool, finished: list[Call]
    ) -> None:
        """Copy what is staged of a read's data; the rest is received in its place."""
        self._data = self._claim(call, start, length)
        self._receiving, self._ends_call = call, ends_call
        while self._data and self._start < self._end:
            view = self._data[0]
            part = min(len(view), self._end - self._start)
            view[:part] = self._staging[self._start : self._start + part]
            self._start += part
            if part < len(view):
                self._data[0] = view[part:]
            else:
                del self._data[0]
        if not self._data:
            self._end_data(finished)

    def _end_data(self, finished: list[Call]) -> None:
        call, self._receiving = self._receiving, None
        if call is not None and self._ends_call:
            self._finish(call, finished)

    def _finish(self, call: Call, finished: list[Call]) -> None:
        """Take a request out of those in flight.

        Raises:
            NbdProtocolError: A read that succeeded does not have all of its bytes.
        """
        if call.command is Command.READ and not call.error and not _is_whole(call):
            raise NbdProtocolError(f"a read of {call.length} bytes ended before all were there")
        del self._calls[call.cookie]
        call.is_done = True
        finished.append(call)


def _is_whole(call: Call) -> bool:
    return call.pieces is not None and call.pieces.is_whole(call.length)


def _details_length(kind: int, length: int) -> int:
    """Return how many bytes after the head of a part must be there to make sense of it."""
    if kind == Chunk.NONE:
        is_right = length == 0
    elif kind == Chunk.OFFSET_DATA:
        is_right = _OFFSET.size < length <= _OFFSET.size + PAYLOAD_MAX
    elif kind == Chunk.OFFSET_HOLE:
        is_right = length == HOLE.size
    else:
        is_right = bool(kind & _IS_ERROR) and ERROR.size <= length <= _DETAIL_MAX
    if not is_right:
        raise NbdProtocolError(f"a part of a reply of kind {kind} with {length} bytes")
    return _OFFSET.size if kind == Chunk.OFFSET_DATA else length


def _take_error(call: Call, details: bytes) -> None:
    """Take note of an error; the first one is what the caller is told."""
    code, length = ERROR.unpack_from(details)
    if not code or length > len(details) - ERROR.size:
        raise NbdProtocolError(f"an error of code {code} with words of {length} bytes")
    if not call.error:
        call.error = code
        call.reason = printable(details[ERROR.size : ERROR.size + length])


def views_between(views: list[memoryview], start: int, length: int) -> list[memoryview]:
    """Return the parts of the views that lie from `start` on, `length` bytes together."""
    if len(views) == 1:
        return [views[0][start : start + length]]
    found: list[memoryview] = []
    for view in views:
        if not length:
            break
        if start < len(view):
            part = view[start : start + length]
            found.append(part)
            length -= len(part)
            start = 0
        else:
            start -= len(view)
    return [view for view in found if len(view)]
