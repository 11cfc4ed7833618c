"""The undo log: how a repair reaches a device, and how it is undone.

A repair is ready in memory, as an overlay, before a byte of the device changes.
What it replaces goes to the undo file. Then, with a flush after each:

    1. the last sector of page 0: the mark, which nothing opens (`format.repair_mark`)
    2. what is copied to free clusters
    3. metadata
    4. the other sectors of page 0, with the fields of the super block
    5. the last sector of page 0, as it is to be

Copies come before the roots that name them. The fields come after the masks:
where they say "clean" the masks are evidence, either those from before the repair
or those that it made, never those of a store that was in use. An undo goes
back the same way: mark, fields, metadata, clusters, last sector.

Whatever a power failure leaves is thus the store as it was, as it is to be, or
marked. A marked one holds, sector by sector, the old or the new content, and the
undo file tells which is which: an undo can begin there, again and again.
Without a mark all of it must be old or all of it new, and the rest of the
metadata must be what it was: otherwise the store was changed since.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Flag, auto
from functools import cache
from typing import BinaryIO, Final

from blobstore.device.base import Device
from blobstore.device.overlay import BLOCK_SIZE, OverlayDevice
from blobstore.errors import BlobstoreError, CorruptError, DeviceError
from blobstore.format.checksum import crc32c
from blobstore.format.geometry import Geometry
from blobstore.format.repair_mark import MARK_OFFSET, UNDO_ID_SIZE, RepairMark
from blobstore.format.super_block import SUPER_BLOCK_SIZE, SuperBlock
from blobstore.fsck.undo_file import (
    RECORD_MAX,
    Range,
    UndoDecoder,
    UndoEncoder,
    UndoRecord,
    surrounding_sum,
)

NO_UNDO_ID: Final = bytes(UNDO_ID_SIZE)

assert RECORD_MAX % BLOCK_SIZE == 0
assert BLOCK_SIZE == SUPER_BLOCK_SIZE


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs between a device and the overlay on it.

    Page 0 is `found` and becomes `final`; `ranges` are all others, ascending. Metadata
    lies before `metadata_end`, clusters after it.
    """

    overlay: OverlayDevice
    found: bytes
    final: bytes
    metadata_end: int
    ranges: list[Range]

    @classmethod
    def between(cls, device: Device, overlay: OverlayDevice) -> "Changes":
        """Compare block by block: much is written again as it was."""
        found = device.read(0, min(SUPER_BLOCK_SIZE, device.size_bytes))
        final = overlay.read(0, len(found))
        end = _metadata_end(final, device.size_bytes)
        return cls(overlay, found, final, end, list(_differing(device, overlay, end)))

    def __bool__(self) -> bool:
        return self.found != self.final or bool(self.ranges)

    def mark(self, undo_id: bytes, undo_name: bytes) -> RepairMark:
        """Return the mark for as long as they are made."""
        new_head = crc32c(self.final[:MARK_OFFSET])
        is_sound = _is_head_sound(self.found)
        return RepairMark(
            is_undo=False,
            undo_id=undo_id,
            undo_name=undo_name,
            page_crc=_page_crc(self.found),
            head_crcs=(crc32c(self.found[:MARK_OFFSET]) if is_sound else new_head, new_head),
        )

    def undo_file(self, device: Device, undo_id: bytes) -> Iterator[bytes]:
        """Yield the undo file of these changes, part by part."""
        encoder = UndoEncoder()
        yield encoder.header(
            device_size=device.size_bytes, metadata_end=self.metadata_end, undo_id=undo_id
        )
        yield encoder.record(0, old=self.found, new=self.final)
        for offset, length in self.ranges:
            old = bytes(_read_blocks(device, offset, length)[0])
            yield encoder.record(offset, old=old, new=self.overlay.read(offset, length))
        ranges = [(0, len(self.found)), *self.ranges]
        yield encoder.end(list(_surroundings(device, self.metadata_end, ranges)))


def mark_of(device: Device) -> RepairMark | None:
    """Return the mark of the repair or undo that was cut off on the device, if there is one."""
    return RepairMark.decode(device.read(0, min(SUPER_BLOCK_SIZE, device.size_bytes)))


def _metadata_end(page: bytes, device_size: int) -> int:
    """Return where the metadata ends; without a super block only page 0 is known to be some."""
    with suppress(CorruptError):
        super_block = SuperBlock.decode(page.ljust(SUPER_BLOCK_SIZE, b"\0"))
        geometry = Geometry.of(super_block, device_size=device_size)
        return min(geometry.metadata_end, device_size)
    return len(page)


