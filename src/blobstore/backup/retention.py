"""Retention: which snapshots of a blob to keep, by their age, and deleting the others.

A rule such as "daily 7" keeps the newest snapshot of each of the last seven days that have one.
Days, weeks and the others are those of UTC, and weeks begin on Monday. Clocks are set, so a newer
snapshot can have an older time: "last" counts along the chain, whatever the times. A snapshot is
kept if any rule keeps it. One without a time is kept, because nothing is known of its age. One with
several clones is kept as well, because the others need it.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Final

from blobstore.backup.any_store import AnyStore, ancestors
from blobstore.backup.snapshot_identity import taken_at
from blobstore.errors import InvalidArgumentError
from blobstore.store.describe import BlobInfo
from blobstore.units import BlobId

NO_TIME: Final = "no time"
NEEDED: Final = "needed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How many snapshots to keep: the last ones, and the newest of each hour, day and so on."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0


@dataclass(frozen=True, slots=True)
class JudgedSnapshot:
    """A snapshot, when it was taken (None: not known), and which rules keep it."""

    blob_id: BlobId
    name: str | None
    taken_at: int | None
    reasons: tuple[str, ...]


_PERIODS: Final[dict[str, Callable[[datetime], Hashable]]] = {
    "hourly": lambda when: when.timetuple()[:4],
    "daily": lambda when: when.timetuple()[:3],
    "weekly": lambda when: when.isocalendar()[:2],
    "monthly": lambda when: when.timetuple()[:2],
    "yearly": lambda when: when.year,
}


def reasons_to_keep(times: Sequence[int], retention: Retention) -> list[tuple[str, ...]]:
    """Return which rules keep each snapshot.

    `times` are in seconds since 1970, those of the chain from the newest snapshot down.
    """
    reasons = [["last"] if number < retention.last else [] for number in range(len(times))]
    by_time = sorted(range(len(times)), key=times.__getitem__, reverse=True)
    for rule, period_of in _PERIODS.items():
        newest: dict[Hashable, int] = {}
        for number in by_time:
            newest.setdefault(period_of(datetime.fromtimestamp(times[number], UTC)), number)
        for number in list(newest.values())[: getattr(retention, rule)]:
            reasons[number].append(rule)
    return [tuple(each) for each in reasons]


def judge_snapshots(store: AnyStore, blob_id: int, retention: Retention) -> list[JudgedSnapshot]:
    """Return the snapshots of a blob, newest first, and why each is kept; nothing is deleted.

    Raises:
        NotFoundError: There is no such blob.
        InvalidArgumentError: No rule keeps any snapshot, or a number is negative.
    """
    numbers = [getattr(retention, each.name) for each in fields(retention)]
    if min(numbers) < 0 or not any(numbers):
        raise InvalidArgumentError("retention: expected at least one number above 0, none below")
    found = ancestors(store, blob_id)
    times = {info.blob_id: time for info in found if (time := taken_at(info.xattrs)) is not None}
    by_id = dict(zip(times, reasons_to_keep(list(times.values()), retention), strict=True))
    return [_judged(info, by_id.get(info.blob_id, (NO_TIME,))) for info in found]


def _judged(info: BlobInfo, reasons: tuple[str, ...]) -> JudgedSnapshot:
    if len(info.clones) > 1:
        reasons = (*reasons, NEEDED)
    return JudgedSnapshot(info.blob_id, info.name, taken_at(info.xattrs), reasons)
