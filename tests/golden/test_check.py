"""What `check` says of images that the original left as they are after a power failure."""

import pytest

from blobstore import Severity, check
from tests.golden.images import IMAGE_NAMES, load_image
from tests.replay import ReplayDevice

STOPPED_IN_A_SNAPSHOT = [
    "pf_recover_n00of06",
    "pf_snapcreate_big_et0_n04of05",
    "pf_snapcreate_big_et1_n04of05",
    "pf_snapcreate_et0_n04of05",
]


@pytest.mark.parametrize("name", STOPPED_IN_A_SNAPSHOT)
def test_a_store_that_the_original_left_in_the_middle_of_a_snapshot_has_a_note_and_no_error(
    name: str,
) -> None:
    report = check(ReplayDevice.of(load_image(name)))
    assert report.clean
    (note,) = [finding for finding in report.findings if finding.invariant == 26]
    assert note.severity is Severity.NOTE
    assert "SNAPTMP without its flag: the snapshot was not finished" in note.message


SNAPSHOTS = [name for name in IMAGE_NAMES if name.startswith(("pf_snapcreate", "pf_recover"))]


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_no_power_failure_in_a_snapshot_leaves_an_error_of_its_flags(name: str) -> None:
    report = check(ReplayDevice.of(load_image(name)))
    errors = [each for each in report.findings if each.severity is Severity.ERROR]
    assert 26 not in {each.invariant for each in errors}
