"""The server is killed and nothing is missing, and it would be noticed."""

from pathlib import Path

import pytest

from blobstore import VolumeStore
from tests.proof.nbd_kills import Ledger, judge, main, make_store


@pytest.mark.slow
def test_three_servers_are_killed_and_nothing_that_was_flushed_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--kills", "3", "--seed", "2"]) == 0
    report = capsys.readouterr().out
    assert "3 kills" in report
    assert " 0 writes" not in report
    assert " 0 bad" in report


def written(image: Path, ledger: Ledger, *, lost: bool) -> None:
    """Write block 3 as a client would, or lose the write."""
    version = ledger.begin(3, zeroes=False)
    if not lost:
        with VolumeStore.open(image) as store:
            store["load"].write(version.content, 3 * 16384)
    covered = ledger.begin_flush()
    ledger.end(3, version, durable=False)
    ledger.end_flush(covered)


def test_a_write_that_is_missing_is_noticed_after_the_flush_that_covered_it(tmp_path: Path) -> None:
    make_store(tmp_path / "disk.img")
    ledger = Ledger()
    written(tmp_path / "disk.img", ledger, lost=True)
    assert judge(tmp_path / "disk.img", ledger) == []  # the flush began before the write ended
    written(tmp_path / "disk.img", ledger, lost=True)
    ledger.end_flush(ledger.begin_flush())
    (problem,) = judge(tmp_path / "disk.img", ledger)
    assert problem.startswith("block 3: 0000000000000000, expected one of")


def test_a_write_with_fua_must_be_there_and_one_without_may(tmp_path: Path) -> None:
    make_store(tmp_path / "disk.img")
    for durable, count in ((False, 0), (True, 1)):
        ledger = Ledger()
        ledger.end(7, ledger.begin(7, zeroes=False), durable=durable)
        assert len(judge(tmp_path / "disk.img", ledger)) == count


def test_what_is_there_is_what_the_next_round_begins_with(tmp_path: Path) -> None:
    make_store(tmp_path / "disk.img")
    ledger = Ledger()
    written(tmp_path / "disk.img", ledger, lost=False)
    for _round in range(2):
        assert judge(tmp_path / "disk.img", ledger) == []
        assert len(ledger.possible[3]) == 1
