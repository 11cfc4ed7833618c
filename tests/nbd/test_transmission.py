import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.nbd.constants import Command, WireError
from blobstore.nbd.negotiation import NbdProtocolError
from blobstore.nbd.transmission import Replies, Request, RequestStream

READ = Request(Command.READ, 0, 7, 4096, 512, memoryview(b""))


def compact(command: int, cookie: int, offset: int, length: int, data: bytes = b"") -> bytes:
    return struct.pack(">IHHQQI", 0x25609513, 0, command, cookie, offset, length) + data


def extended(command: int, flags: int, length: int, data: bytes = b"") -> bytes:
    return struct.pack(">IHHQQQ", 0x21E41C71, flags, command, 1, 0, length) + data


REQUESTS = st.lists(
    st.tuples(st.sampled_from(Command), st.integers(0, 99), st.binary(max_size=50)), max_size=9
)


def feed(stream: RequestStream, data: bytes) -> list[Request]:
    """Let a stream receive bytes, as much at a time as it has space for; payloads are copied."""
    found = []
    while data:
        space = stream.space()
        count = min(len(space), len(data))
        space[:count] = data[:count]
        data = data[count:]
        for request in stream.received(count):
            request.payload = memoryview(bytes(request.payload))
            found.append(request)
    return found


@given(
    requests=REQUESTS,
    cuts=st.lists(st.integers(1, 60), max_size=30),
    buffer_size=st.integers(28, 200),
)
def test_requests_arrive_whole_or_in_parts_however_the_stream_is_cut(
    requests: list[tuple[Command, int, bytes]], cuts: list[int], buffer_size: int
) -> None:
    data = b"".join(
        compact(command, cookie, 5, len(body), body if command is Command.WRITE else b"")
        for command, cookie, body in requests
    )
    stream = RequestStream(extended=False, buffer_size=buffer_size)
    parts = []
    for cut in [*cuts, len(data)]:
        parts += feed(stream, data[:cut])
        data = data[cut:]
    found: list[tuple[int, int, int, bytes]] = []
    begun = b""
    for part in parts:
        assert part.offset == 5 + len(begun)
        begun += part.payload
        if part.is_last:
            length = len(begun) if part.command == Command.WRITE else part.length
            found.append((part.command, part.cookie, length, begun))
            begun = b""
    assert found == [
        (command, cookie, len(body), body if command is Command.WRITE else b"")
        for command, cookie, body in requests
    ]


def test_a_write_that_fits_the_buffer_is_one_and_a_longer_one_fills_the_buffer_each_time() -> None:
    stream = RequestStream(extended=False, buffer_size=128)
    (whole,) = feed(stream, compact(Command.WRITE, 1, 0, 100, b"x" * 100))
    assert (whole.length, whole.is_last) == (100, True)
    parts = feed(stream, compact(Command.WRITE, 1, 1000, 300, b"y" * 300))
    assert [(part.offset, part.length, part.is_last) for part in parts] == [
        (1000, 128, False),
        (1128, 128, False),
        (1256, 44, True),
    ]


def test_a_write_that_is_too_long_is_skipped_and_the_next_request_is_found() -> None:
    stream = RequestStream(extended=False, payload_max=100)
    found = feed(stream, compact(Command.WRITE, 1, 0, 5000, b"x" * 3000))
    assert [(request.cookie, request.too_long) for request in found] == [(1, True)]
    after = feed(stream, b"x" * 2000 + compact(Command.FLUSH, 2, 0, 0))
    assert [(request.cookie, request.command) for request in after] == [(2, Command.FLUSH)]


def test_a_payload_beside_a_block_status_is_taken_with_extended_headers() -> None:
    stream = RequestStream(extended=True)
    (found,) = feed(stream, extended(Command.BLOCK_STATUS, 32, 3, b"abc"))
    assert bytes(found.payload) == b"abc"


def test_a_payload_that_is_no_writes_and_does_not_fit_the_buffer_is_skipped() -> None:
    stream = RequestStream(extended=True, buffer_size=64)
    payload = b"x" * 100
    found = feed(stream, extended(Command.BLOCK_STATUS, 32, 100, payload) + extended(3, 0, 0))
    assert [(request.command, request.too_long) for request in found] == [(7, True), (3, False)]


@pytest.mark.parametrize("is_extended", [False, True])
def test_another_magic_ends_the_connection(is_extended: bool) -> None:
    data = extended(Command.READ, 0, 1) if not is_extended else compact(Command.READ, 1, 0, 1)
    with pytest.raises(NbdProtocolError):
        feed(RequestStream(extended=is_extended), data.ljust(32, b"\0"))


@given(data=st.binary(max_size=300), is_extended=st.booleans())
def test_any_bytes_are_requests_or_wait_or_end_the_connection(
    data: bytes, is_extended: bool
) -> None:
    magic = struct.pack(">I", 0x21E41C71 if is_extended else 0x25609513)
    stream = RequestStream(extended=is_extended, buffer_size=96, payload_max=128)
    try:
        found = feed(stream, magic + data)
    except NbdProtocolError:
        return
    assert all(len(request.payload) <= 96 for request in found)
    assert len(stream.space())


def test_simple_replies() -> None:
    replies = Replies(structured=False, extended=False)
    assert replies.done(READ) == struct.pack(">IIQ", 0x67446698, 0, 7)
    assert replies.failed(READ, WireError.IO, "why") == struct.pack(">IIQ", 0x67446698, 5, 7)
    assert replies.data_head(READ, 4096, 512) == struct.pack(">IIQ", 0x67446698, 0, 7)


def test_structured_replies() -> None:
    replies = Replies(structured=True, extended=False)
    head = struct.Struct(">IHHQI")
    assert replies.done(READ) == head.pack(0x668E33EF, 1, 0, 7, 0)
    assert replies.failed(READ, WireError.IO, "why") == (
        head.pack(0x668E33EF, 1, 0x8001, 7, 9) + struct.pack(">IH", 5, 3) + b"why"
    )
    assert replies.data_head(READ, 4096, 512) == (
        head.pack(0x668E33EF, 1, 1, 7, 520) + struct.pack(">Q", 4096)
    )
    assert replies.hole(READ, 4608, 100, is_last=False) == (
        head.pack(0x668E33EF, 0, 2, 7, 12) + struct.pack(">QI", 4608, 100)
    )
    assert replies.block_status(READ, 1, [(512, 3), (512, 0)], is_last=True) == (
        head.pack(0x668E33EF, 1, 5, 7, 20) + struct.pack(">IIIII", 1, 512, 3, 512, 0)
    )


def test_replies_with_extended_headers() -> None:
    replies = Replies(structured=True, extended=True)
    head = struct.Struct(">IHHQQQ")
    assert replies.done(READ) == head.pack(0x6E8A278C, 1, 0, 7, 4096, 0)
    assert replies.block_status(READ, 2, [(1 << 40, 1)], is_last=True) == (
        head.pack(0x6E8A278C, 1, 6, 7, 4096, 24) + struct.pack(">IIQQ", 2, 1, 1 << 40, 1)
    )
