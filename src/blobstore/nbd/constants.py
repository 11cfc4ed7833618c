"""The numbers of the NBD protocol, by the names of its specification (doc/proto.md).

All integers on the wire are big-endian.
"""

from enum import IntEnum, IntFlag
from typing import Final

GREETING_MAGIC: Final = 0x4E42444D41474943
OPTION_MAGIC: Final = 0x49484156454F5054
OPTION_REPLY_MAGIC: Final = 0x3E889045565A9
REQUEST_MAGIC: Final = 0x25609513
EXTENDED_REQUEST_MAGIC: Final = 0x21E41C71
SIMPLE_REPLY_MAGIC: Final = 0x67446698
STRUCTURED_REPLY_MAGIC: Final = 0x668E33EF
EXTENDED_REPLY_MAGIC: Final = 0x6E8A278C

STRING_MAX: Final = 4096
"""The longest name, description or query in bytes."""
OPTION_DATA_MAX: Final = 64 * 1024
"""More data than any option needs."""
PAYLOAD_MAX: Final = 32 * 1024 * 1024
"""The largest read or write that clients can count on."""


class HandshakeFlag(IntFlag):
    """What server and client can do, before anything else."""

    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class Option(IntEnum):
    """What a client asks for before the transmission begins."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10
    EXTENDED_HEADERS = 11


_ERROR: Final = 1 << 31


class OptionReply(IntEnum):
    """The kinds of answers to an option."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    UNSUPPORTED = _ERROR + 1
    POLICY = _ERROR + 2
    INVALID = _ERROR + 3
    PLATFORM = _ERROR + 4
    TLS_REQUIRED = _ERROR + 5
    UNKNOWN = _ERROR + 6
    SHUTDOWN = _ERROR + 7
    BLOCK_SIZE_REQUIRED = _ERROR + 8
    TOO_BIG = _ERROR + 9
    EXTENDED_HEADER_REQUIRED = _ERROR + 10

    @property
    def is_error(self) -> bool:
        """Whether the option was refused."""
        return bool(self & _ERROR)


class Info(IntEnum):
    """What can be said of an export."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class ExportFlag(IntFlag):
    """What an export can do."""

    HAS_FLAGS = 1
    READ_ONLY = 2
    SEND_FLUSH = 4
    SEND_FUA = 8
    ROTATIONAL = 16
    SEND_TRIM = 32
    SEND_WRITE_ZEROES = 64
    SEND_DF = 128
    CAN_MULTI_CONN = 256
    SEND_RESIZE = 512
    SEND_CACHE = 1024
    SEND_FAST_ZERO = 2048
    BLOCK_STATUS_PAYLOAD = 4096


class Command(IntEnum):
    """What a request asks for."""

    READ = 0
    WRITE = 1
    DISCONNECT = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7
    RESIZE = 8


class CommandFlag(IntFlag):
    """How a request is to be done."""

    NONE = 0
    FUA = 1
    NO_HOLE = 2
    DF = 4
    REQ_ONE = 8
    FAST_ZERO = 16
    PAYLOAD_LEN = 32


class Chunk(IntEnum):
    """The kinds of parts of a structured reply."""

    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    BLOCK_STATUS_EXT = 6
    ERROR = (1 << 15) + 1
    ERROR_OFFSET = (1 << 15) + 2


CHUNK_DONE: Final = 1
"""The flag of the last part of a structured reply."""


class WireError(IntEnum):
    """The errors of the protocol; the numbers are Linux's errnos."""

    OK = 0
    PERM = 1
    IO = 5
    NO_MEMORY = 12
    INVALID = 22
    NO_SPACE = 28
    OVERFLOW = 75
    NOT_SUPPORTED = 95
    SHUTDOWN = 108


STATE_HOLE: Final = 1
STATE_ZERO: Final = 2
STATE_DIRTY: Final = 1
