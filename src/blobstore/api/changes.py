"""From an overlay to the device below it, behind an undo file; and back.

The order is what makes it safe: what is replaced goes to the undo file; the
store is marked dirty; all else is written; the super block is written as it
shall be. A flush follows each of them. A power failure in between leaves a
store that the undo file brings back, whatever was written and what not. Taking
back goes the same way.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import BinaryIO, Final, TypeAlias

from blobstore.device.base import Device
from blobstore.device.block import BlockDevice
from blobstore.device.file import FileDevice
from blobstore.device.opening import failure, open_failure, sync_directory_of
from blobstore.device.overlay import BLOCK_SIZE, OverlayDevice
from blobstore.errors import (
    BlobstoreError,
    CorruptError,
    DeviceError,
    ExistsError,
    InvalidArgumentError,
)
from blobstore.format.super_block import SUPER_BLOCK_SIZE, SuperBlock
from blobstore.fsck.undo_file import RECORD_MAX, UndoDecoder, UndoEncoder, UndoRecord

Path: TypeAlias = str | os.PathLike[str]

_OLD: Final = "old"
_NEW: Final = "new"

# What page 0 may hold from the first change on, as the undo file numbers it.
_MARK: Final = 0
_FINAL: Final = 1
_MARK_OF_UNDO: Final = 2

assert RECORD_MAX % BLOCK_SIZE == 0
assert BLOCK_SIZE == SUPER_BLOCK_SIZE


class Changes:
    """What differs between a device and the overlay on it, the super block's page apart.

    `mark` is written to page 0 before the rest, `final` after it; None is no change.
    """

    def __init__(
        self, overlay: OverlayDevice, *, found: bytes, mark: bytes, ranges: list[tuple[int, int]]
    ) -> None:
        self.overlay = overlay
        self.mark = mark
        self.final = overlay.read(0, len(found))
        self.ranges = ranges
        self.is_page_changed = not found == mark == self.final

    @classmethod
    def between(cls, device: Device, overlay: OverlayDevice) -> "Changes":
        """Compare block by block: much is written again as it was."""
        ranges = list(_differing(device, overlay))
        found = device.read(0, min(SUPER_BLOCK_SIZE, device.size_bytes))
        final = overlay.read(0, len(found))
        mark = _marked_dirty(final, on=found) if ranges else found
        return cls(overlay, found=found, mark=mark or found, ranges=ranges)

    def __bool__(self) -> bool:
        return self.is_page_changed or bool(self.ranges)

    def records(self, device: Device, encoder: UndoEncoder) -> Iterator[bytes]:
        """Yield the records of all changes that are about to be made."""
        if self.is_page_changed:
            # An undo marks the store dirty as well, the way that is written whole from here.
            again = _marked_dirty(self.final, on=self.final) or self.final
            old = _read_old(device, 0, len(self.final))
            yield encoder.record(0, old=old, new=[self.mark, self.final, again])
        for offset, length in self.ranges:
            old = _read_old(device, offset, length)
            yield encoder.record(offset, old=old, new=[self.overlay.read(offset, length)])


def _differing(device: Device, overlay: OverlayDevice) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of blocks behind page 0 that differ, merged up to a record's size."""
    for start, length in overlay.changed_ranges():
        end = start + length
        for at in range(max(start, SUPER_BLOCK_SIZE), end, RECORD_MAX):
            size = min(RECORD_MAX, end - at)
            for first, last in _runs(device, overlay, at, size):
                yield at + first, last - first


def _runs(
    device: Device, overlay: OverlayDevice, offset: int, length: int
) -> Iterator[tuple[int, int]]:
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


def _read_old(device: Device, offset: int, length: int) -> bytes:
    return _read_blocks(device, offset, length)[0]


def _read_blocks(device: Device, offset: int, length: int) -> tuple[bytes, set[int]]:
    """Read a range; blocks that cannot be read are zero, and there is no way back to them."""
    try:
        return device.read(offset, length), set()
    except DeviceError:
        pass
    parts: list[bytes] = []
    unreadable: set[int] = set()
    for at in range(0, length, BLOCK_SIZE):
        size = min(BLOCK_SIZE, length - at)
        try:
            parts.append(device.read(offset + at, size))
        except DeviceError:
            parts.append(bytes(size))
            unreadable.add(at)
    return b"".join(parts), unreadable


def _marked_dirty(page: bytes, *, on: bytes) -> bytes | None:
    """Return the super block, not clean, as one atomic write puts it over what is there.

    None where `page` is no super block.
    """
    wanted = _super_block(page)
    if wanted is None:
        return None
    found = _super_block(on) or wanted
    return wanted.with_changes(clean=False).balanced_against(found).encode()


def _super_block(page: bytes) -> SuperBlock | None:
    if len(page) < SUPER_BLOCK_SIZE:
        return None
    try:
        return SuperBlock.decode(page)
    except CorruptError:
        return None


def apply(device: Device, changes: Changes, undo_name: str | None) -> None:
    """Make the changes; the flushes keep what a power failure leaves within the undo file's sums.

    Raises:
        BlobstoreError: The device failed; it says how to take back what was done.
    """
    try:
        if changes.is_page_changed:
            device.write(0, [changes.mark])
            device.flush()
        for offset, length in changes.ranges:
            _put(device, offset, changes.overlay.read(offset, length))
        device.flush()
        if changes.is_page_changed:
            device.write(0, [changes.final])
            device.flush()
    except BlobstoreError as error:
        way_back = "there is no undo file" if undo_name is None else f"to undo it: {undo_name}"
        message = f"{error.message}; the repair is half done, {way_back}"
        raise type(error)(message, errno=error.errno) from error


