"""The client's side of the handshake, without I/O.

    greeting -> [STARTTLS -> encryption] -> STRUCTURED_REPLY -> GO -> transmission

The owner of the socket passes on received bytes and asks for the next step: bytes to send, the
moment at which to encrypt, or the agreement. One option is asked at a time, so any byte that
arrives before it was asked for is an error. That matters before encryption: a byte
that an attacker adds in clear must not be read as if it had come encrypted.

What a server sends is bounded: an answer of at most 64 KiB, a few of them for each option, and
sizes of blocks that fit each other.
"""

import struct
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeAlias

from blobstore.nbd.constants import (
    GREETING_MAGIC,
    OPTION_DATA_MAX,
    OPTION_MAGIC,
    OPTION_REPLY_MAGIC,
    PAYLOAD_MAX,
    ExportFlag,
    HandshakeFlag,
    Info,
    Option,
    OptionReply,
)
from blobstore.nbd.negotiation import Agreement, Export, NbdProtocolError
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

_INFOS_MAX: Final = 64
_SIZE_MAX: Final = 2**63 - 1
_BLOCK_MIN_MAX: Final = 64 * 1024
_NO_LIMIT: Final = 0xFFFF_FFFF
_IS_ERROR: Final = 1 << 31


class NbdRefusedError(Exception):
    """The server said no: to the encryption, or to the export."""

    def __init__(self, kind: int, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class SendToServer:
    """Bytes to send."""

    data: bytes


@dataclass(frozen=True, slots=True)
class BeginTls:
    """Encrypt from here on, then call `tls_active`."""


Step: TypeAlias = SendToServer | BeginTls | Agreement


class _State(Enum):
    GREETING = auto()
    OPTION = auto()
    AGREED = auto()


class ClientNegotiation:
    """One connection until its transmission begins."""

    def __init__(self, export_name: str, *, encrypts: bool) -> None:
        self._export_name = export_name
        self._encrypts = encrypts
        self._buffer = bytearray()
        self._state = _State.GREETING
        self._asked = Option.ABORT
        self._structured = False
        self._infos: dict[int, bytes] = {}
        self._info_count = 0

    def receive(self, data: bytes) -> None:
        """Take bytes that the server sent."""
        self._buffer += data

    def next_step(self) -> Step | None:
        """Return what to do next; None until more bytes are there.

        Raises:
            NbdProtocolError: The server does not keep to the protocol.
            NbdRefusedError: The server does not encrypt, or does not serve the export.
        """
        if self._state is _State.GREETING:
            return self._take_greeting()
        while (reply := self._take_reply()) is not None:
            step = self._take_answer(*reply)
            if step is not None:
                if self._buffer:
                    raise NbdProtocolError(f"{len(self._buffer)} bytes that nothing asked for")
                return step
        return None

    def tls_active(self) -> SendToServer:
        """Go on inside the encryption: return the next option."""
        return self._ask(Option.STRUCTURED_REPLY)

    # The greeting

    def _take_greeting(self) -> Step | None:
        if len(self._buffer) < GREETING.size:
            return None
        magic, options_magic, flags = GREETING.unpack_from(self._buffer)
        if magic != GREETING_MAGIC or options_magic != OPTION_MAGIC:
            raise NbdProtocolError(f"greeting {magic:#018x} {options_magic:#018x}: no NBD server")
        if not flags & HandshakeFlag.FIXED_NEWSTYLE:
            raise NbdProtocolError("the server does not have the fixed newstyle handshake")
        if len(self._buffer) > GREETING.size:
            raise NbdProtocolError("bytes after the greeting that nothing asked for")
        self._buffer.clear()
        self._state = _State.OPTION
        ours = HandshakeFlag.FIXED_NEWSTYLE | (flags & HandshakeFlag.NO_ZEROES)
        first = self._ask(Option.STARTTLS if self._encrypts else Option.STRUCTURED_REPLY)
        return SendToServer(CLIENT_FLAGS.pack(ours) + first.data)

    def _ask(self, option: Option, data: bytes = b"") -> SendToServer:
        self._asked = option
        return SendToServer(OPTION.pack(OPTION_MAGIC, option, len(data)) + data)

    # Answers to options

    def _take_reply(self) -> tuple[int, bytes] | None:
        """Return the kind and the data of the next answer, if it is whole."""
        if len(self._buffer) < OPTION_REPLY.size:
            return None
        magic, option, kind, length = OPTION_REPLY.unpack_from(self._buffer)
        if magic != OPTION_REPLY_MAGIC:
            raise NbdProtocolError(f"answer magic {magic:#x}, expected {OPTION_REPLY_MAGIC:#x}")
        if option != self._asked:
            raise NbdProtocolError(f"answer to option {option}, expected {int(self._asked)}")
        if length > OPTION_DATA_MAX:
            raise NbdProtocolError(f"answer of {length} bytes, expected at most {OPTION_DATA_MAX}")
        end = OPTION_REPLY.size + length
        if len(self._buffer) < end:
            return None
        data = bytes(self._buffer[OPTION_REPLY.size : end])
        del self._buffer[:end]
        return kind, data

    def _take_answer(self, kind: int, data: bytes) -> Step | None:
        if kind == OptionReply.INFO and self._asked is Option.GO:
            self._take_info(data)
            return None
        if kind == OptionReply.ACK:
            return self._go_on(is_granted=True)
        if not kind & _IS_ERROR:
            raise NbdProtocolError(f"answer of kind {kind} to option {int(self._asked)}")
        if self._asked is Option.STRUCTURED_REPLY and kind != OptionReply.TLS_REQUIRED:
            return self._go_on(is_granted=False)
        raise NbdRefusedError(kind, self._refusal(kind, data))

    def _go_on(self, *, is_granted: bool) -> Step:
        if self._asked is Option.STARTTLS:
            return BeginTls()
        if self._asked is Option.STRUCTURED_REPLY:
            self._structured = is_granted
            name = self._export_name.encode()
            asked = (Info.BLOCK_SIZE,)
            data = _U32.pack(len(name)) + name + struct.pack(f">H{len(asked)}H", len(asked), *asked)
            return self._ask(Option.GO, data)
        self._state = _State.AGREED
        return Agreement(self._export(), structured=self._structured)

    def _refusal(self, kind: int, data: bytes) -> str:
        """Say what the server refused, with its own words."""
        match kind:
            case OptionReply.TLS_REQUIRED:
                found = "the server requires encryption (nbds://)"
            case OptionReply.UNKNOWN:
                found = f"the server has no export {self._export_name!r}"
            case _ if self._asked is Option.STARTTLS:
                found = "the server does not encrypt"
            case _:
                found = f"the server refused export {self._export_name!r} (answer {kind:#x})"
        words = printable(data)
        return f"{found}: {words}" if words else found

    # What an export is

    def _take_info(self, data: bytes) -> None:
        self._info_count += 1
        if self._info_count > _INFOS_MAX:
            raise NbdProtocolError(f"more than {_INFOS_MAX} answers about one export")
        if len(data) < _U16.size:
            raise NbdProtocolError(f"information of {len(data)} bytes")
        self._infos[_U16.unpack_from(data)[0]] = data

    def _export(self) -> Export:
        data = self._infos.get(Info.EXPORT)
        if data is None or len(data) != INFO_EXPORT.size:
            raise NbdProtocolError("the server did not tell the export's size")
        _kind, size, flags = INFO_EXPORT.unpack(data)
        if size > _SIZE_MAX:
            raise NbdProtocolError(f"an export of {size} bytes, expected at most {_SIZE_MAX}")
        least, preferred, most = self._block_sizes()
        if size % least:
            raise NbdProtocolError(f"an export of {size} bytes in blocks of {least}")
        known = ExportFlag(flags) if flags & ExportFlag.HAS_FLAGS else ExportFlag(0)
        return Export(
            self._export_name,
            size,
            known,
            block_min_bytes=least,
            block_preferred_bytes=preferred,
            payload_max_bytes=most,
        )

    def _block_sizes(self) -> tuple[int, int, int]:
        """Return the least, the preferred and the largest block, as the specification bounds them.

        A largest payload that is no multiple of the least block is rounded down.
        """
        data = self._infos.get(Info.BLOCK_SIZE)
        if data is None:
            return 1, 4096, PAYLOAD_MAX
        if len(data) != INFO_BLOCK_SIZE.size:
            raise NbdProtocolError(f"block sizes in {len(data)} bytes")
        _kind, least, preferred, most = INFO_BLOCK_SIZE.unpack(data)
        limit = PAYLOAD_MAX if most == _NO_LIMIT else min(most, PAYLOAD_MAX)
        if (
            not _is_power_of_two(least)
            or least > _BLOCK_MIN_MAX
            or not _is_power_of_two(preferred)
            or preferred < max(least, 512)
            or limit < max(least, 512)
        ):
            raise NbdProtocolError(f"blocks of {least}, {preferred} and {most} bytes")
        return least, preferred, limit // least * least


def printable(data: bytes) -> str:
    """Return a server's words as one short line."""
    text = data[:256].decode(errors="replace")
    return "".join(char if char.isprintable() else "?" for char in text).strip()


def _is_power_of_two(number: int) -> bool:
    return number > 0 and not number & (number - 1)
