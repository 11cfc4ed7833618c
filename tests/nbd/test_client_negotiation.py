import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.nbd.client_negotiation import (
    BeginTls,
    ClientNegotiation,
    NbdRefusedError,
    SendToServer,
    Step,
)
from blobstore.nbd.constants import (
    GREETING_MAGIC,
    OPTION_MAGIC,
    OPTION_REPLY_MAGIC,
    PAYLOAD_MAX,
    ExportFlag,
    Info,
    Option,
    OptionReply,
)
from blobstore.nbd.negotiation import (
    Agreement,
    Export,
    ExportRequested,
    NbdProtocolError,
    Negotiation,
    SendBytes,
    Tls,
    TlsRequested,
)

FLAGS = ExportFlag.HAS_FLAGS | ExportFlag.SEND_FLUSH
DISK = Export("disk", 1 << 30, FLAGS, block_min_bytes=512)
GREETING = struct.pack(">QQH", GREETING_MAGIC, OPTION_MAGIC, 3)


def meet(client: ClientNegotiation, server: Negotiation, exports: dict[str, Export]) -> Agreement:
    """Let both sides talk, in bytes, until the client has its agreement."""
    client.receive(server.greeting)
    while True:
        step = client.next_step()
        if isinstance(step, BeginTls):
            server.tls_active()
            step = client.tls_active()
        if isinstance(step, Agreement):
            return step
        assert isinstance(step, SendToServer)
        server.receive(step.data)
        while (event := server.next_event()) is not None:
            if isinstance(event, SendBytes):
                client.receive(event.data)
            elif isinstance(event, TlsRequested):
                client.receive(server.begin_tls())
            else:
                assert isinstance(event, ExportRequested)
                export = exports.get(event.name)
                client.receive(
                    server.refuse_export(event) if export is None else server.accept(event, export)
                )


def test_the_client_and_the_servers_side_agree_on_an_export() -> None:
    server = Negotiation()
    found = meet(ClientNegotiation("disk", encrypts=False), server, {"disk": DISK})
    assert found.structured
    assert found.export == DISK
    assert server.agreement is not None
    assert server.agreement.structured


def test_an_encrypted_client_asks_for_everything_inside_the_encryption() -> None:
    client = ClientNegotiation("disk", encrypts=True)
    assert meet(client, Negotiation(Tls.REQUIRED), {"disk": DISK}).export == DISK


def test_a_server_that_must_encrypt_refuses_a_client_that_does_not() -> None:
    client = ClientNegotiation("disk", encrypts=False)
    with pytest.raises(NbdRefusedError, match="requires encryption") as caught:
        meet(client, Negotiation(Tls.REQUIRED), {"disk": DISK})
    assert caught.value.kind == OptionReply.TLS_REQUIRED


def test_a_server_that_does_not_encrypt_is_left() -> None:
    with pytest.raises(NbdRefusedError, match="does not encrypt"):
        meet(ClientNegotiation("disk", encrypts=True), Negotiation(), {"disk": DISK})


def test_an_export_that_is_not_there_is_refused() -> None:
    with pytest.raises(NbdRefusedError, match="no export 'absent'") as caught:
        meet(ClientNegotiation("absent", encrypts=False), Negotiation(), {})
    assert caught.value.kind == OptionReply.UNKNOWN


# A server by hand


def reply(option: int, kind: int, data: bytes = b"") -> bytes:
    return struct.pack(">QIII", OPTION_REPLY_MAGIC, option, kind, len(data)) + data


def export_info(size: int = 1 << 30, flags: int = FLAGS) -> bytes:
    return reply(Option.GO, OptionReply.INFO, struct.pack(">HQH", Info.EXPORT, size, flags))


def block_info(least: int, preferred: int, most: int) -> bytes:
    data = struct.pack(">HIII", Info.BLOCK_SIZE, least, preferred, most)
    return reply(Option.GO, OptionReply.INFO, data)


ACK = reply(Option.GO, OptionReply.ACK)


def asked_for_export() -> ClientNegotiation:
    client = ClientNegotiation("disk", encrypts=False)
    client.receive(GREETING)
    client.next_step()
    client.receive(reply(Option.STRUCTURED_REPLY, OptionReply.UNSUPPORTED))
    assert isinstance(client.next_step(), SendToServer)
    return client


def answered(*answers: bytes) -> Step | None:
    client = asked_for_export()
    client.receive(b"".join(answers))
    return client.next_step()


def test_a_server_without_structured_replies_or_block_sizes_is_good_enough() -> None:
    found = answered(export_info(), ACK)
    assert isinstance(found, Agreement)
    assert not found.structured
    assert (found.export.block_min_bytes, found.export.payload_max_bytes) == (1, PAYLOAD_MAX)


def test_flags_of_a_server_that_says_it_has_none_mean_nothing() -> None:
    found = answered(export_info(flags=ExportFlag.SEND_FLUSH), ACK)
    assert isinstance(found, Agreement)
    assert found.export.flags == 0


