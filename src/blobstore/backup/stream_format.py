"""The format of streams: bytes <-> records, without I/O (docs/STREAM.md).

A stream is a preamble and records: one `Begin`, then `Data` and `Zeroes` in the order of their
offsets, then the end. A record is a head of 32 bytes and a payload:

    u8 kind, u8 coding, u16 0, u32 size of the payload, u64 offset, u64 length, u32 number, u32 crc

The crc is the CRC-32C of the head before it and of the payload as it stands in the stream. So
each record is known to be right before anything of it is used, and before it is decompressed. The
records are numbered. The end record holds the SHA-256 of the preamble and all heads before it,
and through their crcs it covers the payloads: a record that is missing, moved or of another
stream is found too.

A reader trusts no length. Every length is compared with a fixed bound before memory is taken
for it.
"""

import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias
from uuid import UUID

import msgspec

from blobstore.errors import CorruptError, InvalidArgumentError
from blobstore.format.checksum import crc32c
from blobstore.operations import Buffer
from blobstore.units import MIB

if TYPE_CHECKING:
    import zstandard

VERSION: Final = 1
DATA_MAX: Final = MIB
"""The most bytes of a blob that one record holds."""

_MAGIC: Final = b"BLOBSTRM"
_PREAMBLE: Final = struct.Struct("<8sI")  # magic, version
_HEAD: Final = struct.Struct("<BBHIQQI")  # kind, coding, 0, payload length, offset, length, number
_CRC: Final = struct.Struct("<I")
PREAMBLE_SIZE: Final = _PREAMBLE.size
HEAD_SIZE: Final = _HEAD.size + _CRC.size
assert (PREAMBLE_SIZE, HEAD_SIZE) == (12, 32)

_BEGIN: Final = 1
_DATA: Final = 2
_ZEROES: Final = 3
_END: Final = 4

_PLAIN: Final = 0
_ZSTD: Final = 1

_BEGIN_MAX: Final = 16 * MIB
_SIZE_MAX: Final = 1 << 63
_DIGEST_SIZE: Final = hashlib.sha256().digest_size
_WORTH_IT: Final = 15 / 16
"""Compressed content is sent if it takes at most this share of the space."""


class MixedStreamError(CorruptError):
    """Each record is right, but they are not the records of one stream."""


class Begin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a stream is about: the first record. Sizes and offsets are bytes.

    `identity` names the snapshot for ever, and `base` the one that the stream is a difference
    to. `start` is where a resumed stream goes on; what is before it was received already.
    `data_length` is what the data records have in sum. `xattrs` are (name, value) in order.
    """

    size: int
    name: bytes | None = None
    identity: UUID | None = None
    base: UUID | None = None
    taken_at: int | None = None
    start: int = 0
    data_length: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of the blob from `offset` on."""

    offset: int
    content: Buffer


@dataclass(frozen=True, slots=True)
class Zeroes:
    """A range that reads as zeroes; `length` can be any number of bytes."""

    offset: int
    length: int


Record: TypeAlias = Begin | Data | Zeroes


class StreamEncoder:
    """Turns records into bytes. `level` is zstd's; 0 does not compress."""

    def __init__(self, level: int = 0) -> None:
        self._compressor = _compressor(level) if level else None
        self._number = 0
        self._digest = hashlib.sha256()

    def encode(self, record: Record) -> list[Buffer]:
        """Return a record as buffers that follow each other; the first one has the preamble.

        Raises:
            InvalidArgumentError: The attributes do not fit into one record.
        """
        if isinstance(record, Begin):
            return self._encode_begin(record)
        if isinstance(record, Zeroes):
            return self._framed(_ZEROES, _PLAIN, b"", record.offset, record.length)
        length = memoryview(record.content).nbytes
        coding, payload = self._packed(record.content, length)
        return self._framed(_DATA, coding, payload, record.offset, length)

    def _encode_begin(self, begin: Begin) -> list[Buffer]:
        encoded = msgspec.json.encode(begin)
        if len(encoded) > _BEGIN_MAX:
            raise InvalidArgumentError(f"attributes: {len(encoded)} bytes for a stream")
        preamble = _PREAMBLE.pack(_MAGIC, VERSION)
        self._digest.update(preamble)
        return [preamble, *self._framed(_BEGIN, _PLAIN, encoded, 0, 0)]

    def end(self) -> list[Buffer]:
        """Return the last record."""
        return self._framed(_END, _PLAIN, self._digest.digest(), 0, 0)

    def _packed(self, content: Buffer, length: int) -> tuple[int, Buffer]:
        if self._compressor is not None:
            packed = self._compressor.compress(content)
            if len(packed) <= length * _WORTH_IT:
                return _ZSTD, packed
        return _PLAIN, content

    def _framed(
        self, kind: int, coding: int, payload: Buffer, offset: int, length: int
    ) -> list[Buffer]:
        size = memoryview(payload).nbytes
        fields = _HEAD.pack(kind, coding, 0, size, offset, length, self._number)
        head = fields + _CRC.pack(crc32c(payload, crc32c(fields)))
        self._number += 1
        self._digest.update(head)
        return [head, payload] if size else [head]


def _compressor(level: int) -> "zstandard.ZstdCompressor":
    import zstandard  # a stream that is not compressed is sent without

    return zstandard.ZstdCompressor(level=level)


@dataclass(frozen=True, slots=True)
class _Head:
    """The head of one record, as it was found."""

    kind: int
    coding: int
    size: int
    offset: int
    length: int


