"""Power that fails after every possible number of device operations."""

from collections.abc import Callable, Iterator
from contextlib import suppress

from blobstore import Blob, Blobstore, BlobstoreError
from tests.checklist.bench import CLUSTER, Bench, data

Act = Callable[[Blobstore, int], None]


def interrupted(bench: Bench, store: Blobstore, act: Act, blob_id: int) -> Iterator[Blobstore]:
    """Yield the store as it loads after the act was cut off, ever later, until it is whole."""
    store.close()
    before = bench.device.content()
    for count in range(100):
        bench.device.changes_left = count
        with suppress(BlobstoreError):
            act(bench.load(), blob_id)
        is_whole = bench.device.changes_left > 0
        bench.device.changes_left = None
        with bench.load() as found:
            yield found
        bench.check()
        if is_whole:
            return
        bench.device.write(0, [before])
    raise AssertionError("the act never ends")


def read_all(store: Blobstore, blob_id: int) -> bytes:
    with store.open_blob(blob_id) as blob:
        return blob.read(blob.size)


def test_blobstore_clean_power_failure(bench: Bench, store: Blobstore) -> None:
    blob_id = bench.blob(store, 2).id

    def change(store: Blobstore, blob_id: int) -> None:
        with store.open_blob(blob_id) as blob:
            blob.set_xattr("name", b"new")

    seen = []
    for found in interrupted(bench, store, change, blob_id):
        with found.open_blob(blob_id) as blob:
            assert blob.xattrs in ({}, {"name": b"new"})
            seen.append((found.info.clean, bool(blob.xattrs)))
    assert seen[0] == (True, False)
    assert (False, False) in seen
    assert seen[-1] == (False, True)


def snapshot_of_first(blob: Blob) -> Blob:
    blob.write(data(1, 4 * CLUSTER))
    return blob.snapshot()


def test_blob_delete_snapshot_power_failure(bench: Bench, store: Blobstore) -> None:
    blob = bench.blob(store, 4)
    snapshot = snapshot_of_first(blob)
    blob.write(data(2, CLUSTER), CLUSTER)
    contents = {each.id: each.read(4 * CLUSTER) for each in (blob, snapshot)}
    free, seen = store.free_clusters, set()

    def delete(store: Blobstore, _blob_id: int) -> None:
        store.delete_blob(snapshot.id)

    for found in interrupted(bench, store, delete, blob.id):
        there = snapshot.id in found.blob_ids()
        seen.add(there)
        assert read_all(found, blob.id) == contents[blob.id]
        with found.open_blob(blob.id) as clone:
            assert clone.info.parent == (snapshot.id if there else None)
        if there:
            assert read_all(found, snapshot.id) == contents[snapshot.id]
        assert found.free_clusters == free + (0 if there else 1)
    assert seen == {True, False}


def test_blob_create_snapshot_power_failure(bench: Bench, store: Blobstore) -> None:
    blob = bench.blob(store, 4, thin=True)
    blob.write(data(1, 3 * CLUSTER))
    content, free, seen = blob.read(4 * CLUSTER), store.free_clusters, set()

    def snapshot(store: Blobstore, blob_id: int) -> None:
        with store.open_blob(blob_id) as blob:
            blob.snapshot().close()

    for found in interrupted(bench, store, snapshot, blob.id):
        with found.open_blob(blob.id) as origin:
            parent = origin.info.parent
            assert origin.info.allocated_clusters == (3 if parent is None else 0)
        assert found.blob_ids() == sorted({blob.id, parent or blob.id})
        for blob_id in found.blob_ids():
            assert read_all(found, blob_id) == content
        assert found.free_clusters == free
        seen.add(parent is None)
    assert seen == {True, False}
