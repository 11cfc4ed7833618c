"""The undo log: how a repair reaches a device, and how it is undone.

A repair is ready in memory, as an overlay, before a byte of the device changes.
The content that the repair replaces goes to the undo file. Then these follow, with a
flush after each:

    1. the last sector of page 0: the mark, which nothing opens (`format.repair_mark`)
    2. what is added: clusters that are copied, and metadata where there was none
    3. what is changed: roots, masks
    4. what is erased: pages; and the other sectors of page 0, the fields of the super block
    5. the last sector of page 0, as it is to be

What a root names is thus there before the root, and stays until the root has
changed: `rescue`, and a repair without the undo file, find each blob as it was or
as it is to be. The fields come after the masks: where they say "clean" the masks
are evidence, either those from before the repair or those that it made, never
those of a store that was in use. An undo is the same backwards.

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
from itertools import compress
from typing import BinaryIO, Final

from blobstore.api.differences import differing, read_blocks, surroundings
from blobstore.device.base import Device
from blobstore.device.overlay import BLOCK_SIZE, OverlayDevice
from blobstore.errors import AccessError, BlobstoreError, CorruptError
from blobstore.format.checksum import crc32c
from blobstore.format.geometry import Geometry
from blobstore.format.repair_mark import MARK_OFFSET, UNDO_ID_SIZE, RepairMark
from blobstore.format.super_block import SUPER_BLOCK_SIZE, SuperBlock
from blobstore.fsck.undo_file import (
    RECORD_MAX,
    Range,
    Step,
    UndoDecoder,
    UndoEncoder,
    UndoRecord,
)

NO_UNDO_ID: Final = bytes(UNDO_ID_SIZE)

assert BLOCK_SIZE == SUPER_BLOCK_SIZE


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs between a device and the overlay on it.

    Page 0 is `found` and becomes `final`; `ranges` are all others, ascending, and `steps`
    say when each of them is written. Metadata lies before `metadata_end`, clusters after it.
    """

    overlay: OverlayDevice
    found: bytes
    final: bytes
    metadata_end: int
    ranges: list[Range]
    steps: list[Step]

    @classmethod
    def between(cls, device: Device, overlay: OverlayDevice) -> "Changes":
        """Compare block by block: much is written again as it was."""
        found = device.read(0, min(SUPER_BLOCK_SIZE, device.size_bytes))
        final = overlay.read(0, len(found))
        end = _metadata_end(final, device.size_bytes)
        ranges, steps = list[Range](), list[Step]()
        for step, offset, length in differing(device, overlay, end):
            ranges.append((offset, length))
            steps.append(step)
        return cls(overlay, found, final, end, ranges, steps)

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
            old = bytes(read_blocks(device, offset, length)[0])
            yield encoder.record(offset, old=old, new=self.overlay.read(offset, length))
        ranges = [(0, len(self.found)), *self.ranges]
        yield encoder.end(list(surroundings(device, self.metadata_end, ranges)))


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


# Forwards


class UnwritableError(AccessError):
    """A device that may not be written to, and was not."""


def apply(device: Device, changes: Changes, mark: RepairMark, undo_name: str | None) -> None:
    """Make the changes, in the order that is this module's theory.

    Raises:
        BlobstoreError: The device failed; it says how to undo what was done.
        UnwritableError: The device refused the first write; nothing was changed.
    """
    try:
        device.write(MARK_OFFSET, [mark.encode(changes.found[:MARK_OFFSET])])
    except AccessError as error:
        raise UnwritableError(error.message, errno=error.errno) from error
    try:
        device.flush()
        for step in Step:
            is_changed = _apply_step(device, changes, step)
            if step is Step.ERASE and changes.final[:MARK_OFFSET] != changes.found[:MARK_OFFSET]:
                device.write(0, [changes.final[:MARK_OFFSET]])
                is_changed = True
            if is_changed:
                device.flush()
        _write_flushed(device, MARK_OFFSET, changes.final[MARK_OFFSET:])
    except BlobstoreError as error:
        way_back = "there is no undo file" if undo_name is None else f"to undo it: {undo_name}"
        message = f"{error.message}; the repair is half done, {way_back}"
        raise type(error)(message, errno=error.errno) from error


