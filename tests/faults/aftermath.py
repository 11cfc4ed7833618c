"""What must hold of a store in memory after a fault has hit one of its operations."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest

from blobstore.blob import attributes
from blobstore.blob.resize import resize
from blobstore.blob.write import flush_blob, unmap, write, write_zeroes
from blobstore.errors import ClosedError, CorruptError, PoisonedError
from blobstore.format.geometry import blob_id_of, root_of
from blobstore.format.super_block import SUPER_BLOCK_SIZE, SuperBlock
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.store_state import StoreState
from blobstore.store.blobs import BlobOptions, create_blob
from blobstore.store.delete import delete_blob
from blobstore.store.grow import grow_open
from blobstore.store.inflate import inflate
from blobstore.store.lifecycle import flush_store, set_super_blob, set_type, unload
from blobstore.store.open_blobs import close_blob, open_blob
from blobstore.store.snapshots import create_snapshot
from blobstore.testing.alone import run_alone
from blobstore.testing.expectation import BLOCK
from blobstore.testing.simulated_disk import SimulatedDisk
from blobstore.testing.workload import CLUSTER
from blobstore.units import BlobId, PageIndex
from tests.faults.bench import FaultyRun, content_of

T = TypeVar("T")


def check_nothing_is_held(run: FaultyRun) -> None:
    """No mutex, no freeze, no request in flight was left behind: nobody would ever go on."""
    store = run.store
    if store is None:
        return
    assert not store.mutex.held, run
    assert not store.exclusive, run
    assert not store.allocating, run
    assert not any(blob.frozen_count for blob in store.open_blobs.values()), run
    run_alone(store.epochs.grace_period(), run.workload.disk)


def check_reads_go_on(run: FaultyRun) -> list[BlobState]:
    """Every blob that is there reads as something that was written to it; return them, open."""
    store, disk = run.store, run.workload.faulty_disk
    if store is None or store.is_closed:
        return []
    disk.fault = None
    blobs = [blob for blob_id in _whole_blobs(run, store) for blob in _opened(run, store, blob_id)]
    for blob in blobs:
        content = content_of(store, blob, disk)
        blocks = run.promise.blobs[blob.blob_id].blocks
        for at in range(len(content) // BLOCK):
            assert content[at * BLOCK : (at + 1) * BLOCK] in blocks[at], (run, blob.blob_id, at)
    return blobs


def _whole_blobs(run: FaultyRun, store: StoreState) -> list[BlobId]:
    """Return the blobs that are there; one whose delete has failed is neither there nor gone."""
    step = run.script.steps[run.step]
    ids = [i for name, i in run.workload.ids.items() if step != ("delete", name)]
    return [blob_id for blob_id in ids if store.used_ids[root_of(blob_id)]]


def _opened(run: FaultyRun, store: StoreState, blob_id: BlobId) -> list[BlobState]:
    """Open the blob; one whose root was torn while it was converted waits for a recovery."""
    try:
        return [run_alone(open_blob(store, blob_id), run.workload.disk)]
    except CorruptError:
        assert run.script.sector, run
        assert "by the original" in str(run.script.base) or "rewritten" in str(run.script.base), run
        return []


def check_only_reads_go_on(run: FaultyRun) -> None:
    """A poisoned store refuses every change, and closes without a write, so never as clean.

    One change of the store and one of a blob are tried, and after a fault at the next operation
    the next.
    """
    store, disk = run.store, run.workload.faulty_disk
    assert store is not None
    disk.fault = None
    if store.is_closed:
        with pytest.raises(ClosedError):
            run_alone(flush_store(store), disk)
        return
    blobs = check_reads_go_on(run)
    before = len(disk.events)
    changes = [_in_turn(run, _changes_of_a_store(store, disk))]
    if blobs:
        changes.append(_in_turn(run, _changes_of_a_blob(store, _in_turn(run, blobs), disk)))
    for change in changes:
        with pytest.raises(PoisonedError):
            change()
    for blob in list(store.open_blobs.values()):
        for _ in range(blob.open_count):
            run_alone(close_blob(store, blob), disk)
    run_alone(unload(store), disk)
    with pytest.raises(ClosedError):
        run_alone(flush_store(store), disk)
    assert len(disk.events) == before, run
    if store.is_marked_dirty:
        assert not SuperBlock.decode(bytes(disk.content[:SUPER_BLOCK_SIZE])).clean, run


def _in_turn(run: FaultyRun, choices: Sequence[T]) -> T:
    return choices[run.fault.at % len(choices)]


def _changes_of_a_store(store: StoreState, disk: SimulatedDisk) -> list[Callable[[], object]]:
    some_id = blob_id_of(PageIndex(0))
    return [
        lambda: run_alone(create_blob(store, BlobOptions(1)), disk),
        lambda: run_alone(create_blob(store, BlobOptions(1, thin=True)), disk),
        lambda: run_alone(delete_blob(store, some_id), disk),
        lambda: run_alone(set_super_blob(store, some_id), disk),
        lambda: run_alone(grow_open(store, len(disk.content) + CLUSTER), disk),
        lambda: run_alone(flush_store(store), disk),
        lambda: run_alone(set_type(store, b"other"), disk),
    ]


def _changes_of_a_blob(
    store: StoreState, blob: BlobState, disk: SimulatedDisk
) -> list[Callable[[], object]]:
    return [
        lambda: run_alone(write(store, blob, memoryview(b"new"), 0), disk),
        lambda: run_alone(write_zeroes(store, blob, 0, 1), disk),
        lambda: run_alone(unmap(store, blob, 0, CLUSTER), disk),
        lambda: run_alone(resize(store, blob, blob.clusters.count + 1), disk),
        lambda: run_alone(flush_blob(store, blob), disk),
        lambda: run_alone(create_snapshot(store, blob, {}), disk),
        lambda: run_alone(inflate(store, blob), disk),
        lambda: run_alone(attributes.set_xattr(store, blob, "new", b"1"), disk),
        lambda: run_alone(attributes.set_read_only(store, blob), disk),
    ]
