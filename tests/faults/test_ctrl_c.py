"""A process gets SIGINT at random moments, from outside (`tests.proof.interrupts`)."""

import os
from typing import Final

import pytest

from tests.proof.interrupts import interrupt

MOMENTS: Final = 100 if "CI" in os.environ else 40


def test_ctrl_c_at_random_moments_never_poisons_and_loses_nothing_that_was_acknowledged() -> None:
    calls = interrupt(MOMENTS)
    assert calls.total() == MOMENTS
    assert len(calls) > 5


def test_without_protection_ctrl_c_poisons_and_the_proof_sees_it() -> None:
    with pytest.raises(AssertionError, match=r"poisoned by|not unloaded"):
        interrupt(MOMENTS, is_protected=False)
