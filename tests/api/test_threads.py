"""The same as the simulated orders, on real threads, a real file and the fast path.

Blob a is only ever written bytes below 0x80; other blobs, and what was on the
device before, are above. So a foreign byte is seen wherever it comes from.
"""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blobstore import Blob, Blobstore, BusyError, InvalidArgumentError, NotFoundError
from blobstore.epochs import UNPINNED
from blobstore.testing.internals import core_of, device_of

CLUSTER = 4096
ROUNDS = 60
FOREIGN = 0x80


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Blobstore]:
    path = tmp_path / "threads.img"
    path.write_bytes(b"\xdd" * (256 * CLUSTER))
    with Blobstore.create(
        path, cluster_size=CLUSTER, md_pages=80, clear="none", overwrite=True
    ) as store:
        yield store


def run_together(*works: Callable[[int], object]) -> None:
    """Run every work in a thread of its own, ROUNDS times; an unexpected error fails the test."""
    failures: list[BaseException] = []
    start = threading.Barrier(len(works))

    def repeat(work: Callable[[int], object]) -> None:
        start.wait()
        for number in range(ROUNDS):
            try:
                work(number)
            except (BusyError, InvalidArgumentError, NotFoundError):
                continue
            except BaseException as error:
                failures.append(error)
                return

    threads = [threading.Thread(target=repeat, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def thin_blob(store: Blobstore) -> Blob:
    blob = store.create_blob(6 * CLUSTER, thin=True)
    blob.write(b"\x01" * CLUSTER, 0)
    blob.flush()
    return blob


def look(blob: Blob) -> None:
    size = blob.size
    for offset in range(0, size, CLUSTER):
        data = blob.read(CLUSTER, offset)
        assert max(data) < FOREIGN, f"a foreign byte at {offset}"


def writer(blob: Blob, value: int) -> Callable[[int], object]:
    data = bytes([value]) * 700
    return lambda number: blob.write(data, number * 977 % (5 * CLUSTER))


def after(store: Blobstore, blob: Blob) -> None:
    """What is in memory is what a fresh load finds; nobody's lock is left."""
    content = blob.read(blob.size)
    assert max(content, default=0) < FOREIGN
    blob.flush()
    assert not core_of(store).mutex.held
    assert not core_of(store).exclusive
    assert all(pin.epoch == UNPINNED for pin in core_of(store).epochs.pins)
    path = Path(device_of(store).name)
    blob_id = blob.id
    store.close()
    with Blobstore.open(path, read_only=True) as again, again.open_blob(blob_id) as found:
        assert found.read(found.size) == content
        assert again.errors == {}


def test_writers_that_allocate_the_same_clusters(store: Blobstore) -> None:
    blob = thin_blob(store)
    run_together(*(writer(blob, value) for value in (2, 3, 4)), lambda _n: look(blob))
    after(store, blob)


def test_unmaps_against_allocations_in_one_extent_page(store: Blobstore) -> None:
    blob = thin_blob(store)
    run_together(
        writer(blob, 2),
        lambda number: blob.unmap(number % 5 * CLUSTER, CLUSTER),
        lambda number: blob.unmap(number % 5 * CLUSTER, CLUSTER),
        lambda _n: look(blob),
        lambda _n: blob.flush(),
    )
    after(store, blob)


def test_snapshots_with_writes_in_flight(store: Blobstore) -> None:
    blob = thin_blob(store)

    def snapshot_and_merge(_number: int) -> None:
        with blob.snapshot() as snapshot:
            before = snapshot.read(snapshot.size)
            assert snapshot.read(snapshot.size) == before, "a snapshot never changes"
            snapshot_id = snapshot.id
        store.delete_blob(snapshot_id)

    run_together(snapshot_and_merge, writer(blob, 2), writer(blob, 3), lambda _n: look(blob))
    after(store, blob)


def test_resizes_with_writes_and_reads_in_flight(store: Blobstore) -> None:
    blob = thin_blob(store)

    def resize(number: int) -> None:
        blob.resize((number % 4 + 3) * CLUSTER)
        blob.flush()

    run_together(resize, writer(blob, 2), lambda _n: look(blob), lambda _n: look(blob))
    after(store, blob)


def test_others_reuse_clusters_while_reads_are_in_flight(store: Blobstore) -> None:
    blob = thin_blob(store)

    def take_and_give(_number: int) -> None:
        with store.create_blob(8 * CLUSTER, thin=True) as other:
            other.write(b"\xee" * (8 * CLUSTER))
            other_id = other.id
        store.delete_blob(other_id)

    def unmap_and_flush(number: int) -> None:
        blob.unmap(number % 5 * CLUSTER, CLUSTER)
        blob.flush()

    run_together(
        take_and_give,
        unmap_and_flush,
        writer(blob, 2),
        lambda _n: look(blob),
        lambda _n: look(blob),
    )
    after(store, blob)


def test_clones_while_their_parent_is_being_deleted(store: Blobstore) -> None:
    blob = thin_blob(store)

    def clone_and_drop(_number: int) -> None:
        found = [info for info in store.list_blobs() if info.error is None]
        for info in found:
            if info.read_only:
                with store.open_blob(info.blob_id) as snapshot, snapshot.clone() as clone:
                    look(clone)
                    clone_id = clone.id
                store.delete_blob(clone_id)

    def snapshot_and_delete(_number: int) -> None:
        with blob.snapshot() as snapshot:
            snapshot_id = snapshot.id
        store.delete_blob(snapshot_id)

    run_together(clone_and_drop, snapshot_and_delete, writer(blob, 2), lambda _n: look(blob))
    after(store, blob)


def test_inflate_and_decouple_beside_writers_and_unmaps(store: Blobstore) -> None:
    blob = thin_blob(store)

    def snapshot_and_detach(number: int) -> None:
        with blob.snapshot() as snapshot:
            snapshot_id = snapshot.id
        (blob.inflate if number % 2 else blob.decouple)()
        store.delete_blob(snapshot_id)

    run_together(
        snapshot_and_detach,
        writer(blob, 2),
        lambda number: blob.unmap(number % 5 * CLUSTER, CLUSTER),
        lambda _n: look(blob),
    )
    after(store, blob)
