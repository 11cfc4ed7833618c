"""A disk in memory that remembers in which order things reached it.

What was written is there at once, as with any cache; the record of writes,
unmaps and flushes tells what a power cut could have left of it. It can also be
told to fail.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from blobstore.errors import DeviceError
from blobstore.metadata.store_state import DeviceTraits
from blobstore.operations import Buffer

GARBAGE: Final = 0xDD
"""What an unmapped range reads as, unless the disk zeroes it."""


@dataclass(frozen=True, slots=True)
class Written:
    """Bytes that reached the cache."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Unmapped:
    """A range that was given back: it may hold anything until it is written again."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Flushed:
    """All that was before is durable; `site` names the function that asked for the flush."""

    site: str


Event = Written | Unmapped | Flushed


@dataclass(slots=True)
class Failure:
    """Which operation fails: the one with number `at`, and the later ones too if it is for ever."""

    at: int
    forever: bool = False

    def hits(self, number: int) -> bool:
        """Tell whether the operation with that number fails."""
        return number >= self.at if self.forever else number == self.at


class SimulatedDisk:
    """A `Medium` that records. `site` names the flush that comes next.

    `wants_to_stop` is asked at every checkpoint of a coroutine that runs alone.
    """

    def __init__(
        self,
        content: bytes | bytearray,
        *,
        atomic_write_size: int = 512,
        block_size: int = 512,
        unmap_zeroes: bool = False,
    ) -> None:
        self.content = bytearray(content)
        self.traits = DeviceTraits(
            size_bytes=len(content),
            block_size=block_size,
            physical_block_size=block_size,
            atomic_write_size=atomic_write_size,
            unmap_zeroes=unmap_zeroes,
        )
        self.events: list[Event] = []
        self.operation_count = 0
        self.failure: Failure | None = None
        self.site: Callable[[], str] = str
        self.wants_to_stop: Callable[[], bool] = bool

    def read(self, offset: int, length: int) -> bytes:
        """Return what was written last."""
        self._count("read", offset, length)
        return bytes(self.content[offset : offset + length])

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill the buffers with what was written last."""
        for view in buffers:
            view[:] = self.read(offset, len(view))
            offset += len(view)

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Take the bytes into the cache."""
        data = b"".join(bytes(buffer) for buffer in buffers)
        self._count("write", offset, len(data))
        self.content[offset : offset + len(data)] = data
        self.events.append(Written(offset, data))

    def write_zeroes(self, offset: int, length: int) -> None:
        """Take zeroes into the cache."""
        self.write(offset, [bytes(length)])

    def unmap(self, offset: int, length: int) -> None:
        """Give the range back."""
        self._count("unmap", offset, length)
        fill = 0 if self.traits.unmap_zeroes else GARBAGE
        self.content[offset : offset + length] = bytes([fill]) * length
        self.events.append(Unmapped(offset, length))

    def flush(self) -> None:
        """Make all that is in the cache durable."""
        self._count("flush", 0, 0)
        self.events.append(Flushed(self.site()))

    def _count(self, kind: str, offset: int, length: int) -> None:
        if offset < 0 or offset + length > len(self.content):
            raise AssertionError(f"{kind} of {length} bytes at {offset}: outside of the disk")
        number = self.operation_count
        self.operation_count += 1
        if self.failure is not None and self.failure.hits(number):
            raise DeviceError(f"simulated failure of operation {number}, a {kind} at {offset}")
