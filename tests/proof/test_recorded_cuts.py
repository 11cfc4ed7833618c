"""The real program's system calls, cut off: what is right passes, what is not is seen."""

import random
from dataclasses import replace
from typing import Final

import pytest

from tests.proof.recorded_cuts import (
    IMAGE,
    STEPS,
    Outcome,
    Recorded,
    Shop,
    Step,
    explore,
    explore_program,
)
from tests.proof.system_calls import Call, Changed, Sized, Synced, left_by_cuts, may_trace

SHORT: Final = ("import", "snapshot", "repair", "undo", "repair again", "undo again", "init")

needs_strace = pytest.mark.skipif(not may_trace(), reason="no strace, or tracing is not allowed")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    made = Shop(tmp_path_factory.mktemp("shop") / "work")
    made.prepare()
    return made


@needs_strace
def test_no_cut_of_the_real_program_leaves_a_bad_state(shop: Shop) -> None:
    outcome = explore_program(shop, samples=6, names=SHORT)
    assert outcome.bad == []
    assert {name for name, _model in outcome.states} == set(SHORT)
    assert outcome.looked_at > 80


def step_named(name: str) -> Step:
    return next(step for step in STEPS if step.name == name)


def bad_states(recorded: Recorded, step: Step) -> list[str]:
    outcome = Outcome()
    explore(recorded, step.judge(recorded), samples=20, outcome=outcome)
    return outcome.bad


@needs_strace
@pytest.mark.parametrize("name", ["snapshot", "repair", "undo"])
def test_a_program_that_does_not_flush_is_seen(name: str, shop: Shop) -> None:
    step = step_named(name)
    recorded = shop.record(step)
    assert bad_states(recorded, step) == []
    calls = [(path, call) for path, call in recorded.calls if not isinstance(call, Synced)]
    bad = bad_states(replace(recorded, calls=calls), step)
    assert any("subset" in each for each in bad)


@needs_strace
def test_a_repair_whose_undo_file_is_not_durable_first_is_seen(shop: Shop) -> None:
    step = step_named("repair")
    recorded = shop.record(step)
    assert recorded.is_all_else_durable_first()
    calls = [(path, call) for path, call in recorded.calls if path != "."]
    assert not replace(recorded, calls=calls).is_all_else_durable_first()


# States


def states_of(*calls: Call, base: bytes = bytes(2048)) -> set[bytes]:
    return {left.content for left in left_by_cuts(base, calls, random.Random(1), samples=200)}


def test_what_is_not_synced_may_be_missing_in_any_combination() -> None:
    a, b = Changed(0, b"a" * 512), Changed(512, b"b" * 512)
    only_a, only_b = b"a" * 512 + bytes(1536), bytes(512) + b"b" * 512 + bytes(1024)
    both = b"a" * 512 + b"b" * 512 + bytes(1024)
    assert states_of(a, b) == {only_a, only_b, both}
    assert states_of(a, Synced(), b) == {only_a, both}
    assert states_of(a, Synced()) == {only_a}


def test_a_write_is_torn_between_sectors_only() -> None:
    states = states_of(Changed(0, b"x" * 1536))
    assert len(states) == 8
    for content in states:
        assert all(content[at : at + 512] in (bytes(512), b"x" * 512) for at in range(0, 1536, 512))


def test_a_file_that_was_cut_may_have_its_old_size() -> None:
    states = states_of(Sized(512), Changed(0, b"x" * 512))
    assert states == {bytes(512), b"x" * 512, b"x" * 512 + bytes(1536)}


def test_the_image_is_named_as_the_program_is_told() -> None:
    assert all(IMAGE in step.command for step in STEPS)
