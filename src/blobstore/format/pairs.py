"""Pairs of u32 as on disk: runs of clusters, and the entries of an extent table (FORMAT 4).

A chain can hold millions of them: here they take as many bytes as on disk.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Self, overload

from blobstore.operations import Buffer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

assert array("I").itemsize == 4


class PackedPairs(Sequence[tuple[int, int]]):
    """Pairs of numbers, one after the other in `numbers`; equal to any sequence of the same."""

    __slots__ = ("numbers",)

    def __init__(self) -> None:
        self.numbers = array("I")

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, int]]) -> Self:
        """Return the same pairs, packed."""
        packed = cls()
        for pair in pairs:
            packed.numbers.extend(pair)
        return packed

    def append_encoded(self, content: Buffer) -> None:
        """Append pairs as they are on disk."""
        self.numbers.frombytes(content)

    def extend(self, others: "PackedPairs") -> None:
        """Append the pairs of another sequence."""
        self.numbers.extend(others.numbers)

    def append_run(self, first: int, count: int) -> None:
        """Append a run of clusters, or of places with none; one that goes on makes it longer."""
        numbers = self.numbers
        if numbers and first == (numbers[-2] + numbers[-1] if numbers[-2] else 0):
            numbers[-1] += count
        else:
            numbers.append(first)
            numbers.append(count)

    def rows(self) -> "npt.NDArray[np.int64]":
        """Return the pairs as rows of two numbers."""
        import numpy as np  # small stores do without; it takes longer to start than all the rest

        return np.array(self.numbers, dtype=np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.numbers) >> 1

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self.numbers[::2], self.numbers[1::2], strict=True)

    @overload
    def __getitem__(self, at: int) -> tuple[int, int]: ...
    @overload
    def __getitem__(self, at: slice) -> list[tuple[int, int]]: ...
    def __getitem__(self, at: int | slice) -> tuple[int, int] | list[tuple[int, int]]:
        places = range(0, len(self.numbers), 2)[at]
        numbers = self.numbers
        if isinstance(places, range):
            return [(numbers[place], numbers[place + 1]) for place in places]
        return numbers[places], numbers[places + 1]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PackedPairs):
            return self.numbers == other.numbers
        if isinstance(other, Sequence):
            return len(self) == len(other) and all(map(_is_same, self, other))
        return NotImplemented

    def __repr__(self) -> str:
        return f"{type(self).__name__}.of({list(self)})"


def _is_same(mine: object, other: object) -> bool:
    return mine == other
