"""The store as a whole: making, loading, growing, unloading, destroying."""

from dataclasses import replace

import pytest

from blobstore import Blobstore, grow
from blobstore.format.mask import MASK_CLUSTERS, decode_mask, encode_mask
from blobstore.format.super_block import MaskRegion
from blobstore.metadata.blob_state import SNAPSHOT_REMOVAL
from blobstore.testing.internals import core_of
from tests.checklist.bench import BLOCK, CLUSTER, SIZE, Bench, data, fails

ENOENT, EIO, ENXIO, ENOMEM, EBUSY, EINVAL, ENOSPC, EILSEQ = 2, 5, 6, 12, 16, 22, 28, 84


def test_blob_init(bench: Bench) -> None:
    bench.device.physical_block_size = BLOCK + 512
    with fails(EINVAL):
        bench.create()
    assert bench.device.change_count == 0
    bench.device.physical_block_size = BLOCK
    bench.create().unload()
    assert bench.super_block().clean


def test_bs_load(bench: Bench, store: Blobstore) -> None:
    with bench.blob(store, 3, xattrs={"name": b"log.txt"}) as blob:
        blob.set_xattr("length", b"\x01\x02")
    with bench.reload(store) as store:
        for bogus in (0, blob.id + 1, 1 << 32 | 10**6, 2**64 - 1):
            with fails(ENOENT):
                store.open_blob(bogus)
        with store.open_blob(blob.id) as blob:
            assert blob.xattrs == {"name": b"log.txt", "length": b"\x01\x02"}
            assert blob.size == 3 * CLUSTER
    good = bench.super_block()
    bench.change_super_block(size_bytes=SIZE + 1)
    with fails(EILSEQ):
        bench.load()
    bench.change_super_block(size_bytes=0)
    with bench.load() as store:
        assert store.info.size == SIZE
    bench.device.write(0, [good.encode()])


def test_bs_load_pending_removal(bench: Bench, store: Blobstore) -> None:
    with bench.blob(store, 2) as clone, clone.snapshot() as snapshot:
        mark_for_removal(store, snapshot.id, clone.id)
    with bench.reload(store) as store, store.open_blob(clone.id) as clone:
        assert clone.info.parent == snapshot.id
        with store.open_blob(snapshot.id) as snapshot:
            assert snapshot.info.internal_xattrs == {}
            clone.inflate()
            mark_for_removal(store, snapshot.id, clone.id)
    with bench.load() as store:
        assert store.blob_ids() == [clone.id]
        with fails(ENOENT):
            store.open_blob(snapshot.id)


def mark_for_removal(store: Blobstore, snapshot_id: int, clone_id: int) -> None:
    (state,) = (state for id_, state in core_of(store).open_blobs.items() if id_ == snapshot_id)
    state.put_internal(SNAPSHOT_REMOVAL, clone_id.to_bytes(8, "little"))
    state.touch_attributes()
    store.flush()


def test_bs_load_custom_cluster_size(bench: Bench) -> None:
    for cluster_size in (2 * CLUSTER, 3 * 16384):
        with bench.create(cluster_size=cluster_size) as store:
            free = store.free_clusters
        with bench.load() as store:
            assert (store.cluster_size, store.free_clusters) == (cluster_size, free)


def test_bs_load_after_failed_grow(bench: Bench, store: Blobstore) -> None:
    with bench.blob(store, 3):
        pass
    free, geometry = store.free_clusters, core_of(store).geometry
    store.close()
    region = geometry.used_clusters
    place, length = geometry.region_offset(region), geometry.region_bytes(region)
    total = geometry.total_clusters
    mask = decode_mask(bench.device.read(place, length), kind=MASK_CLUSTERS, bit_count=total)
    longer = mask + mask  # as a grow leaves it that was interrupted before the super block
    bench.device.write(place, [encode_mask(MASK_CLUSTERS, longer, length)])
    with bench.load() as store:
        assert (store.info.total_clusters, store.free_clusters) == (total, free)


def test_bs_load_error(bench: Bench, store: Blobstore) -> None:
    blob_id = bench.blob(store, 3).id
    store.close()
    bench.device.log.clear()
    bench.load(read_only=True).close()
    reads = sum(kind == "read" for kind, _at, _length in bench.device.log)
    assert reads >= 4
    for count in range(reads):
        bench.device.reads_left = count
        with fails(EIO):
            bench.load()
    bench.device.reads_left = None
    with bench.load() as store:
        assert store.blob_ids() == [blob_id]


