"""Solving a torn super block: finding the bytes that its checksum was made for (CRASH-SAFETY 2).

The original writes page 0 whole. Torn, it has the fields of one version and
the checksum of another. The few fields that ever change are tried until the
checksum matches, so the answer is certain. A checksum is linear: what a change
does to it depends on the changed bits only, not on the rest of the page.
"""

from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from blobstore.format.checksum import crc32c
from blobstore.format.geometry import Geometry
from blobstore.format.mask import mask_pages
from blobstore.format.super_block import (
    NO_BLOB,
    SUPER_BLOCK_SIZE,
    MaskRegion,
    SuperBlock,
)
from blobstore.fsck.super_block_checks import is_recognisable
from blobstore.units import BlobId

Ids: TypeAlias = npt.NDArray[np.uint64]

_CRC_OFFSET: Final = SUPER_BLOCK_SIZE - 4
_SUPER_BLOB_OFFSET: Final = 20
_WORD: Final = 4
_WORD_BITS: Final = 32
_CHECKED_WORDS: Final = (0, 4, 8, 12, 16, 28, 32, 36, 40, 44, 48, 52, 72, 76, 88, 92)
"""Where words stand of which most values make no sense: all but super blob, type and size."""

_ZERO_CRC: Final = crc32c(bytes(_CRC_OFFSET))


def solve_super_block(
    data: bytes, *, device_size: int, roots: Iterable[BlobId]
) -> SuperBlock | None:
    """Return the super block that the checksum in `data` belongs to.

    Tried are `clean` the other way round, each of `roots` or none as the super
    blob, the device's size as the store's, and all of that together. `clean`
    is then what it was in that version; what the original wrote before it need
    not have reached the device, so it is safer not to believe it.
    """
    if len(data) < SUPER_BLOCK_SIZE or not is_recognisable(data):
        return None
    found = SuperBlock.as_it_stands(data)
    ids = np.array([found.super_blob, NO_BLOB, *roots], dtype=np.uint64)
    effects = _effects_of_ids(ids ^ np.uint64(found.super_blob))
    wanted = stored_checksum(data)
    for candidate in _other_sizes(found, device_size):
        for clean in (found.clean, not found.clean):
            block = candidate.with_changes(clean=clean)
            matching = np.flatnonzero(effects == checksum_of(block) ^ wanted)
            for at in matching[:1].tolist():
                solved = block.with_changes(super_blob=BlobId(int(ids[at])))
                if is_sound(solved, device_size):
                    return solved
    return None


def solve_one_word(data: bytes, *, device_size: int) -> Iterator[SuperBlock]:
    """Yield super blocks that differ from `data` in one field and have its checksum.

    For each word of four bytes there is exactly one value that the checksum
    allows, and where the word is not the damaged one that value is as good as
    random: it makes no sense.
    """
    wanted = stored_checksum(data)
    difference = crc32c(memoryview(data)[:_CRC_OFFSET]) ^ wanted
    for offset in _CHECKED_WORDS:
        word = int.from_bytes(data[offset : offset + _WORD], "little")
        right = word ^ _cause(difference, offset)
        page = data[:offset] + right.to_bytes(_WORD, "little") + data[offset + _WORD :]
        if is_recognisable(page):
            solved = SuperBlock.as_it_stands(page)
            is_used = solved.used_blob_ids.start == 0 or solved.used_blob_ids.length > 0
            if is_used and checksum_of(solved) == wanted and is_sound(solved, device_size):
                yield solved


def stored_checksum(data: bytes) -> int:
    """Return the checksum that stands in page 0."""
    return int.from_bytes(data[_CRC_OFFSET:SUPER_BLOCK_SIZE], "little")


def checksum_of(super_block: SuperBlock) -> int:
    """Return the checksum that belongs to a super block."""
    return stored_checksum(super_block.encode())


def is_sound(super_block: SuperBlock, device_size: int) -> bool:
    """Tell whether the fields make sense together, on a device of any size that can hold them."""
    layout = Geometry.claimed_by(super_block, device_size=device_size)
    return not any(layout.broken_rules(max(device_size, layout.size_bytes)))


def _other_sizes(found: SuperBlock, device_size: int) -> Iterator[SuperBlock]:
    """Yield the super block as it is, then as it was before or after the store grew."""
    yield found
    page_size, cluster_size = found.md_page_size or 4096, found.cluster_size
    if not cluster_size:
        return
    for size in (device_size, 0, device_size // cluster_size * cluster_size):
        resized = found.with_changes(size_bytes=size)
        yield resized
        length = mask_pages((size or device_size) // cluster_size, page_size)
        if length >= 1 << _WORD_BITS:
            continue
        yield resized.with_changes(used_clusters=MaskRegion(found.used_clusters.start, length))


def _effects_of_ids(changes: Ids) -> Ids:
    """Return what each change of the super blob's id does to the checksum."""
    effects = np.zeros(len(changes), dtype=np.uint64)
    for bit in range(64):
        is_set = changes >> np.uint64(bit) & np.uint64(1)
        effects ^= is_set * np.uint64(_effect(1 << bit, _SUPER_BLOB_OFFSET))
    return effects


def _effect(change: int, offset: int) -> int:
    """Return what flipping these bits at an offset does to the checksum, whatever the page."""
    page = bytearray(_CRC_OFFSET)
    page[offset : offset + 8] = change.to_bytes(8, "little")
    return crc32c(page) ^ _ZERO_CRC


def _cause(effect: int, offset: int) -> int:
    """Return the flipped bits of one word that have this effect: there is exactly one such set.

    This is Gaussian elimination: each pivot is an effect with a leading bit of
    its own, and the bits that cause it.
    """
    pivots: dict[int, tuple[int, int]] = {}
    for bit in range(_WORD_BITS):
        remaining, causes = _reduce(pivots, _effect(1 << bit, offset))
        pivots[remaining.bit_length()] = remaining, causes ^ 1 << bit
    _nothing, causes = _reduce(pivots, effect)
    return causes


def _reduce(pivots: dict[int, tuple[int, int]], effect: int) -> tuple[int, int]:
    causes = 0
    while effect.bit_length() in pivots:
        explained, cause = pivots[effect.bit_length()]
        effect ^= explained
        causes ^= cause
    return effect, causes
