"""The undo file: what a repair replaced, and how to know what it put there instead.

Numbers are little-endian, checksums CRC-32C. A *sector* is 512 bytes, the last
one of a device may be shorter; a sector's *sum* is CRC-32, that of zlib: the store
itself replaces sectors by others of the same CRC-32C (FORMAT 4). The file is a
header, records, and an end:

    header, 32 bytes
      0   8  "BSUNDO", a carriage return, a line feed
      8   4  version: 1
     12   4  bytes in a sector: 512
     16   8  size of the device in bytes
     24   4  0
     28   4  checksum of the 28 bytes before

    record, one for each range that was changed
      0   8  offset on the device, a multiple of 512, behind the range before
      8   4  length n in bytes: 1 to 1048576, a multiple of 512 but at the device's end
     12   4  how many new contents v the range may have got: 1 to 4
     16   4  checksum of the old content
     20   4  checksum of the 20 bytes before, and of the sums
     24      v times: the sum of each sector of the new content, 4 bytes each
             n bytes of old content

    end, 24 bytes
      0   8  0xffffffffffffffff
      8   8  0
     16   4  how many records there are
     20   4  checksum of all bytes of the file before this field

A power failure while a repair is applied, or undone, leaves any of a range's
sectors new and the others old. Hence a sum for each sector: what is neither was
written by somebody else. The super block's page is written more than once, so
it has several new contents: as it marks the store dirty while the repair is
applied, as it is afterwards, as it marks the store dirty while that is undone.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias
from zlib import crc32

from blobstore.errors import CorruptError
from blobstore.format.checksum import SECTOR_SIZE, crc32c
from blobstore.operations import Buffer
from blobstore.units import MIB, ceil_div

MAGIC: Final = b"BSUNDO\r\n"
VERSION: Final = 1
RECORD_MAX: Final = MIB
"""No record holds more bytes of the device."""

_VERSIONS_MAX: Final = 4
_CRC: Final = struct.Struct("<I")
_HEADER: Final = struct.Struct("<8sIIQI")
_RECORD: Final = struct.Struct("<QIII")
_END: Final = struct.Struct("<QQI")
_NO_OFFSET: Final = 0xFFFF_FFFF_FFFF_FFFF
assert _HEADER.size + _CRC.size == 32
assert _RECORD.size == _END.size == 20

Take: TypeAlias = Callable[[int], bytes]
"""Gives the next so many bytes of the file, fewer only at its end."""


@dataclass(frozen=True, slots=True)
class UndoRecord:
    """A range's old content, and the sums of each sector of what may be there instead."""

    offset: int
    old: bytes
    sums: tuple[tuple[int, ...], ...]

    def holds_new(self, found: bytes, version: int = 0) -> bool:
        """Tell whether a range is, as a whole, one of its new contents."""
        return tuple(_sector_sums(found)) == self.sums[version]

    def first_strange_sector(self, found: bytes) -> int | None:
        """Return the device's offset of a sector that holds neither, or None if there is none."""
        if found == self.old:
            return None
        for number, at in enumerate(range(0, len(self.old), SECTOR_SIZE)):
            sector = found[at : at + SECTOR_SIZE]
            if sector != self.old[at : at + SECTOR_SIZE]:
                found_sum = crc32(sector)
                if all(sums[number] != found_sum for sums in self.sums):
                    return self.offset + at
        return None


