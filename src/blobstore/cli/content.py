"""A blob's content as a stream of parts, and data apart from zeroes."""

import hashlib
from collections.abc import Iterator
from typing import Final, Protocol

from blobstore import Blob
from blobstore.cli.interruption import leaving
from blobstore.cli.rendering import is_clone
from blobstore.units import KIB, MIB

PART_SIZE: Final = MIB
ZERO_BLOCK_SIZE: Final = 4 * KIB
"""Zeroes are looked for in blocks of this many bytes, counted from the blob's start."""

_ZEROES: Final = bytes(PART_SIZE)
assert PART_SIZE % ZERO_BLOCK_SIZE == 0


class Readable(Protocol):
    """A source of bytes that ends."""

    def read(self, length: int, /) -> bytes:
        """Return up to `length` bytes, none at the end."""


def read_parts(blob: Blob, *, offset: int, length: int) -> Iterator[bytes]:
    """Yield a range of a blob; none longer than `PART_SIZE`."""
    end = offset + length
    while offset < end:
        part = blob.read(min(PART_SIZE, end - offset), offset)
        yield part
        offset += len(part)


def allocated_parts(blob: Blob, length: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of what need not be zeroes; a parent may have data anywhere."""
    if is_clone(blob.info):
        yield 0, length
        return
    start = blob.next_allocated(0)
    while start is not None and start < length:
        end = blob.next_unallocated(start)
        end = length if end is None else min(end, length)
        yield start, end
        start = blob.next_allocated(end) if end < length else None


def holds_data(blob: Blob) -> bool:
    """Say whether a blob shows anything but zeroes; of a clone, that is taken for granted."""
    if is_clone(blob.info):
        return True
    return any(
        not is_zero(part)
        for start, end in allocated_parts(blob, blob.size)
        for part in read_parts(blob, offset=start, length=end - start)
    )


def cut_in_parts(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of a range's pieces, cut at multiples of `PART_SIZE`."""
    while start < end:
        cut = min(end, (start // PART_SIZE + 1) * PART_SIZE)
        yield start, cut
        start = cut


def write_stream(blob: Blob, stream: Readable, *, offset: int) -> int:
    """Write all that a stream gives, durably; return the number of bytes."""
    at = offset
    with leaving() as left:
        while data := stream.read(PART_SIZE):
            at += blob.write(data, at)
            left.what = f"{at - offset} bytes are written"
        blob.flush()
    return at - offset


def sha256_of(blob: Blob, *, length: int | None = None) -> str:
    """Return the hash of a blob's content, or of its first `length` bytes."""
    digest = hashlib.sha256()
    for part in read_parts(blob, offset=0, length=blob.size if length is None else length):
        digest.update(part)
    return digest.hexdigest()


def is_zero(data: bytes | memoryview) -> bool:
    """Say whether no byte is set; `data` is at most `PART_SIZE` long."""
    return data == _ZEROES[: len(data)]


def data_runs(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of what lies between blocks of zeroes."""
    view = memoryview(data)
    if is_zero(view):
        return
    start: int | None = None
    for at in range(0, len(view), ZERO_BLOCK_SIZE):
        zero = is_zero(view[at : at + ZERO_BLOCK_SIZE])
        if zero and start is not None:
            yield start, at
            start = None
        elif not zero and start is None:
            start = at
    if start is not None:
        yield start, len(view)
