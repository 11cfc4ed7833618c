"""The undo file: what a repair replaced, and how to know what it put there instead.

Numbers are little-endian, checksums CRC-32C. A *sector* is 512 bytes, the last
one of a device may be shorter; a *sum* is CRC-32, that of zlib: the store itself
replaces sectors by others of the same CRC-32C (FORMAT 4). The file is a header,
records, and an end:

    header, 64 bytes
      0   8  "BSUNDO", a carriage return, a line feed
      8   4  version: 2
     12   4  bytes in a sector: 512
     16   8  size of the device in bytes
     24   8  where the store's metadata ends: what follows are clusters
     32  16  id of the file, which the mark in page 0 names while the repair is under way
     48  12  0
     60   4  checksum of the 60 bytes before

    record, one for each range that was changed; page 0 is always the first one
      0   8  offset on the device, a multiple of 512, at or after the end of the last range
      8   4  length n in bytes: 1 to 1048576, a multiple of 512 but at the device's end
     12   4  0
     16   4  checksum of the old content
     20   4  checksum of the 20 bytes before, and of the sums
     24      the sum of each sector of the new content, 4 bytes each
             n bytes of old content

    end
      0   8  0xffffffffffffffff
      8   8  0
     16   4  how many records there are
     20      the sum of each MiB of the metadata, 4 bytes each, in which the records' ranges
             count as zeroes
             checksum of all bytes of the file before this field, 4 bytes

A power failure while a repair is applied, or undone, leaves any of a range's
sectors new and the others old. So the file has a sum for each sector: a sector that
is neither was written by another program. Metadata that the repair did not change is
the same before and after the repair. So the file has the sums at the end: if one
differs, the metadata was changed since.
"""

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeAlias
from zlib import crc32

from blobstore.errors import CorruptError
from blobstore.format.checksum import SECTOR_SIZE, crc32c
from blobstore.format.page import PAGE_SIZE
from blobstore.format.repair_mark import UNDO_ID_SIZE
from blobstore.units import MIB, ceil_div

MAGIC: Final = b"BSUNDO\r\n"
VERSION: Final = 2
RECORD_MAX: Final = MIB
"""No record holds more bytes of the device."""

_CRC: Final = struct.Struct("<I")
_HEADER: Final = struct.Struct(f"<8sIIQQ{UNDO_ID_SIZE}s12s")
_RECORD: Final = struct.Struct("<QIII")
_END: Final = struct.Struct("<QQI")
_NO_OFFSET: Final = 0xFFFF_FFFF_FFFF_FFFF
_EMPTY: Final = crc32(bytes(SECTOR_SIZE))
assert _HEADER.size + _CRC.size == 64
assert _RECORD.size == _END.size == 20

Take: TypeAlias = Callable[[int], bytes]
"""Return the requested number of next bytes of the file, fewer only at its end."""

Range: TypeAlias = tuple[int, int]
"""Offset and length in bytes."""


class Step(Enum):
    """The steps of a repair, in order: what roots will name, the roots, what they named before."""

    ADD = auto()
    CHANGE = auto()
    ERASE = auto()

    @classmethod
    def of(cls, *, is_empty: bool, becomes_empty: bool) -> "Step":
        """Return the step of some metadata: what was empty, nothing named yet."""
        if is_empty:
            return cls.ADD
        return cls.ERASE if becomes_empty else cls.CHANGE


@dataclass(frozen=True, slots=True)
class UndoRecord:
    """A range's old content, and the sum of each sector of what the repair puts there."""

    offset: int
    old: bytes
    sums: tuple[int, ...]

    @property
    def step(self) -> "Step":
        """Which step of the repair the range belongs to, if it is one of metadata."""
        return Step.of(
            is_empty=_is_empty(self.old), becomes_empty=all(each == _EMPTY for each in self.sums)
        )

    def holds_new(self, found: bytes) -> bool:
        """Tell whether a range is, as a whole, what the repair made of it."""
        return tuple(_sector_sums(found)) == self.sums

    def first_strange_sector(self, found: bytes) -> int | None:
        """Return the device's offset of a sector that holds neither, or None if there is none.

        `found` may be shorter than the range: only so much of it is looked at.
        """
        for number, at in enumerate(range(0, len(found), SECTOR_SIZE)):
            sector = found[at : at + SECTOR_SIZE]
            if sector != self.old[at : at + SECTOR_SIZE] and crc32(sector) != self.sums[number]:
                return self.offset + at
        return None


def _is_empty(content: bytes) -> bool:
    return content.count(0) == len(content)


def surrounding_sum(content: bytearray, offset: int, ranges: Sequence[Range]) -> int:
    """Return the sum of a MiB of metadata that lies at `offset`.

    `ranges`, those of the records in order, are zeroed in `content`.
    """
    end = offset + len(content)
    for start, length in ranges[max(0, bisect_right(ranges, (offset, 0)) - 1) :]:
        if start >= end:
            break
        first, last = max(start, offset), min(start + length, end)
        if first < last:
            content[first - offset : last - offset] = bytes(last - first)
    return crc32(content)


