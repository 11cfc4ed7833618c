"""The server's side of the handshake and its options, without I/O.

The states are those of the fixed newstyle handshake:

    greeting sent -> client flags -> options ... -> transmission, or the end

The owner of the socket passes on received bytes, asks for the next event, and answers
the event with a method that returns the bytes to send. Nothing a peer sends makes this module
keep more than one option, of at most 64 KiB.

A client that must encrypt gets one answer to every other option: TLS_REQUIRED. After
STARTTLS everything said in clear is forgotten: contexts, structured replies, and any
byte that arrived before the encryption began.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final, TypeAlias

from blobstore.nbd.constants import (
    GREETING_MAGIC,
    OPTION_DATA_MAX,
    OPTION_MAGIC,
    OPTION_REPLY_MAGIC,
    PAYLOAD_MAX,
    STRING_MAX,
    ExportFlag,
    HandshakeFlag,
    Info,
    Option,
    OptionReply,
)
from blobstore.nbd.wire_structs import (
    CLIENT_FLAGS,
    GREETING,
    INFO_BLOCK_SIZE,
    INFO_EXPORT,
    OPTION,
    OPTION_REPLY,
)

_U16: Final = struct.Struct(">H")
_U32: Final = struct.Struct(">I")
_EXPORT: Final = struct.Struct(">QH")
_ZEROES: Final = bytes(124)

_OUR_FLAGS: Final = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES


class NbdProtocolError(Exception):
    """The peer does not keep to the protocol; the connection is useless."""


class Tls(Enum):
    """Whether a connection is encrypted; never *maybe*."""

    ABSENT = auto()
    REQUIRED = auto()
    ACTIVE = auto()


@dataclass(frozen=True, slots=True)
class Export:
    """What a client can be told of an export: size and block sizes in bytes."""

    name: str
    size_bytes: int
    flags: ExportFlag
    description: str = ""
    block_min_bytes: int = 1
    block_preferred_bytes: int = 4096
    payload_max_bytes: int = PAYLOAD_MAX


@dataclass(frozen=True, slots=True)
class Agreement:
    """What both sides have agreed on when the transmission begins.

    `contexts` are the names of metadata contexts by the ids that replies use.
    """

    export: Export
    structured: bool = False
    extended: bool = False
    contexts: tuple[tuple[int, str], ...] = ()


# Events


@dataclass(frozen=True, slots=True)
class SendBytes:
    """Bytes that answer an option about which there is nothing to decide."""

    data: bytes


@dataclass(frozen=True, slots=True)
class ListRequested:
    """The client wants all exports: answer with `answer_list`."""


@dataclass(frozen=True, slots=True)
class ExportRequested:
    """The client wants an export: answer with `accept` or `refuse_export`.

    It is only looked at where `is_final` is false.
    """

    name: str
    is_final: bool
    option: Option
    infos: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ContextsRequested:
    """The client wants metadata contexts: answer with `answer_contexts` or `refuse_export`.

    `queries` are empty where all that there are are wanted. Contexts are listed, or
    chosen for the transmission where `is_choice`.
    """

    name: str
    queries: tuple[str, ...]
    is_choice: bool
    option: Option


@dataclass(frozen=True, slots=True)
class TlsRequested:
    """The client begins to encrypt after the answer of `begin_tls`; then call `tls_active`."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The client goes; `data` is a last answer to it."""

    data: bytes = b""


Event: TypeAlias = (
    SendBytes | ListRequested | ExportRequested | ContextsRequested | TlsRequested | Ended
)


