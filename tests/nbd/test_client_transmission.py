import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.nbd.client_transmission import Call, ReplyStream, views_between
from blobstore.nbd.constants import (
    CHUNK_DONE,
    REQUEST_MAGIC,
    SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC,
    Chunk,
    Command,
    CommandFlag,
)
from blobstore.nbd.negotiation import NbdProtocolError
from blobstore.nbd.transmission import Replies, Request, RequestStream


def reading(cookie: int, offset: int, length: int) -> tuple[Call, bytearray]:
    memory = bytearray(b"\xee" * length)
    return Call(Command.READ, cookie, offset, length, [memoryview(memory)]), memory


def received(stream: ReplyStream, data: bytes, step: int = 1 << 20) -> list[Call]:
    """Pass bytes on as a socket would, `step` of them at once at most."""
    finished: list[Call] = []
    while data:
        count = 0
        for target in stream.targets():
            part = data[count : min(count + len(target), step)]
            target[: len(part)] = part
            count += len(part)
        data = data[count:]
        finished += stream.advance(count)
    return finished


def chunk(cookie: int, kind: int, body: bytes, *, is_last: bool = True) -> bytes:
    flags = CHUNK_DONE if is_last else 0
    return struct.pack(">IHHQI", STRUCTURED_REPLY_MAGIC, flags, kind, cookie, len(body)) + body


def data_at(offset: int, data: bytes) -> bytes:
    return struct.pack(">Q", offset) + data


def hole_at(offset: int, length: int) -> bytes:
    return struct.pack(">QI", offset, length)


def as_the_server_reads(data: bytes) -> Request:
    stream = RequestStream(extended=False)
    stream.space()[: len(data)] = data
    (found,) = stream.received(len(data))
    return found


def test_a_request_is_what_the_servers_side_reads() -> None:
    call = Call(Command.WRITE, 7, 4096, 3)
    found = as_the_server_reads(call.encode(CommandFlag.FUA) + b"abc")
    assert (found.command, found.flags, found.cookie) == (Command.WRITE, CommandFlag.FUA, 7)
    assert (found.offset, found.length, bytes(found.payload)) == (4096, 3, b"abc")
    assert call.encode()[:4] == struct.pack(">I", REQUEST_MAGIC)


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
@pytest.mark.parametrize("structured", [True, False])
def test_replies_in_another_order_reach_the_requests_they_belong_to(
    structured: bool, step: int
) -> None:
    stream = ReplyStream(structured=structured)
    replies = Replies(structured=structured, extended=False)
    first, one = reading(1, 0, 1000)
    second, two = reading(2, 5000, 20_000)
    write = Call(Command.WRITE, 3, 0, 512)
    sent = {}
    for call in (first, second, write):
        stream.expect(call)
        payload = bytes(512) if call is write else b""
        sent[call.cookie] = as_the_server_reads(call.encode() + payload)
    data = (
        replies.data_head(sent[2], 5000, 20_000)
        + b"b" * 20_000
        + replies.done(sent[3])
        + replies.data_head(sent[1], 0, 1000)
        + b"a" * 1000
    )
    assert received(stream, data, step) == [second, write, first]
    assert bytes(one) == b"a" * 1000
    assert bytes(two) == b"b" * 20_000
    assert stream.in_flight == 0


@given(st.data())
def test_a_read_in_pieces_of_data_and_holes_has_every_byte(data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, 9999), max_size=12)))
    parts = list(zip([0, *cuts], [*cuts, 10_000], strict=True))
    expected = bytearray(10_000)
    wire = b""
    for start, end in data.draw(st.permutations(parts)):
        if data.draw(st.booleans()):
            expected[start:end] = bytes([start % 255 + 1]) * (end - start)
            body, kind = data_at(77 + start, bytes(expected[start:end])), Chunk.OFFSET_DATA
        else:
            body, kind = hole_at(77 + start, end - start), Chunk.OFFSET_HOLE
        wire += chunk(1, kind, body, is_last=False)
    wire += chunk(1, Chunk.NONE, b"")
    memory = bytearray(b"\xee" * 10_000)
    edges = sorted(data.draw(st.sets(st.integers(0, 10_000), max_size=5)))
    views = [
        memoryview(memory)[start:end]
        for start, end in zip([0, *edges], [*edges, 10_000], strict=True)
    ]
    call = Call(Command.READ, 1, 77, 10_000, views)
    stream = ReplyStream(structured=True)
    stream.expect(call)
    assert received(stream, wire, data.draw(st.integers(1, 5000))) == [call]
    assert memory == expected


def test_an_error_in_the_middle_of_a_read_is_the_reads_and_keeps_its_words() -> None:
    stream = ReplyStream(structured=True)
    call, _memory = reading(1, 0, 1024)
    stream.expect(call)
    words = struct.pack(">IH", 5, 10) + b"bad sector" + struct.pack(">Q", 512)
    wire = chunk(1, Chunk.OFFSET_DATA, data_at(0, bytes(512)), is_last=False)
    wire += chunk(1, Chunk.ERROR_OFFSET, words, is_last=False) + chunk(1, Chunk.NONE, b"")
    assert received(stream, wire) == [call]
    assert (call.error, call.reason) == (5, "bad sector")


