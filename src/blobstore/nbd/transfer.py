"""The requests of one connection, in order: carried out on its export, and answered.

Answers are collected and sent together when all requests that were received are done, or when
the buffer for what was read is full. So a client with many small requests in flight costs one
receive and one send for all of them. Short reads take a path of their own: each has its own bytes
object, which costs less than a part of a reused buffer.

A long read goes through the buffer. One that is longer than the buffer is sent piece by piece: no
client makes the server take more memory than a buffer for each connection. Where the head of the
answer has promised all of it, a device that fails in the middle leaves only one way to say so: the
connection ends.

The bytes are copied, although `sendfile` could save that. It sends pages of the page cache, and a
client takes them when it likes: until then a cluster could be freed and hold another blob's bytes.
To wait for the client before clusters are reused would let a slow client stop all others.
"""

import errno
import logging
import time
from collections.abc import Callable
from typing import Final

from blobstore import BlobstoreError, InvalidArgumentError
from blobstore.api.disk_view import NOT_HELD, RANGES_MAX
from blobstore.nbd.activity import KINDS, Activity
from blobstore.nbd.constants import PAYLOAD_MAX, Command, CommandFlag, WireError
from blobstore.nbd.exports import OpenExport
from blobstore.nbd.metadata_contexts import query_of
from blobstore.nbd.negotiation import Agreement
from blobstore.nbd.transmission import Replies, Request, RequestStream
from blobstore.nbd.transport import Transport
from blobstore.operations import Buffer

_LOG: Final = logging.getLogger("blobstore.nbd")

_BUFFER_SIZE: Final = 1 << 20
_PIECES_MAX: Final = 1000
_HOLES_FROM: Final = 64 * 1024
"""A read of this many bytes or more is searched for holes, which are not sent."""
_READ: Final = int(Command.READ)
_DISCONNECT: Final = int(Command.DISCONNECT)
_READ_KIND: Final = KINDS[Command.READ]
_UINT32_MAX: Final = (1 << 32) - 1
_KNOWN_FLAGS: Final = sum(CommandFlag)

_WIRE_ERRORS: Final = {
    errno.EPERM: WireError.PERM,
    errno.EACCES: WireError.PERM,
    errno.EROFS: WireError.PERM,
    errno.ENOSPC: WireError.NO_SPACE,
    errno.ENOMEM: WireError.NO_SPACE,
    errno.EDQUOT: WireError.NO_SPACE,
    errno.EINVAL: WireError.INVALID,
    errno.ENOENT: WireError.INVALID,
    errno.ENOTSUP: WireError.NOT_SUPPORTED,
    errno.EBADF: WireError.SHUTDOWN,
}


class _RefusedError(Exception):
    """A request that makes no sense, and what is answered to it."""

    def __init__(self, error: WireError, message: str) -> None:
        super().__init__(message)
        self.error = error


class ConnectionLostError(OSError):
    """The connection cannot go on: what its answer promised cannot be sent."""


