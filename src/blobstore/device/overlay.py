"""The overlay device: changes stay in memory, the device below is only ever read.

What a repair would write is made here first and looked at, as often as need be,
before a byte of the device changes. Memory is taken for written bytes alone:
zeroes and copies are kept as ranges.
"""

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Final

from blobstore.device.base import Device, byte_views
from blobstore.operations import Buffer

BLOCK_SIZE: Final = 4096
"""Changes are reported in blocks of this many bytes."""

_START: Final = attrgetter("start")
_END: Final = attrgetter("end")


@dataclass(frozen=True, slots=True)
class _Span:
    """A range and what it holds: `data`, or what the base has at `source`, or else zeroes."""

    start: int
    end: int
    data: memoryview | None = None
    source: int | None = None

    def cut(self, start: int, end: int) -> "_Span":
        """Return the part of the span that lies between `start` and `end`."""
        start, end = max(start, self.start), min(end, self.end)
        skipped = start - self.start
        data = None if self.data is None else self.data[skipped : end - self.start]
        source = None if self.source is None else self.source + skipped
        return _Span(start, end, data, source)

    def moved(self, distance: int) -> "_Span":
        """Return the same content at another place."""
        return replace(self, start=self.start + distance, end=self.end + distance)


class OverlayDevice(Device):
    """A writable device over another one, whose content stays as it is.

    The base may be read-only, and stays open when the overlay is closed. While
    the overlay is in use, nothing else may write to the base.
    """

    def __init__(self, base: Device) -> None:
        super().__init__(
            name=base.name,
            size_bytes=base.size_bytes,
            block_size=base.block_size,
            physical_block_size=base.physical_block_size,
            atomic_write_size=base.atomic_write_size,
            unmap_zeroes=base.unmap_zeroes,
        )
        self._base = base
        self._spans: list[_Span] = []  # what was changed, ascending, disjoint
        self._lock = threading.Lock()

    # The medium

    def read(self, offset: int, length: int) -> bytes:
        self.check_read(offset, length)
        return b"".join(map(self._content_of, self._look(offset, offset + length)))

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        views = byte_views(buffers)
        found = memoryview(self.read(offset, sum(map(len, views))))
        for view in views:
            view[:] = found[: len(view)]
            found = found[len(view) :]

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        data = memoryview(b"".join(byte_views(buffers)))
        self.check_write(offset, len(data))
        self._replace(offset, offset + len(data), [_Span(offset, offset + len(data), data)])

    def write_zeroes(self, offset: int, length: int) -> None:
        self.check_write(offset, length)
        self._replace(offset, offset + length, [_Span(offset, offset + length)])

    def unmap(self, offset: int, length: int) -> None:
        """Zero the range where the base would; elsewhere its content is as good as any."""
        if self.unmap_zeroes:
            self.write_zeroes(offset, length)
        self.check_write(offset, length)

    def next_data(self, offset: int) -> int:
        self.check_open()
        with self._lock:
            first, _last = self._between(offset, self.size_bytes)
            changed = self._spans[first].start if first < len(self._spans) else self.size_bytes
        return max(offset, min(changed, self._base.next_data(offset)))

    def flush(self) -> None:
        self.check_open()

    def copy(self, source: int, target: int, length: int) -> None:
        """Make the range at `target` hold what the one at `source` holds now.

        What the base has there is read when it is asked for, not kept.
        """
        self.check_read(source, length)
        self.check_write(target, length)
        found = self._look(source, source + length)
        moved = [span.moved(target - source) for span in found]
        self._replace(target, target + length, moved)

    def close(self) -> None:
        super().close()
        self._spans = []

    # What was changed

    def changed_ranges(self) -> Iterator[tuple[int, int]]:
        """Yield (offset, length) of what may differ from the base: whole blocks, merged, ascending.

        A block that was written with what it held is among them.
        """
        start = end = 0
        for span in list(self._spans):
            first = span.start - span.start % BLOCK_SIZE
            if first > end:
                if end:
                    yield start, end - start
                start = first
            end = min(self.size_bytes, -(-span.end // BLOCK_SIZE) * BLOCK_SIZE)
        if end:
            yield start, end - start

    @property
    def copies(self) -> list[tuple[int, int, int]]:
        """What is the same as another range of the base: (source, target, length), by target."""
        return [
            (span.source, span.start, span.end - span.start)
            for span in list(self._spans)
            if span.source is not None
        ]

    def settle(self) -> None:
        """Read what copies take from ranges that are changed as well.

        From then on the changes may be made to the base one by one, in any
        order: none of them reads what another one replaces.
        """
        for source, target, length in self.copies:
            if self._is_changed(source, source + length):
                self.write(target, [self._base.read(source, length)])

    # The ranges

    def _is_changed(self, start: int, end: int) -> bool:
        first, last = self._between(start, end)
        return first < last

    def _between(self, start: int, end: int) -> tuple[int, int]:
        """Return which spans have anything in the range: from this one to before that one."""
        first = bisect_right(self._spans, start, key=_END)
        return first, bisect_left(self._spans, end, lo=first, key=_START)

    def _look(self, start: int, end: int) -> list[_Span]:
        """Return what makes up the range, without gaps; what is not changed is the base's own."""
        with self._lock:
            first, last = self._between(start, end)
            changed = [span.cut(start, end) for span in self._spans[first:last]]
        found: list[_Span] = []
        for span in changed:
            if start < span.start:
                found.append(_Span(start, span.start, source=start))
            found.append(span)
            start = span.end
        if start < end:
            found.append(_Span(start, end, source=start))
        return found

    def _replace(self, start: int, end: int, new: list[_Span]) -> None:
        """Put new spans in the place of what the range held."""
        if start == end:
            return
        with self._lock:
            first, last = self._between(start, end)
            if first < last:
                before, after = self._spans[first], self._spans[last - 1]
                if before.start < start:
                    new = [before.cut(before.start, start), *new]
                if end < after.end:
                    new = [*new, after.cut(end, after.end)]
            self._spans[first:last] = new

    def _content_of(self, span: _Span) -> Buffer:
        if span.data is not None:
            return span.data
        length = span.end - span.start
        return bytes(length) if span.source is None else self._base.read(span.source, length)
