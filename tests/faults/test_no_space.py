"""Want of clusters and of metadata pages at every claim of every operation (CRASH-SAFETY 1).

The store is filled up to the last few clusters or pages, and each script runs
with one more of them free until nothing is refused any more. Who is refused
finds everything as it was, and may go on.
"""

from itertools import count
from typing import Final

import pytest

from blobstore.errors import NoSpaceError
from blobstore.metadata.space import spare_pages
from blobstore.metadata.store_state import StoreState
from blobstore.testing.alone import run_alone
from blobstore.testing.workload import Step
from tests.faults.bench import NAMES, FaultWorkload, content_of, judge_content, script_of

LAYOUTS: Final = [pytest.param(True, id="sector"), pytest.param(False, id="compact")]
NEVER_REFUSED: Final = {"sync", "flush", "unmap", "unload", "load", "read", "super", "shallow_copy"}
ALLOCATE_FIRST: Final = {"inflate", "decouple"}
MERGES: Final = {"chains: delete middle", "chains: delete shared", "chains: delete runs"}
WITH_OWN_BEGINNING: Final = {"init", "grow closed"}
SCRIPTS: Final = [name for name in NAMES if name not in WITH_OWN_BEGINNING]
CLAIM_CLUSTERS: Final = {
    *("create thick", "create chain", "write sync", "write runs", "grow blob"),
    *("chains: copy on write", "chains: inflate", "chains: decouple"),
    *("inflate external", "external"),
}


def store_of(workload: FaultWorkload) -> StoreState:
    assert workload.store is not None
    return workload.store


def fill_clusters(workload: FaultWorkload, left: int) -> None:
    """Leave so many clusters free."""
    taken = store_of(workload).free_clusters - left
    if taken > 0:
        workload.step("create", "filler", taken, "runs")
    assert store_of(workload).free_clusters <= left


def fill_pages(workload: FaultWorkload, left: int) -> None:
    """Take all metadata pages for blobs without a cluster, and give a few back."""
    for number in count():
        try:
            workload.step("create", f"filler {number}", 0, "thin runs")
        except NoSpaceError:
            break
    for last in range(number - 1, max(-1, number - 1 - left), -1):
        workload.step("delete", f"filler {last}")
    for _ in range(3):
        workload.step("flush")
    assert spare_pages(store_of(workload)) <= left


def is_refused(workload: FaultWorkload, step: Step) -> bool:
    """Run a step; when it is refused, nothing has changed and nothing is held."""
    expected = workload.expected.copy()
    before = (0, 0) if workload.store is None else room_in(workload.store)
    try:
        workload.step(*step)
    except NoSpaceError:
        workload.expected = expected
    else:
        return False
    store = store_of(workload)
    assert step[0] not in NEVER_REFUSED
    assert store.poison is None
    assert not store.mutex.held
    assert not store.exclusive
    assert not store.allocating
    run_alone(store.epochs.grace_period(), workload.disk)
    clusters, pages = room_in(store)
    is_as_before = clusters == before[0] and pages >= before[1]
    assert is_as_before or step[0] in ALLOCATE_FIRST, step
    return True


def room_in(store: StoreState) -> tuple[int, int]:
    """Return how many clusters, and how many pages that nobody was promised, are left."""
    return store.free_clusters, spare_pages(store)


def check_everything(workload: FaultWorkload, place: str) -> None:
    """All open blobs read as they must, and so does the store when it is loaded again."""
    if workload.store is not None:
        for blob in workload.open.values():
            found = content_of(workload.store, blob, workload.disk)
            assert found == b"".join(workload.expected.blobs[blob.blob_id].current), place
        workload.step("unload")
    problem = judge_content(workload, workload.disk.content, workload.expected)
    assert problem is None, place


def refused_at(name: str, *, sector: bool, what: str, left: int) -> str | None:
    """Run a script with so many clusters or pages; return the step that was refused."""
    script = script_of(name, sector=sector)
    workload = script.start()
    first, *steps = script.steps
    workload.step(*first)
    (fill_clusters if what == "clusters" else fill_pages)(workload, left)
    refused = next((step for step in steps if is_refused(workload, step)), None)
    check_everything(workload, f"{name}, {left} {what}, refused: {refused}")
    return None if refused is None else str(refused[0])


@pytest.mark.parametrize("sector", LAYOUTS)
@pytest.mark.parametrize("name", SCRIPTS)
def test_without_clusters_a_claim_is_refused_and_nothing_else_happens(
    name: str, sector: bool
) -> None:
    refused = [refused_at(name, sector=sector, what="clusters", left=0)]
    while refused[-1] is not None:
        refused.append(refused_at(name, sector=sector, what="clusters", left=len(refused)))
    assert len(refused) > 1 or name not in CLAIM_CLUSTERS


@pytest.mark.parametrize("sector", LAYOUTS)
@pytest.mark.parametrize("name", SCRIPTS)
def test_without_metadata_pages_a_claim_is_refused_and_nothing_else_happens(
    name: str, sector: bool
) -> None:
    refused = [refused_at(name, sector=sector, what="pages", left=0)]
    while refused[-1] is not None and len(refused) < 12:
        refused.append(refused_at(name, sector=sector, what="pages", left=len(refused)))
    assert refused[-1] is None
    assert "delete" not in refused or name in MERGES


@pytest.mark.parametrize("sector", LAYOUTS)
def test_an_inflate_that_is_refused_for_pages_has_taken_no_cluster(sector: bool) -> None:
    workload = script_of("chains: inflate runs", sector=sector).start()
    workload.step("load")
    fill_pages(workload, 0)
    before = store_of(workload).free_clusters
    assert is_refused(workload, ("inflate", "t"))
    assert store_of(workload).free_clusters == before
