"""Reading and writing blobs: bounds, vectors, requests over several clusters, io units."""

import threading
from collections.abc import Callable

import pytest

from blobstore import Blob, Blobstore
from blobstore.testing.internals import core_of
from tests.checklist.bench import BLOCK, CLUSTER, Bench, data, fails

EPERM, EINVAL = 1, 22

Transfer = Callable[[Blob, int, int], object]


def write(blob: Blob, length: int, offset: int) -> object:
    return blob.write(data(7, length), offset)


def read(blob: Blob, length: int, offset: int) -> object:
    return blob.read(length, offset)


def refuse_what_is_outside(store: Blobstore, bench: Bench, transfer: Transfer) -> None:
    with bench.blob(store) as empty:
        with fails(EINVAL):
            transfer(empty, BLOCK, 0)
        empty.resize(2 * CLUSTER)
        transfer(empty, 2 * CLUSTER, 0)
        for offset, length in ((2 * CLUSTER, BLOCK), (2 * CLUSTER - BLOCK, 2 * BLOCK), (-1, 1)):
            with fails(EINVAL):
                transfer(empty, length, offset)


def test_blob_write(bench: Bench, store: Blobstore, blob: Blob) -> None:
    refuse_what_is_outside(store, bench, write)
    blob.set_read_only()
    blob.sync_md()
    with fails(EPERM):
        write(blob, BLOCK, 0)


def test_blob_read(bench: Bench, store: Blobstore, blob: Blob) -> None:
    refuse_what_is_outside(store, bench, read)
    blob.write(data(1, BLOCK))
    blob.set_read_only()
    blob.sync_md()
    assert blob.read(BLOCK) == data(1, BLOCK)


def test_blob_rw_verify(blob: Blob) -> None:
    blob.write(data(1, 10 * BLOCK), 4 * BLOCK)
    assert blob.read(10 * BLOCK, 4 * BLOCK) == data(1, 10 * BLOCK)
    assert blob.read(4 * BLOCK) == bytes(4 * BLOCK)


def test_blob_rw_verify_iov(bench: Bench, store: Blobstore) -> None:
    with bench.blob(store, 1) as blob, bench.blob(store, 1) as neighbour:
        blob.resize(2 * CLUSTER)
        (first, _), (second, _) = blob.info.extents
        assert second != first + 1
        parts = [data(seed, length) for seed, length in ((1, BLOCK), (2, 3 * BLOCK), (3, 512))]
        at = CLUSTER - 2 * BLOCK
        assert blob.writev(parts, at) == 4 * BLOCK + 512
        buffers = [bytearray(100), bytearray(4 * BLOCK + 412)]
        blob.readv(buffers, at)
        assert b"".join(buffers) == b"".join(parts)
        assert neighbour.read(CLUSTER) == bytes(CLUSTER)


def test_blob_rw_iov_read_only(blob: Blob) -> None:
    blob.writev([b"ab", b"cd"])
    blob.set_read_only()
    blob.sync_md()
    with fails(EPERM):
        blob.writev([b"xy", b"z"])
    buffer = bytearray(4)
    blob.readv([buffer])
    assert buffer == b"abcd"


@pytest.fixture(params=["thick", "thin"])
def wide(request: pytest.FixtureRequest, bench: Bench, store: Blobstore) -> Blob:
    """A blob of five clusters, thick or thin."""
    return bench.blob(store, 5, thin=request.param == "thin")


def test_blob_operation_split_rw(wide: Blob) -> None:
    whole = bytearray(5 * CLUSTER)
    for seed, offset, length in (
        (1, 0, 5 * CLUSTER),
        (2, CLUSTER - 512, 3 * CLUSTER),
        (3, 512, 2 * CLUSTER + 512),
        (4, 4 * CLUSTER + 1024, BLOCK),
    ):
        wide.write(data(seed, length), offset)
        whole[offset : offset + length] = data(seed, length)
        assert wide.read(5 * CLUSTER) == whole
    assert wide.read(2 * CLUSTER + 3, CLUSTER - 1) == whole[CLUSTER - 1 :][: 2 * CLUSTER + 3]