class Transfer:
    """The transmission phase of one connection."""

    def __init__(
        self,
        export: OpenExport,
        agreement: Agreement,
        transport: Transport,
        activity: Activity,
    ) -> None:
        self._export = export
        self._disk = export.disk
        self._read_only = export.read_only
        self._structured = agreement.structured
        self._stream = RequestStream(extended=agreement.extended)
        self._replies = Replies(agreement.structured, agreement.extended)
        self._contexts = [(number, query_of(export, name)) for number, name in agreement.contexts]
        self._transport = transport
        self._meters = activity.meters
        self._buffer = memoryview(bytearray(_BUFFER_SIZE))
        self._used = 0
        self._pieces: list[Buffer] = []
        self._failed_part: Exception | None = None
        self._received_ns = self._short_reads = self._short_bytes = self._bytes_so_far = 0
        self._done_now: list[tuple[str, int]] = []
        self.has_written = self._has_told_no_space = False
        self._commands: dict[int, Callable[[Request], None]] = {
            Command.READ: self._read,
            Command.WRITE: self._write,
            Command.FLUSH: self._flush,
            Command.TRIM: self._trim,
            Command.CACHE: self._cache,
            Command.WRITE_ZEROES: self._write_zeroes,
            Command.BLOCK_STATUS: self._block_status,
        }

    def run(self, rest: bytes) -> None:
        """Carry out requests until the client disconnects; `rest` was received before.

        Raises:
            NbdProtocolError: The client does not keep to the protocol.
            OSError: The connection is gone.
        """
        space = self._stream.space()
        space[: len(rest)] = rest
        count = len(rest)
        while self._take(count):
            count = self._transport.receive_into(self._stream.space())
            if not count and self._stream.is_within_request:
                raise ConnectionLostError("it ended within a request")
            if not count:
                return

    def _take(self, count: int) -> bool:
        """Carry out what was received, and send the answers; False after a disconnect."""
        self._received_ns = time.perf_counter_ns()
        try:
            for request in self._stream.received(count):
                command, length = request.command, request.length
                if command == _READ and 0 < length < _HOLES_FROM and not request.flags:
                    self._read_short(request, length)
                elif command == _DISCONNECT:
                    return False
                else:
                    self._carry_out(request)
                if len(self._pieces) >= _PIECES_MAX or self._used > _BUFFER_SIZE:
                    self._send()
        finally:
            self._send()
        return True

    def _read_short(self, request: Request, length: int) -> None:
        """Do what nearly all requests ask for, with the fewest steps."""
        offset = request.offset
        try:
            data = self._disk.read(length, offset)
        except BlobstoreError:
            self._carry_out(request)  # fails again, and answers so
            return
        self._pieces += (self._replies.data_head(request, offset, length), data)
        self._used += length  # not in the buffer, but memory that waits to be sent
        self._short_reads += 1
        self._short_bytes += length

    def _send(self) -> None:
        """Send what is ready; a client that has its answer finds it counted."""
        if self._pieces:
            self._count(time.perf_counter_ns() - self._received_ns)
            pieces = self._pieces[:]
            self._pieces.clear()
            self._used = 0
            self._transport.send(pieces)

    def _count(self, latency_ns: int) -> None:
        """Count what was done since the last send."""
        if self._short_reads:
            self._meters[_READ_KIND].count(self._short_reads, self._short_bytes, latency_ns)
            self._short_reads = self._short_bytes = 0
        for kind, length in self._done_now:
            self._meters[kind].count(1, length, latency_ns)
        self._done_now.clear()

    def _carry_out(self, request: Request) -> None:
        """Carry out one request, or a part of a long write, and put its answer with the others."""
        try:
            command = self._commands.get(request.command)
            if command is None:
                raise _RefusedError(WireError.INVALID, f"command {request.command}: unknown")
            if request.flags & ~_KNOWN_FLAGS:
                raise _RefusedError(WireError.INVALID, f"flags {request.flags:#x}: unknown")
            command(request)
            self._bytes_so_far += request.length
            if request.is_last:
                self._done_now.append((KINDS[request.command], self._bytes_so_far))
        except _RefusedError as error:
            self._fail(request, error.error, str(error))
        except BlobstoreError as error:
            wire_error = _WIRE_ERRORS.get(error.errno, WireError.IO)
            self._log_failure(error, wire_error)
            self._fail(request, wire_error, error.message)
        if request.is_last:
            self._bytes_so_far = 0

    def _log_failure(self, error: BlobstoreError, wire_error: WireError) -> None:
        """Log what is wrong with the device, and once a connection that there is no space.

        A client that goes on without space fails with every request.
        """
        if wire_error is WireError.IO or (
            wire_error is WireError.NO_SPACE and not self._has_told_no_space
        ):
            _LOG.error("export %r: %s", self._export.name, error)
            self._has_told_no_space |= wire_error is WireError.NO_SPACE

    def _fail(self, request: Request, error: WireError, message: str) -> None:
        kind = KINDS.get(request.command)
        if kind is not None:
            self._meters[kind].errors += 1
        self._pieces.append(self._replies.failed(request, error, message))

    def _done(self, request: Request) -> None:
        self._pieces.append(self._replies.done(request))

    # Reading

    def _read(self, request: Request) -> None:
        if not request.length:
            self._done(request)
            return
        self._check_range(request)
        if request.length > PAYLOAD_MAX:
            raise _RefusedError(WireError.OVERFLOW, f"read of {request.length} bytes: too long")
        if self._structured and not request.flags & CommandFlag.DF:
            self._read_in_chunks(request)
        else:
            head = self._replies.data_head(request, request.offset, request.length)
            self._send_range(head, request.offset, request.length)

    def _read_in_chunks(self, request: Request) -> None:
        """Answer with a chunk for each hole and each piece of data."""
        at, end = request.offset, request.offset + request.length
        while at < end:
            for start, length, depth in self._export.depths(at, end - at):
                at = start + length
                if depth == NOT_HELD:
                    hole = self._replies.hole(request, start, length, is_last=at == end)
                    self._pieces.append(hole)
                else:
                    self._send_chunks(request, start, length, end)

    def _send_chunks(self, request: Request, start: int, length: int, end: int) -> None:
        for at in range(start, start + length, _BUFFER_SIZE):
            size = min(_BUFFER_SIZE, start + length - at)
            view = self._filled(at, size)
            head = self._replies.data_head(request, at, size, is_last=at + size == end)
            self._pieces += [head, view]

    def _send_range(self, head: bytes, offset: int, length: int) -> None:
        """Answer with one range of data, which may be longer than the buffer."""
        first = min(length, _BUFFER_SIZE)
        view = self._filled(offset, first)
        self._pieces += [head, view]
        for at in range(offset + first, offset + length, _BUFFER_SIZE):
            try:
                self._pieces.append(self._filled(at, min(_BUFFER_SIZE, offset + length - at)))
            except BlobstoreError as error:
                raise ConnectionLostError(errno.EIO, f"cannot go on: {error}") from error

    def _filled(self, offset: int, length: int) -> memoryview:
        """Return a part of the buffer with what the blob holds; what it held before is sent."""
        if self._used + length > _BUFFER_SIZE:
            self._send()
        view = self._buffer[self._used : self._used + length]
        self._disk.read_into(view, offset)
        self._used += length
        return view

    def _cache(self, request: Request) -> None:
        """Read what will be read soon, so that the system has it; only as much as one request."""
        self._check_range(request)
        end = request.offset + min(request.length, PAYLOAD_MAX)
        self._send()
        for at in range(request.offset, end, _BUFFER_SIZE):
            self._disk.read_into(self._buffer[: min(_BUFFER_SIZE, end - at)], at)
        self._done(request)

    # Writing

    def _write(self, request: Request) -> None:
        if request.too_long:
            raise _RefusedError(WireError.OVERFLOW, f"write of {request.length} bytes: too long")
        self._check_writable()
        if self._failed_part is None:
            try:
                self._write_part(request)
            except (BlobstoreError, _RefusedError) as error:
                self._failed_part = error
        if not request.is_last:
            return
        failure, self._failed_part = self._failed_part, None
        if failure is not None:
            raise failure
        self._finish_change(request)

    def _write_part(self, request: Request) -> None:
        try:
            if len(request.payload):
                self._disk.write(request.payload, request.offset)
        except InvalidArgumentError as error:
            raise _RefusedError(WireError.NO_SPACE, error.message) from error

    def _trim(self, request: Request) -> None:
        self._check_writable()
        self._check_range(request, beyond=WireError.NO_SPACE)
        self._disk.unmap(request.offset, request.length)
        self._finish_change(request)

    def _write_zeroes(self, request: Request) -> None:
        self._check_writable()
        self._check_range(request, beyond=WireError.NO_SPACE)
        if request.flags & CommandFlag.FAST_ZERO and not self._is_fast_to_zero(request):
            raise _RefusedError(WireError.NOT_SUPPORTED, "a parent's clusters would be copied")
        if request.flags & CommandFlag.NO_HOLE:
            self._disk.write_zeroes(request.offset, request.length)
        else:
            self._export.clear(request.offset, request.length)
        self._finish_change(request)

    def _is_fast_to_zero(self, request: Request) -> bool:
        """Tell whether zeroes cost no copy: nothing in the range is held by a parent."""
        at, end = request.offset, request.offset + request.length
        while at < end:
            for start, length, depth in self._export.depths(at, end - at):
                if depth > 1:
                    return False
                at = start + length
        return True

    def _finish_change(self, request: Request) -> None:
        self.has_written = True
        if request.flags & CommandFlag.FUA:
            self._disk.flush()
        self._done(request)

    def _flush(self, request: Request) -> None:
        if not self._read_only:
            self._disk.flush()
        self._done(request)

    # Asking

    def _block_status(self, request: Request) -> None:
        if not self._contexts:
            raise _RefusedError(WireError.INVALID, "no metadata context was agreed on")
        if not request.length or request.too_long or request.payload:
            raise _RefusedError(WireError.INVALID, "block status: expected a range")
        self._check_range(request)
        limit = 1 if request.flags & CommandFlag.REQ_ONE else RANGES_MAX
        last = self._contexts[-1][0]
        answers: list[Buffer] = []
        for number, query in self._contexts:
            length = request.length if self._replies.extended else min(request.length, _UINT32_MAX)
            ranges = query(request.offset, length, limit)
            is_last = number == last
            answers.append(self._replies.block_status(request, number, ranges, is_last=is_last))
        self._pieces += answers
        self._used += sum(map(len, answers))  # not in the buffer either

    # Checks

    def _check_writable(self) -> None:
        if self._read_only:
            raise _RefusedError(WireError.PERM, "the export is read-only")

    def _check_range(self, request: Request, *, beyond: WireError = WireError.INVALID) -> None:
        if request.offset + request.length > self._disk.size:
            raise _RefusedError(
                beyond,
                f"{request.length} bytes at {request.offset}: outside of {self._disk.size} bytes",
            )