class StreamDecoder:
    """Turns bytes into records, as they come.

    The caller passes exactly `wanted` bytes to `feed`, again and again, until `has_ended`.
    """

    def __init__(self) -> None:
        self.wanted = PREAMBLE_SIZE
        self.has_ended = False
        self._number = 0
        self._has_preamble = False
        self._digest = hashlib.sha256()
        self._begin: Begin | None = None
        self._head: _Head | None = None
        self._head_bytes = b""
        self._at = 0

    @property
    def place(self) -> str:
        """The record that comes next, for messages."""
        return f"stream: record {self._number}"

    @property
    def has_begun(self) -> bool:
        """Whether the start of a stream has come."""
        return self._has_preamble

    def feed(self, data: bytes) -> Record | None:
        """Take the next `wanted` bytes; return the record that is complete with them, if any.

        Raises:
            CorruptError: They are not what a stream has there (EILSEQ).
        """
        if len(data) != self.wanted:
            raise AssertionError(f"{len(data)} bytes, {self.wanted} were asked for")
        if not self._has_preamble:
            self._take_preamble(data)
            return None
        if self._head is not None:
            return self._take_payload(self._head, data)
        head = self._decode_head(data)
        self._head_bytes = data
        if not head.size:
            return self._take_payload(head, b"")
        self._head, self.wanted = head, head.size
        return None

    def _take_payload(self, head: _Head, payload: bytes) -> Record | None:
        self._check(head, payload)
        self._head, self.wanted = None, HEAD_SIZE
        record = self._decode(head, payload)
        self._digest.update(self._head_bytes)
        self._number += 1
        return record

    def _take_preamble(self, data: bytes) -> None:
        magic, version = _PREAMBLE.unpack(data)
        if magic != _MAGIC:
            raise CorruptError(f"no stream of `send`: starts with {magic!r}, expected {_MAGIC!r}")
        if version != VERSION:
            raise CorruptError(f"stream: version {version}, expected {VERSION}")
        self._digest.update(data)
        self._has_preamble, self.wanted = True, HEAD_SIZE

    def _decode_head(self, data: bytes) -> _Head:
        kind, coding, zero, size, offset, length, number = _HEAD.unpack_from(data)
        if zero or number != self._number or coding not in (_PLAIN, _ZSTD):
            raise CorruptError(f"{self.place}: its head makes no sense")
        head = _Head(kind, coding, size, offset, length)
        bound = {_BEGIN: _BEGIN_MAX, _DATA: DATA_MAX, _ZEROES: 0, _END: _DIGEST_SIZE}.get(kind, -1)
        if size > bound:
            raise CorruptError(f"{self.place}: kind {kind} with {size} bytes, at most {bound}")
        if (kind == _BEGIN) != (self._begin is None) or (coding != _PLAIN and kind != _DATA):
            raise CorruptError(f"{self.place}: kind {kind}, coding {coding} out of place")
        if kind in (_DATA, _ZEROES):
            self._check_range(head)
        return head

    def _check_range(self, head: _Head) -> None:
        """Refuse what is not in the blob, or not after what came before."""
        assert self._begin is not None
        if not (self._at <= head.offset and 0 < head.length <= self._begin.size - head.offset):
            raise CorruptError(f"{self.place}: {head.length} bytes at {head.offset} out of place")
        if head.kind == _DATA and head.length > DATA_MAX:
            raise CorruptError(f"{self.place}: {head.length} bytes, at most {DATA_MAX}")

    def _check(self, head: _Head, payload: bytes) -> None:
        (found,) = _CRC.unpack_from(self._head_bytes, _HEAD.size)
        expected = crc32c(payload, crc32c(self._head_bytes[: _HEAD.size]))
        if found != expected:
            raise CorruptError(f"{self.place}: crc {found:#010x}, expected {expected:#010x}")

    def _decode(self, head: _Head, payload: bytes) -> Record | None:
        if head.kind == _BEGIN:
            self._begin = self._decode_begin(payload)
            self._at = self._begin.start
            return self._begin
        if head.kind == _END:
            if payload != self._digest.digest():
                raise MixedStreamError(f"{self.place}: the digest is another stream's")
            self.has_ended = True
            self.wanted = 0
            return None
        self._at = head.offset + head.length
        if head.kind == _ZEROES:
            return Zeroes(head.offset, head.length)
        return Data(head.offset, self._content_of(head, payload))

    def _decode_begin(self, payload: bytes) -> Begin:
        try:
            begin = msgspec.json.decode(payload, type=Begin)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            raise CorruptError(f"{self.place}: {error}") from error
        sizes = (begin.size, begin.start, begin.data_length)
        if not (all(0 <= size < _SIZE_MAX for size in sizes) and begin.start <= begin.size):
            raise CorruptError(f"{self.place}: sizes {sizes} make no sense")
        return begin

    def _content_of(self, head: _Head, payload: bytes) -> bytes:
        if head.coding == _ZSTD:
            payload = self._decompressed(head, payload)
        if len(payload) != head.length:
            raise CorruptError(f"{self.place}: {len(payload)} bytes, expected {head.length}")
        return payload

    def _decompressed(self, head: _Head, payload: bytes) -> bytes:
        """Decompress a frame that says itself that it is as long as the record does."""
        import zstandard  # a stream that is not compressed is received without

        try:
            found = zstandard.frame_content_size(payload)
            if found != head.length:
                raise CorruptError(f"{self.place}: frame of {found} bytes, not {head.length}")
            return zstandard.ZstdDecompressor().decompress(payload, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise CorruptError(f"{self.place}: {error}") from error
