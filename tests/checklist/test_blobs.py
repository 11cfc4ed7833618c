"""Blobs: making, opening, resizing, deleting, their attributes and their pages."""

import threading
from collections.abc import Callable

import pytest

from blobstore import Blob, BlobId, Blobstore, MemoryDevice
from blobstore.blob.exclusive import exclusive, frozen
from blobstore.format.descriptors import EXTENT_TABLE, READ_ONLY, RUNS
from blobstore.format.geometry import root_of
from blobstore.testing.internals import core_of, session_of
from tests.checklist.bench import BLOCK, CLUSTER, SIZE, Bench, data, fails, used_pages

EPERM, ENOENT, EBADF, ENOMEM, EBUSY, EINVAL, ENOSPC = 1, 2, 9, 12, 16, 22, 28


def test_blob_open(bench: Bench, store: Blobstore) -> None:
    blob = bench.blob(store)
    state = core_of(store).open_blobs[blob.id]
    again = store.open_blob(blob.id)
    assert core_of(store).open_blobs[again.id] is state
    assert state.open_count == 2
    again.close()
    assert state.open_count == 1
    blob.close()
    assert blob.id not in core_of(store).open_blobs
    with fails(EBADF):
        assert blob.info
    with store.open_blob(blob.id) as reopened:
        assert reopened.info.blob_id == blob.id


def test_blob_create(bench: Bench, store: Blobstore) -> None:
    made = {bench.blob(store, count).id: count for count in (10, 0)}
    made[store.create_blob().id] = 0
    store = bench.reload(store)
    for blob_id, count in made.items():
        with store.open_blob(blob_id) as blob:
            assert blob.info.cluster_count == count
    with fails(ENOSPC):
        bench.blob(store, store.free_clusters + 1)
    store.close()


def test_blob_create_loop(bench: Bench) -> None:
    with bench.create(md_pages=24) as store:
        free = store.free_clusters
        for _ in range(60):
            with bench.blob(store, 3) as blob:
                pass
            store.delete_blob(blob.id)
        assert (store.free_clusters, used_pages(store)) == (free, 0)


def test_blob_create_fail(bench: Bench, store: Blobstore) -> None:
    free = store.free_clusters
    with fails(EINVAL):
        bench.blob(store, 2, xattrs={"name": b""})
    assert (store.free_clusters, used_pages(store), store.blob_ids()) == (free, 0, [])
    assert list(store.list_blobs()) == []


def test_blob_create_internal(bench: Bench, store: Blobstore) -> None:
    with bench.blob(store, external_snapshot=b"id", xattrs={"EXTSNAP": b"mine"}) as blob:
        assert blob.info.internal_xattrs == {"EXTSNAP": b"id"}
        assert blob.get_xattr("EXTSNAP") == b"mine"
    with bench.blob(store) as plain:
        assert plain.info.internal_xattrs == {}
        with fails(ENOENT):
            plain.get_xattr("EXTSNAP")


def test_blob_create_zero_extent(bench: Bench, store: Blobstore) -> None:
    blob_id = bench.blob(store, 0).id
    store = bench.reload(store)
    kinds = bench.kinds(store, blob_id)
    assert (EXTENT_TABLE in kinds, RUNS in kinds) == (bench.configuration.extent_table, False)
    with store.open_blob(blob_id) as blob:
        assert blob.info.extent_table == bench.configuration.extent_table
    store.close()


def test_blob_delete(bench: Bench, store: Blobstore) -> None:
    blob = bench.blob(store, 1)
    with fails(EBUSY):
        store.delete_blob(blob.id)
    blob.close()
    store.delete_blob(blob.id)
    with fails(ENOENT):
        store.open_blob(blob.id)
    with fails(ENOENT):
        store.delete_blob(blob.id)


def test_blob_resize_test(bench: Bench, store: Blobstore) -> None:
    free = store.free_clusters
    with bench.blob(store) as blob:
        blob.resize(5 * CLUSTER)
        assert store.free_clusters == free - 5
        blob.resize(3 * CLUSTER)
        assert store.free_clusters == free - 5
        blob.sync_md()
        assert store.free_clusters == free - 3
        blob.resize(10 * CLUSTER)
        assert store.free_clusters == free - 10
        blob.sync_md()
        with fails(ENOSPC):
            blob.resize((free + 1) * CLUSTER)
        blob.set_read_only()
        blob.sync_md()
        with fails(EPERM):
            blob.resize(0)
    assert store.free_clusters == free - 10


