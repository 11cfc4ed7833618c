"""Runs of numbers, (first, count): as many bytes as on disk, however many numbers they name."""

from array import array
from collections.abc import Iterable
from typing import Final

from blobstore.format.pairs import PackedPairs

_NO_RUN: Final = (0, 0)
_U32_MAX: Final = 0xFFFF_FFFF
_FEW: Final = 1024


def merged_runs(runs: Iterable[tuple[int, int]]) -> PackedPairs:
    """Return (first, count) of the same numbers, in ascending order, neighbours as one."""
    numbers = array("Q", (first << 32 | count for first, count in runs))
    if len(numbers) <= _FEW:
        numbers = array("Q", sorted(numbers))
    else:
        import numpy as np  # sorts in place; small stores need it for nothing else

        np.frombuffer(numbers, dtype=np.uint64).sort()
    merged = PackedPairs()
    for number in numbers:
        merged.append_run(number >> 32, number & _U32_MAX)
    return merged


def runs_without(runs: PackedPairs, others: PackedPairs) -> PackedPairs:
    """Return what is in some runs, and in none of the others; all are merged."""
    left = PackedPairs()
    taken = iter(others)
    begin, size = next(taken, _NO_RUN)
    for first, count in runs:
        at, end = first, first + count
        while size and begin < end:
            if at < begin:
                left.append_run(at, begin - at)
            at = max(at, min(begin + size, end))
            if begin + size > end:
                break
            begin, size = next(taken, _NO_RUN)
        if at < end:
            left.append_run(at, end - at)
    return left
