import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.nbd.constants import (
    OPTION_DATA_MAX,
    OPTION_MAGIC,
    OPTION_REPLY_MAGIC,
    ExportFlag,
    HandshakeFlag,
    Option,
    OptionReply,
)
from blobstore.nbd.negotiation import (
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

DISK = Export("disk", 1 << 30, ExportFlag.HAS_FLAGS | ExportFlag.SEND_FLUSH, "a disk", 512)
FLAGS = struct.pack(">I", HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES)


def option(number: int, data: bytes = b"") -> bytes:
    return struct.pack(">QII", OPTION_MAGIC, number, len(data)) + data


def text(value: str) -> bytes:
    return struct.pack(">I", len(value.encode())) + value.encode()


def go(name: str, *infos: int) -> bytes:
    return option(Option.GO, text(name) + struct.pack(f">H{len(infos)}H", len(infos), *infos))


def contexts(number: int, name: str, *queries: str) -> bytes:
    listed = b"".join(text(query) for query in queries)
    return option(number, text(name) + struct.pack(">I", len(queries)) + listed)


def replies(data: bytes) -> list[tuple[int, int, bytes]]:
    found = []
    while data:
        magic, number, kind, length = struct.unpack_from(">QIII", data)
        assert magic == OPTION_REPLY_MAGIC
        found.append((number, kind, data[20 : 20 + length]))
        data = data[20 + length :]
    return found


def begun(tls: Tls = Tls.ABSENT) -> Negotiation:
    negotiation = Negotiation(tls)
    negotiation.receive(FLAGS)
    assert negotiation.next_event() is None
    return negotiation


def event_of(negotiation: Negotiation, data: bytes) -> Event:
    negotiation.receive(data)
    event = negotiation.next_event()
    assert event is not None
    return event


def reply_kind(event: Event) -> int:
    assert isinstance(event, SendBytes)
    ((_number, kind, _data),) = replies(event.data)
    return kind


def test_the_greeting_offers_the_fixed_newstyle() -> None:
    assert Negotiation().greeting == b"NBDMAGICIHAVEOPT\x00\x03"


def test_go_says_size_flags_and_block_sizes_and_begins_the_transmission() -> None:
    negotiation = begun()
    event = event_of(negotiation, go("disk"))
    assert event == ExportRequested("disk", is_final=True, option=Option.GO)
    assert replies(negotiation.accept(event, DISK)) == [
        (Option.GO, OptionReply.INFO, struct.pack(">HQH", 0, 1 << 30, 5)),
        (Option.GO, OptionReply.INFO, struct.pack(">HIII", 3, 512, 4096, 32 << 20)),
        (Option.GO, OptionReply.ACK, b""),
    ]
    assert negotiation.agreement is not None
    assert negotiation.agreement.export == DISK


def test_info_says_what_is_asked_for_and_begins_nothing() -> None:
    negotiation = begun()
    data = option(Option.INFO, text("disk") + struct.pack(">HHH", 2, 1, 2))
    event = event_of(negotiation, data)
    assert isinstance(event, ExportRequested)
    kinds = [
        struct.unpack_from(">H", part)[0]
        for _, kind, part in replies(negotiation.accept(event, DISK))
        if kind == OptionReply.INFO
    ]
    assert kinds == [0, 1, 2, 3]
    assert negotiation.agreement is None


def test_an_old_client_gets_zeroes_unless_it_says_otherwise() -> None:
    for flags, length in ((1, 134), (3, 10)):
        negotiation = Negotiation()
        negotiation.receive(struct.pack(">I", flags))
        event = event_of(negotiation, option(Option.EXPORT_NAME, b"disk"))
        assert isinstance(event, ExportRequested)
        assert len(negotiation.accept(event, DISK)) == length


def test_exports_are_listed_with_their_descriptions() -> None:
    negotiation = begun()
    assert isinstance(event_of(negotiation, option(Option.LIST)), ListRequested)
    answer = negotiation.answer_list([("a", "first"), ("b", "")])
    assert [data for _, _, data in replies(answer)] == [text("a") + b"first", text("b"), b""]


def test_contexts_need_structured_replies_and_belong_to_the_export_they_were_chosen_for() -> None:
    negotiation = begun()
    choice = contexts(Option.SET_META_CONTEXT, "disk", "base:allocation")
    assert reply_kind(event_of(negotiation, choice)) == OptionReply.INVALID
    assert reply_kind(event_of(negotiation, option(Option.STRUCTURED_REPLY))) == OptionReply.ACK
    event = event_of(negotiation, choice)
    assert event == ContextsRequested(
        "disk", ("base:allocation",), is_choice=True, option=Option.SET_META_CONTEXT
    )
    assert isinstance(event, ContextsRequested)
    answer = negotiation.answer_contexts(event, ["base:allocation"])
    assert replies(answer)[0][2] == struct.pack(">I", 1) + b"base:allocation"
    for name, expected in (("other", ()), ("disk", ((1, "base:allocation"),))):
        wanted = event_of(negotiation, go(name))
        assert isinstance(wanted, ExportRequested)
        negotiation.accept(wanted, DISK)
        assert negotiation.agreement is not None
        assert negotiation.agreement.contexts == expected


def test_extended_headers_bring_structured_replies_with_them() -> None:
    negotiation = begun()
    assert reply_kind(event_of(negotiation, option(Option.EXTENDED_HEADERS))) == OptionReply.ACK
    event = event_of(negotiation, go("disk"))
    assert isinstance(event, ExportRequested)
    negotiation.accept(event, DISK)
    assert negotiation.agreement is not None
    assert negotiation.agreement.extended
    assert negotiation.agreement.structured


@pytest.mark.parametrize(
    "data",
    [
        go("disk"),
        option(Option.LIST),
        option(Option.STRUCTURED_REPLY),
        contexts(Option.LIST_META_CONTEXT, "disk"),
        option(99),
    ],
)
def test_a_client_that_does_not_encrypt_gets_nothing_where_it_must(data: bytes) -> None:
    assert reply_kind(event_of(begun(Tls.REQUIRED), data)) == OptionReply.TLS_REQUIRED


def test_an_old_client_that_does_not_encrypt_is_hung_up_on() -> None:
    event = event_of(begun(Tls.REQUIRED), option(Option.EXPORT_NAME, b"disk"))
    assert event == Ended()


def test_what_was_said_before_the_encryption_is_forgotten() -> None:
    negotiation = begun(Tls.REQUIRED)
    injected = option(Option.STRUCTURED_REPLY) + go("disk")
    event = event_of(negotiation, option(Option.STARTTLS) + injected)
    assert isinstance(event, TlsRequested)
    assert replies(negotiation.begin_tls()) == [(Option.STARTTLS, OptionReply.ACK, b"")]
    negotiation.tls_active()
    assert negotiation.next_event() is None
    wanted = event_of(negotiation, go("disk"))
    assert isinstance(wanted, ExportRequested)
    negotiation.accept(wanted, DISK)
    assert negotiation.agreement is not None
    assert not negotiation.agreement.structured
    assert reply_kind(event_of(negotiation, option(Option.STARTTLS))) == OptionReply.INVALID


def test_encryption_is_refused_where_there_is_none() -> None:
    assert reply_kind(event_of(begun(), option(Option.STARTTLS))) == OptionReply.POLICY


def test_an_unknown_export_is_refused_and_the_client_may_ask_again() -> None:
    negotiation = begun()
    event = event_of(negotiation, go("x"))
    assert isinstance(event, ExportRequested)
    ((_, kind, _),) = replies(negotiation.refuse_export(event))
    assert kind == OptionReply.UNKNOWN
    assert negotiation.agreement is None
    assert isinstance(event_of(negotiation, go("disk")), ExportRequested)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(option(Option.GO, b"\0\0\0\x09disk"), id="a name longer than the data"),
        pytest.param(option(Option.GO, text("disk") + b"\0\x02\0\0"), id="too few requests"),
        pytest.param(option(Option.GO, text("disk")), id="no count of requests"),
        pytest.param(option(Option.GO, b"\0\0\0\x01\xff\0\0"), id="a name that is no UTF-8"),
        pytest.param(option(Option.GO, text("x" * 4097) + b"\0\0"), id="a name that is too long"),
        pytest.param(option(Option.LIST, b"x"), id="data where there is none"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_and_nothing_more(data: bytes) -> None:
    negotiation = begun()
    assert reply_kind(event_of(negotiation, data)) == OptionReply.INVALID
    assert isinstance(event_of(negotiation, option(Option.LIST)), ListRequested)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(struct.pack(">I", 4), id="unknown client flags"),
        pytest.param(FLAGS + bytes(16), id="wrong magic"),
        pytest.param(
            FLAGS + struct.pack(">QII", OPTION_MAGIC, 3, OPTION_DATA_MAX + 1), id="endless data"
        ),
    ],
)
def test_a_peer_that_does_not_keep_to_the_protocol_is_hung_up_on(data: bytes) -> None:
    negotiation = Negotiation()
    negotiation.receive(data)
    with pytest.raises(NbdProtocolError):
        negotiation.next_event()


