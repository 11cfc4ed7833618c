"""Reading back what was written, and comparing hashes."""

import hashlib
from collections.abc import Iterable, Sequence

from blobstore import Blob, DeviceError
from blobstore.cli.content import cut_in_parts
from blobstore.cli.files import read_exactly
from blobstore.cli.images.qemu_img import open_disk
from blobstore.cli.progress import progress
from blobstore.cli.rescuing import Content


class DifferentContentError(DeviceError):
    """What was written is not what was read."""


Range = tuple[int, int]
"""(start, end) in bytes."""


def verify(blob: Blob, source: int, ranges: Sequence[Range], *, path: str) -> str:
    """Read ranges of a file and of a blob again, and return the hash of both.

    Raises:
        DifferentContentError: The blob does not hold what the file holds.
    """
    total = sum(end - start for start, end in ranges)
    expected, found = hashlib.sha256(), hashlib.sha256()
    with progress("verify", total) as advance:
        for start, end in _parts(ranges):
            expected.update(read_exactly(source, end - start, start, path=path))
            found.update(blob.read(end - start, start))
            advance(end - start)
    if expected.digest() != found.digest():
        raise DifferentContentError(
            f"blob {blob.id:#x}: sha256 {found.hexdigest()}, expected that of {path}, "
            f"{expected.hexdigest()}"
        )
    return expected.hexdigest()


def verify_file(content: Content, path: str, image_format: str, length: int) -> str:
    """Read the first `length` bytes of a blob and of its image again, and return their hash.

    Raises:
        DifferentContentError: The image does not hold what the blob holds.
    """
    expected, found = hashlib.sha256(), hashlib.sha256()
    with open_disk(path, image_format) as image, progress("verify", length) as advance:
        for offset, data in content.parts(0, length, sparse=False):
            expected.update(data)
            found.update(read_exactly(image, len(data), offset, path=path))
            advance(len(data))
    if expected.digest() != found.digest():
        raise DifferentContentError(
            f"{path}: sha256 {found.hexdigest()}, expected that of blob {content.blob_id:#x}, "
            f"{expected.hexdigest()}"
        )
    return expected.hexdigest()


def _parts(ranges: Sequence[Range]) -> Iterable[Range]:
    for start, end in ranges:
        yield from cut_in_parts(start, end)
