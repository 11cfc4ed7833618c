"""The states that a power cut can leave: counted exactly for records made by hand."""

import random
import subprocess
import sys
from collections import Counter
from typing import Final

import pytest

from blobstore.testing.crash_states import (
    EXHAUSTIVE,
    CrashState,
    Limits,
    apply,
    between_flushes,
    crash_contents,
    crash_states,
    tear,
    whole,
)
from blobstore.testing.simulated_disk import (
    GARBAGE,
    Event,
    Failure,
    Flushed,
    SimulatedDisk,
    Unmapped,
    Written,
)

PAGE: Final = bytes(range(1, 9)) * 512
NEW_PAGE: Final = b"".join(bytes([number]) * 512 for number in range(1, 9))
END: Final = Flushed("end")


def states_of(*events: Event, limits: Limits | None = None) -> list[CrashState]:
    pending = list(enumerate([*events, END]))
    return list(crash_states(pending, limits or Limits(), random.Random(1)))


def count_of(states: list[CrashState]) -> Counter[str]:
    return Counter(state.model for state in states)


def contents(states: list[CrashState], model: str, size: int = 16384) -> set[bytes]:
    found = set()
    for state in states:
        if state.model == model:
            content = bytearray(size)
            apply(content, state.patches)
            found.add(bytes(content))
    return found


def test_a_flush_with_nothing_before_it_leaves_no_state() -> None:
    assert states_of() == []


def test_one_sector_is_there_or_not() -> None:
    states = states_of(Written(512, b"x" * 512))
    assert count_of(states) == {"A": 1, "B": 2}
    assert contents(states, "A") == {bytes(16384)}
    assert len(contents(states, "B")) == 2


def test_a_torn_page_leaves_every_one_of_254_mixtures() -> None:
    states = states_of(Written(4096, NEW_PAGE))
    assert count_of(states) == {"A": 1, "B": 2, "C": 254}
    torn = contents(states, "C")
    assert len(torn) == 254
    for content in torn:
        sectors = [content[4096 + at : 4608 + at] for at in range(0, 4096, 512)]
        assert all(s in (bytes(512), bytes([n]) * 512) for n, s in enumerate(sectors, start=1))
        assert content[:4096] == bytes(4096)


def test_a_device_that_writes_pages_whole_tears_none() -> None:
    states = states_of(Written(4096, NEW_PAGE), limits=Limits(atomic=4096))
    assert count_of(states) == {"A": 1, "B": 2}


def test_of_a_write_of_three_pages_one_is_torn_and_those_before_it_are_done() -> None:
    states = states_of(Written(0, NEW_PAGE * 3))
    assert count_of(states)["C"] == 3 * 254
    for state in states:
        if state.model == "C":
            content = bytearray(3 * 4096)
            apply(content, state.patches)
            pages = [content[at : at + 4096] for at in (0, 4096, 8192)]
            torn = next(at for at, page in enumerate(pages) if page != NEW_PAGE)
            assert any(pages[torn])
            assert not any(b"".join(pages[torn + 1 :]))


def test_writes_in_flight_are_missing_in_every_subset_and_every_prefix() -> None:
    states = states_of(*(Written(512 * at, bytes([at + 1]) * 512) for at in range(5)))
    assert count_of(states) == {"A": 5, "B": 2**5, "D": Limits().samples}
    assert len(contents(states, "B")) == 2**5
    prefixes = contents(states, "A")
    assert {content.count(0) for content in prefixes} == {16384 - 512 * n for n in range(5)}


def test_a_prefix_is_cut_at_the_write_in_flight_and_a_subset_at_the_flush() -> None:
    states = states_of(Written(0, b"a" * 512), Written(512, b"b" * 512))
    assert [state.event for state in states if state.model == "A"] == [0, 1]
    assert {state.event for state in states if state.model == "B"} == {2}


def test_a_later_write_to_the_same_place_wins_where_both_are_there() -> None:
    states = states_of(Written(0, b"a" * 512), Written(0, b"b" * 512))
    firsts = {content[:1] for content in contents(states, "B")}
    assert firsts == {b"\0", b"a", b"b"}


def test_up_to_twelve_writes_all_subsets_are_tried_beyond_that_so_many_by_seed() -> None:
    twelve = [Written(512 * at, b"x" * 512) for at in range(12)]
    assert count_of(states_of(*twelve))["B"] == EXHAUSTIVE == 4096
    thirteen = [*twelve, Written(512 * 12, b"x" * 512)]
    states = states_of(*thirteen)
    assert count_of(states)["B"] == EXHAUSTIVE
    found = contents(states, "B")
    for at in range(13):
        alone, missing = bytearray(16384), bytearray(b"x" * 512 * 13).ljust(16384, b"\0")
        alone[512 * at : 512 * at + 512] = b"x" * 512
        missing[512 * at : 512 * at + 512] = bytes(512)
        assert {bytes(alone), bytes(missing)} <= found


