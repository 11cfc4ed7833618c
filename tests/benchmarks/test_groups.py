"""Groups of the benchmarks do what they say, at a size that takes no time."""

import importlib.util
from pathlib import Path

import pytest

from benchmarks import data_path, databases, fio, memory, opening, snapshots, tasks
from benchmarks.curve import Curve
from benchmarks.measure import Row
from benchmarks.scale import Scale

_TINY = Scale(
    rounds=1,
    requests=8,
    direct_requests=4,
    large_requests=2,
    thin_clusters=4,
    copied_clusters=2,
    durable_calls=2,
    snapshots=1,
    values=256,
    value_requests=8,
    durable_values=2,
    metadata_pages=64,
    blobs=16,
    uncached_pages=64,
    page_counts=(40, 80),
    store_sizes_gib=(1, 2),
    open_counts=(2, 4),
    extent_counts=(2, 4),
    depths=(1, 3),
)


def test_databases_are_rows_and_one_that_is_missing_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    rows = list(databases.rows(tmp_path, _TINY))
    assert len(rows) == 9
    missing = [row for row in rows if row.compared_with == "LMDB"]
    assert [row.yardstick for row in missing] == [
        "not measured: the package lmdb is not installed"
    ] * 3
    assert all(row.ratio for row in rows if row not in missing)


def test_without_fio_the_bare_calls_are_still_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fio, "is_there", lambda: False)
    monkeypatch.setattr(data_path, "SIZE", 4 << 20)
    rows = list(data_path.cached_rows(tmp_path, _TINY))
    assert [row.yardstick == "not measured: no fio" for row in rows] == [True, False] * 4
    assert not list(tmp_path.iterdir())


def test_tasks_on_both_event_loops_are_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fio, "is_there", lambda: False)
    monkeypatch.setattr(tasks, "_SIZE", 4 << 20)
    rows = list(tasks.rows(tmp_path, _TINY))
    assert [row.work.split(", ")[1:] for row in rows] == [
        [way, f"32 tasks of {loop}"]
        for way in ("cached", "direct")
        for loop in ("asyncio", "uvloop")
    ]
    assert not list(tmp_path.iterdir())


def test_reads_through_a_parent_are_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_path, "SIZE", 4 << 20)
    (row,) = data_path.clone_rows(tmp_path, _TINY)
    assert row.goal is not None
    assert row.ratio is not None
    assert not list(tmp_path.iterdir())


def test_a_snapshot_and_a_copy_are_rows(tmp_path: Path) -> None:
    rows = [*snapshots.snapshot_rows(tmp_path, _TINY), *snapshots.copy_rows(tmp_path, _TINY)]
    assert [row.goal is not None and row.ratio is not None for row in rows] == [True, True]
    assert not list(tmp_path.iterdir())


def test_opening_a_store_and_its_blobs_are_rows(tmp_path: Path) -> None:
    rows = list(opening.cached_rows(tmp_path, _TINY))
    assert [row.goal is not None and row.ratio is not None for row in rows] == [True] * 3
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("group", [opening.curves, memory.curves, snapshots.curves])
def test_every_curve_has_its_sizes(tmp_path: Path, group: object) -> None:
    assert callable(group)
    curves = list(group(tmp_path, _TINY))
    assert curves
    for curve in curves:
        assert isinstance(curve, Curve)
        assert len(curve.sizes) == 2
    assert not list(tmp_path.iterdir())


def test_an_uncached_opening_is_a_row_or_says_why_not(tmp_path: Path) -> None:
    (row,) = opening.uncached_rows(tmp_path, _TINY)
    assert isinstance(row, Row)
    assert row.ratio is not None or row.ours.startswith("not measured")
