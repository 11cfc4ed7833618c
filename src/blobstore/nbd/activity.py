"""What a connection has done: requests, bytes and latencies, cheap enough to count each request.

A latency is the time from the receive that had the request until the server sends the answer.
Latencies are kept in buckets that grow by an eighth of a power of two, so a percentile is at most
12.5 % off. One thread counts, others look: a number can be one request old, and is never torn.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from blobstore.nbd.constants import Command

_STEP_BITS: Final = 3
_STEPS: Final = 1 << _STEP_BITS
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
    return (shift << _STEP_BITS) + (latency_ns >> shift)


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
    buckets: dict[int, int] = field(default_factory=dict)

    def count(self, requests: int, length: int, latency_ns: int) -> None:
        """Count requests of `length` bytes together, which were answered at the same time."""
        self.requests += requests
        self.bytes += length
        self.nanoseconds += requests * latency_ns
        bucket = bucket_of(latency_ns)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + requests

    def add(self, other: "Meter") -> None:
        """Count all that another has counted."""
        self.requests += other.requests
        self.bytes += other.bytes
        self.errors += other.errors
        self.nanoseconds += other.nanoseconds
        for bucket, requests in list(other.buckets.items()):
            self.buckets[bucket] = self.buckets.get(bucket, 0) + requests

    def latencies(self) -> list[tuple[int, int]]:
        """Return (upper bound in nanoseconds, requests below it), ascending, no empty buckets."""
        return [(bound_of(bucket), count) for bucket, count in sorted(self.buckets.copy().items())]


def percentile_ns(latencies: Sequence[tuple[int, int]], share: float) -> int:
    """Return what `share` of the requests in (bound, requests) took less than; 0 without any."""
    wanted = share * sum(requests for _bound, requests in latencies)
    seen = 0
    for bound, requests in latencies:
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
