"""The proof that a killed process loses nothing that was flushed to a device, and hangs nothing."""

from pathlib import Path

import pytest

from tests.attach.attachments import attachments
from tests.proof.attach_kills import Ledger, LostError, kill_rounds


@pytest.mark.slow
def test_a_few_kills_lose_nothing_that_was_flushed(tmp_path: Path) -> None:
    with attachments() as attached:
        ledger = kill_rounds(attached, tmp_path / "vms.img", kills=3, seed=1)
    assert ledger.count > 0


def test_the_ledger_misses_a_flushed_write_and_takes_either_of_two_that_were_not() -> None:
    ledger = Ledger()
    first = ledger.begin_write(0)
    ledger.flushed()
    second = ledger.begin_write(0)
    ledger.check(0, first)
    with pytest.raises(LostError):
        ledger.check(0, second)  # what was read once stays
    with pytest.raises(LostError):
        ledger.check(0, 0)
