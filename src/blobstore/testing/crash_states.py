"""Every state that a power cut can leave of a record (CRASH-SAFETY 6).

Model A is every prefix of the writes; B any subset of those that were not
flushed; C the write in flight torn between its sectors; D both; E an unmap
that left the old data, zeroes or garbage.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

from blobstore.testing.simulated_disk import GARBAGE, Event, Flushed, Unmapped, Written

EXHAUSTIVE: Final = 1 << 12

Patch = tuple[int, bytes]
"""(offset, bytes) to put over the durable content."""


@dataclass(frozen=True, slots=True)
class CrashState:
    """A content that the disk may have, as patches over what is durable, and where it was cut."""

    model: str
    event: int
    patches: tuple[Patch, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is tried where not everything can be: seeded samples per flush."""

    subsets: int = EXHAUSTIVE
    samples: int = 64
    torn_masks: int = 254
    atomic: int = 512


def crash_states(
    pending: Sequence[tuple[int, Event]], limits: Limits, rng: random.Random
) -> Iterator[CrashState]:
    """Yield the states that a cut can leave of the writes between two flushes.

    `pending` are (event number, event) in the order in which they were issued,
    the flush that ends them included: where several writes may be missing, it
    is what was in flight.
    """
    writes = [(number, event) for number, event in pending if not isinstance(event, Flushed)]
    if not writes:
        return
    end = pending[-1][0]
    yield from _prefixes(writes)
    yield from _subsets(writes, end, limits, rng)
    if limits.atomic < 4096:
        yield from _torn(writes, limits, rng)
        yield from _torn_subsets(writes, end, limits, rng)
    yield from _unmaps(writes, end, limits, rng)


def _prefixes(writes: Sequence[tuple[int, Event]]) -> Iterator[CrashState]:
    for count in range(len(writes)):
        patches = tuple(whole(event) for _number, event in writes[:count])
        yield CrashState("A", writes[count][0], patches)


def whole(event: Event) -> Patch:
    """Return what an event that was done leaves."""
    if isinstance(event, Written):
        return event.offset, event.data
    assert isinstance(event, Unmapped)
    return event.offset, bytes([GARBAGE]) * event.length


def _subsets(
    writes: Sequence[tuple[int, Event]], end: int, limits: Limits, rng: random.Random
) -> Iterator[CrashState]:
    count = 1 << len(writes)
    masks = range(count) if count <= limits.subsets else _sampled(count, limits.subsets, rng)
    for mask in masks:
        patches = tuple(
            whole(event) for at, (_number, event) in enumerate(writes) if mask >> at & 1
        )
        yield CrashState("B", end, patches)


def _sampled(count: int, wanted: int, rng: random.Random) -> Iterator[int]:
    """Return masks by chance, and all that leave out or take just one write."""
    bits = count.bit_length() - 1
    yield from (1 << at for at in range(bits))
    yield from (count - 1 - (1 << at) for at in range(bits))
    yield from (rng.randrange(count) for _ in range(wanted - 2 * bits))


def _torn(
    writes: Sequence[tuple[int, Event]], limits: Limits, rng: random.Random
) -> Iterator[CrashState]:
    for at, (number, event) in enumerate(writes):
        if not isinstance(event, Written) or len(event.data) <= 512:
            continue
        before = tuple(whole(earlier) for _number, earlier in writes[:at])
        for page in range(0, len(event.data), 4096):
            done = ((event.offset, event.data[:page]),) if page else ()
            part = event.data[page : page + 4096]
            for mask in _masks(part, limits, rng):
                torn = tear(event.offset + page, part, mask)
                yield CrashState("C", number, (*before, *done, *torn))


