"""Snapshots and clones: relations, contents, and what copying costs."""

import threading
from collections.abc import Mapping

import pytest

from blobstore import Blob, BlobId, Blobstore, MemoryDevice
from blobstore.testing.internals import core_of
from tests.checklist.bench import BLOCK, CLUSTER, Bench, clusters_of, data, fails

EPERM, ENOENT, EBUSY, EEXIST, EINVAL, ENOSPC = 1, 2, 16, 17, 22, 28


def relations(store: Blobstore, blob_id: int) -> tuple[BlobId | None, list[BlobId]]:
    with store.open_blob(blob_id) as blob:
        return blob.info.parent, blob.info.clones


def test_blob_snapshot(bench: Bench, store: Blobstore) -> None:
    with bench.blob(store, 10, xattrs={"name": b"origin"}) as blob:
        free = store.free_clusters
        with blob.snapshot(xattrs={"name": b"snapshot"}) as snapshot:
            info = snapshot.info
            assert (info.read_only, info.snapshot, info.thin) == (True, True, False)
            assert (info.allocated_clusters, info.clones) == (10, [blob.id])
            assert snapshot.xattrs == {"name": b"snapshot"}
            assert blob.xattrs == {"name": b"origin"}
            assert (blob.info.thin, blob.info.parent) == (True, snapshot.id)
            assert (blob.info.allocated_clusters, store.free_clusters) == (0, free)
            with fails(EINVAL):
                snapshot.snapshot()
            with fails(EINVAL):
                blob.snapshot(xattrs={"none": b""})
        with blob.snapshot() as second:
            assert second.info.thin
            assert relations(store, second.id) == (snapshot.id, [blob.id])
            assert relations(store, snapshot.id) == (None, [second.id])
    store.delete_blob(blob.id)
    assert relations(store, second.id) == (snapshot.id, [])
    store.delete_blob(second.id)
    assert relations(store, snapshot.id) == (None, [])
    store.delete_blob(snapshot.id)
    assert store.free_clusters == free + 10


def test_blob_clone(bench: Bench, store: Blobstore) -> None:
    with bench.blob(store, 4) as blob:
        blob.write(data(1, CLUSTER))
        with fails(EINVAL):
            blob.clone()
        with blob.snapshot() as snapshot, snapshot.clone(xattrs={"name": b"clone"}) as clone:
            assert (dict(clone.xattrs), clone.size) == ({"name": b"clone"}, 4 * CLUSTER)
            assert (clone.info.thin, clone.info.read_only) == (True, False)
            assert clone.read(CLUSTER) == data(1, CLUSTER)
            assert relations(store, snapshot.id) == (None, sorted([blob.id, clone.id]))
        blob.set_read_only()
        blob.sync_md()
        with blob.clone() as other:
            assert other.info.parent == blob.id
            assert other.read(CLUSTER) == data(1, CLUSTER)


@pytest.mark.parametrize("decouple", [False, True])
def test_blob_inflate(bench: Bench, store: Blobstore, decouple: bool) -> None:
    with bench.blob(store, 10, thin=True) as blob:
        with fails(EINVAL):
            blob.decouple()
        blob.write(data(1, CLUSTER), 2 * CLUSTER)
        with blob.snapshot() as snapshot:
            blob.write(data(2, CLUSTER), 5 * CLUSTER)
        free = store.free_clusters
        with bench.blob(store, free - (0 if decouple else 5)) as filler:
            with fails(ENOSPC):
                blob.decouple() if decouple else blob.inflate()
            assert blob.info.parent == snapshot.id
        store.delete_blob(filler.id)
        if decouple:
            blob.decouple()
        else:
            blob.inflate()
        info = blob.info
        assert (info.parent, info.thin) == (None, decouple)
        assert info.allocated_clusters == (2 if decouple else 10)
        assert store.free_clusters == free - (1 if decouple else 9)
        assert blob.read(CLUSTER, 2 * CLUSTER) == data(1, CLUSTER)
    store.delete_blob(snapshot.id)


def test_blob_snapshot_rw(bench: Bench, store: Blobstore) -> None:
    with bench.blob(store, 5, thin=True) as blob:
        blob.write(data(1, 10 * BLOCK), 4 * BLOCK)
        with blob.snapshot() as snapshot:
            blob.sync_md()
            bench.device.log.clear()
            start = core_of(store).geometry.md_clusters * CLUSTER
            blob.write(data(2, BLOCK), 6 * BLOCK)
            assert bench.device.count("read", first=start) == CLUSTER - BLOCK
            assert bench.device.count("write", first=start) == CLUSTER
            whole = bytearray(CLUSTER)
            whole[4 * BLOCK : 14 * BLOCK] = data(1, 10 * BLOCK)
            assert snapshot.read(CLUSTER) == whole
            whole[6 * BLOCK : 7 * BLOCK] = data(2, BLOCK)
            assert blob.read(CLUSTER) == whole


