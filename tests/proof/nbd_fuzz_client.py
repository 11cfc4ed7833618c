"""What the fuzzer of NBD does with an input on the client's side: a server sends it.

The input goes through the client's handshake and replies, without a socket. Whatever it is, the
client stops with a typed error or waits for more. A read that succeeds has all of its bytes, and
no byte lands outside of its memory.
"""

import struct
from typing import Final

from blobstore.nbd.client_negotiation import ClientNegotiation, NbdRefusedError
from blobstore.nbd.client_transmission import Call, ReplyStream
from blobstore.nbd.constants import (
    GREETING_MAGIC,
    OPTION_MAGIC,
    OPTION_REPLY_MAGIC,
    PAYLOAD_MAX,
    SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC,
    Command,
    Option,
    OptionReply,
)
from blobstore.nbd.negotiation import Agreement, NbdProtocolError

_LENGTH: Final = 4096
_FILL: Final = 0xA5  # seeds and random bytes rarely hold it in a row
_MARGIN: Final = 512


class ClientHarmError(Exception):
    """An input did harm to the client."""


def send_to_client(data: bytes) -> None:
    """Let a server send an input.

    Raises:
        ClientHarmError: The client took what cannot be right.
        Exception: Any other is harm, too.
    """
    try:
        agreement, rest = _negotiate(data)
        if agreement is not None:
            _check(agreement)
            _transmit(agreement, rest)
    except (NbdProtocolError, NbdRefusedError):
        return


def _negotiate(data: bytes) -> tuple[Agreement | None, bytes]:
    """Pass on one byte at a time: so each answer comes after its question."""
    client = ClientNegotiation("v", encrypts=False)
    for at in range(len(data)):
        client.receive(data[at : at + 1])
        step = client.next_step()
        if isinstance(step, Agreement):
            return step, data[at + 1 :]
    return None, b""


def _check(agreement: Agreement) -> None:
    export = agreement.export
    is_right = (
        0 <= export.size_bytes < 2**63
        and export.size_bytes % export.block_min_bytes == 0
        and export.block_min_bytes <= export.payload_max_bytes <= PAYLOAD_MAX
        and export.payload_max_bytes % export.block_min_bytes == 0
    )
    if not is_right:
        raise ClientHarmError(f"agreed on {export}")


def _transmit(agreement: Agreement, data: bytes) -> None:
    memory = bytearray([_FILL]) * (_LENGTH + 2 * _MARGIN)
    middle = memoryview(memory)[_MARGIN:-_MARGIN]
    replies = ReplyStream(structured=agreement.structured)
    for call in (
        Call(Command.READ, 1, 0, _LENGTH, [middle[:1000], middle[1000:]]),
        Call(Command.WRITE, 2, 0, 512),
        Call(Command.FLUSH, 3, 0, 0),
    ):
        replies.expect(call)
    try:
        while data:
            count = 0
            for target in replies.targets():
                part = data[count : count + len(target)]
                target[: len(part)] = part
                count += len(part)
            data = data[count:]
            replies.advance(count)
    finally:
        if set(memory[:_MARGIN] + memory[-_MARGIN:]) != {_FILL}:
            raise ClientHarmError("bytes outside of a read's memory")


def client_seeds() -> list[bytes]:
    """Return what well-behaved servers send, to begin with."""
    greeting = struct.pack(">QQH", GREETING_MAGIC, OPTION_MAGIC, 3)

    def reply(option: int, kind: int, body: bytes = b"") -> bytes:
        return struct.pack(">QIII", OPTION_REPLY_MAGIC, option, kind, len(body)) + body

    def chunk(cookie: int, kind: int, body: bytes, flags: int = 1) -> bytes:
        head = struct.pack(">IHHQI", STRUCTURED_REPLY_MAGIC, flags, kind, cookie, len(body))
        return head + body

    infos = reply(Option.GO, OptionReply.INFO, struct.pack(">HQH", 0, 1 << 20, 0x6D))
    infos += reply(Option.GO, OptionReply.INFO, struct.pack(">HIII", 3, 512, 4096, 1 << 20))
    agreed = infos + reply(Option.GO, OptionReply.ACK)
    structured = reply(Option.STRUCTURED_REPLY, OptionReply.ACK)
    simple = reply(Option.STRUCTURED_REPLY, OptionReply.UNSUPPORTED, b"no")
    done = b"".join(struct.pack(">IIQ", SIMPLE_REPLY_MAGIC, 0, cookie) for cookie in (2, 3))
    read = struct.pack(">IIQ", SIMPLE_REPLY_MAGIC, 0, 1) + b"x" * _LENGTH
    pieces = chunk(1, 1, struct.pack(">Q", 0) + b"y" * 1024, 0)
    pieces += chunk(1, 2, struct.pack(">QI", 1024, _LENGTH - 1024), 0) + chunk(1, 0, b"")
    failed = chunk(2, (1 << 15) + 1, struct.pack(">IH", 5, 3) + b"why") + chunk(3, 0, b"")
    refused = reply(Option.GO, OptionReply.UNKNOWN, b"no such export")
    return [
        greeting + simple + agreed + read + done,
        greeting + structured + agreed + pieces + failed,
        greeting + structured + refused,
    ]