def test_blob_resize_thin_test(bench: Bench, store: Blobstore) -> None:
    free = store.free_clusters
    with bench.blob(store, 6, thin=True) as blob:
        for index in (0, 2, 4):
            blob.write(data(index, BLOCK), index * CLUSTER)
        assert (blob.info.allocated_clusters, store.free_clusters) == (3, free - 3)
        blob.resize(3 * CLUSTER)
        assert blob.info.allocated_clusters == 2
        assert store.free_clusters == free - 3
        blob.sync_md()
        assert (blob.info.allocated_clusters, store.free_clusters) == (2, free - 2)
        blob.resize(6 * CLUSTER)
        blob.sync_md()
        assert (blob.info.allocated_clusters, store.free_clusters) == (2, free - 2)
        assert blob.read(CLUSTER, 4 * CLUSTER) == bytes(CLUSTER)


def test_blob_read_only(bench: Bench, store: Blobstore) -> None:
    blob = bench.blob(store, 1)
    blob.set_read_only()
    blob.write(b"still writable")
    blob.sync_md()
    info = blob.info
    assert (info.read_only, info.data_ro_flags) == (True, READ_ONLY)
    for change in (lambda: blob.write(b"x"), lambda: blob.set_xattr("name", b"x")):
        with fails(EPERM):
            change()
    store = bench.reload(store)
    with store.open_blob(blob.id) as again, fails(EPERM):
        assert again.info.read_only
        again.set_xattr("name", b"x")
    store.close()


def test_channel_ops(bench: Bench, store: Blobstore) -> None:
    pins = core_of(store).epochs.pins
    before = len(pins)
    seen: list[int] = []

    def use_the_store() -> None:
        with bench.blob(store, 1) as blob:
            blob.read(1)
        seen.append(len(pins))

    thread = threading.Thread(target=use_the_store)
    thread.start()
    thread.join()
    assert seen == [before + 1]
    assert len(pins) == before


def test_blob_super(bench: Bench, store: Blobstore) -> None:
    with fails(ENOENT):
        _ = store.super_blob
    blob_id = bench.blob(store).id
    store.set_super_blob(blob_id)
    assert store.super_blob == blob_id
    with bench.reload(store) as store:
        assert store.super_blob == blob_id


def test_blob_unmap(bench: Bench, store: Blobstore) -> None:
    with bench.blob(store, 10, thin=True) as blob:
        for index in (1, 4, 5):
            blob.write(data(index, CLUSTER), index * CLUSTER)
        blob.sync_md()
        owned = {first + step for first, n in blob.info.extents if first for step in range(n)}
        bench.device.log.clear()
        blob.resize(0)
        blob.sync_md()
    blocks = CLUSTER // BLOCK
    wanted = {cluster * blocks + step for cluster in owned for step in range(blocks)}
    assert bench.device.places("unmap") == wanted


def test_blob_iter(bench: Bench, store: Blobstore) -> None:
    assert list(store.list_blobs()) == []
    made = sorted(bench.blob(store).id for _ in range(5))
    found = [blob.blob_id for blob in store.list_blobs() if blob.error is None]
    assert found == made


def test_blob_xattr(bench: Bench, store: Blobstore) -> None:
    with bench.blob(store) as blob:
        blob.set_xattr("name", b"log.txt")
        blob.set_xattr("length", b"\x01")
        blob.set_xattr("length", b"\x02\x03")
        assert blob.xattrs == {"name": b"log.txt", "length": b"\x02\x03"}
        with fails(ENOENT):
            blob.get_xattr("foobar")
        with fails(ENOENT):
            blob.remove_xattr("foobar")
        blob.remove_xattr("name")
        assert list(blob.xattrs) == ["length"]
        blob.sync_md()
        blob.set_read_only()
        blob.sync_md()
        with fails(EPERM):
            blob.set_xattr("x", b"1")
        with fails(EPERM):
            blob.remove_xattr("length")
        with blob.clone() as clone:
            assert list(clone.xattrs) == []
            assert clone.info.internal_xattrs.keys() == {"SNAP"}
            assert clone.info.invalid_flags & 2
            clone.inflate()
            assert clone.info.internal_xattrs == {}
            assert not clone.info.invalid_flags & 2
    with bench.reload(store) as store, store.open_blob(blob.id) as blob:
        assert blob.xattrs == {"length": b"\x02\x03"}


