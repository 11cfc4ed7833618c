"""What went wrong once: data that a shrunk snapshot hid, and promises that leaked."""

from pathlib import Path

import pytest

from blobstore import Blobstore
from blobstore.blob.read import read_into
from blobstore.blob.write import write
from blobstore.errors import DeviceError
from blobstore.metadata.space import spare_pages
from blobstore.testing.alone import run_alone
from blobstore.testing.simulated_disk import Failure, Flushed, Written
from blobstore.testing.workload import CLUSTER, Workload, new_disk
from tests.proof.scenarios import make_base

LAYOUTS = [pytest.param(True, id="sector"), pytest.param(False, id="compact")]


def content_of(workload: Workload, name: str) -> bytes:
    assert workload.store is not None
    state = workload._blob(name)
    buffer = bytearray(state.clusters.count * CLUSTER)
    run_alone(read_into(workload.store, state, memoryview(buffer), 0), workload.disk)
    return bytes(buffer)


@pytest.mark.parametrize("sector", LAYOUTS)
@pytest.mark.parametrize("step", [("decouple", "a"), ("delete", "n")], ids=lambda step: step[0])
def test_what_a_shrunk_snapshot_hides_stays_hidden_when_it_goes(
    step: tuple[str, str], sector: bool
) -> None:
    workload = make_base("snapshots", sector=sector).start()
    workload.run([("load",), ("resize", "a", 1), ("sync", "a"), ("snapshot", "a", "n")])
    workload.run([("resize", "a", 6), ("sync", "a")])
    before = content_of(workload, "a")
    assert any(before[:CLUSTER])
    assert not any(before[CLUSTER:])
    workload.step(*step)
    assert content_of(workload, "a") == before


@pytest.mark.parametrize("sector", LAYOUTS)
def test_writes_that_failed_give_back_what_they_were_promised(sector: bool) -> None:
    workload = Workload(new_disk(sector=sector))
    workload.run([("init",), ("create", "a", 4, "thin"), ("open", "a")])
    assert workload.store is not None
    blob, spare = workload.open["a"], spare_pages(workload.store)
    bound = blob.pair_bound
    for index in range(3):
        workload.disk.failure = Failure(workload.disk.operation_count)
        request = write(workload.store, blob, memoryview(bytes(512)), index * CLUSTER)
        with pytest.raises(DeviceError):
            run_alone(request, workload.disk)
        workload.disk.failure = None
    assert (spare_pages(workload.store), blob.pair_bound) == (spare, bound)


def test_what_a_round_is_writing_counts_until_it_is_durable() -> None:
    workload = Workload(new_disk(sector=True))
    workload.run([("init",), ("create", "a", 4, "thin"), ("write", "a", 0, 1)])
    assert workload.store is not None
    blob = workload.open["a"]
    cost = blob.allocation_cost([])
    dirty = blob.need(workload.store.layout, cost)
    blob.leaves_in_round = list(blob.clusters.dirty_leaves)
    blob.clusters.clean()
    assert blob.need(workload.store.layout, cost) == dirty
    assert dirty.lasting == 1


@pytest.mark.parametrize("sector", LAYOUTS)
def test_data_written_to_a_clean_store_are_durable_when_it_is_unloaded(sector: bool) -> None:
    workload = make_base("clean", sector=sector).start()
    workload.run([("load",), ("write", "a", 0, 3), ("unload",)])
    assert isinstance(workload.disk.events[-1], Flushed)
    assert [type(event) for event in workload.disk.events] == [Written, Flushed]


@pytest.mark.timeout(60)
def test_a_write_that_needs_no_metadata_page_does_not_wait_for_the_hosts_space(
    tmp_path: Path,
) -> None:
    """The root alone says what a blob with runs owns; the first page is kept for another root."""
    path = tmp_path / "store.img"
    with Blobstore.create(path, size="8MiB", cluster_size="64KiB") as store:
        first = store.create_blob(thin=True)
        blob_id = store.create_blob("1MiB", thin=True, extent_table=False).id
        first.close()
        store.delete_blob(first.id)
    with Blobstore.open(path) as store, store.open_blob(blob_id) as blob:
        blob.write(b"first")
        assert blob.read(5) == b"first"