def test_blob_snapshot_rw_iov(bench: Bench, store: Blobstore) -> None:
    with bench.blob(store, 5, thin=True) as blob:
        blob.writev([data(1, BLOCK), data(2, 2 * BLOCK)], CLUSTER - BLOCK)
        with blob.snapshot() as snapshot:
            before = snapshot.read(5 * CLUSTER)
            blob.writev([data(3, 100), data(4, BLOCK)], CLUSTER - 100)
            buffers = [bytearray(CLUSTER), bytearray(4 * CLUSTER)]
            snapshot.readv(buffers)
            assert b"".join(buffers) == before
            assert blob.read(100 + BLOCK, CLUSTER - 100) == data(3, 100) + data(4, BLOCK)
            assert blob.read(CLUSTER - 100) == before[: CLUSTER - 100]


def test_blob_relations(bench: Bench, store: Blobstore) -> None:
    with bench.blob(store, 5) as blob, blob.snapshot() as first:
        with first.clone() as clone, first.clone() as third:
            pass
        wanted = sorted([blob.id, clone.id, third.id])
        for _ in range(2):
            assert relations(store, first.id) == (None, wanted)
            assert relations(store, clone.id) == (first.id, [])
        with fails(EBUSY):
            store.delete_blob(first.id)
    with bench.reload(store) as store:
        assert relations(store, first.id) == (None, wanted)
        with fails(EBUSY):
            store.delete_blob(first.id)
        for blob_id in (clone.id, third.id):
            store.delete_blob(blob_id)
        assert relations(store, first.id) == (None, [blob.id])
        store.delete_blob(first.id)
        assert relations(store, blob.id) == (None, [])


def chain(bench: Bench, store: Blobstore) -> tuple[BlobId, list[BlobId], list[bytes]]:
    """Return a blob, its three snapshots, the oldest first, and the contents of all four."""
    contents, snapshots = [], []
    with bench.blob(store, 4) as blob:
        for seed in range(4):
            blob.write(data(seed, CLUSTER + BLOCK), seed * CLUSTER - BLOCK if seed else 0)
            contents.append(blob.read(4 * CLUSTER))
            if seed < 3:
                with blob.snapshot() as snapshot:
                    snapshots.append(snapshot.id)
    return blob.id, snapshots, contents


def check_contents(store: Blobstore, contents: Mapping[BlobId, bytes]) -> None:
    assert store.blob_ids() == sorted(contents)
    for blob_id, content in contents.items():
        with store.open_blob(blob_id) as blob:
            assert blob.read(blob.size) == content


def test_blob_relations2(bench: Bench, store: Blobstore) -> None:
    blob, (first, second, third), contents = chain(bench, store)
    kept = dict(zip((first, second, third, blob), contents, strict=True))
    with store.open_blob(second) as snapshot, snapshot.clone() as clone:
        kept[clone.id] = kept[second]
    with fails(EBUSY):
        store.delete_blob(second)
    store.delete_blob(clone.id)
    kept.pop(clone.id)
    store.delete_blob(second)
    kept.pop(second)
    for _ in range(2):
        assert relations(store, first) == (None, [third])
        assert relations(store, third) == (first, [blob])
        assert relations(store, blob) == (third, [])
        check_contents(store, kept)
        store = bench.reload(store)
    store.delete_blob(first)
    kept.pop(first)
    assert relations(store, third) == (None, [blob])
    check_contents(store, kept)
    store.close()


def test_blob_relations3(bench: Bench, store: Blobstore) -> None:
    blob, (first, second, third), contents = chain(bench, store)
    kept = dict(zip((first, second, third, blob), contents, strict=True))
    with store.open_blob(blob) as leaf:
        leaf.decouple()
    assert relations(store, blob) == (second, [])
    assert relations(store, third) == (second, [])
    with store.open_blob(second) as middle:
        middle.decouple()
    assert relations(store, second) == (None, sorted([blob, third]))
    assert relations(store, first) == (None, [])
    check_contents(store, kept)
    for gone in (third, first, second):
        store.delete_blob(gone)
        kept.pop(gone)
        check_contents(store, kept)
    store.close()


@pytest.mark.parametrize("thin", [False, True])
def test_blob_inflate_rw(bench: Bench, store: Blobstore, thin: bool) -> None:
    with bench.blob(store, 6) as blob:
        blob.write(data(1, 6 * CLUSTER))
        with blob.snapshot() as first:
            blob.write(data(2, 2 * CLUSTER), 2 * CLUSTER)
            with blob.snapshot() as second:
                blob.write(data(3, BLOCK), CLUSTER - 512)
                content = blob.read(6 * CLUSTER)
                start = core_of(store).geometry.md_clusters * CLUSTER
                blob.sync_md()
                bench.device.log.clear()
                if thin:
                    blob.decouple()  # what the middle one owns and the blob does not
                else:
                    blob.inflate()
                copied = 2 if thin else 4
                assert bench.device.count("read", first=start) == copied * CLUSTER
                assert bench.device.count("write", first=start) == copied * CLUSTER
                assert blob.read(6 * CLUSTER) == content
                assert blob.info.parent == (first.id if thin else None)
    store.delete_blob(second.id)
    with bench.reload(store) as store, store.open_blob(blob.id) as blob:
        assert blob.read(6 * CLUSTER) == content