def test_the_largest_payload_is_whole_blocks_and_never_above_what_this_client_takes() -> None:
    for most, expected in ((100_000, 98304), (0xFFFF_FFFF, PAYLOAD_MAX), (1 << 30, PAYLOAD_MAX)):
        found = answered(export_info(), block_info(4096, 65536, most), ACK)
        assert isinstance(found, Agreement)
        assert found.export.payload_max_bytes == expected


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        pytest.param([ACK], "did not tell the export's size", id="no size"),
        pytest.param([export_info(2**63), ACK], "9223372036854775808", id="a size past offsets"),
        pytest.param([export_info(1000), block_info(512, 4096, 4096), ACK], "blocks", id="size"),
        pytest.param([export_info(), block_info(0, 4096, 4096), ACK], "blocks", id="no block"),
        pytest.param([export_info(), block_info(3, 4096, 4096), ACK], "blocks", id="block of 3"),
        pytest.param([export_info(), block_info(1 << 17, 1 << 17, 1 << 20), ACK], "blocks",
                     id="a huge block"),
        pytest.param([export_info(), block_info(4096, 512, 1 << 20), ACK], "blocks",
                     id="prefers less than its least"),
        pytest.param([export_info(), block_info(512, 4096, 100), ACK], "blocks",
                     id="takes less than its least"),
        pytest.param([reply(Option.GO, OptionReply.INFO, b"x"), ACK], "1 bytes", id="short"),
        pytest.param([export_info() * 65, ACK], "more than 64", id="endless"),
        pytest.param([reply(Option.INFO, OptionReply.ACK)], "answer to option 6", id="other"),
        pytest.param([reply(Option.GO, OptionReply.SERVER)], "kind 2", id="kind"),
        pytest.param([b"x" * 20], "answer magic", id="no magic"),
        pytest.param([export_info(), ACK, b"x"], "nothing asked for", id="more than asked for"),
        pytest.param([struct.pack(">QIII", OPTION_REPLY_MAGIC, Option.GO, 3, 1 << 20)],
                     "1048576 bytes", id="an answer that is too long"),
    ],
)  # fmt: skip
def test_a_server_that_answers_nonsense_is_refused(answers: list[bytes], message: str) -> None:
    with pytest.raises(NbdProtocolError, match=message):
        answered(*answers)


@pytest.mark.parametrize(
    "greeting",
    [
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n", id="another protocol"),
        pytest.param(struct.pack(">QQH", GREETING_MAGIC, 0x420281861253, 3), id="old style"),
        pytest.param(struct.pack(">QQH", GREETING_MAGIC, OPTION_MAGIC, 2), id="not fixed"),
        pytest.param(GREETING + b"x", id="more than a greeting"),
    ],
)
def test_a_greeting_of_something_else_is_refused(greeting: bytes) -> None:
    client = ClientNegotiation("disk", encrypts=False)
    client.receive(greeting)
    with pytest.raises(NbdProtocolError):
        client.next_step()


def test_bytes_that_came_before_the_encryption_are_never_taken_for_encrypted_ones() -> None:
    client = ClientNegotiation("disk", encrypts=True)
    client.receive(GREETING)
    client.next_step()
    injected = reply(Option.STRUCTURED_REPLY, OptionReply.ACK)
    client.receive(reply(Option.STARTTLS, OptionReply.ACK) + injected)
    with pytest.raises(NbdProtocolError, match="nothing asked for"):
        client.next_step()


def test_a_servers_words_are_shown_as_one_short_line() -> None:
    words = b"no\x1b[2J\nsuch " + b"\xff" * 5000
    with pytest.raises(NbdRefusedError, match=r"no.*such") as caught:
        answered(reply(Option.GO, OptionReply.PLATFORM, words))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@given(st.lists(st.binary(max_size=64), max_size=8), st.booleans(), st.booleans())
def test_any_bytes_end_as_a_typed_error_or_wait_for_more(
    parts: list[bytes], encrypts: bool, is_late: bool
) -> None:
    client = asked_for_export() if is_late else ClientNegotiation("disk", encrypts=encrypts)
    try:
        for part in parts:
            client.receive(part)
            assert not isinstance(client.next_step(), Agreement)
    except (NbdProtocolError, NbdRefusedError):
        pass


@given(st.data())
def test_a_damaged_answer_ends_as_a_typed_error_an_agreement_or_waits(data: st.DataObject) -> None:
    answers = bytearray(export_info() + block_info(512, 4096, 1 << 20) + ACK)
    for _change in range(data.draw(st.integers(1, 4))):
        answers[data.draw(st.integers(0, len(answers) - 1))] = data.draw(st.integers(0, 255))
    client = asked_for_export()
    client.receive(bytes(answers))
    try:
        found = client.next_step()
    except (NbdProtocolError, NbdRefusedError):
        return
    if isinstance(found, Agreement):
        export = found.export
        assert 0 <= export.size_bytes < 2**63
        assert export.size_bytes % export.block_min_bytes == 0
        assert export.block_min_bytes <= export.payload_max_bytes <= PAYLOAD_MAX