def test_blob_operation_split_rw_iov(wide: Blob) -> None:
    whole = bytearray(5 * CLUSTER)
    for seed, offset, sizes in (
        (1, 0, (CLUSTER, 3 * CLUSTER, CLUSTER)),
        (2, CLUSTER - 512, (512, 100, 2 * CLUSTER)),
        (3, 4 * CLUSTER - 1, (1, 1)),
    ):
        parts = [data(seed + part, size) for part, size in enumerate(sizes)]
        wide.writev(parts, offset)
        whole[offset : offset + sum(sizes)] = b"".join(parts)
        buffers = [bytearray(2 * CLUSTER + 5), bytearray(3 * CLUSTER - 5)]
        wide.readv(buffers)
        assert b"".join(buffers) == whole


def check_io_units(blob: Blob, whole: bytearray) -> None:
    """Write and read io units of 512 bytes at, before and after every border."""
    cluster = len(whole) // 4
    borders = [
        at for n in range(1, 4) for at in (n * cluster - 512, n * cluster, n * cluster + 512)
    ]
    for offset in (0, 512, *borders, len(whole) - 512):
        for count in (1, 2, 8, cluster // 512 + 1):
            length = min(512 * count, len(whole) - offset)
            blob.write(data(offset + count, length), offset)
            whole[offset : offset + length] = data(offset + count, length)
            assert blob.read(length, offset) == whole[offset : offset + length]
    assert blob.read(len(whole)) == whole


def test_blob_io_unit(bench: Bench) -> None:
    bench.device.block_size = 512
    cluster = max(BLOCK, bench.configuration.page_size) * 4
    with bench.create(cluster_size=cluster) as store:
        assert store.info.io_unit_size == 512
        contents: dict[int, bytearray] = {}
        with bench.blob(store, 4) as thick, bench.blob(store, 4, thin=True) as thin:
            for blob in (thick, thin):
                check_io_units(blob, contents.setdefault(blob.id, bytearray(4 * cluster)))
            snapshot = thin.snapshot()
        with snapshot:
            kept = contents[snapshot.id] = bytearray(contents[thin.id])
            with snapshot.clone() as clone:
                check_io_units(clone, contents.setdefault(clone.id, bytearray(kept)))
                clone.inflate()
                assert clone.read(4 * cluster) == contents[clone.id]
    with bench.load() as store:
        for blob_id, content in contents.items():
            with store.open_blob(blob_id) as blob:
                assert blob.read(4 * cluster) == content


def test_blob_io_unit_compatibility(bench: Bench, store: Blobstore) -> None:
    with bench.blob(store, 2) as blob:
        blob.write(data(1, CLUSTER), BLOCK)
    store.close()
    bench.change_super_block(io_unit_size=0)
    with bench.load() as store:
        assert store.info.io_unit_size == 4096
        with store.open_blob(blob.id) as blob:
            assert blob.read(CLUSTER, BLOCK) == data(1, CLUSTER)


def test_blob_snapshot_freeze_io(blob: Blob, store: Blobstore, bench: Bench) -> None:
    old, new = data(1, 4 * CLUSTER), data(2, CLUSTER)
    blob.write(old)
    writer = threading.Thread(target=lambda: blob.write(new, CLUSTER))
    state = core_of(store).open_blobs[blob.id]
    waited: list[bool] = []

    def write_meanwhile() -> None:
        if state.frozen_count == 0:  # the store is being marked dirty
            bench.device.during_next_write = write_meanwhile
            return
        writer.start()
        while writer.is_alive() and not core_of(store).thawing:
            writer.join(0.001)
        waited.append(writer.is_alive())

    bench.device.during_next_write = write_meanwhile
    with blob.snapshot() as snapshot:
        writer.join()
        assert waited == [True]
        assert snapshot.read(4 * CLUSTER) == old
        assert blob.read(4 * CLUSTER) == old[:CLUSTER] + new + old[2 * CLUSTER :]
        assert blob.info.extents == [(0, 1), (blob.info.extents[1][0], 1), (0, 2)]