def _masks(part: bytes, limits: Limits, rng: random.Random) -> list[int]:
    sectors = -(-len(part) // 512)
    masks = list(range(1, (1 << sectors) - 1))
    return masks if len(masks) <= limits.torn_masks else rng.sample(masks, limits.torn_masks)


def tear(offset: int, part: bytes, mask: int) -> list[Patch]:
    """Return the sectors of a write that reached the disk."""
    return [
        (offset + at * 512, part[at * 512 : at * 512 + 512])
        for at in range(-(-len(part) // 512))
        if mask >> at & 1
    ]


def _torn_subsets(
    writes: Sequence[tuple[int, Event]], end: int, limits: Limits, rng: random.Random
) -> Iterator[CrashState]:
    if len(writes) < 2:
        return
    for _ in range(limits.samples):
        patches: list[Patch] = []
        for _number, event in writes:
            patches += _by_chance(event, rng)
        yield CrashState("D", end, tuple(patches))


def _by_chance(event: Event, rng: random.Random) -> list[Patch]:
    choice = rng.randrange(3)
    if choice == 0:
        return []
    if choice == 1 or not isinstance(event, Written) or len(event.data) > 16 * 4096:
        return [whole(event)]
    sectors = -(-len(event.data) // 512)
    return tear(event.offset, event.data, rng.randrange(1 << sectors))


def _unmaps(
    writes: Sequence[tuple[int, Event]], end: int, limits: Limits, rng: random.Random
) -> Iterator[CrashState]:
    """Yield what unmaps can leave: nothing done, zeroes, garbage; other writes are done."""
    unmaps = [event for _number, event in writes if isinstance(event, Unmapped)]
    if not unmaps:
        return
    outcomes = list(product((None, 0, GARBAGE), repeat=min(len(unmaps), 6)))
    if len(outcomes) > limits.samples:
        outcomes = rng.sample(outcomes, limits.samples)
    for outcome in outcomes:
        left = iter((*outcome, *([0] * (len(unmaps) - len(outcome)))))
        patches: list[Patch] = []
        for _number, event in writes:
            patches += [whole(event)] if isinstance(event, Written) else _left(event, next(left))
        yield CrashState("E", end, tuple(patches))


def _left(event: Event, fill: int | None) -> list[Patch]:
    assert isinstance(event, Unmapped)
    return [] if fill is None else [(event.offset, bytes([fill]) * event.length)]


def apply(content: bytearray, patches: Sequence[Patch]) -> None:
    """Put patches over a content, in order."""
    for offset, data in patches:
        content[offset : offset + len(data)] = data


def between_flushes(
    events: Sequence[Event], without_site: str | None = None
) -> Iterator[list[tuple[int, Event]]]:
    """Yield the numbered events between flushes, the flush that ends them included.

    Nothing flushes after the last operation; the cut then comes when all is acknowledged.
    """
    pending: list[tuple[int, Event]] = []
    for number, event in enumerate(events):
        if isinstance(event, Flushed):
            if without_site is not None and event.site == without_site:
                continue
            yield [*pending, (number, event)]
            pending = []
        else:
            pending.append((number, event))
    yield [*pending, (len(events), Flushed("end"))]


def make_durable(content: bytearray, pending: Sequence[tuple[int, Event]]) -> None:
    """Apply all that was pending, as the flush at its end does."""
    apply(content, [whole(event) for _number, event in pending if not isinstance(event, Flushed)])


def crash_contents(
    base: bytes,
    events: Sequence[Event],
    limits: Limits = Limits(),
    *,
    rng: random.Random | None = None,
    without_site: str | None = None,
) -> Iterator[tuple[CrashState, bytes]]:
    """Yield every content that a power cut during `events` can leave of a disk that held `base`.

    The last is that of a cut after all of them. Where there are more than `limits` allows, `rng`
    chooses which. Without the flushes of a site, more can be left.
    """
    rng = rng or random.Random(0)
    durable = bytearray(base)
    for pending in between_flushes(events, without_site):
        for state in crash_states(pending, limits, rng):
            content = bytearray(durable)
            apply(content, state.patches)
            yield state, bytes(content)
        make_durable(durable, pending)
    yield CrashState("A", len(events), ()), bytes(durable)
