"""Requests that are longer in the core than their blob stays as it is: it shrinks, or is closed."""

from collections.abc import Callable
from typing import Any, Final

import pytest

from blobstore.blob import write as blob_write
from blobstore.blob.resize import resize
from blobstore.errors import ClosedError
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.store_state import StoreState
from blobstore.operations import Core, Park
from blobstore.store.blobs import BlobOptions, create_open_blob
from blobstore.store.init import InitOptions, init_store
from blobstore.store.lifecycle import close_store
from blobstore.store.open_blobs import close_blob
from blobstore.testing.alone import run_alone
from blobstore.testing.inspect_store import load_checked
from blobstore.testing.scheduler import Scheduler
from blobstore.testing.simulated_disk import SimulatedDisk

CLUSTER: Final = 4096
COUNT: Final = 16
SIZE: Final = COUNT * CLUSTER

Request = Callable[[StoreState, BlobState], Core[None]]

REQUESTS: Final[dict[str, Request]] = {
    "write": lambda store, blob: blob_write.write(store, blob, memoryview(b"y" * SIZE), 0),
    "write_zeroes": lambda store, blob: blob_write.write_zeroes(store, blob, 0, SIZE),
    "unmap": lambda store, blob: blob_write.unmap(store, blob, 0, SIZE),
}


def store_with_a_full_blob(*, thin: bool) -> tuple[SimulatedDisk, StoreState, BlobState]:
    disk = SimulatedDisk(bytes((4 + 32 + 40) * CLUSTER))
    options = InitOptions(cluster_size=CLUSTER, md_pages=32)
    store = run_alone(init_store(disk.traits, options), disk)
    blob = run_alone(create_open_blob(store, BlobOptions(COUNT, thin)), disk)
    run_alone(blob_write.write(store, blob, memoryview(b"x" * SIZE), 0), disk)
    return disk, store, blob


@pytest.mark.parametrize("thin", [False, True], ids=["thick", "thin"])
@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_in_parts_ends_well_although_its_blob_shrinks_between_two(
    monkeypatch: pytest.MonkeyPatch, name: str, thin: bool
) -> None:
    for part in ("AT_ONCE", "_ZEROED_AT_ONCE"):
        monkeypatch.setattr(blob_write, part, CLUSTER)
    for seed in range(12):
        disk, store, blob = store_with_a_full_blob(thin=thin)
        scheduler = Scheduler(disk, seed)
        scheduler.spawn(name, REQUESTS[name](store, blob))
        scheduler.spawn("resize", resize(store, blob, 3))
        scheduler.run()
        assert store.poison is None
        assert blob.clusters.count == 3
        run_alone(close_store(store), disk)
        found: Any = load_checked(disk)
        assert found[1].blobs[blob.blob_id].meta.cluster_count == 3


def test_an_unmap_that_waited_for_a_frozen_blob_is_refused_if_it_was_closed_meanwhile() -> None:
    disk, store, blob = store_with_a_full_blob(thin=True)
    blob.frozen_count += 1
    request = blob_write.unmap(store, blob, 0, SIZE)
    assert isinstance(request.send(None), Park)
    run_alone(close_blob(store, blob), disk)
    blob.frozen_count -= 1
    with pytest.raises(ClosedError):
        request.send(None)
    assert not store.unmapped