def _is_head_sound(page: bytes) -> bool:
    """Tell whether the fields of a super block can be believed, also under an earlier mark."""
    earlier = RepairMark.decode(page)
    if earlier is not None:
        return earlier.is_head_sound(page)
    try:
        SuperBlock.decode(page)
    except CorruptError:
        return False
    return True


def _page_crc(page: bytes) -> int:
    earlier = RepairMark.decode(page)
    return int.from_bytes(page[-4:], "little") if earlier is None else earlier.page_crc


# Comparing


def _differing(device: Device, overlay: OverlayDevice, metadata_end: int) -> Iterator[Range]:
    """Yield the blocks after page 0 that differ, merged up to a record's size.

    None is of metadata and clusters.
    """
    for start, length in overlay.changed_ranges():
        end = start + length
        at = max(start, SUPER_BLOCK_SIZE)
        while at < end:
            stop = metadata_end if at < metadata_end else end
            size = min(RECORD_MAX, end - at, stop - at)
            for first, last in _runs(device, overlay, at, size):
                yield at + first, last - first
            at += size


def _runs(device: Device, overlay: OverlayDevice, offset: int, length: int) -> Iterator[Range]:
    """Yield (start, end) of what differs, in whole blocks; what cannot be read does."""
    old, unreadable = _read_blocks(device, offset, length)
    new = overlay.read(offset, length)
    start: int | None = None
    for at in range(0, length, BLOCK_SIZE):
        same = at not in unreadable and old[at : at + BLOCK_SIZE] == new[at : at + BLOCK_SIZE]
        if same and start is not None:
            yield start, at
            start = None
        elif not same and start is None:
            start = at
    if start is not None:
        yield start, length


def _read_blocks(device: Device, offset: int, length: int) -> tuple[bytearray, set[int]]:
    """Read a range; blocks that cannot be read are zero, and there is no way back to them."""
    try:
        return bytearray(device.read(offset, length)), set()
    except DeviceError:
        pass
    content = bytearray(length)
    unreadable: set[int] = set()
    for at in range(0, length, BLOCK_SIZE):
        size = min(BLOCK_SIZE, length - at)
        try:
            content[at : at + size] = device.read(offset + at, size)
        except DeviceError:
            unreadable.add(at)
    return content, unreadable


def _surroundings(device: Device, metadata_end: int, ranges: Sequence[Range]) -> Iterator[int]:
    """Yield the sum of each MiB of metadata without the ranges; holes are not read."""
    data_at = 0
    for at in range(0, metadata_end, RECORD_MAX):
        length = min(RECORD_MAX, metadata_end - at)
        data_at = max(data_at, at)
        if data_at == at:
            data_at = device.next_data(at)
        if data_at < at + length:
            content, _unreadable = _read_blocks(device, at, length)
            yield surrounding_sum(content, at, ranges)
        else:
            yield _sum_of_hole(length)


@cache
def _sum_of_hole(length: int) -> int:
    return surrounding_sum(bytearray(length), 0, ())


# Forwards


def apply(device: Device, changes: Changes, mark: RepairMark, undo_name: str | None) -> None:
    """Make the changes, in the order that is this module's theory.

    Raises:
        BlobstoreError: The device failed; it says how to undo what was done.
    """
    end = changes.metadata_end
    try:
        _write_flushed(device, MARK_OFFSET, mark.encode(changes.found[:MARK_OFFSET]))
        _put_ranges(device, changes, [each for each in changes.ranges if each[0] >= end])
        _put_ranges(device, changes, [each for each in changes.ranges if each[0] < end])
        if changes.final[:MARK_OFFSET] != changes.found[:MARK_OFFSET]:
            _write_flushed(device, 0, changes.final[:MARK_OFFSET])
        _write_flushed(device, MARK_OFFSET, changes.final[MARK_OFFSET:])
    except BlobstoreError as error:
        way_back = "there is no undo file" if undo_name is None else f"to undo it: {undo_name}"
        message = f"{error.message}; the repair is half done, {way_back}"
        raise type(error)(message, errno=error.errno) from error


def _put_ranges(device: Device, changes: Changes, ranges: Sequence[Range]) -> None:
    for offset, length in ranges:
        _put(device, offset, changes.overlay.read(offset, length))
    if ranges:
        device.flush()


def _put(device: Device, offset: int, content: bytes) -> None:
    if content.count(0) == len(content):
        device.write_zeroes(offset, len(content))
    else:
        device.write(offset, [content])


def _write_flushed(device: Device, offset: int, content: bytes) -> None:
    device.write(offset, [content])
    device.flush()


# Backwards


class _Content(Flag):
    """What a range of a store without a mark may be, as a whole."""

    OLD = auto()
    NEW = auto()