def _put(device: Device, offset: int, content: bytes) -> None:
    if content.count(0) == len(content):
        device.write_zeroes(offset, len(content))
    else:
        device.write(offset, [content])


# The undo file


def write_undo_file(device: Device, changes: Changes, path: Path | None) -> str | None:
    """Write it, durably; return its name. None where it has no place, and nobody named one.

    Raises:
        ExistsError: It exists.
        DeviceError: The host failed. The file is not left.
    """
    made = _make_undo_file(device, path)
    if made is None:
        return None
    name, file = made
    try:
        with file:
            encoder = UndoEncoder()
            file.write(encoder.header(device_size=device.size_bytes))
            for record in changes.records(device, encoder):
                file.write(record)
            file.write(encoder.end())
            file.flush()
            os.fsync(file.fileno())
        sync_directory_of(name)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(name)
        if isinstance(error, OSError) and not isinstance(error, BlobstoreError):
            raise failure(f"{name}: write", error) from error
        raise
    return name


def _make_undo_file(device: Device, path: Path | None) -> tuple[str, BinaryIO] | None:
    if path is not None:
        return os.fspath(path), _create(os.fspath(path))
    if isinstance(device, BlockDevice):
        raise InvalidArgumentError(
            f"{device.name}: a block device, which has no place for an undo file: name one"
        )
    if not isinstance(device, FileDevice):
        return None
    for number in count(1):
        name = f"{device.name}.undo-{number}"
        with suppress(ExistsError):
            return name, _create(name)
    raise AssertionError("numbers do not end")


def _create(name: str) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.fdopen(os.open(name, flags, 0o600), "wb")
    except FileExistsError as error:
        found = ExistsError("exists; an undo file is never overwritten")
        raise found.at(store=name) from error
    except OSError as error:
        raise open_failure(name, "create", error) from error


@contextmanager
def open_undo_file(path: Path) -> Iterator[BinaryIO]:
    """Open it for reading.

    Raises:
        NotFoundError: There is no such file.
        DeviceError: The host failed.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            yield file
    except BlobstoreError:
        raise
    except OSError as error:
        raise open_failure(name, "read", error) from error


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


def check_unchanged(device: Device, decoder: UndoDecoder) -> None:
    """Read the whole file, and compare it with the device.

    Only while the store is marked dirty some of it may be old and some new.

    Raises:
        CorruptError: The file is damaged, or somebody has changed the store since.
    """
    allowed = {_OLD, _NEW}
    is_mixed_allowed = True
    seen: set[str] = set()
    for record in decoder.records():
        found = device.read(record.offset, len(record.old))
        at = record.first_strange_sector(found)
        if at is not None:
            raise _changed_since(device, record, f"sector at byte {at}: neither what")
        if record.offset == 0 and len(record.sums) > _MARK_OF_UNDO:
            is_mixed_allowed = _is_in_between(record, found)
            allowed = _states(record, found, version=_FINAL)
        else:
            seen |= _states(record, found)
        if not is_mixed_allowed and (len(seen) > 1 or not seen <= allowed):
            raise _changed_since(device, record, "neither all of it is what")


def _states(record: UndoRecord, found: bytes, *, version: int = 0) -> set[str]:
    """Say what a range holds as a whole; both where it is torn, or old and new are the same."""
    is_old, is_new = found == record.old, record.holds_new(found, version)
    if is_old == is_new:
        return {_OLD, _NEW}
    return {_OLD} if is_old else {_NEW}


def _is_in_between(page: UndoRecord, found: bytes) -> bool:
    """Tell whether page 0 says that a repair or an undo has begun and not ended."""
    if found != page.old and not page.holds_new(found, _FINAL):
        return True
    return page.holds_new(found, _MARK) or page.holds_new(found, _MARK_OF_UNDO)


def _changed_since(device: Device, record: UndoRecord, what: str) -> CorruptError:
    return CorruptError(
        f"{device.name}: {what} the repair wrote nor what was there before, the store was "
        f"changed since (range of {len(record.old)} bytes at {record.offset})"
    )


def restore(device: Device, decoder: UndoDecoder) -> int:
    """Put the old content back, page 0 last; until then the store is marked dirty."""
    restored = 0
    page: UndoRecord | None = None
    for record in decoder.records():
        if record.offset == 0:
            page = record
            _mark_while_restoring(device, record.old)
        else:
            restored += _restore_range(device, record)
    device.flush()
    if page is not None:
        restored += _restore_range(device, page)
        device.flush()
    return restored


def _mark_while_restoring(device: Device, old: bytes) -> None:
    found = device.read(0, len(old))
    mark = found if found == old else _marked_dirty(found, on=found)
    if mark is not None and mark != found:
        device.write(0, [mark])
        device.flush()


def _restore_range(device: Device, record: UndoRecord) -> int:
    if device.read(record.offset, len(record.old)) == record.old:
        return 0
    _put(device, record.offset, record.old)
    return len(record.old)