class UndoEncoder:
    """Makes an undo file, part by part: `header`, then `record`s by offset, then `end`."""

    def __init__(self) -> None:
        self._count = 0
        self._checksum = crc32c(b"")

    def header(self, *, device_size: int) -> bytes:
        """Return the file's beginning."""
        head = _HEADER.pack(MAGIC, VERSION, SECTOR_SIZE, device_size, 0)
        return self._counted(head + _CRC.pack(crc32c(head)))

    def record(self, offset: int, *, old: bytes, new: Sequence[bytes]) -> bytes:
        """Return a range's record; `new` is all that it may hold, whole, from now on."""
        head = _RECORD.pack(offset, len(old), len(new), crc32c(old))
        sums = b"".join(_CRC.pack(each) for content in new for each in _sector_sums(content))
        self._count += 1
        return self._counted(head + _CRC.pack(crc32c(sums, crc32c(head))) + sums + old)

    def end(self) -> bytes:
        """Return the file's end."""
        head = self._counted(_END.pack(_NO_OFFSET, 0, self._count))
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
        self._take_more = take
        self._at = 0
        self._checksum = crc32c(b"")
        head = self._take(_HEADER.size, "header")
        magic, version, sector_size, self.device_size, _reserved = _HEADER.unpack(head)
        if magic != MAGIC:
            raise CorruptError(f"undo file: begins with {magic!r}, expected {MAGIC!r}")
        self._check_sum(crc32c(head), "header")
        if (version, sector_size) != (VERSION, SECTOR_SIZE):
            raise CorruptError(
                f"undo file: version {version} with sectors of {sector_size} bytes, "
                f"expected {VERSION} with {SECTOR_SIZE}"
            )

    def records(self) -> Iterator[UndoRecord]:
        """Yield all records, in order.

        Raises:
            CorruptError: The file is cut off, or some of it is not what was written.
        """
        count = behind = 0
        while True:
            place = f"record {count} at byte {self._at}"
            head = self._take(_RECORD.size, place)
            if _RECORD.unpack(head)[0] == _NO_OFFSET:
                self._check_end(head, count)
                return
            record = self._record(head, behind, place)
            behind = record.offset + len(record.old)
            count += 1
            yield record

    def _record(self, head: bytes, behind: int, place: str) -> UndoRecord:
        offset, length, versions, old_checksum = _RECORD.unpack(head)
        self._check_range(offset, length, behind, place)
        if not 1 <= versions <= _VERSIONS_MAX:
            raise CorruptError(f"undo file: {place}: {versions} new contents, expected 1 to 4")
        (checksum,) = _CRC.unpack(self._take(_CRC.size, place))
        per_version = ceil_div(length, SECTOR_SIZE)
        sums = self._take(versions * per_version * _CRC.size, place)
        _compare(checksum, crc32c(sums, crc32c(head)), place)
        old = self._take(length, place)
        _compare(old_checksum, crc32c(old), f"{place}, old content")
        flat = struct.unpack(f"<{versions * per_version}I", sums)
        parts = (flat[at : at + per_version] for at in range(0, len(flat), per_version))
        return UndoRecord(offset, old, tuple(parts))

    def _check_range(self, offset: int, length: int, behind: int, place: str) -> None:
        """Look at a length before so much memory is taken."""
        end = offset + length
        is_whole = end % SECTOR_SIZE == 0 or end == self.device_size
        if (
            not 1 <= length <= RECORD_MAX
            or not behind <= offset < end <= self.device_size
            or offset % SECTOR_SIZE
            or not is_whole
        ):
            raise CorruptError(
                f"undo file: {place}: {length} bytes at {offset} of the device, expected "
                f"1 to {RECORD_MAX} between {behind} and {self.device_size}, whole sectors"
            )

    def _check_end(self, head: bytes, count: int) -> None:
        self._check_sum(self._checksum, "end")
        _no_offset, zero, expected = _END.unpack(head)
        if (zero, expected) != (0, count):
            raise CorruptError(f"undo file: end: {count} records, expected {expected}")
        if self._take_more(1):
            raise CorruptError(f"undo file: byte {self._at}: more behind the end")

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


def decode_all(data: Buffer) -> tuple[int, list[UndoRecord]]:
    """Decode a whole undo file that is in memory: the device's size, and the records.

    Raises:
        CorruptError: No undo file, or not as it was written.
    """
    view = memoryview(data)

    def take(length: int) -> bytes:
        nonlocal view
        taken, view = bytes(view[:length]), view[length:]
        return taken

    decoder = UndoDecoder(take)
    return decoder.device_size, list(decoder.records())
