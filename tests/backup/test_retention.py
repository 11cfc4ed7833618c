"""Which snapshots are kept, and that what is read from the rest stays as it is."""

from datetime import UTC, datetime, timedelta
from time import tzset

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore import Blobstore, BusyError, InvalidArgumentError, MemoryDevice
from blobstore.backup.any_store import delete_any
from blobstore.backup.retention import (
    NEEDED,
    NO_TIME,
    Retention,
    judge_snapshots,
    reasons_to_keep,
)
from blobstore.backup.snapshot_identity import take_snapshot

CLUSTER = 4096
NEW_YEAR = datetime(2026, 1, 1, 12, tzinfo=UTC)


def hours_before(*hours: float) -> list[int]:
    return [int((NEW_YEAR - timedelta(hours=each)).timestamp()) for each in hours]


def test_each_rule_keeps_the_newest_of_each_of_its_periods() -> None:
    times = hours_before(0, 0.5, 1, 13, 37, 24 * 8, 24 * 40, 24 * 400)
    rules = Retention(last=1, hourly=2, daily=2, weekly=2, monthly=2, yearly=2)
    assert reasons_to_keep(times, rules) == [
        ("last", "hourly", "daily", "weekly", "monthly", "yearly"),
        ("hourly",),  # 11:30
        (),
        ("daily", "monthly", "yearly"),  # the last of December, in the week of New Year
        (),
        ("weekly",),
        (),
        (),
    ]


def test_a_period_without_snapshots_does_not_count() -> None:
    times = hours_before(0, 24 * 10, 24 * 20)
    assert reasons_to_keep(times, Retention(daily=3)) == [("daily",)] * 3
    assert reasons_to_keep(times, Retention(daily=2)) == [("daily",), ("daily",), ()]


@given(
    times=st.lists(st.integers(0, 4_000_000_000), max_size=30).map(
        lambda found: sorted(found, reverse=True)
    ),
    daily=st.integers(0, 5),
    last=st.integers(0, 5),
)
def test_as_many_are_kept_as_there_are_periods_and_the_newest_always(
    times: list[int], daily: int, last: int
) -> None:
    reasons = reasons_to_keep(times, Retention(daily=daily, last=last))
    days = [datetime.fromtimestamp(time, UTC).date() for time in times]
    kept = [day for day, why in zip(days, reasons, strict=True) if "daily" in why]
    assert kept == sorted(set(days), reverse=True)[:daily]
    assert sum("last" in why for why in reasons) == min(last, len(times))


def test_the_last_is_the_last_of_the_chain_also_if_the_clock_was_set_back() -> None:
    battery_was_empty = 1000
    times = [battery_was_empty, *hours_before(0, 24, 48)]
    assert reasons_to_keep(times, Retention(last=1, daily=2)) == [
        ("last",),
        ("daily",),
        ("daily",),
        (),
    ]


def test_of_snapshots_with_one_time_the_last_of_the_chain_is_the_newest() -> None:
    times = hours_before(24, 0, 0, 0)
    assert reasons_to_keep(times, Retention(daily=2)) == [("daily",), ("daily",), (), ()]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param("2026-03-28T23:59:59", "2026-03-29T00:00:00", id="an hour is left out"),
        pytest.param("2026-10-24T23:59:59", "2026-10-25T00:00:00", id="an hour comes twice"),
        pytest.param("2024-02-29T23:59:59", "2024-03-01T00:00:00", id="leap day"),
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Pacific/Kiritimati"])
def test_a_day_ends_at_midnight_of_utc_wherever_the_machine_is(
    first: str, second: str, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    tzset()
    try:
        newer, older = (
            int(datetime.fromisoformat(f"{each}+00:00").timestamp()) for each in (second, first)
        )
        times = [newer + 3600, newer, older, older - 3600]
        kept = reasons_to_keep(times, Retention(daily=9))
        assert kept == [("daily",), (), ("daily",), ()]
    finally:
        monkeypatch.undo()
        tzset()


@pytest.fixture
def store() -> Blobstore:
    return Blobstore.create(MemoryDevice(8 << 20), cluster_size=CLUSTER)


def test_snapshots_without_a_time_and_those_that_others_need_are_kept(store: Blobstore) -> None:
    blob = store.create_blob(16 * CLUSTER, thin=True)
    taken = []
    for number, time in enumerate(reversed(hours_before(1, 2, 3, 4))):
        blob.write(b"%d" % number * CLUSTER, number * CLUSTER)
        taken.append(take_snapshot(blob, f"s{number}", now=time))
    untimed = blob.snapshot("untimed")
    clone = taken[1].clone("clone")
    judged = judge_snapshots(store, blob.id, Retention(last=1))
    assert [(each.name, each.reasons) for each in judged] == [
        ("untimed", (NO_TIME,)),
        ("s3", ("last",)),
        ("s2", ()),
        ("s1", (NEEDED,)),
        ("s0", ()),
    ]
    contents = [each.read(each.size) for each in (blob, clone, taken[3])]
    for snapshot in (*taken, untimed):
        snapshot.close()
    for each in judged:
        if not each.reasons:
            delete_any(store, each.blob_id)
    with store.open_blob(name="s3") as kept:
        assert [each.read(each.size) for each in (blob, clone, kept)] == contents
    with pytest.raises(BusyError, match="2 clones"):
        delete_any(store, taken[1].id)
    left = judge_snapshots(store, blob.id, Retention(last=1))
    assert [each.name for each in left] == ["untimed", "s3", "s1"]


@pytest.mark.parametrize("time", [b"1.5", b"-5", b"soon", b"9" * 300, "٣".encode()])
def test_a_time_that_cannot_be_is_no_time(store: Blobstore, time: bytes) -> None:
    blob = store.create_blob(CLUSTER, thin=True)
    blob.snapshot(xattrs={"snapshot_time": time})
    (judged,) = judge_snapshots(store, blob.id, Retention(last=0, daily=1))
    assert (judged.taken_at, judged.reasons) == (None, (NO_TIME,))


def test_a_retention_that_keeps_nothing_is_refused(store: Blobstore) -> None:
    blob = store.create_blob(CLUSTER, thin=True)
    for rules in (Retention(), Retention(last=1, daily=-1)):
        with pytest.raises(InvalidArgumentError, match="retention"):
            judge_snapshots(store, blob.id, rules)
