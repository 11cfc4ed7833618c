"""Whatever is broken in a store, `check` names it and `repair` mends it, and nothing else."""

import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from blobstore import check, repair, undo
from blobstore.fsck.finding import Severity
from tests import matrix
from tests.fsck.stores import (
    assert_usable,
    broken,
    broken_at_once,
    contents,
    device_of,
    repaired,
    sound_contents,
)
from tests.proof.corruptions.catalogue import MODES, Corruption
from tests.proof.corruptions.sample import LAYOUTS, sample
from tests.proof.corruptor import CORRUPTIONS, main

LAST_INVARIANT = 46

both_layouts = pytest.mark.parametrize("layout", LAYOUTS, ids=["sector", "compact"])


def in_turn_with_layouts(
    name: str, values: Iterable[object], *, first: int = 0
) -> pytest.MarkDecorator:
    """Give each value one layout, from the first or the second on."""
    named = {str(getattr(item, "name", item)): item for item in values}
    layouts = {str(layout): layout for layout in LAYOUTS}
    return matrix.in_turn((name, "layout"), named, layouts, first=first)


def each(*corruptions: Corruption) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("corruption", corruptions, ids=[c.name for c in corruptions])


NOTES = [c for c in CORRUPTIONS if c.mode is None and c.severity is Severity.NOTE]
HOPELESS = [c for c in CORRUPTIONS if c.mode is None and c.severity is not Severity.NOTE]
MENDABLE = [c for c in CORRUPTIONS if c.mode is not None]
STRUCTURAL = [c for c in MENDABLE if c.touches and 17 <= c.invariants[0] <= 41]


@both_layouts
@pytest.mark.parametrize("dirty", [False, True], ids=["clean", "dirty"])
def test_nothing_is_wrong_with_a_sound_store(layout: int, dirty: bool) -> None:
    sound = sample(layout)
    image = sound.dirty if dirty else sound.clean
    device = device_of(image, layout)
    report = check(device)
    assert report.clean
    assert [str(found) for found in report.findings if found.severity is not Severity.NOTE] == []
    assert device.image == image


@both_layouts
@pytest.mark.parametrize("mode", MODES)
def test_repairing_a_sound_store_changes_no_byte(layout: int, mode: str) -> None:
    image = sample(layout).clean
    assert repaired(image, layout, mode)[0] == image


@both_layouts
@pytest.mark.parametrize("mode", MODES)
def test_repairing_a_dirty_store_keeps_all_blobs(layout: int, mode: str) -> None:
    after, report = repaired(sample(layout).dirty, layout, mode)
    assert report.after.clean
    assert contents(after, layout) == sound_contents(layout)
    assert_usable(after, layout, sound_contents(layout))


@both_layouts
@each(*CORRUPTIONS)
def test_check_names_what_is_broken_and_where_and_nothing_else(
    corruption: Corruption, layout: int
) -> None:
    image, place = broken(corruption, layout)
    device = device_of(image, layout)
    report = check(device)
    assert device.image == image
    assert report.clean == (corruption.severity is Severity.NOTE)
    kind = (corruption.invariants[0], corruption.severity)
    named = [found for found in report.findings if (found.invariant, found.severity) == kind]
    assert any(map(place.is_met_by, named)), "\n".join(map(str, report.findings))
    others = [found for found in report.findings if found.invariant not in corruption.invariants]
    assert [str(found) for found in others if found.severity is not Severity.NOTE] == []


@in_turn_with_layouts("corruption", MENDABLE)
def test_the_weakest_mode_that_mends_it_is_the_declared_one(
    corruption: Corruption, layout: int
) -> None:
    image, _place = broken(corruption, layout)
    assert corruption.mode is not None
    if corruption.mode != MODES[0]:
        weaker = MODES[MODES.index(corruption.mode) - 1]
        _after, report = repaired(image, layout, weaker)
        left = {(found.invariant, found.severity) for found in report.after.findings}
        assert (corruption.invariants[0], corruption.severity) in left
    assert_mended(corruption, layout, corruption.mode)


@in_turn_with_layouts("corruption", [c for c in MENDABLE if c.mode != "all"], first=1)
def test_the_strongest_mode_mends_what_a_weaker_one_does(
    corruption: Corruption, layout: int
) -> None:
    assert_mended(corruption, layout, "all")


