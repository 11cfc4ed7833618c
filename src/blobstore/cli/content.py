"""A blob's content as a stream of parts, and data apart from zeroes."""

import hashlib
import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final, Protocol

from blobstore import Blob, InvalidArgumentError
from blobstore.cli.interruption import leaving
from blobstore.cli.rendering import is_clone
from blobstore.units import KIB, MIB

PART_SIZE: Final = MIB
ZERO_BLOCK_SIZE: Final = 4 * KIB
"""Zeroes are looked for in blocks of this many bytes, counted from the blob's start."""

_ZEROES: Final = bytes(PART_SIZE)
_ZERO_BLOCK: Final = bytes(ZERO_BLOCK_SIZE)
assert PART_SIZE % ZERO_BLOCK_SIZE == 0


class Readable(Protocol):
    """A source of bytes that ends."""

    def read(self, length: int, /) -> bytes:
        """Return up to `length` bytes, none at the end."""


def read_parts(blob: Blob, *, offset: int, length: int) -> Iterator[bytearray]:
    """Yield a range of a blob, in parts of at most `PART_SIZE`.

    All parts are the same memory: the next one overwrites it. New memory for each part would
    take longer to get from the kernel than to fill.
    """
    end = offset + length
    part = bytearray()
    while offset < end:
        part = sized(part, min(PART_SIZE, end - offset))
        blob.read_into(part, offset)
        yield part
        offset += len(part)


def sized(buffer: bytearray, size: int) -> bytearray:
    """Return the buffer, or a new one if it has another size."""
    return buffer if len(buffer) == size else bytearray(size)


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


@contextmanager
def opened_input(file: str) -> Iterator[BinaryIO]:
    """Open a file to read; ``-`` is standard input, which stays open."""
    if file == "-":
        yield sys.stdin.buffer
    else:
        with open(file, "rb") as stream:
            yield stream


def write_stream(blob: Blob, stream: Readable, *, offset: int) -> int:
    """Write all that a stream gives, durably; return the number of bytes.

    Raises:
        InvalidArgumentError: It does not fit. If its length is known at the start, nothing is
            written; otherwise the message says how much was.
    """
    length = _known_length(stream)
    if length is not None and offset + length > blob.size:
        raise InvalidArgumentError(
            f"blob {blob.id:#x}: {length} bytes at {offset}: outside of {blob.size} bytes; "
            "nothing is written"
        )
    at = offset
    with leaving() as left:
        while data := stream.read(PART_SIZE):
            at += blob.write(data, at)
            left.what = f"{at - offset} bytes are written"
        blob.flush()
    return at - offset


def _known_length(stream: Readable) -> int | None:
    """Return how many bytes a regular file will still give; None if that is not known."""
    if not isinstance(stream, io.BufferedReader):
        return None
    try:
        state = os.fstat(stream.fileno())
    except OSError:  # a stream in memory
        return None
    return max(0, state.st_size - stream.tell()) if stat.S_ISREG(state.st_mode) else None


def sha256_of(blob: Blob, *, length: int | None = None) -> str:
    """Return the hash of a blob's content, or of its first `length` bytes."""
    digest = hashlib.sha256()
    for part in read_parts(blob, offset=0, length=blob.size if length is None else length):
        digest.update(part)
    return digest.hexdigest()


def is_zero(data: bytes | bytearray | memoryview) -> bool:
    """Say whether no byte is set; `data` is at most `PART_SIZE` long."""
    return data == _ZEROES[: len(data)]


def data_runs(data: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of what lies between blocks of zeroes.

    A block of zeroes lies in a run of as many zeroes. Looking for such runs skips most bytes of
    what has none.
    """
    stop, tail = len(data), len(data) % ZERO_BLOCK_SIZE
    if data.endswith(_ZERO_BLOCK[:tail]):
        stop -= tail
    start = at = 0
    while (run := data.find(_ZERO_BLOCK, at, stop)) >= 0:
        end = first = -(-run // ZERO_BLOCK_SIZE) * ZERO_BLOCK_SIZE
        while data.startswith(_ZERO_BLOCK, end, stop):
            end += ZERO_BLOCK_SIZE
        if first < end:
            if start < first:
                yield start, first
            start = end
        at = max(end, first + 1)
    if start < stop:
        yield start, stop
