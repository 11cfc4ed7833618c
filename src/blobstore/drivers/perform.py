"""Operations performed by calls that return when they are done: one method of the medium each.

The blocking driver and the simulated drivers of `blobstore.testing` share this table. A driver
that submits requests and completes them later has a table of its own.
"""

import functools
from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast

from blobstore.device.medium import CopyingMedium, Medium, ReadableSource, SparseMedium
from blobstore.errors import BlobstoreError
from blobstore.operations import (
    Allocate,
    Batch,
    Copy,
    Flush,
    FlushExternal,
    NextData,
    Operation,
    Read,
    ReadExternal,
    ReadInto,
    Unmap,
    Write,
    WriteExternal,
    WriteZeroes,
)

Performer: TypeAlias = Callable[[Medium, Any], object]

_COPIED_AT_ONCE: Final = 1 << 20


def perform(medium: Medium, operation: Operation[Any]) -> object:
    """Perform the operation now, on the calling thread, and return its result.

    Raises:
        DeviceError: The device failed.
        TypeError: The operation asks for something else than the medium, such as `Park`.
    """
    performer = PERFORMERS.get(operation.__class__)
    if performer is None:
        raise TypeError(f"{type(operation).__name__} is not performed on a medium")
    return performer(medium, operation)


def _read(medium: Medium, operation: Read) -> bytes:
    return medium.read(operation.offset, operation.length)


def _read_into(medium: Medium, operation: ReadInto) -> None:
    medium.read_into(operation.offset, operation.buffers)


def _write(medium: Medium, operation: Write) -> None:
    medium.write(operation.offset, operation.buffers)


def _write_zeroes(medium: Medium, operation: WriteZeroes) -> None:
    medium.write_zeroes(operation.offset, operation.length)


def _unmap(medium: Medium, operation: Unmap) -> None:
    medium.unmap(operation.offset, operation.length)


def _allocate(medium: Medium, operation: Allocate) -> None:
    if isinstance(medium, SparseMedium):
        medium.allocate(operation.offset, operation.length)


def _next_data(medium: Medium, operation: NextData) -> int:
    if not _can_have_holes(type(medium)):
        return operation.offset
    return min(cast(SparseMedium, medium).next_data(operation.offset), operation.end)


@functools.cache
def _can_have_holes(kind: type[Medium]) -> bool:
    """Tell it of a class, once: comparing with a protocol takes longer than asking for a hole."""
    return issubclass(kind, SparseMedium)


def _copy(medium: Medium, operation: Copy) -> None:
    source, target, length = operation.source, operation.target, operation.length
    if isinstance(medium, CopyingMedium):
        medium.copy(source, target, length)
        return
    for at in range(0, length, _COPIED_AT_ONCE):
        step = min(_COPIED_AT_ONCE, length - at)
        medium.write(target + at, [medium.read(source + at, step)])


def _flush(medium: Medium, operation: Flush) -> None:
    medium.flush()


def _batch(medium: Medium, operation: Batch) -> None:
    failure: BlobstoreError | None = None
    for part in operation.parts:
        try:
            perform(medium, part)
        except BlobstoreError as error:
            failure = failure or error
    if failure is not None:
        raise failure


# Things outside the store are not read and written through its medium, but by themselves.


def _read_external(_medium: Medium, operation: ReadExternal) -> None:
    cast(ReadableSource, operation.source).read_into(operation.offset, [operation.buffer])


def _write_external(_medium: Medium, operation: WriteExternal) -> None:
    cast(Medium, operation.target).write(operation.offset, [operation.data])


def _flush_external(_medium: Medium, operation: FlushExternal) -> None:
    cast(Medium, operation.target).flush()


PERFORMERS: Final[dict[type, Performer]] = {
    Read: _read,
    ReadInto: _read_into,
    Write: _write,
    WriteZeroes: _write_zeroes,
    Unmap: _unmap,
    Allocate: _allocate,
    NextData: _next_data,
    Copy: _copy,
    Flush: _flush,
    Batch: _batch,
    ReadExternal: _read_external,
    WriteExternal: _write_external,
    FlushExternal: _flush_external,
}