class UndoEncoder:
    """Makes an undo file, part by part: `header`, then `record`s by offset, then `end`."""

    def __init__(self) -> None:
        self._count = 0
        self._checksum = crc32c(b"")

    def header(self, *, device_size: int, metadata_end: int, undo_id: bytes) -> bytes:
        """Return the file's beginning."""
        head = _HEADER.pack(
            MAGIC, VERSION, SECTOR_SIZE, device_size, metadata_end, undo_id, bytes(12)
        )
        return self._counted(head + _CRC.pack(crc32c(head)))

    def record(self, offset: int, *, old: bytes, new: bytes) -> bytes:
        """Return a range's record."""
        head = _RECORD.pack(offset, len(old), 0, crc32c(old))
        sums = b"".join(map(_CRC.pack, _sector_sums(new)))
        self._count += 1
        return self._counted(head + _CRC.pack(crc32c(sums, crc32c(head))) + sums + old)

    def end(self, surroundings: Sequence[int]) -> bytes:
        """Return the file's end, with the sum of each MiB of the metadata."""
        sums = b"".join(map(_CRC.pack, surroundings))
        head = self._counted(_END.pack(_NO_OFFSET, 0, self._count) + sums)
        return head + _CRC.pack(self._checksum)

    def _counted(self, part: bytes) -> bytes:
        self._checksum = crc32c(part, self._checksum)
        return part


def _sector_sums(content: bytes) -> Iterator[int]:
    view = memoryview(content)
    for at in range(0, len(content), SECTOR_SIZE):
        yield crc32(view[at : at + SECTOR_SIZE])


class UndoDecoder:
    """Reads an undo file once, from its beginning; `take` gives its bytes.

    Nothing is right until `records` has come to its end: only there a file
    shows that it is whole.
    """

    def __init__(self, take: Take) -> None:
        """Read the header.

        Raises:
            CorruptError: No undo file, or one of another version.
        """
        self.surroundings: tuple[int, ...] = ()
        self._take_more = take
        self._at = 0
        self._checksum = crc32c(b"")
        head = self._take(_HEADER.size, "header")
        magic, version, sector_size, size, end, self.undo_id, _reserved = _HEADER.unpack(head)
        self.device_size, self.metadata_end = size, end
        if magic != MAGIC:
            raise CorruptError(f"undo file: begins with {magic!r}, expected {MAGIC!r}")
        if (version, sector_size) != (VERSION, SECTOR_SIZE):
            raise CorruptError(
                f"undo file: version {version} with sectors of {sector_size} bytes, "
                f"expected {VERSION} with {SECTOR_SIZE}"
            )
        self._check_sum(crc32c(head), "header")
        if not PAGE_SIZE <= end <= size:
            raise CorruptError(f"undo file: header: metadata ends at {end}, the device at {size}")

    def records(self) -> Iterator[UndoRecord]:
        """Yield all records, in order; afterwards there are `surroundings`.

        Raises:
            CorruptError: The file is cut off, or some of it is not what was written.
        """
        count = end = 0
        while True:
            place = f"record {count} at byte {self._at}"
            head = self._take(_RECORD.size, place)
            if _RECORD.unpack(head)[0] == _NO_OFFSET:
                self._take_end(head, count)
                return
            record = self._record(head, end, place)
            end = record.offset + len(record.old)
            count += 1
            yield record

    def _record(self, head: bytes, last_end: int, place: str) -> UndoRecord:
        offset, length, _zero, old_checksum = _RECORD.unpack(head)
        self._check_range(offset, length, last_end, place)
        (checksum,) = _CRC.unpack(self._take(_CRC.size, place))
        count = ceil_div(length, SECTOR_SIZE)
        sums = self._take(count * _CRC.size, place)
        _compare(checksum, crc32c(sums, crc32c(head)), place)
        old = self._take(length, place)
        _compare(old_checksum, crc32c(old), f"{place}, old content")
        return UndoRecord(offset, old, struct.unpack(f"<{count}I", sums))

    def _check_range(self, offset: int, length: int, last_end: int, place: str) -> None:
        """Look at a length before so much memory is taken."""
        end = offset + length
        is_whole = end % SECTOR_SIZE == 0 or end == self.device_size
        if (
            not 1 <= length <= RECORD_MAX
            or (offset == 0) != (last_end == 0)
            or (offset == 0 and length != PAGE_SIZE)
            or not last_end <= offset < end <= self.device_size
            or offset % SECTOR_SIZE
            or not is_whole
        ):
            raise CorruptError(
                f"undo file: {place}: {length} bytes at {offset} of the device, expected "
                f"1 to {RECORD_MAX} between {last_end} and {self.device_size}, whole sectors"
            )

    def _take_end(self, head: bytes, count: int) -> None:
        sums = ceil_div(self.metadata_end, MIB)
        surroundings = struct.unpack(f"<{sums}I", self._take(sums * _CRC.size, "end"))
        self._check_sum(self._checksum, "end")
        _no_offset, zero, expected = _END.unpack(head)
        if (zero, expected) != (0, count) or not count:
            raise CorruptError(f"undo file: end: {count} records, expected {expected or 'some'}")
        if self._take_more(1):
            raise CorruptError(f"undo file: byte {self._at}: more after the end")
        self.surroundings = surroundings

    def _check_sum(self, expected: int, place: str) -> None:
        (found,) = _CRC.unpack(self._take(_CRC.size, place))
        _compare(found, expected, place)

    def _take(self, length: int, place: str) -> bytes:
        data = self._take_more(length)
        if len(data) != length:
            raise CorruptError(
                f"undo file: {place}: cut off, {len(data)} bytes at byte {self._at}, "
                f"expected {length}"
            )
        self._checksum = crc32c(data, self._checksum)
        self._at += length
        return data


def _compare(found: int, expected: int, place: str) -> None:
    if found != expected:
        raise CorruptError(f"undo file: {place}: crc {found:#010x}, expected {expected:#010x}")