def test_bs_unload(bench: Bench, store: Blobstore) -> None:
    blob = bench.blob(store, 1)
    with fails(EBUSY):
        store.unload()
    assert store.blob_ids() == [blob.id]
    blob.close()
    store.unload()
    assert store.closed
    assert bench.super_block().clean


def test_bs_unload_hotremove(bench: Bench, store: Blobstore) -> None:
    bench.blob(store, 1).close()
    bench.device.changes_left, bench.device.fails = 0, True
    with fails(EIO):
        store.unload()
    assert store.closed
    bench.device.changes_left, bench.device.fails = None, False
    with bench.load() as store:
        assert len(store.blob_ids()) == 1


def test_bs_cluster_sz(bench: Bench) -> None:
    page = bench.configuration.page_size
    for cluster_size, errno in (
        (0, EINVAL),
        (page - 1, EINVAL),
        (page // 2, EINVAL),
    ):
        with fails(errno):
            bench.create(cluster_size=cluster_size)
    with fails(ENOMEM):
        clusters = bench.device.size_bytes // page
        bench.create(cluster_size=page, md_pages=clusters)  # the default has fewer pages here
    with bench.create(cluster_size=2 * CLUSTER) as store:
        assert store.cluster_size == 2 * CLUSTER
    with bench.load() as store:
        assert store.cluster_size == 2 * CLUSTER


def test_bs_usable_clusters(bench: Bench, store: Blobstore) -> None:
    usable = store.info.data_clusters
    for _ in range(4):
        with bench.blob(store, 10):
            assert store.info.data_clusters == usable
        store = bench.reload(store)
        assert store.info.data_clusters == usable
    assert store.free_clusters == usable - 40
    store.close()


def test_bs_resize_md(bench: Bench) -> None:
    cluster = max(16384, bench.configuration.page_size)
    pages = 3 * cluster // bench.configuration.page_size
    with bench.create(cluster_size=cluster, md_pages=pages) as store:
        geometry = core_of(store).geometry
        assert geometry.md_clusters > pages * bench.configuration.page_size // cluster
        assert geometry.md_clusters * cluster >= geometry.metadata_end
        free = store.free_clusters
        assert free == SIZE // cluster - geometry.md_clusters
    with bench.load() as store:
        assert (store.free_clusters, core_of(store).geometry.md_len) == (free, pages)


def test_bs_destroy(bench: Bench, store: Blobstore) -> None:
    bench.device.changes_left, bench.device.fails = 0, True
    with fails(EIO):
        store.destroy()
    bench.device.changes_left, bench.device.fails = None, False
    store = bench.load()
    store.destroy()
    with fails(EILSEQ):
        bench.load()


def test_bs_type(bench: Bench) -> None:
    with bench.create(bstype=b"TESTTYPE") as store:
        assert store.info.bstype == b"TESTTYPE".ljust(16, b"\0")
    for bstype in (b"TESTTYPE", b"", bytes(16), None):
        bench.load(bstype=bstype).close()
    with fails(ENXIO):
        bench.load(bstype=b"OTHER")
    with bench.load() as store:
        store.set_type(b"OTHER")
        assert store.info.bstype == b"OTHER".ljust(16, b"\0")
    bench.load(bstype=b"OTHER").close()


def test_bs_super_block(bench: Bench, store: Blobstore) -> None:
    blob_id = bench.blob(store, 2).id
    store.close()
    good = bench.super_block()
    for version in (0, 4):
        bench.device.write(0, [replace(good, version=version).encode()])
        with fails(EILSEQ):
            bench.load()
    old = replace(good, version=1, used_blob_ids=MaskRegion(0, 0), size_bytes=0, bstype=bytes(16))
    if bench.configuration.page_size == 4096:  # older stores know no other
        bench.device.write(0, [replace(old, io_unit_size=0, md_page_size=0).encode()])
        with bench.load() as store:
            assert (store.info.version, store.blob_ids()) == (1, [blob_id])
        assert bench.super_block().version == 1
    bench.device.write(0, [good.encode()])


def test_bs_test_recover_cluster_count(bench: Bench, store: Blobstore) -> None:
    free = store.free_clusters
    bench.blob(store, 5).close()
    with bench.load() as recovered:  # the store was not unloaded
        assert recovered.free_clusters == free - 5
        assert recovered.info.data_clusters == free
        bench.blob(recovered, free - 5).close()
        assert recovered.free_clusters == 0


def test_bs_grow_live(bench: Bench, store: Blobstore) -> None:
    blob_id = bench.blob(store, 3).id
    for size in (SIZE, SIZE + CLUSTER // 2, 2 * SIZE):
        bench.device.resize(size)
        total = size // CLUSTER
        before = store.free_clusters
        added = total - store.info.total_clusters
        assert store.grow().total_clusters == total
        assert store.free_clusters == before + added
    store = bench.reload(store)
    assert (store.info.size, store.info.total_clusters) == (2 * SIZE, 2 * SIZE // CLUSTER)
    assert store.blob_ids() == [blob_id]
    bench.blob(store, store.free_clusters).close()
    store.close()


def test_bs_grow_live_no_space(bench: Bench, store: Blobstore) -> None:
    store = bench.reload(store)
    before = bench.device.content()
    bench.device.resize(SIZE - CLUSTER)
    with fails(EILSEQ):
        store.grow()
    bench.device.resize(SIZE)
    room = bench.configuration.page_size * 8 * CLUSTER
    bench.device._set_size(room + CLUSTER)
    with fails(ENOSPC):
        store.grow()
    bench.device._set_size(SIZE)
    assert bench.device.content()[:BLOCK] == before[:BLOCK]
    store.close()


def test_bs_test_grow(bench: Bench, store: Blobstore) -> None:
    with bench.blob(store, 3):
        pass
    free = store.free_clusters
    store.close()
    bench.device.resize(2 * SIZE)
    assert grow(bench.device) == 2 * SIZE
    super_block = bench.super_block()
    assert (super_block.size_bytes, super_block.clean) == (2 * SIZE, True)
    with bench.load() as store:
        assert store.info.total_clusters == 2 * SIZE // CLUSTER
        assert store.free_clusters == free + SIZE // CLUSTER


def test_super_block_crc(bench: Bench, store: Blobstore) -> None:
    store.close()
    good = bench.device.read(0, BLOCK)
    bench.device.write(4092, [bytes(4)])
    with fails(EILSEQ):
        bench.load()
    bench.device.write(0, [good])


def test_blob_dirty_shutdown(bench: Bench, store: Blobstore) -> None:
    free = store.free_clusters
    first, second = bench.blob(store, 10, xattrs={"name": b"a"}), bench.blob(store)
    first.set_xattr("page", data(1, 4000))
    first.resize(20 * CLUSTER)
    first.sync_md()
    second.set_xattr("lost", b"x")
    store = bench.load()
    assert store.free_clusters == free - 20
    with store.open_blob(first.id) as again, store.open_blob(second.id) as other:
        assert again.xattrs == {"name": b"a", "page": data(1, 4000)}
        assert (again.size, dict(other.xattrs)) == (20 * CLUSTER, {})
        again.resize(5 * CLUSTER)
        again.remove_xattr("page")
    store.delete_blob(second.id)
    store = bench.load()
    assert (store.blob_ids(), store.free_clusters) == ([first.id], free - 5)
    with store.open_blob(first.id) as again:
        assert (again.size, dict(again.xattrs)) == (5 * CLUSTER, {"name": b"a"})
    store.delete_blob(first.id)
    with bench.load() as store:
        assert (store.blob_ids(), store.free_clusters) == ([], free)


def test_bs_version(bench: Bench, store: Blobstore) -> None:
    blob_id = bench.blob(store, 2).id
    store.close()
    bench.change_super_block(version=2, used_blob_ids=MaskRegion(0, 0))
    with bench.load() as store, store.open_blob(blob_id) as blob:
        blob.set_xattr("name", b"x")
    assert (bench.super_block().version, bench.super_block().clean) == (2, True)
    with bench.load() as store:
        assert store.blob_ids() == [blob_id]


@pytest.mark.parametrize("clean", [True, False])
def test_bs_load_iter_test(bench: Bench, store: Blobstore, clean: bool) -> None:
    made = [bench.blob(store, 1, xattrs={"number": bytes([number])}).id for number in range(1, 6)]
    if clean:
        store.close()
    with bench.load() as store:
        found = [blob for blob in store.list_blobs() if blob.error is None]
    assert [blob.blob_id for blob in found] == sorted(made)
    assert [blob.xattrs["number"] for blob in found] == [bytes([n]) for n in range(1, 6)]