def assert_mended(corruption: Corruption, layout: int, mode: str) -> None:
    """A second check finds nothing, a second repair does nothing, no other blob changed."""
    image, _place = broken(corruption, layout)
    after, report = repaired(image, layout, mode)
    assert report.repaired
    again = check(device_of(after, layout))
    assert again == report.after
    assert again.clean, "\n".join(map(str, again.findings))
    kind = (corruption.invariants[0], corruption.severity)
    assert kind not in {(found.invariant, found.severity) for found in again.findings}
    assert repaired(after, layout, mode)[0] == after
    sound, now = sound_contents(layout), contents(after, layout)
    kept = {blob_id: sound[blob_id] for blob_id in corruption.ids_kept(sample(layout).names)}
    assert {blob_id: now.get(blob_id) for blob_id in kept} == kept
    assert_usable(after, layout, kept)


@in_turn_with_layouts("corruption", STRUCTURAL)
def test_a_dirty_store_makes_no_difference_to_what_is_broken_in_its_chains(
    corruption: Corruption, layout: int
) -> None:
    turned = replace(corruption, dirty=not corruption.dirty)
    image, place = broken(turned, layout)
    findings = check(device_of(image, layout)).findings
    named = [found for found in findings if found.invariant == corruption.invariants[0]]
    assert any(map(place.is_met_by, named)), "\n".join(map(str, findings))
    assert_mended(turned, layout, "all")


@in_turn_with_layouts("seed", range(30))
def test_several_things_that_are_broken_at_once_are_all_mended(seed: int, layout: int) -> None:
    chance = random.Random(seed)
    chosen: list[Corruption] = []
    touched: set[str] = set()
    for corruption in chance.sample(STRUCTURAL, 12):
        if touched.isdisjoint(corruption.touches):
            chosen.append(corruption)
            touched.update(corruption.touches)
    assert len(chosen) >= 2
    image = broken_at_once(chosen, layout, dirty=seed % 4 > 1)
    before = check(device_of(image, layout))
    found = {finding.invariant for finding in before.findings}
    assert found >= {corruption.invariants[0] for corruption in chosen}
    after, report = repaired(image, layout, "all")
    assert report.after.clean, "\n".join(map(str, report.after.findings))
    assert repaired(after, layout, "all")[0] == after
    sound, now = sound_contents(layout), contents(after, layout)
    names = sample(layout).names.items()
    kept = {blob_id: sound[blob_id] for name, blob_id in names if name not in touched}
    assert {blob_id: now.get(blob_id) for blob_id in kept} == kept
    assert_usable(after, layout, kept)


@both_layouts
@each(*NOTES)
def test_what_is_only_noted_survives_every_repair(corruption: Corruption, layout: int) -> None:
    image, _place = broken(corruption, layout)
    for mode in MODES:
        after, report = repaired(image, layout, mode)
        assert report.before.clean
        assert report.after.clean
        assert contents(after, layout) == contents(image, layout)


@both_layouts
@each(*HOPELESS)
def test_what_cannot_be_known_is_not_guessed(corruption: Corruption, layout: int) -> None:
    image, _place = broken(corruption, layout)
    for mode in MODES:
        after, report = repaired(image, layout, mode)
        assert after == image
        assert not report.after.clean


@in_turn_with_layouts("corruption", MENDABLE, first=1)
def test_a_dry_run_tells_the_same_and_undo_brings_every_bit_back(
    corruption: Corruption, layout: int, tmp_path: Path
) -> None:
    image, _place = broken(corruption, layout)
    device = device_of(image, layout)
    announced = repair(device, "all", dry_run=True)
    assert device.image == image
    done = repair(device, "all", undo=tmp_path / "undo")
    assert (announced.repaired, announced.after) == (done.repaired, done.after)
    assert device.image != image
    undo(device, tmp_path / "undo")
    assert device.image == image


def test_every_invariant_is_broken_by_some_corruption() -> None:
    first = {corruption.invariants[0] for corruption in CORRUPTIONS}
    assert first == set(range(1, LAST_INVARIANT + 1))


def test_there_are_at_least_sixty_corruptions_and_each_has_its_own_name() -> None:
    names = [corruption.name for corruption in CORRUPTIONS]
    assert len(names) >= 60
    assert len(set(names)) == len(names)


def test_the_catalogue_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines] == [c.name for c in CORRUPTIONS]


def test_what_check_found_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--run", "--only", "cluster-of-two-blobs"]) == 0
    out = capsys.readouterr().out
    assert "error 35: cluster" in out
    assert "4 broken stores, 0 not named" in out
