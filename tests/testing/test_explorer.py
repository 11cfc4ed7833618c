"""The crash explorer itself: it finds what it must, and what is right passes.

Its judgement is tested with protocols that are broken on purpose, and with
stores in which one thing was lost.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import chain
from typing import Final

import pytest

from blobstore.format.descriptors import Flags
from blobstore.format.geometry import blob_id_of
from blobstore.format.page import NO_PAGE, PAGE_SIZE, MetadataPage
from blobstore.format.super_block import SuperBlock
from blobstore.testing.crash_states import Limits
from blobstore.testing.expectation import (
    BLOCK,
    ZERO_BLOCK,
    Expectation,
    ExpectedBlob,
    FoundBlob,
    FoundStore,
    Meta,
    either,
)
from blobstore.testing.explorer import Explorer, Tally, judge
from blobstore.testing.simulated_disk import Flushed, SimulatedDisk
from blobstore.testing.workload import CLUSTER, Record, Step
from blobstore.units import PageIndex
from tests.proof.mutation import Use, judge_flush, uses_of_flushes
from tests.proof.scenarios import (
    Scenario,
    make_base,
    random_scenarios,
    run_scenario,
    scenarios,
    special_scenarios,
)

SHORT: Final = Limits(subsets=4, samples=1, torn_masks=1)
"""What `make crash` looks at in full; here every operation on one base, in a few states."""

ENOUGH: Final = Limits(subsets=64, samples=8, torn_masks=16)
"""To find what is wrong on purpose."""

OLD, NEW = b"o" * BLOCK, b"n" * BLOCK


def explore(scenario: Scenario, limits: Limits = SHORT, second_crash: int = 0) -> Tally:
    ran = run_scenario(scenario)
    if ran is None:
        return Tally()
    record, first = ran
    limits = replace(limits, atomic=record.disk.traits.atomic_write_size)
    return Explorer(limits=limits, second_crash=second_crash).explore(record, first_event=first)


# What is right passes


@pytest.mark.parametrize("sector", [True, False], ids=["sector", "compact"])
def test_no_crash_during_any_single_operation_leaves_a_bad_state(sector: bool) -> None:
    total = Tally()
    for scenario in chain(special_scenarios(), scenarios(1, all_bases=False)):
        if scenario.sector is sector:
            total.add(explore(scenario, second_crash=29 if sector else 13))
    assert total.findings == []
    assert total.loaded > (500 if sector else 300)
    assert {model for model, _operation in total.states} == set("ABCDEF" if sector else "ABEF")


def test_no_crash_during_a_long_random_run_leaves_a_bad_state() -> None:
    for scenario in random_scenarios(2, seed=8):
        assert explore(scenario).findings == []


def test_a_random_run_clones_no_blob_whose_read_only_flag_was_not_synced() -> None:
    (scenario,) = random_scenarios(1, seed=798)  # it once ended in an InvalidArgumentError
    assert (scenario.base, scenario.sector) == ("dirty", True)
    ran = run_scenario(scenario)
    assert ran is not None


AFTER_A_SNAPSHOT: Final[dict[str, list[Step]]] = {
    "delete the clone": [("close", "a"), ("delete", "a")],
    "give the clone another parent": [("set_parent", "a", "s0")],
}


@pytest.mark.parametrize("sector", [True, False], ids=["sector", "compact"])
@pytest.mark.parametrize("operation", AFTER_A_SNAPSHOT)
def test_a_snapshot_that_was_acknowledged_survives_whatever_happens_to_its_clone(
    operation: str, sector: bool
) -> None:
    workload = make_base("snapshots", sector=sector).start()
    workload.run([("load",), ("snapshot", "a", "n")])
    first = len(workload.disk.events)
    workload.run(AFTER_A_SNAPSHOT[operation])
    assert findings_after(workload.record, first) == 0


# What is wrong is found


def record_of(operation: str, *, sector: bool = True, base: str = "clean") -> tuple[Record, int]:
    ran = run_scenario(Scenario(base, sector, (operation,)))
    assert ran is not None
    return ran


def findings_after(record: Record, first: int) -> int:
    limits = replace(ENOUGH, atomic=record.disk.traits.atomic_write_size)
    return len(Explorer(limits=limits).explore(record, first_event=first).findings)


@pytest.mark.parametrize("operation", ["create thick", "delete chain", "xattr long", "write sync"])
def test_an_acknowledgement_that_came_before_its_flush_is_found(operation: str) -> None:
    record, first = record_of(operation)
    assert findings_after(record, first) == 0
    flushes = [at for at, e in enumerate(record.disk.events) if isinstance(e, Flushed)]
    span = record.spans[-1]
    record.spans[-1] = replace(span, end=flushes[-1])
    record.spans.append(replace(span, start=flushes[-1], during=span.after))
    assert findings_after(record, first) > 0


@pytest.mark.parametrize("operation", ["create chain", "xattr long", "write sync"])
def test_a_root_that_is_written_before_what_it_names_is_found(operation: str) -> None:
    record, first = record_of(operation)
    events = record.disk.events
    flushes = [at for at, e in enumerate(events) if isinstance(e, Flushed) and at >= first]
    before, last = flushes[-2], flushes[-1]
    assert last - before == 2, "the last thing that is written is the root"
    events[before], events[before + 1] = events[before + 1], events[before]
    assert findings_after(record, first) > 0


def test_a_root_written_whole_on_a_device_that_tears_it_is_found() -> None:
    record, first = record_of("xattr", sector=False)
    assert findings_after(record, first) == 0
    limits = Limits(subsets=64, atomic=512)
    assert Explorer(limits=limits).explore(record, first_event=first).findings


PAIRS: Final = (
    Scenario("original", True, ("delete chain", "xattr long")),
    Scenario("leftovers", True, ("delete thin", "create thin")),
    Scenario("clean", True, ("write", "reload")),
)
"""Three flushes are missed by no single operation, only by the second of two."""

SHARDS: Final = 4


@cache
def flushes() -> dict[str, list[Use]]:
    return uses_of_flushes(chain(PAIRS, special_scenarios(), scenarios(1)))


@pytest.mark.parametrize("shard", range(SHARDS))
def test_without_any_one_flush_of_the_core_something_goes_wrong(shard: int) -> None:
    sites = list(flushes())
    assert len(sites) >= 18
    verdicts = [judge_flush(site, flushes()[site]) for site in sites[shard::SHARDS]]
    assert [verdict.site for verdict in verdicts if verdict.finding is None] == []


def clean_disk(sector: bool = True) -> tuple[SimulatedDisk, Expectation]:
    base = make_base("clean", sector=sector)
    return base.start().disk, base.expectation


def test_a_whole_store_is_judged_well() -> None:
    disk, expected = clean_disk()
    assert judge(disk, expected) is None


Damage = Callable[[SimulatedDisk], None]


def page_at(number: int) -> slice:
    return slice((4 + number) * CLUSTER, (4 + number) * CLUSTER + PAGE_SIZE)


def lose_the_super_block(disk: SimulatedDisk) -> None:
    disk.content[:PAGE_SIZE] = bytes(PAGE_SIZE)


def forget_a_root(disk: SimulatedDisk) -> None:
    disk.content[page_at(0)] = bytes(PAGE_SIZE)


def leave_a_root_in_a_free_page(disk: SimulatedDisk) -> None:
    at = PageIndex(20)
    disk.content[page_at(at)] = MetadataPage(blob_id_of(at), 0, Flags().encode(), NO_PAGE).encode()


def lose_a_root(disk: SimulatedDisk) -> None:
    disk.content[page_at(0)] = bytes(PAGE_SIZE)
    say_dirty(disk)


def damage_a_root(disk: SimulatedDisk) -> None:
    disk.content[page_at(0).start + 4000] ^= 1
    say_dirty(disk)


def damage_a_mask(disk: SimulatedDisk) -> None:
    disk.content[CLUSTER + 5 + 1] ^= 0x40


def damage_data(disk: SimulatedDisk) -> None:
    at = bytes(disk.content).rindex((5).to_bytes(4, "big") * 100)
    disk.content[at] ^= 1


def say_dirty(disk: SimulatedDisk) -> None:
    found = SuperBlock.decode(disk.content[:PAGE_SIZE])
    disk.content[:PAGE_SIZE] = found.with_changes(clean=False).encode()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lose_the_super_block, "there is no store"),
        (lose_a_root, "is missing"),
        (damage_a_root, "quarantine"),
        (forget_a_root, "does not open"),
        (leave_a_root_in_a_free_page, "the original sees a blob"),
        (damage_a_mask, "masks differ"),
        (damage_data, "never written there"),
    ],
)
def test_a_damaged_store_is_judged_badly(damage: Damage, problem: str) -> None:
    disk, expected = clean_disk()
    damage(disk)
    found = judge(disk, expected)
    assert found is not None
    assert problem in found


# Expectations


def found_blob(**changes: object) -> FoundStore:
    meta = Meta(1, (("k", b"v"),))
    content = OLD * 8
    blob = FoundBlob(replace(meta, **changes), content)  # type: ignore[arg-type]
    return FoundStore({1: blob}, None, 100)


def expected_store() -> Expectation:
    blob = ExpectedBlob([Meta(0)])
    blob.change(Meta(1, (("k", b"v"),)), blocks_per_cluster=8)
    for at in range(8):
        blob.write(at, OLD)
    blob.flushed()
    return Expectation(blobs={1: blob}, sizes={100})


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        pytest.param(FoundStore({}, None, 100), "missing", id="a blob"),
        pytest.param(found_blob(xattrs=()), "metadata", id="an attribute"),
        pytest.param(found_blob(xattrs=(("k", b"w"),)), "metadata", id="a value"),
        pytest.param(found_blob(cluster_count=2), "metadata", id="a size"),
        pytest.param(found_blob(read_only=True), "metadata", id="a flag"),
        pytest.param(found_blob(parent=7), "metadata", id="a parent"),
        pytest.param(replace(found_blob(), super_blob=1), "super blob", id="the super blob"),
        pytest.param(replace(found_blob(), size_bytes=99), "99 bytes", id="the store's size"),
        pytest.param(
            FoundStore({**found_blob().blobs, 2: found_blob().blobs[1]}, None, 100),
            "should not be there",
            id="a deleted blob",
        ),
        pytest.param(
            FoundStore({1: FoundBlob(Meta(1, (("k", b"v"),)), OLD * 7 + NEW)}, None, 100),
            "block 7",
            id="a block of data",
        ),
    ],
)
def test_an_expectation_notices_the_loss_or_change_of(found: FoundStore, problem: str) -> None:
    assert expected_store().problem(found_blob()) is None
    said = expected_store().problem(found)
    assert said is not None
    assert problem in said


def test_before_a_flush_a_block_may_be_old_or_new_and_afterwards_only_new() -> None:
    blob = expected_store().blobs[1]
    blob.write(3, NEW)
    for block in (OLD, NEW):
        assert blob.problem(FoundBlob(blob.meta, OLD * 3 + block + OLD * 4)) is None
    assert blob.problem(FoundBlob(blob.meta, OLD * 3 + ZERO_BLOCK + OLD * 4)) is not None
    blob.flushed()
    assert blob.problem(FoundBlob(blob.meta, OLD * 8)) is not None


def test_before_a_flush_metadata_may_be_any_version_since_the_last_one() -> None:
    blob = expected_store().blobs[1]
    old = blob.meta
    blob.change(replace(old, read_only=True), blocks_per_cluster=8)
    for meta in (old, replace(old, read_only=True)):
        assert blob.problem(FoundBlob(meta, OLD * 8)) is None
    blob.flushed()
    assert blob.problem(FoundBlob(old, OLD * 8)) is not None


def test_what_a_blob_lost_by_shrinking_comes_back_as_zeroes_when_it_grows() -> None:
    blob = expected_store().blobs[1]
    blob.change(replace(blob.meta, cluster_count=0), blocks_per_cluster=8)
    blob.change(replace(blob.meta, cluster_count=1), blocks_per_cluster=8)
    blob.flushed()
    assert blob.problem(FoundBlob(blob.meta, ZERO_BLOCK * 8)) is None
    assert blob.problem(FoundBlob(blob.meta, OLD * 8)) is not None


def test_during_an_operation_both_its_beginning_and_its_end_may_be_found() -> None:
    before, after = expected_store(), expected_store()
    del after.blobs[1]
    after.super_blobs = {1}
    both = either(before, after)
    assert both.problem(found_blob()) is None
    assert both.problem(FoundStore({}, 1, 100)) is None
    assert both.problem(FoundStore({}, 2, 100)) is not None
    assert before.problem(FoundStore({}, None, 100)) is not None
