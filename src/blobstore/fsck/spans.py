"""Spans of a mask, many at once: one by one they would take too long in a ruined store."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from bitarray import bitarray

from blobstore.metadata.page_arrays import Chunk, Flagged, Numbers

SHORT: Final = 64
"""Spans of up to this many bits are faster checked together, longer ones one by one."""

_CHUNK_BITS: Final = 1 << 19
_FROM: Final = np.array([0xFF << bit & 0xFF for bit in range(8)], dtype=np.uint8)
_UP_TO: Final = np.array([0xFF >> 7 - bit for bit in range(8)], dtype=np.uint8)


def set_short(bits: bitarray, repeated: bitarray, firsts: Numbers, counts: Numbers) -> None:
    """Set the bits of ascending spans that are apart; note in `repeated` those that were set."""
    places, masks, _owners = bytes_of(firsts, counts)
    starts = np.flatnonzero(np.diff(places, prepend=-1))
    places, masks = places[starts], np.bitwise_or.reduceat(masks, starts)
    content, again = content_of(bits), content_of(repeated)
    again[places] |= content[places] & masks
    content[places] |= masks


def touching(bits: bitarray, firsts: Numbers, counts: Numbers) -> Numbers:
    """Return which of these spans have a bit that is set."""
    is_short = counts <= SHORT
    are_touching = np.zeros(len(firsts), dtype=np.bool_)
    for at in np.flatnonzero(~is_short).tolist():
        first = int(firsts[at])
        are_touching[at] = bits.find(1, first, first + int(counts[at])) >= 0
    short = np.flatnonzero(is_short)
    places, masks, owners = bytes_of(firsts[short], counts[short])
    found: Flagged = content_of(bits)[places] & masks != 0
    are_touching[short[owners[found]]] = True
    return np.flatnonzero(are_touching)


def spans_of(bits: bitarray) -> Iterator[tuple[Numbers, Numbers]]:
    """Yield the runs of set bits as columns (first, count), those of many bits at a time."""
    content = content_of(bits)
    pending: list[int] = []
    for start in range(0, len(bits), _CHUNK_BITS):
        part = content[start >> 3 : (start + _CHUNK_BITS) >> 3]
        flags = np.unpackbits(part, bitorder="little")[: len(bits) - start]
        edges = np.flatnonzero(np.diff(flags, prepend=np.uint8(len(pending)))) + start
        edges = np.concatenate((np.array(pending, dtype=np.int64), edges))
        pending = edges[len(edges) & ~1 :].tolist()
        firsts = edges[: len(edges) & ~1 : 2]
        if len(firsts):
            yield firsts, edges[1::2][: len(firsts)] - firsts
    if pending:
        yield np.array(pending), np.array([len(bits) - pending[0]])


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
    return begins[owners] + _steps(sizes), masks, owners


def _steps(counts: Numbers) -> Numbers:
    """Return 0, 1, 2... up to each of the counts, one after the other."""
    numbers: Numbers = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return numbers
