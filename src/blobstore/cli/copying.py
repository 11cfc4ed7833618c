"""Copying between blobs and raw files, sparse both ways."""

import os
from collections.abc import Iterator

from blobstore import Blob, InvalidArgumentError
from blobstore.cli.content import cut_in_parts, data_runs
from blobstore.cli.files import data_ranges, is_block_device, read_exactly, write_all
from blobstore.cli.progress import Advance
from blobstore.cli.rendering import is_clone
from blobstore.cli.rescuing import Content


def fill_new(blob: Blob, descriptor: int, size_bytes: int, *, path: str, advance: Advance) -> None:
    """Write a file's data into a blob that is all zeroes."""
    for start, end in _file_parts(descriptor, size_bytes):
        data = read_exactly(descriptor, end - start, start, path=path)
        for first, last in data_runs(data):
            blob.write(memoryview(data)[first:last], start + first)
        advance(end - start)


def check_fits(blob: Blob, size_bytes: int, *, path: str) -> None:
    """Refuse a file that a blob is too small for.

    Raises:
        InvalidArgumentError: It is.
    """
    if size_bytes > blob.size:
        raise InvalidArgumentError(
            f"blob {blob.id:#x}: {blob.size} bytes, too small for {size_bytes} of {path}"
        )


def replace_content(
    blob: Blob, descriptor: int, size_bytes: int, *, path: str, advance: Advance
) -> None:
    """Make a blob hold a file's content, and zeroes after it."""
    # Without a parent clusters are released; with one they would show it.
    blank = blob.write_zeroes if is_clone(blob.info) else blob.unmap
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
        yield from cut_in_parts(start, end)


def copy_out(content: Content, descriptor: int, length: int, *, advance: Advance) -> None:
    """Write the first `length` bytes of a blob to an empty file, leaving holes for zeroes."""
    sparse = not is_block_device(descriptor)
    for at, data in content.parts(0, length, sparse=sparse):
        for first, last in data_runs(data) if sparse else [(0, len(data))]:
            write_all(descriptor, memoryview(data)[first:last], at + first)
        advance(len(data))
    if sparse:
        os.ftruncate(descriptor, length)