def test_blob_inflate_unmap(bench: Bench, store: Blobstore) -> None:
    with bench.blob(store, 4, thin=True) as blob:
        blob.write(data(1, CLUSTER))
        unmapper = threading.Thread(target=lambda: blob.unmap(0, CLUSTER))
        bench.device.during_next_write = unmapper.start
        blob.inflate()
        unmapper.join()
        info = blob.info
        assert (info.thin, info.allocated_clusters, len(clusters_of(info))) == (False, 4, 4)
        assert blob.read(CLUSTER) == bytes(CLUSTER)


def test_blob_decouple_snapshot(bench: Bench, store: Blobstore) -> None:
    with bench.blob(store, 4, thin=True) as blob:
        blob.write(data(1, 2 * CLUSTER))
        with blob.snapshot() as first:
            blob.write(data(2, CLUSTER), CLUSTER)
            with blob.snapshot() as second:
                second.decouple()
                info = second.info
                assert (info.parent, info.read_only, info.allocated_clusters) == (None, True, 2)
                assert second.read(2 * CLUSTER) == data(1, CLUSTER) + data(2, CLUSTER)
    store.delete_blob(first.id)
    with store.open_blob(blob.id) as blob:
        assert blob.read(2 * CLUSTER) == data(1, CLUSTER) + data(2, CLUSTER)


def test_blob_clone_resize(bench: Bench, store: Blobstore) -> None:
    with bench.blob(store, 2) as blob:
        blob.write(data(1, 2 * CLUSTER))
        with blob.snapshot() as snapshot, snapshot.clone() as clone:
            clone.resize(6 * CLUSTER)
            clone.sync_md()
            content = bytearray(data(1, 2 * CLUSTER) + bytes(4 * CLUSTER))
            assert clone.read(6 * CLUSTER) == content
            for at in range(2 * CLUSTER - 2 * BLOCK, 2 * CLUSTER + 2 * BLOCK, BLOCK):
                clone.write(data(at, BLOCK), at)
                content[at : at + BLOCK] = data(at, BLOCK)
                assert clone.read(6 * CLUSTER) == content
            clone.inflate()
            assert (clone.info.allocated_clusters, clone.info.parent) == (6, None)
            assert clone.read(6 * CLUSTER) == content


def test_blob_shallow_copy(bench: Bench, store: Blobstore) -> None:
    with bench.blob(store, 4, thin=True) as blob:
        blob.write(data(1, CLUSTER), 2 * CLUSTER)
        with blob.snapshot() as snapshot:
            blob.write(data(2, CLUSTER), CLUSTER)
            with fails(EPERM):
                blob.shallow_copy(MemoryDevice(4 * CLUSTER))
            for target in (MemoryDevice(3 * CLUSTER), MemoryDevice(4 * CLUSTER, 2 * BLOCK)):
                with fails(EINVAL):
                    snapshot.shallow_copy(target)
            seen: list[tuple[int, int]] = []
            target = MemoryDevice(4 * CLUSTER, 512, fill=0xAA)
            copied = snapshot.shallow_copy(target, progress=lambda *at: seen.append(at))
            assert (copied, seen) == (1, [(1, 1)])
            untouched = b"\xaa" * CLUSTER
            wanted = 2 * untouched + data(1, CLUSTER) + untouched
            assert target.read(0, 4 * CLUSTER) == wanted


def test_blob_set_parent(bench: Bench, store: Blobstore) -> None:
    with bench.blob(store, 4) as origin, origin.snapshot() as snapshot:
        snapshot_id = snapshot.id
        with fails(EEXIST):
            origin.set_parent(snapshot.id)
        with bench.blob(store, 5) as other, other.snapshot() as larger:
            refused: list[tuple[Blob, int, int]] = [
                (origin, larger.id, EINVAL),
                (origin, origin.id, EINVAL),
                (origin, larger.id + 99, ENOENT),
                (other, snapshot.id, EINVAL),
                (snapshot, origin.id, EINVAL),
            ]
            with bench.blob(store, 4) as thick:
                for blob, parent, errno in [*refused, (thick, snapshot.id, EINVAL)]:
                    with fails(errno):
                        blob.set_parent(parent)
    with store.open_blob(snapshot_id) as snapshot, bench.blob(store, 4, thin=True) as thin:
        with store.open_blob(origin.id) as origin:
            origin.write(data(1, CLUSTER))
            with origin.snapshot() as second:
                pass
        thin.write(data(3, CLUSTER), CLUSTER)
        for parent, first in ((snapshot.id, bytes(CLUSTER)), (second.id, data(1, CLUSTER))):
            thin.set_parent(parent)
            assert thin.info.parent == parent
            assert thin.read(2 * CLUSTER) == first + data(3, CLUSTER)
    with bench.reload(store) as store:
        assert relations(store, thin.id) == (second.id, [])
        assert relations(store, second.id) == (snapshot_id, sorted([origin.id, thin.id]))
