"""The exception to "what is written here is read there", and what ends it.

After a crash in the middle of creating or deleting a snapshot that has a parent, or of a conversion
by copy, the original must not load the store first. One open and close here puts it right.
"""

import random
from collections.abc import Iterator

import pytest

from blobstore.metadata.load_store import load
from blobstore.store.lifecycle import unload
from blobstore.testing.alone import run_alone
from blobstore.testing.crash_states import (
    Limits,
    apply,
    between_flushes,
    crash_states,
    make_durable,
)
from blobstore.testing.inspect_store import load_checked
from blobstore.testing.original import OriginalStore, load_as_original, original_problem
from blobstore.testing.simulated_disk import SimulatedDisk
from tests.proof.scenarios import Scenario, run_scenario

SECTOR = 512


def crash_images(scenario: Scenario) -> Iterator[bytes]:
    """Yield what cuts in the middle of the scenario's last operation can leave."""
    ran = run_scenario(scenario)
    assert ran is not None
    record, first = ran
    durable, rng = bytearray(record.base), random.Random(7)
    for pending in between_flushes(record.disk.events, None):
        for state in crash_states(pending, Limits(32, 8, 8, SECTOR), rng):
            if state.event >= first:
                image = bytearray(durable)
                apply(image, state.patches)
                yield bytes(image)
        make_durable(durable, pending)


def is_dangerous(store: OriginalStore) -> bool:
    """Tell whether the original could die of the image, or not open a blob."""
    return store.has_marker or bool(store.broken)


def loses_blobs(store: OriginalStore, mended: OriginalStore) -> bool:
    """Tell whether the original would not see a blob that is there."""
    return not set(mended.blobs) <= set(store.blobs)


@pytest.mark.parametrize(
    ("base", "operation"),
    [
        ("snapshots", "snapshot"),
        ("snapshots", "delete middle"),
        ("snapshots", "delete shared"),
        ("snapshots by the original", "snapshot"),
        ("snapshots by the original", "delete middle"),
        ("original", "xattr chain"),
        ("original", "grow blob"),
    ],
)
def test_one_open_and_close_makes_every_crash_state_one_that_the_original_reads(
    base: str, operation: str
) -> None:
    dangerous = 0
    for image in set(crash_images(Scenario(base, True, (operation,)))):
        disk = SimulatedDisk(image)
        run_alone(unload(run_alone(load(disk.traits), disk)), disk)
        mended = bytes(disk.content)
        before, after = load_as_original(image), load_as_original(mended)
        dangerous += is_dangerous(before) or loses_blobs(before, after)
        assert not is_dangerous(after)
        loaded = load_checked(SimulatedDisk(mended))
        assert loaded is not None
        assert original_problem(mended, loaded[1]) is None
    assert dangerous
