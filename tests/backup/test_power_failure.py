"""A power failure while a stream is received leaves the snapshot whole or not at all."""

import pytest

from tests.proof.receive_cuts import explore, small_steps


@pytest.mark.slow
@pytest.mark.parametrize("flushing", [False, True], ids=["alone", "flushing"])
@pytest.mark.parametrize("sector", [True, False], ids=["sector", "compact"])
@pytest.mark.parametrize("volumes", [False, True], ids=["blobs", "volumes"])
@pytest.mark.parametrize("kind", ["whole", "difference"])
def test_a_cut_receipt_leaves_the_snapshot_whole_or_an_unfinished_blob(
    kind: str, volumes: bool, sector: bool, flushing: bool
) -> None:
    with small_steps():
        outcome = explore(kind, sector=sector, volumes=volumes, flushing=flushing)
    assert outcome.bad == []
    assert outcome.states > 30
    assert outcome.unfinished > 10