def test_an_error_of_a_kind_that_is_not_known_is_an_error() -> None:
    stream = ReplyStream(structured=True)
    stream.expect(call := Call(Command.FLUSH, 1, 0, 0))
    received(stream, chunk(1, (1 << 15) + 99, struct.pack(">IH", 22, 0)))
    assert call.error == 22


def simple(cookie: int, error: int = 0) -> bytes:
    return struct.pack(">IIQ", SIMPLE_REPLY_MAGIC, error, cookie)


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        pytest.param(chunk(2, Chunk.NONE, b""), "not in flight", id="another request"),
        pytest.param(simple(1), "not structured", id="a simple reply to a read"),
        pytest.param(b"x" * 20, "reply magic", id="no magic"),
        pytest.param(chunk(1, Chunk.NONE, b""), "before all were there", id="no data"),
        pytest.param(
            chunk(1, Chunk.OFFSET_DATA, data_at(0, bytes(512))), "before all", id="half the data"
        ),
        pytest.param(
            chunk(1, Chunk.OFFSET_DATA, data_at(1, bytes(1024))), "not what", id="data past the end"
        ),
        pytest.param(
            chunk(1, Chunk.OFFSET_HOLE, hole_at(2**64 - 1, 1)), "not what", id="far outside"
        ),
        pytest.param(
            chunk(1, Chunk.OFFSET_DATA, data_at(0, bytes(512)), is_last=False)
            + chunk(1, Chunk.OFFSET_HOLE, hole_at(511, 2), is_last=False),
            "came twice",
            id="data twice",
        ),
        pytest.param(chunk(1, Chunk.OFFSET_DATA, data_at(0, b"")), "kind 1", id="empty data"),
        pytest.param(chunk(1, Chunk.OFFSET_HOLE, hole_at(0, 0)), "not what", id="an empty hole"),
        pytest.param(chunk(1, Chunk.NONE, b"", is_last=False), "not its last", id="an empty part"),
        pytest.param(chunk(1, 4, b""), "kind 4", id="a kind that is not known"),
        pytest.param(chunk(1, Chunk.BLOCK_STATUS, bytes(12)), "kind 5", id="not asked for"),
        pytest.param(chunk(1, Chunk.ERROR, b"\0" * 6), "code 0", id="no error"),
        pytest.param(
            chunk(1, Chunk.ERROR, struct.pack(">IH", 5, 100)), "100 bytes", id="words that end"
        ),
        pytest.param(
            struct.pack(">IHHQI", STRUCTURED_REPLY_MAGIC, 0, Chunk.ERROR, 1, 1 << 30),
            "1073741824",
            id="endless words",
        ),
    ],
)
def test_a_reply_that_cannot_be_right_is_refused(wire: bytes, message: str) -> None:
    stream = ReplyStream(structured=True)
    call, _memory = reading(1, 0, 1024)
    stream.expect(call)
    with pytest.raises(NbdProtocolError, match=message):
        received(stream, wire)
    assert not call.is_done


def test_a_structured_reply_that_was_not_agreed_on_is_refused() -> None:
    stream = ReplyStream(structured=False)
    stream.expect(Call(Command.FLUSH, 1, 0, 0))
    with pytest.raises(NbdProtocolError, match="reply magic"):
        received(stream, chunk(1, Chunk.NONE, b""))


def test_a_read_in_too_many_pieces_is_refused() -> None:
    stream = ReplyStream(structured=True)
    call, _memory = reading(1, 0, 1 << 20)
    stream.expect(call)
    pieces = (
        chunk(1, Chunk.OFFSET_HOLE, hole_at(at, 1), is_last=False) for at in range(1, 9999, 2)
    )
    with pytest.raises(NbdProtocolError, match="more than 4096 pieces"):
        received(stream, b"".join(pieces))


def test_a_reply_of_endless_parts_is_refused() -> None:
    stream = ReplyStream(structured=True)
    stream.expect(flush := Call(Command.FLUSH, 1, 0, 0))
    flush.part_count = 2**17 - 1  # so many came before
    again = chunk(1, Chunk.ERROR, struct.pack(">IH", 5, 0), is_last=False)
    with pytest.raises(NbdProtocolError, match="more than 131072 parts"):
        received(stream, again * 2)


@given(st.lists(st.binary(min_size=1, max_size=80), max_size=6), st.booleans())
def test_any_bytes_are_refused_or_wait_for_more_and_never_reach_past_a_reads_memory(
    parts: list[bytes], structured: bool
) -> None:
    memory = bytearray(3000)
    stream = ReplyStream(structured=structured)
    stream.expect(Call(Command.READ, 1, 0, 1000, [memoryview(memory)[1000:2000]]))
    head = struct.pack(">I", STRUCTURED_REPLY_MAGIC if structured else SIMPLE_REPLY_MAGIC)
    try:
        for part in parts:
            received(stream, head + part)
    except NbdProtocolError:
        pass
    assert memory[:1000] == memory[2000:] == bytes(1000)


def test_views_are_cut_where_a_request_is() -> None:
    views = [memoryview(b"abc"), memoryview(b""), memoryview(b"defg")]
    assert [bytes(view) for view in views_between(views, 2, 3)] == [b"c", b"de"]
    assert [bytes(view) for view in views_between(views, 3, 4)] == [b"defg"]
    assert views_between(views, 7, 0) == []