def test_the_same_seed_gives_the_same_states() -> None:
    events = [Written(4096 * at, NEW_PAGE) for at in range(3)]
    limits = Limits(subsets=4, samples=9, torn_masks=11)
    assert states_of(*events, limits=limits) == states_of(*events, limits=limits)
    assert count_of(states_of(*events, limits=limits))["C"] == 3 * 11


@pytest.mark.parametrize("unmaps", [1, 2, 3])
def test_an_unmap_leaves_what_was_there_zeroes_or_garbage(unmaps: int) -> None:
    found = set()
    for state in states_of(*(Unmapped(512 * at, 512) for at in range(unmaps))):
        if state.model == "E":
            content = bytearray(b"o" * 2048)
            apply(content, state.patches)
            found.add(bytes(content[: 512 * unmaps : 512]))
    wanted = {b"o", b"\0", bytes([GARBAGE])}
    assert len(found) == 3**unmaps
    assert {bytes([byte]) for outcome in found for byte in outcome} == wanted


def test_with_an_unmap_the_other_writes_are_done() -> None:
    states = states_of(Written(0, b"w" * 512), Unmapped(512, 512))
    assert count_of(states)["E"] == 3
    assert all(content[:512] == b"w" * 512 for content in contents(states, "E"))


def test_a_tear_keeps_the_sectors_of_its_mask() -> None:
    assert tear(4096, NEW_PAGE, 0b1000_0001) == [
        (4096, b"\x01" * 512),
        (4096 + 7 * 512, b"\x08" * 512),
    ]
    assert tear(0, b"short", 1) == [(0, b"short")]


def test_what_is_between_two_flushes_ends_with_the_second_and_the_last_at_the_end() -> None:
    write = Written(0, b"x")
    events: list[Event] = [write, Flushed("one"), write, write, Flushed("two"), write]
    assert [[number for number, _event in epoch] for epoch in between_flushes(events, None)] == [
        [0, 1],
        [2, 3, 4],
        [5, 6],
    ]


def test_without_the_flushes_of_a_place_two_epochs_are_one() -> None:
    write = Written(0, b"x")
    events: list[Event] = [write, Flushed("one"), write, Flushed("two"), write]
    numbers = [[number for number, _event in epoch] for epoch in between_flushes(events, "one")]
    assert numbers == [[0, 2, 3], [4, 5]]


def test_the_disk_records_what_reaches_it_in_order() -> None:
    disk = SimulatedDisk(bytes(8192))
    disk.site = lambda: "here"
    disk.write(512, [b"a" * 512, b"b" * 512])
    disk.unmap(4096, 512)
    disk.write_zeroes(0, 512)
    disk.flush()
    assert disk.events == [
        Written(512, b"a" * 512 + b"b" * 512),
        Unmapped(4096, 512),
        Written(0, bytes(512)),
        Flushed("here"),
    ]
    assert disk.read(4096, 2) == bytes([GARBAGE]) * 2
    content = bytearray(8192)
    apply(content, [whole(event) for event in disk.events if not isinstance(event, Flushed)])
    assert content == disk.content


@pytest.mark.parametrize(("forever", "failed"), [(False, [2]), (True, [2, 3, 4])])
def test_a_failure_hits_one_operation_or_all_that_follow(forever: bool, failed: list[int]) -> None:
    failure = Failure(2, forever)
    assert [number for number in range(5) if failure.hits(number)] == failed


def test_the_contents_that_a_cut_can_leave_hold_all_that_was_flushed_before() -> None:
    old, new = bytes([1]) * 4096, bytes([2]) * 4096
    events: list[Event] = [Written(0, old), Flushed("first"), Written(0, new), Flushed("second")]
    found = list(crash_contents(bytes(4096), events))
    after_the_first = [content for state, content in found if state.event >= 2]
    assert {content for state, content in found if state.event < 2} >= {bytes(4096), old}
    assert {*after_the_first} >= {old, new}
    assert all({*content} <= {1, 2} for content in after_the_first)
    assert found == list(crash_contents(bytes(4096), events))


def test_the_package_for_testing_is_imported_without_pytest() -> None:
    code = """
import importlib, pkgutil, sys
import blobstore.testing
for module in pkgutil.iter_modules(blobstore.testing.__path__):
    if module.name != "pytest_plugin":
        importlib.import_module(f"blobstore.testing.{module.name}")
assert "blobstore.testing.device_contract" in sys.modules
print({"pytest", "hypothesis", "tests"} & {*sys.modules})
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "set()\n"), done.stderr
