"""Thin blobs: what is allocated, when, and what that costs on the device."""

import threading
from collections.abc import Callable, Sequence
from functools import partial

from blobstore import Blob, Blobstore
from blobstore.format.descriptors import EXTENT_TABLE, RUNS, THIN_PROV
from blobstore.testing.internals import core_of
from blobstore.units import PageIndex
from tests.checklist.bench import BLOCK, CLUSTER, Bench, data, fails, used_pages

ENOSPC = 28


def run_together(acts: Sequence[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=act) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_blob_thin_provision(bench: Bench, store: Blobstore) -> None:
    free = store.free_clusters
    blob = bench.blob(store, 5, thin=True)
    assert store.free_clusters == free
    with bench.load() as store, store.open_blob(blob.id) as blob:  # it was never unloaded
        info = blob.info
        assert (info.thin, info.extents) == (True, [(0, 5)])
        assert info.invalid_flags & THIN_PROV
        assert store.free_clusters == free
        kind = EXTENT_TABLE if bench.configuration.extent_table else RUNS
        assert bench.kinds(store, blob.id)[-1] == kind


def test_blob_thin_prov_rw(bench: Bench, store: Blobstore) -> None:
    free = store.free_clusters
    with bench.blob(store, 5, thin=True) as blob:
        assert blob.read(5 * CLUSTER) == bytes(5 * CLUSTER)
        assert store.free_clusters == free
        bench.device.log.clear()
        blob.write(data(1, BLOCK), 4 * BLOCK)
        assert bench.device.count("write") == BLOCK  # the rest is known to be zero
        assert store.free_clusters == free - 1
        run_together([partial(blob.write, data(at, 512), CLUSTER + at * 512) for at in range(8)])
        assert store.free_clusters == free - 2
        assert blob.read(8 * 512, CLUSTER) == b"".join(data(at, 512) for at in range(8))
        assert blob.read(CLUSTER)[4 * BLOCK : 5 * BLOCK] == data(1, BLOCK)


def test_blob_thin_prov_write_count_io(bench: Bench) -> None:
    """Metadata is written by the sync: the root, and before it an extent page that is new."""
    with bench.create(cluster_size=bench.configuration.page_size, md_pages=64) as store:
        cluster = store.cluster_size
        with bench.blob(store, 1024, thin=True) as blob:
            free = store.free_clusters
            start = core_of(store).geometry.page_offset(PageIndex(0))
            end = core_of(store).geometry.metadata_end
            is_table = bench.configuration.extent_table
            for index, is_new in ((0, True), (1, False), (512, True), (513, False)):
                blob.write(data(1, 512), index * cluster)
                bench.device.log.clear()
                blob.sync_md()
                pages = {
                    at // 4096
                    for kind, at, length in bench.device.log
                    if kind == "write" and start <= at < end and length <= 4096
                }
                assert not bench.device.count("read")
                # In the compact layout an extent page that alone has changed is rewritten in place.
                alone = is_table and not is_new and bench.configuration.page_size > 4096
                assert len(pages) == (2 if is_table and not alone else 1)
            blob.unmap(0, cluster)
            blob.sync_md()
            assert store.free_clusters == free - 3


def test_blob_thin_prov_unmap_cluster(bench: Bench, store: Blobstore) -> None:
    with bench.blob(store, 8, thin=True) as blob:
        free = store.free_clusters
        blob.write(data(1, 8 * CLUSTER))
        blob.unmap(2 * CLUSTER, CLUSTER)
        assert blob.info.allocated_clusters == 7
        assert store.free_clusters == free - 7
        blob.unmap(4 * CLUSTER - BLOCK, CLUSTER + 2 * BLOCK)
        assert blob.info.allocated_clusters == 6
        whole = bytearray(data(1, 8 * CLUSTER))
        whole[2 * CLUSTER : 3 * CLUSTER] = bytes(CLUSTER)
        whole[4 * CLUSTER - BLOCK : 5 * CLUSTER + BLOCK] = bytes(CLUSTER + 2 * BLOCK)
        assert blob.read(8 * CLUSTER) == whole
        with bench.blob(store, store.free_clusters - 2):  # two are left, and two can be had
            blob.write(data(2, CLUSTER), 2 * CLUSTER)
            blob.write(data(2, CLUSTER), 4 * CLUSTER)
            assert store.free_clusters == 0
            blob.unmap(0, CLUSTER)
            blob.write(data(3, CLUSTER))
            blob.resize(9 * CLUSTER)
            with fails(ENOSPC):
                blob.write(b"x", 8 * CLUSTER)


def test_blob_thin_prov_rle(bench: Bench, store: Blobstore) -> None:
    with bench.blob(store, 5, thin=True) as blob:
        blob.write(data(1, BLOCK), CLUSTER + BLOCK)
    with bench.reload(store) as store, store.open_blob(blob.id) as blob:
        assert [(first != 0, count) for first, count in blob.info.extents] == [
            (False, 1),
            (True, 1),
            (False, 3),
        ]
        assert blob.read(BLOCK, CLUSTER + BLOCK) == data(1, BLOCK)


def test_blob_thin_prov_rw_iov(bench: Bench, store: Blobstore) -> None:
    with bench.blob(store, 5, thin=True) as blob:
        buffers = [bytearray(b"\xff" * CLUSTER) for _ in range(5)]
        blob.readv(buffers)
        assert not any(map(any, buffers))
        parts = [data(1, BLOCK), data(2, CLUSTER)]
        blob.writev(parts, CLUSTER - BLOCK)
        assert blob.read(CLUSTER + BLOCK, CLUSTER - BLOCK) == b"".join(parts)
        assert blob.info.allocated_clusters == 2


def write_all(blob: Blob, places: Sequence[int]) -> None:
    for index in places:
        blob.write(data(index, BLOCK), index * CLUSTER)


def test_blob_thin_prov_update_extpage_ordered(bench: Bench, store: Blobstore) -> None:
    with bench.blob(store, 8, thin=True) as blob:
        blob.write(data(1, 4 * CLUSTER))
        acts = [lambda: write_all(blob, range(4, 8)), lambda: blob.unmap(0, 2 * CLUSTER)]
        run_together([*acts, blob.sync_md])
        kept = blob.info.extents
    with bench.reload(store) as store, store.open_blob(blob.id) as blob:
        assert blob.info.extents == kept
        assert kept[0][0] == 0
        assert blob.info.allocated_clusters == 6


def test_blob_thin_prov_alloc_extpage_concurrently(bench: Bench, store: Blobstore) -> None:
    with bench.blob(store, 8, thin=True) as blob:
        acts: list[Callable[[], object]] = [
            partial(blob.write, data(at, BLOCK), at * CLUSTER) for at in range(8)
        ]
        run_together([*acts, blob.sync_md, blob.sync_md])
        blob.sync_md()
        store.flush()
        assert used_pages(store) == 1 + bench.configuration.extent_table
    with bench.reload(store) as store, store.open_blob(blob.id) as blob:
        for index in range(8):
            assert blob.read(BLOCK, index * CLUSTER) == data(index, BLOCK)


def test_blob_thin_prov_unmap_update_extpage_ordered(bench: Bench, store: Blobstore) -> None:
    free = store.free_clusters
    with bench.blob(store, 8, thin=True) as blob:
        blob.write(data(1, 8 * CLUSTER))
        blob.sync_md()
        acts = [partial(blob.unmap, at * CLUSTER, CLUSTER) for at in (1, 2, 5)]
        run_together([*acts, blob.sync_md])
    with bench.reload(store) as store, store.open_blob(blob.id) as blob:
        holes = [at for at in range(8) if blob.next_unallocated(at * CLUSTER) == at * CLUSTER]
        assert (holes, store.free_clusters) == ([1, 2, 5], free - 5)
