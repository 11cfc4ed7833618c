"""What a connection has done: requests, bytes and latencies, cheap enough to count each request.

One thread counts, others look: a number can be one request old, and is never torn. Latencies are
kept in buckets that grow by an eighth of a power of two, so a percentile is at most 12.5 % off.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from blobstore.nbd.constants import Command

_STEP_BITS: Final = 3
_STEPS: Final = 1 << _STEP_BITS
_BUCKETS: Final = 48 << _STEP_BITS
"""Buckets up to 2**48 ns, which is more than three days."""

KINDS: Final[dict[int, str]] = {
    Command.READ: "read",
    Command.WRITE: "write",
    Command.FLUSH: "flush",
    Command.TRIM: "trim",
    Command.WRITE_ZEROES: "write_zeroes",
    Command.CACHE: "cache",
    Command.BLOCK_STATUS: "block_status",
}


def bucket_of(latency_ns: int) -> int:
    """Return the bucket of a latency."""
    shift = latency_ns.bit_length() - 1 - _STEP_BITS
    if shift < 0:
        return max(0, latency_ns)
    bucket = (shift << _STEP_BITS) + (latency_ns >> shift)
    return bucket if bucket < _BUCKETS else _BUCKETS - 1


def bound_of(bucket: int) -> int:
    """Return the smallest latency in nanoseconds that is above a bucket."""
    if bucket < 2 * _STEPS:
        return bucket + 1
    shift = (bucket >> _STEP_BITS) - 1
    return ((bucket & (_STEPS - 1)) + _STEPS + 1) << shift


@dataclass(slots=True)
class Meter:
    """Requests of one kind: how many, of how many bytes, and how long they took."""

    requests: int = 0
    bytes: int = 0
    errors: int = 0
    nanoseconds: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * _BUCKETS)

    def count(self, length: int, latency_ns: int) -> None:
        """Count one request more."""
        self.requests += 1
        self.bytes += length
        self.nanoseconds += latency_ns
        self.buckets[bucket_of(latency_ns)] += 1

    def add(self, other: "Meter") -> None:
        """Count all that another has counted."""
        self.requests += other.requests
        self.bytes += other.bytes
        self.errors += other.errors
        self.nanoseconds += other.nanoseconds
        self.buckets = [mine + its for mine, its in zip(self.buckets, other.buckets, strict=True)]

    def used_buckets(self) -> Iterator[tuple[int, int]]:
        """Yield (bound in nanoseconds, requests) of the buckets that are not empty."""
        for bucket, requests in enumerate(self.buckets):
            if requests:
                yield bound_of(bucket), requests


def percentile_ns(buckets: Iterable[tuple[int, int]], share: float) -> int:
    """Return the latency that `share` of the requests in (bound, requests) stayed below."""
    listed = list(buckets)
    wanted = share * sum(requests for _bound, requests in listed)
    seen = 0
    for bound, requests in listed:
        seen += requests
        if seen >= wanted:
            return bound
    return 0


class Activity:
    """All meters of a connection, or of an export's connections that have ended."""

    def __init__(self) -> None:
        self.meters = {kind: Meter() for kind in KINDS.values()}

    def add(self, other: "Activity") -> None:
        """Count all that another has counted."""
        for kind, meter in self.meters.items():
            meter.add(other.meters[kind])
