"""Copying between blobs and raw files, sparse both ways."""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from blobstore import Blob, InvalidArgumentError, NoSpaceError
from blobstore.cli.content import PART_SIZE, cut_in_parts, data_runs, sized
from blobstore.cli.files import data_ranges, fill_exactly, is_block_device, write_all
from blobstore.cli.progress import Advance
from blobstore.cli.rendering import is_clone
from blobstore.cli.rescuing import Content
from blobstore.device.write_out import WriteOut
from blobstore.units import MIB, ceil_div

CHECKPOINT_BYTES: Final = 256 * MIB
"""After so much data an import makes it durable, and notes how far it came.

With 64 MiB an import took a third longer, because it waits for the disk at each note.
"""


def fill_new(
    blob: Blob,
    descriptor: int,
    size_bytes: int,
    *,
    path: str,
    advance: Advance,
    start: int = 0,
    note: Callable[[int], object] = lambda _offset: None,
) -> None:
    """Write a file's data from `start` on into a blob that is all zeroes, or holds that data.

    Now and then `note` is called with the offset up to which all is written.
    """
    advance(data_size(descriptor, start))
    unnoted = 0
    for at, data in _file_parts(descriptor, size_bytes, path=path, start=start):
        for first, last in data_runs(data):
            blob.write(memoryview(data)[first:last], at + first)
        advance(len(data))
        unnoted += len(data)
        if unnoted >= CHECKPOINT_BYTES:
            note(at + len(data))
            unnoted = 0


def data_size(descriptor: int, size_bytes: int) -> int:
    """Return how many bytes of a file are no hole."""
    return sum(end - start for start, end in data_ranges(descriptor, size_bytes))


def check_space(
    free_clusters: int, descriptor: int, size_bytes: int, *, path: str, cluster_size: int
) -> None:
    """Refuse a file whose data do not fit into the free clusters of a store.

    The holes of the file nearly always tell. If they do not, the data is read: zeroes need no
    cluster of a thin blob either.

    Raises:
        NoSpaceError: They do not fit.
    """
    if not _exceeds(data_ranges(descriptor, size_bytes), cluster_size, free_clusters):
        return
    data = (
        (at + first, at + last)
        for at, part in _file_parts(descriptor, size_bytes, path=path)
        for first, last in data_runs(part)
    )
    if _exceeds(data, cluster_size, free_clusters):
        needed = f"clusters: more than {free_clusters} needed for {path}, {free_clusters} free"
        raise NoSpaceError(needed)


def _exceeds(ranges: Iterable[tuple[int, int]], cluster_size: int, limit: int) -> bool:
    """Say whether ranges (start, end), in order, touch more than `limit` clusters."""
    count = counted_to = 0
    for start, end in ranges:
        last = ceil_div(end, cluster_size)
        count += last - max(start // cluster_size, counted_to)
        counted_to = last
        if count > limit:
            return True
    return False


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
    for start, data in _file_parts(descriptor, size_bytes, path=path):
        for first, last in data_runs(data):
            blank(at, start + first - at)
            blob.write(memoryview(data)[first:last], start + first)
            at = start + last
        advance(len(data))
    blank(at, blob.size - at)


def _file_parts(
    descriptor: int, size_bytes: int, *, path: str, start: int = 0
) -> Iterator[tuple[int, bytearray]]:
    """Yield (offset, bytes) of what is no hole from `start` on, cut where parts of a blob are cut.

    The bytes are valid until the next ones are asked for.
    """
    data = bytearray()
    for begin, stop in data_ranges(descriptor, size_bytes, start=start):
        for at, end in cut_in_parts(begin, stop):
            data = sized(data, end - at)
            fill_exactly(descriptor, data, at, path=path)
            yield at, data


def copy_out_qcow2(content: Content, descriptor: int, length: int, *, advance: Advance) -> None:
    """Write the first `length` bytes of a blob to an empty file as a qcow2 image."""
    from blobstore.cli.images.qcow2_writer import Qcow2Writer

    writer = Qcow2Writer(descriptor, length)
    for at, data in _in_windows(content.parts(0, length, sparse=True), advance):
        writer.write_part(at, data[: length - at], zeroes_are_holes=True)
    writer.finish()


def _in_windows(
    parts: Iterator[tuple[int, bytearray]], advance: Advance
) -> Iterator[tuple[int, bytes]]:
    """Put parts together to pieces that begin and end at multiples of `PART_SIZE`."""
    window, content = 0, bytearray()
    for offset, data in parts:
        for start, end in cut_in_parts(offset, offset + len(data)):
            if content and start - start % PART_SIZE != window:
                yield window, bytes(content)
                content.clear()
            if not content:
                window = start - start % PART_SIZE
                content.extend(bytes(PART_SIZE))
            content[start - window : end - window] = data[start - offset : end - offset]
        advance(len(data))
    if content:
        yield window, bytes(content)


def copy_out(content: Content, descriptor: int, length: int, *, advance: Advance) -> None:
    """Write the first `length` bytes of a blob to an empty file, leaving holes for zeroes."""
    sparse = not is_block_device(descriptor)
    write_out = WriteOut(descriptor)
    for at, data in content.parts(0, length, sparse=sparse):
        for first, last in data_runs(data) if sparse else [(0, len(data))]:
            write_all(descriptor, memoryview(data)[first:last], at + first)
            write_out.add(last - first)
        advance(len(data))
    if sparse:
        os.ftruncate(descriptor, length)