def _apply_step(device: Device, changes: Changes, step: Step) -> bool:
    """Write the ranges of a step; tell whether there were any."""
    ranges = compress(changes.ranges, (each is step for each in changes.steps))
    is_changed = False
    for offset, length in ranges:
        _put(device, offset, changes.overlay.read(offset, length))
        is_changed = True
    return is_changed


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
    return _restore(device, file, undo_name)


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
            raise _changed_since(device, f"the sector at byte {at}")
        if mark is None:
            content &= _content_of(record, found)
            if not content:
                where = f"{len(record.old)} bytes at {record.offset}"
                raise _changed_since(device, f"{where}, partly as before the repair")
    _check_surroundings(device, decoder, ranges)
    return content if mark is None else _Content.NEW


def _content_of(record: UndoRecord, found: bytes) -> _Content:
    """Say what a range holds as a whole; nothing where it is torn."""
    is_old, is_new = found == record.old, record.holds_new(found)
    return (_Content.OLD if is_old else _Content(0)) | (_Content.NEW if is_new else _Content(0))


def _check_surroundings(device: Device, decoder: UndoDecoder, ranges: Sequence[Range]) -> None:
    """Compare the metadata that the repair left alone: a later repair may have changed it."""
    found = surroundings(device, decoder.metadata_end, ranges)
    for number, (now, then) in enumerate(zip(found, decoder.surroundings, strict=True)):
        if now != then:
            start = number * RECORD_MAX
            length = min(RECORD_MAX, decoder.metadata_end - start)
            where = f"{length} bytes at {start}"
            raise _changed_since(device, f"{where}, which the repair left alone")


def _changed_since(device: Device, what: str) -> CorruptError:
    return CorruptError(f"{device.name}: the store was changed since the repair: {what}")


def _restore(device: Device, file: BinaryIO, undo_name: bytes) -> int:
    """Put the old content back, from the last step of the repair to its first."""
    decoder = decoder_for(file, device)
    page = next(decoder.records())
    restored = _restore_head(device, page, decoder.undo_id, undo_name)
    for step in reversed(Step):
        count = _restore_step(device, decoder_for(file, device), step)
        if count or step is Step.ERASE:  # the fields of the super block wait for a flush
            device.flush()
        restored += count
    _write_flushed(device, MARK_OFFSET, page.old[MARK_OFFSET:])
    return restored


def _restore_step(device: Device, decoder: UndoDecoder, step: Step) -> int:
    """Put back what was changed in one step; return how many bytes differed."""
    restored = 0
    for record in decoder.records():
        is_cluster = record.offset >= decoder.metadata_end
        if record.offset and (Step.ADD if is_cluster else record.step) is step:
            restored += _restore_range(device, record)
    return restored


def _restore_head(device: Device, page: UndoRecord, undo_id: bytes, undo_name: bytes) -> int:
    """Mark the store, and put the fields of the super block back, not flushed.

    Returns how many bytes of the page differ.
    """
    found = device.read(0, len(page.old))
    mark = RepairMark.decode(found)
    if mark is None:
        new_head = crc32c(found[:MARK_OFFSET])
        old_head = crc32c(page.old[:MARK_OFFSET]) if _is_head_sound(page.old) else new_head
        mark = RepairMark(True, undo_id, undo_name, _page_crc(page.old), (old_head, new_head))
    head = found[:MARK_OFFSET]
    _write_flushed(device, MARK_OFFSET, replace(mark, is_undo=True).encode(head))
    if head != page.old[:MARK_OFFSET]:
        device.write(0, [page.old[:MARK_OFFSET]])
    return len(page.old) if found != page.old else 0


def _restore_range(device: Device, record: UndoRecord) -> int:
    if device.read(record.offset, len(record.old)) == record.old:
        return 0
    _put(device, record.offset, record.old)
    return len(record.old)
