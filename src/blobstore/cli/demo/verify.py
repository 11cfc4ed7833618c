"""Comparing what a store holds with the file that was written to it."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from blobstore import Blob
from blobstore.cli.content import PART_SIZE, ZERO_BLOCK_SIZE, is_zero, sha256_of


def whole_problems(blob: Blob, source: Path) -> list[str]:
    """Compare a file with a blob by the hash of all of it."""
    with source.open("rb") as file:
        expected = hashlib.file_digest(file, "sha256").hexdigest()
    found = sha256_of(blob, length=source.stat().st_size)
    if found == expected:
        return []
    return [f"blob {blob.id:#x}: sha256 {found}, expected {expected}"]


def promise_problems(blob: Blob, source: Path, *, promised: int) -> list[str]:
    """Compare a file with a blob of which only the first bytes were acknowledged.

    These must all be there. After them a block is the file's or was never
    written; anything else would be old data of another file.
    """
    problems: list[str] = []
    with source.open("rb") as file:
        for start, end in _parts(promised, source.stat().st_size):
            expected, found = _read(file, start, end), blob.read(end - start, start)
            if end <= promised and _hash(found) != _hash(expected):
                problems.append(f"blob {blob.id:#x}: acknowledged bytes {start} to {end} are lost")
            if start >= promised and not _is_mixture(found, expected):
                problems.append(f"blob {blob.id:#x}: bytes {start} to {end} were never written")
    return problems


def _parts(promised: int, length: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the file's parts; none is on both sides of the promise."""
    for first, last in ((0, promised), (promised, length)):
        for start in range(first, last, PART_SIZE):
            yield start, min(start + PART_SIZE, last)


def _read(file: BinaryIO, start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(end - start)


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _is_mixture(found: bytes, expected: bytes) -> bool:
    blocks = range(0, len(found), ZERO_BLOCK_SIZE)
    return found == expected or all(
        is_zero(found[at : at + ZERO_BLOCK_SIZE])
        or found[at : at + ZERO_BLOCK_SIZE] == expected[at : at + ZERO_BLOCK_SIZE]
        for at in blocks
    )
