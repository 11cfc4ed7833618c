"""Reading from a device that fails in places, in halves: one bad block loses one block."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from blobstore.errors import BlobstoreError, CorruptError, DeviceError, UnsupportedError
from blobstore.fsck.extent_index import Kind, Part, UnreadableRange
from blobstore.operations import ExternalSource, Operation, ReadExternal, ReadInto
from blobstore.units import KIB, MIB, ceil_div

ReadPlace: TypeAlias = Callable[[int, memoryview], Operation[None]]

_BLOCK_SIZE: Final = 4 * KIB
_READ_AT_ONCE: Final = MIB
_FAILURES: Final = (DeviceError, CorruptError, UnsupportedError)
"""What a device answers, or a blob of another store that an external snapshot is."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A range that cannot be read, and whether reading it was tried."""

    range: UnreadableRange
    was_tried: bool

    def error(self, blob_id: int) -> BlobstoreError:
        """Return what to raise."""
        kind = DeviceError if self.was_tried else CorruptError
        found = self.range
        return kind(f"blob {blob_id:#x}: {found.length} bytes at {found.offset}: {found.reason}")


async def read_parts(
    parts: Iterable[Part], view: memoryview, externals: Mapping[bytes, ExternalSource]
) -> list[Failure]:
    """Fill the view with parts that follow each other; return what could not be read.

    Holes and what cannot be read become zeroes.
    """
    failures: list[Failure] = []
    done = 0
    for part in parts:
        target = view[done : done + part.length]
        done += part.length
        if part.kind is Kind.DATA:
            failures += await _read_data(part, target, _reader_of(part, externals))
            continue
        _clear(target)
        if part.kind is Kind.UNREADABLE:
            missing = UnreadableRange(part.offset, part.length, part.reason)
            failures.append(Failure(missing, was_tried=False))
    return failures


def _reader_of(part: Part, externals: Mapping[bytes, ExternalSource]) -> ReadPlace:
    if part.external_id is None:
        return lambda place, view: ReadInto(place, [view])
    source = externals[part.external_id]
    return lambda place, view: ReadExternal(source, place, view)


async def _read_data(part: Part, view: memoryview, read: ReadPlace) -> list[Failure]:
    """Read a part; where that fails in halves, down to single blocks of the device."""
    end = part.place + part.length
    todo = [(at, min(at + _READ_AT_ONCE, end)) for at in range(part.place, end, _READ_AT_ONCE)]
    todo.reverse()
    failures: list[Failure] = []
    while todo:
        start, stop = todo.pop()
        target = view[start - part.place : stop - part.place]
        try:
            await read(start, target)
        except _FAILURES as error:
            middle = _middle_of(start, stop)
            if middle is not None:
                todo += [(middle, stop), (start, middle)]
                continue
            _clear(target)
            reason = f"the device does not read it ({error.errno_name})"
            offset = part.offset + start - part.place
            failures.append(Failure(UnreadableRange(offset, stop - start, reason), was_tried=True))
    return failures


def _middle_of(start: int, stop: int) -> int | None:
    """Return the border between two blocks that is nearest to the middle, None within a block."""
    first, last = start // _BLOCK_SIZE + 1, ceil_div(stop, _BLOCK_SIZE) - 1
    return None if first > last else (first + last) // 2 * _BLOCK_SIZE


def _clear(view: memoryview) -> None:
    for at in range(0, len(view), _READ_AT_ONCE):
        part = view[at : at + _READ_AT_ONCE]
        part[:] = bytes(len(part))