def test_blob_parse_md(bench: Bench) -> None:
    with bench.create(cluster_size=bench.configuration.page_size, md_pages=64) as store:
        clusters = store.free_clusters - 40 & ~1
        with bench.blob(store, clusters, thin=True) as blob:
            size = store.cluster_size
            for index in range(0, clusters, 2):
                blob.write(b"x", index * size)
        before = blob.id
    with bench.load() as store:
        with store.open_blob(before) as blob:
            info = blob.info
            assert info.extents == [
                run for at in range(0, clusters, 2) for run in (info.extents[at], (0, 1))
            ]
            pages = len(info.metadata_pages) + sum(page != 0 for page in info.extent_pages)
            assert used_pages(store) == pages > 1
        store.delete_blob(before)
        assert used_pages(store) == 0


def test_blob_serialize_test(bench: Bench) -> None:
    with bench.create(cluster_size=bench.configuration.page_size, md_pages=64) as store:
        blobs = [bench.blob(store), bench.blob(store)]
        for blob in blobs:
            blob.set_xattr("large", data(blob.id, 4040))
        for step in range(1, 80):
            for blob in blobs:
                blob.resize(step * store.cluster_size)
        kept = [blob.info for blob in blobs]
    with bench.load() as store:
        for info in kept:
            with store.open_blob(info.blob_id) as blob:
                assert blob.info.extents == info.extents
                assert blob.get_xattr("large") == data(blob.id, 4040)
                assert len(blob.info.metadata_pages) > 1


def test_blob_crc(bench: Bench, store: Blobstore) -> None:
    blob_id = bench.blob(store, 2).id
    store.close()
    with bench.load() as store:
        at = core_of(store).geometry.page_offset(root_of(BlobId(blob_id)))
        good = bench.device.read(at, 4096)
        bench.device.write(at + 4092, [b"\0\0\0\0"])
        with fails(EINVAL):
            store.open_blob(blob_id)
        with fails(EINVAL):
            store.delete_blob(blob_id)
        bench.device.write(at, [good])


def test_blob_set_xattrs_test(bench: Bench, store: Blobstore) -> None:
    with bench.blob(store, xattrs={"first": b"1", "second": b"22"}) as blob:
        assert blob.xattrs == {"first": b"1", "second": b"22"}
        with fails(ENOENT):
            blob.get_xattr("third")
    for xattrs, errno in (({"large": bytes(5000)}, ENOMEM), ({"none": b""}, EINVAL)):
        with fails(errno):
            bench.blob(store, xattrs=xattrs)
    assert store.blob_ids() == [blob.id]


@pytest.mark.parametrize(
    ("word", "bit", "data_ro", "md_ro"),
    [("data_ro", 1 << 63, True, True), ("md_ro", 1 << 62, False, True)],
)
def test_blob_flags(
    bench: Bench, store: Blobstore, word: str, bit: int, data_ro: bool, md_ro: bool
) -> None:
    with bench.blob(store, 1) as blob, bench.blob(store) as unknown:
        for opened, flags in ((blob, {word: bit}), (unknown, {"invalid": 1 << 61})):
            state = core_of(store).open_blobs[opened.id]
            state.flags = state.flags._replace(**flags)
            state.touch_attributes()
            opened.flush()
    store = bench.reload(store)
    with fails(EINVAL):
        store.open_blob(unknown.id)
    with store.open_blob(blob.id) as again:
        state = core_of(store).open_blobs[blob.id]
        assert (state.data_read_only, state.md_read_only) == (data_ro, md_ro)
        assert getattr(state.flags, word) & bit
        if not data_ro:
            again.write(b"x")
        with fails(EPERM):
            again.set_xattr("name", b"x")
    with bench.reload(store) as store, store.open_blob(blob.id):
        assert getattr(core_of(store).open_blobs[blob.id].flags, word) & bit


def test_blob_insert_cluster_msg_test(bench: Bench, store: Blobstore) -> None:
    with bench.blob(store, 4, thin=True) as blob:
        blob.write(data(1, BLOCK), CLUSTER)
        cluster = core_of(store).open_blobs[blob.id].clusters.get(1)
        assert core_of(store).clusters.used[cluster]
    with bench.reload(store) as store, store.open_blob(blob.id) as blob:
        assert blob.info.extents == [(0, 1), (cluster, 1), (0, 2)]
        assert any(blob.info.extent_pages) == bench.configuration.extent_table