class Negotiation:
    """One connection until its transmission begins."""

    def __init__(self, tls: Tls = Tls.ABSENT) -> None:
        self._tls = tls
        self._buffer = bytearray()
        self._client_flags: HandshakeFlag | None = None
        self._forget()

    def _forget(self) -> None:
        self._structured = False
        self._extended = False
        self._chosen: tuple[str, tuple[tuple[int, str], ...]] = ("", ())
        self.agreement: Agreement | None = None

    @property
    def greeting(self) -> bytes:
        """What is sent first."""
        return GREETING.pack(GREETING_MAGIC, OPTION_MAGIC, _OUR_FLAGS)

    @property
    def rest(self) -> bytes:
        """What was received after the last option: it belongs to the transmission."""
        return bytes(self._buffer)

    def receive(self, data: bytes) -> None:
        """Take bytes from the peer."""
        self._buffer += data

    def next_event(self) -> Event | None:
        """Return what the peer wants next; None when more bytes are needed.

        Raises:
            NbdProtocolError: The peer does not keep to the protocol.
        """
        if self._client_flags is None and not self._take_client_flags():
            return None
        if len(self._buffer) < OPTION.size:
            return None
        magic, number, length = OPTION.unpack_from(self._buffer)
        if magic != OPTION_MAGIC:
            raise NbdProtocolError(f"option magic {magic:#x}")
        if length > OPTION_DATA_MAX:
            raise NbdProtocolError(f"option {number} of {length} bytes")
        end = OPTION.size + length
        if len(self._buffer) < end:
            return None
        data = bytes(self._buffer[OPTION.size : end])
        del self._buffer[:end]
        return self._take_option(number, data)

    def _take_client_flags(self) -> bool:
        if len(self._buffer) < CLIENT_FLAGS.size:
            return False
        (flags,) = CLIENT_FLAGS.unpack_from(self._buffer)
        del self._buffer[: CLIENT_FLAGS.size]
        if flags & ~int(_OUR_FLAGS):
            sent = CLIENT_FLAGS.pack(flags)
            raise NbdProtocolError(f"begins with {sent!r}, expected the flags of an NBD client")
        self._client_flags = HandshakeFlag(flags)
        return True

    def _take_option(self, number: int, data: bytes) -> Event:
        try:
            option = Option(number)
        except ValueError:
            if self._tls is Tls.REQUIRED:
                return SendBytes(_reply(number, OptionReply.TLS_REQUIRED))
            return SendBytes(_reply(number, OptionReply.UNSUPPORTED))
        if option is Option.ABORT:
            return Ended(_reply(option, OptionReply.ACK))
        if option is Option.STARTTLS:
            return self._take_starttls(data)
        if self._tls is Tls.REQUIRED:
            if option is Option.EXPORT_NAME:  # an option without a way to say no
                return Ended()
            return SendBytes(_reply(option, OptionReply.TLS_REQUIRED))
        try:
            return self._take_known(option, data)
        except (struct.error, UnicodeDecodeError, _OptionError) as error:
            if option is Option.EXPORT_NAME:
                return Ended()
            return SendBytes(_reply(option, OptionReply.INVALID, str(error).encode()[:STRING_MAX]))

    def _take_starttls(self, data: bytes) -> Event:
        if data or self._tls is Tls.ACTIVE:
            return SendBytes(_reply(Option.STARTTLS, OptionReply.INVALID))
        if self._tls is Tls.ABSENT:
            return SendBytes(_reply(Option.STARTTLS, OptionReply.POLICY))
        return TlsRequested()

    def _take_known(self, option: Option, data: bytes) -> Event:
        if option is Option.EXPORT_NAME:
            return ExportRequested(_text(data), True, option)
        if option is Option.LIST:
            _check_empty(data)
            return ListRequested()
        if option in (Option.INFO, Option.GO):
            name, infos = _decode_info(data)
            return ExportRequested(name, option is Option.GO, option, infos)
        if option in (Option.STRUCTURED_REPLY, Option.EXTENDED_HEADERS):
            _check_empty(data)
            return self._take_headers(option)
        return self._take_contexts(option, data)

    def _take_headers(self, option: Option) -> Event:
        if option is Option.EXTENDED_HEADERS:
            self._structured = self._extended = True
        elif self._extended:
            return SendBytes(_reply(option, OptionReply.EXTENDED_HEADER_REQUIRED))
        self._structured = True
        return SendBytes(_reply(option, OptionReply.ACK))

    def _take_contexts(self, option: Option, data: bytes) -> Event:
        is_choice = option is Option.SET_META_CONTEXT
        if is_choice:
            self._chosen = ("", ())  # a choice that fails chooses nothing
        if not self._structured:
            raise _OptionError("structured replies come first")
        name, queries = _decode_queries(data)
        return ContextsRequested(name, queries, is_choice, option)

    # Answers

    def answer_list(self, exports: Iterable[tuple[str, str]]) -> bytes:
        """Answer `ListRequested` with (name, description) of every export."""
        parts = bytearray()
        for name, description in exports:
            encoded = name.encode()
            entry = _U32.pack(len(encoded)) + encoded + description.encode()
            parts += _reply(Option.LIST, OptionReply.SERVER, entry)
        return bytes(parts + _reply(Option.LIST, OptionReply.ACK))

    def accept(self, event: ExportRequested, export: Export) -> bytes:
        """Answer `ExportRequested`; if it was final, `agreement` is there afterwards."""
        if not self._structured:  # a reply that is not structured is one piece in any case
            export = replace(export, flags=export.flags & ~ExportFlag.SEND_DF)
        if event.is_final:
            self.agreement = self._agree(event.name, export)
        if event.option is Option.EXPORT_NAME:
            head = _EXPORT.pack(export.size_bytes, export.flags)
            needs_zeroes = not (self._client_flags or 0) & HandshakeFlag.NO_ZEROES
            return head + (_ZEROES if needs_zeroes else b"")
        wanted = set(event.infos) | {Info.EXPORT, Info.BLOCK_SIZE}
        parts = [
            _reply(event.option, OptionReply.INFO, data)
            for kind, data in _infos(export)
            if kind in wanted
        ]
        return b"".join(parts) + _reply(event.option, OptionReply.ACK)

    def _agree(self, asked_name: str, export: Export) -> Agreement:
        name, contexts = self._chosen
        return Agreement(
            export,
            structured=self._structured,
            extended=self._extended,
            contexts=contexts if name == asked_name else (),
        )

    def refuse_export(
        self,
        event: ExportRequested | ContextsRequested,
        reason: OptionReply = OptionReply.UNKNOWN,
        message: str = "",
    ) -> bytes:
        """Answer that there is no such export, or another reason; empty means: close."""
        if event.option is Option.EXPORT_NAME:
            return b""
        return _reply(event.option, reason, message.encode()[:STRING_MAX])

    def answer_contexts(self, event: ContextsRequested, names: Sequence[str]) -> bytes:
        """Answer `ContextsRequested` with the contexts that match its queries."""
        numbered = tuple(enumerate(names, start=1))
        if event.is_choice:
            self._chosen = (event.name, numbered)
        parts = [
            _reply(
                event.option,
                OptionReply.META_CONTEXT,
                _U32.pack(number if event.is_choice else 0) + name.encode(),
            )
            for number, name in numbered
        ]
        return b"".join(parts) + _reply(event.option, OptionReply.ACK)

    def begin_tls(self) -> bytes:
        """Answer `TlsRequested`: the next bytes in both directions are encrypted."""
        return _reply(Option.STARTTLS, OptionReply.ACK)

    def tls_active(self) -> None:
        """Go on inside the encryption: forget all that was said outside."""
        self._buffer.clear()
        self._forget()
        self._tls = Tls.ACTIVE