def answer(negotiation: Negotiation, event: Event) -> bytes:
    if isinstance(event, ListRequested):
        return negotiation.answer_list([("disk", "")])
    if isinstance(event, ExportRequested):
        return negotiation.accept(event, DISK)
    if isinstance(event, ContextsRequested):
        return negotiation.answer_contexts(event, event.queries)
    if isinstance(event, TlsRequested):
        return negotiation.begin_tls()
    return event.data


OPTIONS = st.tuples(st.integers(0, 12), st.binary(max_size=40)).map(lambda pair: option(*pair))


@given(parts=st.lists(OPTIONS | st.binary(max_size=20), max_size=8), tls=st.booleans())
def test_any_peer_gets_answers_or_is_hung_up_on_and_in_clear_only_refusals(
    parts: list[bytes], tls: bool
) -> None:
    negotiation = begun(Tls.REQUIRED if tls else Tls.ABSENT)
    sent = b""
    try:
        for part in parts:
            negotiation.receive(part)
            while (event := negotiation.next_event()) is not None:
                sent += answer(negotiation, event)
                if isinstance(event, (Ended, TlsRequested)):
                    break
                if negotiation.agreement is not None:
                    assert not tls
                    return
    except NbdProtocolError:
        pass
    if tls:
        allowed = (OptionReply.TLS_REQUIRED, OptionReply.INVALID, OptionReply.ACK)
        assert all(kind in allowed and not data for _, kind, data in replies(sent))
