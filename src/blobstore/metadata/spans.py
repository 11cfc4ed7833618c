"""Spans of a mask, many at once, as columns (first, count); none is empty.

Short ones are set through the bytes of the mask. Nothing is kept for each bit, so
a blob as large as the store costs no more than the mask.
"""

from typing import Final

import numpy as np
from bitarray import bitarray

from blobstore.metadata.columns import Chunk, Entries, Numbers, steps

SHORT: Final = 64
"""Spans of so many bits are better looked at together, longer ones one by one."""

_PIECE: Final = 1 << 14
_BIT: Final = np.array([1 << bit for bit in range(8)], dtype=np.uint8)
_FROM: Final = np.array([0xFF << bit & 0xFF for bit in range(8)], dtype=np.uint8)
_UP_TO: Final = np.array([0xFF >> 7 - bit for bit in range(8)], dtype=np.uint8)


def mark_entries(bits: bitarray, entries: Entries) -> None:
    """Set one bit for each of the entries, in any order."""
    np.bitwise_or.at(content_of(bits), (entries >> 3).astype(np.intp), _BIT[entries & 7])


def mark_spans(bits: bitarray, firsts: Numbers, counts: Numbers) -> None:
    """Set the bits of spans, in any order."""
    for at in range(0, len(firsts), _PIECE):
        _mark_piece(bits, firsts[at : at + _PIECE], counts[at : at + _PIECE])


def _mark_piece(bits: bitarray, firsts: Numbers, counts: Numbers) -> None:
    is_short = counts <= SHORT
    long = firsts[~is_short].tolist(), counts[~is_short].tolist()
    for first, count in zip(*long, strict=True):
        bits[first : first + count] = True
    places, masks, _owners = bytes_of(firsts[is_short], counts[is_short])
    np.bitwise_or.at(content_of(bits), places, masks)


def are_apart(firsts: Numbers, counts: Numbers) -> bool:
    """Tell whether no two of these spans, in ascending order, have a bit in common."""
    return bool((firsts[1:] >= firsts[:-1] + counts[:-1]).all())


def content_of(bits: bitarray) -> Chunk:
    """Return the bytes of a mask, to be looked at and changed in place."""
    return np.frombuffer(memoryview(bits), dtype=np.uint8)


def bytes_of(firsts: Numbers, counts: Numbers) -> tuple[Numbers, Chunk, Numbers]:
    """Return the bytes that spans reach into: where, which bits of each, and of which span."""
    lasts = firsts + counts - 1
    begins = firsts >> 3
    sizes = (lasts >> 3) - begins + 1
    ends = np.cumsum(sizes)
    owners = np.repeat(np.arange(len(firsts)), sizes)
    masks = np.full(len(owners), 0xFF, dtype=np.uint8)
    masks[ends - sizes] = _FROM[firsts & 7]
    masks[ends - 1] &= _UP_TO[lasts & 7]
    return begins[owners] + steps(sizes), masks, owners