class _OptionError(Exception):
    """An option's data makes no sense."""


def _reply(option: int, kind: OptionReply, data: bytes = b"") -> bytes:
    return OPTION_REPLY.pack(OPTION_REPLY_MAGIC, option, kind, len(data)) + data


def _infos(export: Export) -> list[tuple[Info, bytes]]:
    return [
        (Info.EXPORT, INFO_EXPORT.pack(Info.EXPORT, export.size_bytes, export.flags)),
        (Info.NAME, _U16.pack(Info.NAME) + export.name.encode()),
        (Info.DESCRIPTION, _U16.pack(Info.DESCRIPTION) + export.description.encode()),
        (
            Info.BLOCK_SIZE,
            INFO_BLOCK_SIZE.pack(
                Info.BLOCK_SIZE,
                export.block_min_bytes,
                export.block_preferred_bytes,
                export.payload_max_bytes,
            ),
        ),
    ]


def _check_empty(data: bytes) -> None:
    if data:
        raise _OptionError(f"{len(data)} bytes of data, expected none")


def _text(data: bytes) -> str:
    if len(data) > STRING_MAX:
        raise _OptionError(f"a string of {len(data)} bytes, expected at most {STRING_MAX}")
    return data.decode()


def _take_text(data: bytes, at: int) -> tuple[str, int]:
    (length,) = _U32.unpack_from(data, at)
    at += _U32.size
    if length > len(data) - at:
        raise _OptionError(f"a string of {length} bytes, {len(data) - at} are there")
    return _text(data[at : at + length]), at + length


def _decode_info(data: bytes) -> tuple[str, tuple[int, ...]]:
    name, at = _take_text(data, 0)
    (count,) = _U16.unpack_from(data, at)
    at += _U16.size
    if len(data) - at != _U16.size * count:
        raise _OptionError(f"{count} requests for information in {len(data) - at} bytes")
    return name, struct.unpack_from(f">{count}H", data, at)


def _decode_queries(data: bytes) -> tuple[str, tuple[str, ...]]:
    name, at = _take_text(data, 0)
    (count,) = _U32.unpack_from(data, at)
    at += _U32.size
    if count > (len(data) - at) // _U32.size:
        raise _OptionError(f"{count} queries in {len(data) - at} bytes")
    queries: list[str] = []
    for _number in range(count):
        query, at = _take_text(data, at)
        queries.append(query)
    if at != len(data):
        raise _OptionError(f"{len(data) - at} bytes too many")
    return name, tuple(queries)