def test_blob_persist_test(bench: Bench, store: Blobstore) -> None:
    with bench.blob(store) as blob:

        def set_and_sync(number: int) -> None:
            for step in range(10):
                blob.set_xattr(f"name{number}", data(step, 900))
                blob.sync_md()

        threads = [threading.Thread(target=set_and_sync, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert used_pages(store) == len(blob.info.metadata_pages)
    with bench.reload(store) as store, store.open_blob(blob.id) as blob:
        assert blob.xattrs == {f"name{number}": data(9, 900) for number in range(4)}


def test_blob_ext_md_pages(bench: Bench) -> None:
    """Where a resize needs more extent pages than there are, it fails and changes nothing."""
    cluster = bench.configuration.page_size
    with bench.create(cluster_size=cluster, md_pages=4) as store:
        free = store.free_clusters
        bench.blob(store).close()
        with bench.blob(store) as blob:
            wanted = min(free, 1400) * cluster
            if bench.configuration.extent_table and wanted // cluster > 512:
                with fails(ENOMEM):
                    blob.resize(wanted)
                assert (blob.size, store.free_clusters) == (0, free)
            blob.resize(3 * cluster)
            blob.sync_md()
            assert (blob.size, store.free_clusters) == (3 * cluster, free - 3)


def test_blob_simultaneous_operations(bench: Bench, blob: Blob, store: Blobstore) -> None:
    blob.write(data(1, 4 * CLUSTER))
    snapshot = blob.snapshot()
    refused: list[int] = []

    def try_others() -> None:
        acts: list[Callable[[], object]] = [blob.snapshot, blob.inflate, blob.decouple]
        acts += [lambda: blob.resize(CLUSTER), lambda: blob.resize(8 * CLUSTER)]
        for act in acts:
            with fails(EBUSY):
                act()
            refused.append(EBUSY)

    bench.device.during_next_write = try_others
    blob.inflate()
    assert refused == [EBUSY] * 5
    with exclusive(core_of(store), snapshot.id, what="test"):
        with fails(EBUSY):
            snapshot.clone()
        with fails(EBUSY):
            snapshot.shallow_copy(MemoryDevice(4 * CLUSTER))
        with fails(EBUSY):
            store.delete_blob(snapshot.id)
    snapshot.close()


def test_blob_nested_freezes(blob: Blob, store: Blobstore) -> None:
    state = core_of(store).open_blobs[blob.id]

    async def freeze_twice() -> list[int]:
        counts = []
        async with frozen(core_of(store), state):
            async with frozen(core_of(store), state):
                counts.append(state.frozen_count)
            counts.append(state.frozen_count)
        return [*counts, state.frozen_count]

    assert session_of(store).run(freeze_twice()) == [2, 1, 0]
    blob.write(b"not held up")


def test_blob_seek_io_unit(bench: Bench, store: Blobstore) -> None:
    with bench.blob(store, 8, thin=True) as blob:
        assert blob.next_allocated(0) is None
        assert blob.next_unallocated(0) == 0
        for index in (3, 4):
            blob.write(b"x", index * CLUSTER)
        assert blob.next_allocated(0) == 3 * CLUSTER
        assert blob.next_allocated(3 * CLUSTER + 7) == 3 * CLUSTER + 7
        assert blob.next_unallocated(3 * CLUSTER) == 5 * CLUSTER
        assert blob.next_allocated(5 * CLUSTER) is None
        assert blob.next_unallocated(8 * CLUSTER) is None


def test_blob_thin_prov_alloc(bench: Bench, store: Blobstore) -> None:
    free = store.free_clusters
    with bench.blob(store, 0, thin=True) as blob:
        for size in (CLUSTER, 5 * SIZE, 1 << 40, 5 * SIZE):
            blob.resize(size)
            blob.sync_md()
            assert (blob.size, blob.info.allocated_clusters) == (size, 0)
            assert (store.free_clusters, len(blob.info.metadata_pages)) == (free, 1)
            assert not any(blob.info.extent_pages)
    with bench.reload(store) as store, store.open_blob(blob.id) as blob:
        assert (blob.size, store.free_clusters, used_pages(store)) == (5 * SIZE, free, 1)