def undo_changes(device: Device, file: BinaryIO, undo_name: bytes) -> int:
    """Put back what the undo file holds; return how many bytes that changed.

    `undo_name` is what the mark calls the file.

    Raises:
        CorruptError: The file is damaged or another device's, or the store was changed
            since. Nothing was changed.
    """
    if _check_unchanged(device, decoder_for(file, device)) == _Content.OLD:
        return 0
    return _restore(device, decoder_for(file, device), undo_name)


def decoder_for(file: BinaryIO, device: Device) -> UndoDecoder:
    """Begin at the file's start.

    Raises:
        CorruptError: No undo file, or one of a device of another size.
    """
    file.seek(0)
    decoder = UndoDecoder(file.read)
    if decoder.device_size != device.size_bytes:
        raise CorruptError(
            f"{device.name}: {device.size_bytes} bytes, "
            f"expected the {decoder.device_size} that the undo file is for"
        )
    return decoder


def _check_unchanged(device: Device, decoder: UndoDecoder) -> _Content:
    """Read the whole file, and compare it with the device; say what the store is.

    Only while the store is marked some of it may be old and some new.

    Raises:
        CorruptError: The file is damaged, or the store was changed since.
    """
    mark = mark_of(device)
    if mark is not None and mark.undo_id != decoder.undo_id:
        raise CorruptError(
            f"{device.name}: this is the undo file of another repair; {mark.message}"
        )
    content = _Content.OLD | _Content.NEW
    ranges: list[Range] = []
    for record in decoder.records():
        found = device.read(record.offset, len(record.old))
        ranges.append((record.offset, len(found)))
        if record.offset == 0 and mark is not None:
            found = found[:MARK_OFFSET]
        at = record.first_strange_sector(found)
        if at is not None:
            raise _changed_since(device, f"sector at byte {at}", record.offset, len(record.old))
        if mark is None:
            content &= _content_of(record, found)
            if not content:
                raise _changed_since(device, "range as a whole", record.offset, len(record.old))
    _check_surroundings(device, decoder, ranges)
    return content if mark is None else _Content.NEW


def _content_of(record: UndoRecord, found: bytes) -> _Content:
    """Say what a range holds as a whole; nothing where it is torn."""
    is_old, is_new = found == record.old, record.holds_new(found)
    return (_Content.OLD if is_old else _Content(0)) | (_Content.NEW if is_new else _Content(0))


def _check_surroundings(device: Device, decoder: UndoDecoder, ranges: Sequence[Range]) -> None:
    """Compare the metadata that the repair left alone: a later repair may have changed it."""
    found = _surroundings(device, decoder.metadata_end, ranges)
    for number, (now, then) in enumerate(zip(found, decoder.surroundings, strict=True)):
        if now != then:
            start = number * RECORD_MAX
            length = min(RECORD_MAX, decoder.metadata_end - start)
            raise _changed_since(device, "other metadata", start, length)


def _changed_since(device: Device, what: str, offset: int, length: int) -> CorruptError:
    return CorruptError(
        f"{device.name}: {what}: neither what the repair left nor what was there before, "
        f"the store was changed since (range of {length} bytes at {offset})"
    )


def _restore(device: Device, decoder: UndoDecoder, undo_name: bytes) -> int:
    """Put the old content back; the records come in the order in which that is safe."""
    records = decoder.records()
    page = next(records)
    restored = _restore_head(device, page, decoder.undo_id, undo_name)
    is_metadata = True
    for record in records:
        if is_metadata and record.offset >= decoder.metadata_end:
            is_metadata = False
            device.flush()
        restored += _restore_range(device, record)
    device.flush()
    _write_flushed(device, MARK_OFFSET, page.old[MARK_OFFSET:])
    return restored


def _restore_head(device: Device, page: UndoRecord, undo_id: bytes, undo_name: bytes) -> int:
    """Mark the store, and put the fields of the super block back; count the bytes of the page."""
    found = device.read(0, len(page.old))
    mark = RepairMark.decode(found)
    if mark is None:
        new_head = crc32c(found[:MARK_OFFSET])
        old_head = crc32c(page.old[:MARK_OFFSET]) if _is_head_sound(page.old) else new_head
        mark = RepairMark(True, undo_id, undo_name, _page_crc(page.old), (old_head, new_head))
    head = found[:MARK_OFFSET]
    _write_flushed(device, MARK_OFFSET, replace(mark, is_undo=True).encode(head))
    if head != page.old[:MARK_OFFSET]:
        _write_flushed(device, 0, page.old[:MARK_OFFSET])
    return len(page.old) if found != page.old else 0


def _restore_range(device: Device, record: UndoRecord) -> int:
    if device.read(record.offset, len(record.old)) == record.old:
        return 0
    _put(device, record.offset, record.old)
    return len(record.old)
