"""Copying between blobs and raw files, sparse both ways."""

import os
from collections.abc import Iterator

from blobstore import Blob, InvalidArgumentError
from blobstore.tools.cli.content import PART_SIZE, data_runs, read_parts
from blobstore.tools.cli.describe import is_clone
from blobstore.tools.cli.files import data_ranges, is_block_device, read_exactly
from blobstore.tools.cli.progress import Advance


def fill_new(blob: Blob, descriptor: int, size_bytes: int, *, path: str, advance: Advance) -> None:
    """Write a file's data into a blob that is all zeroes."""
    for start, end in _file_parts(descriptor, size_bytes):
        data = read_exactly(descriptor, end - start, start, path=path)
        for first, last in data_runs(data):
            blob.write(memoryview(data)[first:last], start + first)
        advance(end - start)


def replace_content(
    blob: Blob, descriptor: int, size_bytes: int, *, path: str, advance: Advance
) -> None:
    """Make a blob hold a file's content, and zeroes behind it.

    Raises:
        InvalidArgumentError: The blob is too small; nothing changed.
    """
    if size_bytes > blob.size:
        raise InvalidArgumentError(
            f"blob {blob.id:#x}: {blob.size} bytes, too small for {size_bytes} of {path}"
        )
    # Without a parent clusters are given back; with one they would show it.
    blank = blob.write_zeroes if is_clone(blob.info()) else blob.unmap
    at = 0
    for start, end in _file_parts(descriptor, size_bytes):
        data = read_exactly(descriptor, end - start, start, path=path)
        for first, last in data_runs(data):
            blank(at, start + first - at)
            blob.write(memoryview(data)[first:last], start + first)
            at = start + last
        advance(end - start)
    blank(at, blob.size - at)


def _file_parts(descriptor: int, size_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of what is no hole, cut where parts of a blob are cut."""
    for start, end in data_ranges(descriptor, size_bytes):
        while start < end:
            cut = min(end, (start // PART_SIZE + 1) * PART_SIZE)
            yield start, cut
            start = cut


def copy_out(blob: Blob, descriptor: int, length: int, *, advance: Advance) -> None:
    """Write the first `length` bytes of a blob to an empty file, leaving holes for zeroes."""
    sparse = not is_block_device(descriptor)
    for start, end in _blob_parts(blob, length) if sparse else [(0, length)]:
        at = start
        for data in read_parts(blob, offset=start, length=end - start):
            for first, last in data_runs(data) if sparse else [(0, len(data))]:
                _write_all(descriptor, memoryview(data)[first:last], at + first)
            at += len(data)
            advance(len(data))
    if sparse:
        os.ftruncate(descriptor, length)


def _blob_parts(blob: Blob, length: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of what need not be zeroes; a parent may have data anywhere."""
    if is_clone(blob.info()):
        yield 0, length
        return
    start = blob.next_allocated(0)
    while start is not None and start < length:
        end = blob.next_unallocated(start)
        end = length if end is None else min(end, length)
        yield start, end
        start = blob.next_allocated(end) if end < length else None


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        done = os.pwrite(descriptor, data, offset)
        data, offset = data[done:], offset + done
