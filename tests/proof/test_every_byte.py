"""A seeded sample of every byte set to wrong values, and of the bytes that matter most."""

from typing import Final

import pytest

from tests.proof.every_byte import Bench, Case, Tally, main, sample, try_all
from tests.proof.legal import flaw_of
from tests.proof.small_stores import small_stores

SAMPLE: Final = 1000
STORES: Final = len(small_stores())


@pytest.mark.parametrize("number", range(STORES))
def test_every_small_store_is_sound_and_reads_without_an_error(number: int) -> None:
    bench = Bench(number)
    assert bench.right.refusal is None
    assert not bench.right.errors
    assert bench.right.blobs
    assert flaw_of(bench.store.image) is None


def test_the_small_stores_have_all_that_the_format_has() -> None:
    kinds = {(n, region.kind) for n in range(STORES) for region in Bench(n).regions}
    for kind in ("super block", "mask", "root", "chain page", "extent page"):
        assert sum(found == kind for _number, found in kinds) >= 2
    assert {store.atomic_write_size for store in small_stores()} == {512, 4096}


def test_a_byte_has_five_wrong_values_with_and_without_the_right_checksum() -> None:
    bench = Bench(0)
    cases = list(bench.cases(0, 30))
    now = bench.image[30]
    assert {case.value for case in cases} == {0, 0xFF, now ^ 1, now ^ 0x80, now ^ 0xFF} - {now}
    assert {case.fixed for case in cases} == {False, True}


def test_a_damaged_image_is_mended_before_the_next_case() -> None:
    bench = Bench(0)
    for at in (12, 40, 600):
        for case in bench.cases(1, at):
            bench.try_case(case)
            assert bench.image == bench.store.image


def test_a_value_changed_under_a_right_checksum_is_lawful_and_told_under_a_wrong_one() -> None:
    bench = Bench(4)
    root = next(n for n, region in enumerate(bench.regions) if region.kind == "root")
    at = bench.store.image.index(b"the store") - bench.regions[root].offset
    verdicts = [bench.try_case(Case(4, root, at, ord("T"), fixed))[0] for fixed in (True, False)]
    assert verdicts == ["lawful", "told"]


def test_no_byte_of_a_sample_crashes_hangs_or_deceives() -> None:
    tally = try_all(sample(SAMPLE, seed=11, stores=STORES))
    assert tally.counts.total() == SAMPLE
    assert tally.bad_count == 0, [(what, tally.examples[what]) for what in tally.failures]


def test_failures_that_differ_in_numbers_only_are_counted_together() -> None:
    tally = Tally()
    tally.add_failure(Case(0, 0, 1, 2, True), "SILENT: root 4: an empty run")
    tally.add_failure(Case(0, 0, 1, 3, True), "SILENT: root 17: an empty run")
    assert tally.failures == {"SILENT: root #: an empty run": 2}
    assert tally.examples["SILENT: root #: an empty run"].value == 2


def test_the_command_prints_a_line_for_each_store_and_region(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--sample", "300", "--stores", "2", "--jobs", "1", "--seed", "4"]) == 0
    printed = capsys.readouterr().out
    assert "chains       super block  right" in printed
    assert "300 cases, 0 bad" in printed
