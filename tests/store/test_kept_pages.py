"""Operations and writes beside them keep the pages that they found to be there.

Metadata is nearly full. Whatever the order, each operation and each write succeeds or is refused
for space, and the flush at the end does not fail for space.
"""

from collections.abc import Callable
from typing import Final

import pytest

from blobstore.blob.attributes import set_xattr
from blobstore.blob.resize import resize
from blobstore.blob.write import write
from blobstore.errors import NoSpaceError
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.store_state import StoreState
from blobstore.operations import Core
from blobstore.store.blobs import BlobOptions, create_blob, create_open_blob
from blobstore.store.delete import delete_blob
from blobstore.store.init import InitOptions, init_store
from blobstore.store.lifecycle import close_store
from blobstore.store.open_blobs import close_blob
from blobstore.store.snapshots import create_snapshot
from blobstore.testing.alone import run_alone
from blobstore.testing.inspect_store import load_checked
from blobstore.testing.scheduler import Scheduler
from blobstore.testing.simulated_disk import SimulatedDisk
from blobstore.units import BlobId

CLUSTER: Final = 4096
LEAF: Final = 512 * CLUSTER
LONG: Final = {f"x{number}": b"y" * 3000 for number in range(3)}
"""Attributes that take a page each."""

Operation = Callable[[StoreState, BlobState, BlobState], Core[object]]
"""Takes the blob that is written to meanwhile, and another one."""


async def _nothing(_store: StoreState, _written: BlobState, _blob: BlobState) -> None:
    pass


OPERATIONS: Final[dict[str, Operation]] = {
    "nothing": _nothing,
    "set_xattr": lambda store, written, _blob: set_xattr(store, written, "a", b"y" * 3000),
    "resize": lambda store, written, _blob: resize(store, written, 4000),
    "create": lambda store, _written, _blob: create_blob(
        store, BlobOptions(0, thin=True, xattrs=LONG)
    ),
    "snapshot": lambda store, _written, blob: create_snapshot(store, blob, LONG),
    "delete": lambda store, _written, blob: delete_blob(store, _parent_of(blob)),
}


def _parent_of(blob: BlobState) -> BlobId:
    assert blob.parent_id is not None
    return blob.parent_id


def _two_blobs(disk: SimulatedDisk, pages: int, name: str) -> tuple[StoreState, list[BlobState]]:
    options = InitOptions(cluster_size=CLUSTER, md_pages=pages)
    store = run_alone(init_store(disk.traits, options), disk)
    blobs = [run_alone(create_open_blob(store, BlobOptions(2000, thin=True)), disk) for _ in "ab"]
    if name == "delete":
        for place in range(3):
            run_alone(write(store, blobs[1], memoryview(b"s" * CLUSTER), place * LEAF), disk)
        run_alone(create_snapshot(store, blobs[1], {}), disk)
    return store, blobs


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_flush_does_not_fail_for_space_whatever_was_done_at_once(name: str) -> None:
    refused, done = 0, 0

    async def count(core: Core[object]) -> None:
        nonlocal refused, done
        try:
            await core
            done += 1
        except NoSpaceError:
            refused += 1

    for pages in range(5, 12):
        for seed in range(5):
            disk = SimulatedDisk(bytes((4 + pages + 64) * CLUSTER))
            try:
                store, blobs = _two_blobs(disk, pages, name)
            except NoSpaceError:
                continue
            scheduler = Scheduler(disk, seed)
            scheduler.spawn("operation", count(OPERATIONS[name](store, *blobs)))
            for place in range(4):
                request = write(store, blobs[0], memoryview(b"z" * CLUSTER), place * LEAF - place)
                scheduler.spawn(f"write {place}", count(request))
            scheduler.run()
            assert store.poison is None
            for blob in blobs:
                run_alone(close_blob(store, blob), disk)
            assert store.reservations.total == 0
            run_alone(close_store(store), disk)
            load_checked(disk)
    assert refused
    assert done
