"""Clones of external snapshots: the content comes from what the caller registers."""

from collections.abc import Callable

import pytest

from blobstore import Blob, Blobstore, Device, MemoryDevice
from tests.checklist.bench import BLOCK, CLUSTER, Bench, data, fails

ENOENT, EEXIST, EINVAL, ENOTSUP = 2, 17, 22, 95

ID = b"external"
SIZE = 4 * CLUSTER


def source(*, seed: int = 9, size: int = SIZE, block_size: int = BLOCK) -> MemoryDevice:
    device = MemoryDevice(size, block_size)
    device.write(0, [data(seed, size)])
    return device


@pytest.fixture
def external(store: Blobstore) -> MemoryDevice:
    """An external snapshot of four clusters that the store knows."""
    device = source()
    store.register_external(ID, device)
    return device


@pytest.fixture
def clone(bench: Bench, store: Blobstore, external: MemoryDevice) -> Blob:
    """An open clone of it."""
    return bench.blob(store, 4, external_snapshot=ID)


def test_blob_esnap_create(bench: Bench, clone: Blob, store: Blobstore) -> None:
    info = clone.info
    assert (info.external_snapshot, info.parent, info.thin) == (ID, None, True)
    assert (clone.size, info.allocated_clusters) == (SIZE, 0)
    clone.resize(6 * CLUSTER)
    content = data(9, SIZE) + bytes(2 * CLUSTER)
    assert clone.read(6 * CLUSTER) == content
    with bench.reload(store) as store, store.open_blob(clone.id) as again:
        assert (again.size, again.info.external_snapshot) == (6 * CLUSTER, ID)
        with fails(ENOTSUP):  # nobody has said what it is
            again.read(BLOCK)
        store.register_external(ID, source())
        assert again.read(6 * CLUSTER) == content


def check_io(bench: Bench, *, block: int, external_block: int) -> None:
    """Write every second block of a clone, and compare all of it after each write."""
    bench.device.block_size = block
    cluster = 2 * max(2 * BLOCK, bench.configuration.page_size)
    with bench.create(cluster_size=cluster) as store:
        assert store.info.io_unit_size == block
        store.register_external(ID, source(size=2 * cluster, block_size=external_block))
        content = bytearray(data(9, 2 * cluster))
        with bench.blob(store, 2, external_snapshot=ID) as clone:
            assert clone.read(2 * cluster) == content
            for at in range(0, 2 * cluster, max(2 * block, cluster // 8)):
                clone.write(data(at, block), at)
                content[at : at + block] = data(at, block)
                assert clone.read(2 * cluster) == content
            clone.write(data(1, cluster), cluster // 2)
            content[cluster // 2 : cluster // 2 + cluster] = data(1, cluster)
    with bench.load() as store, store.open_blob(clone.id) as clone:
        assert clone.read(2 * cluster) == content
        assert clone.info.allocated_clusters == 2


def test_blob_esnap_io_4096_4096(bench: Bench) -> None:
    check_io(bench, block=4096, external_block=4096)


def test_blob_esnap_io_512_512(bench: Bench) -> None:
    check_io(bench, block=512, external_block=512)


def test_blob_esnap_io_4096_512(bench: Bench) -> None:
    check_io(bench, block=4096, external_block=512)


def test_blob_esnap_io_512_4096(bench: Bench) -> None:
    """What SPDK refuses when the clone is opened is refused when the source is registered."""
    bench.device.block_size = 512
    with bench.create() as store, bench.blob(store, 4, external_snapshot=ID) as clone:
        with fails(EINVAL):
            store.register_external(ID, source(block_size=4096))
        with fails(ENOTSUP):
            clone.read(512)


def test_blob_esnap_clone_snapshot(bench: Bench, clone: Blob, store: Blobstore) -> None:
    clone.write(data(1, CLUSTER))
    content = data(1, CLUSTER) + data(9, SIZE)[CLUSTER:]
    with clone.snapshot() as snapshot:
        assert (snapshot.info.external_snapshot, snapshot.info.clones) == (ID, [clone.id])
        assert (clone.info.external_snapshot, clone.info.parent) == (None, snapshot.id)
        with snapshot.clone() as other:
            assert (other.info.external_snapshot, other.info.parent) == (None, snapshot.id)
            assert clone.read(SIZE) == snapshot.read(SIZE) == other.read(SIZE) == content
    store.delete_blob(other.id)
    store.delete_blob(snapshot.id)
    assert (clone.info.external_snapshot, clone.info.parent) == (ID, None)
    assert clone.read(SIZE) == content


def copies_everything(clone: Blob, act: Callable[[], None]) -> None:
    clone.write(data(1, BLOCK), CLUSTER)
    content = clone.read(SIZE)
    act()
    info = clone.info
    assert (info.external_snapshot, info.parent, info.thin) == (None, None, False)
    assert info.allocated_clusters == 4
    assert clone.read(SIZE) == content


def test_blob_esnap_clone_inflate(clone: Blob, store: Blobstore) -> None:
    copies_everything(clone, clone.inflate)
    store.register_external(ID, None)
    assert clone.read(BLOCK, CLUSTER) == data(1, BLOCK)


def test_blob_esnap_clone_decouple(clone: Blob) -> None:
    copies_everything(clone, clone.decouple)


def test_blob_esnap_clone_reload(bench: Bench, clone: Blob, store: Blobstore) -> None:
    with clone.snapshot() as snapshot, snapshot.clone() as other:
        other.write(data(2, CLUSTER))
    for _ in range(2):
        store = bench.reload(store)
        store.register_external(ID, source())
        with store.open_blob(snapshot.id) as again:
            assert again.info.external_snapshot == ID
            assert again.info.clones == sorted([clone.id, other.id])
        with store.open_blob(other.id) as again:
            assert again.read(SIZE) == data(2, CLUSTER) + data(9, SIZE)[CLUSTER:]
        with store.open_blob(clone.id) as again:
            assert again.read(SIZE) == data(9, SIZE)
    store.close()


def test_blob_esnap_hotplug(bench: Bench, clone: Blob, store: Blobstore) -> None:
    with clone.snapshot() as snapshot:
        assert clone.read(SIZE) == snapshot.read(SIZE) == data(9, SIZE)
        store.register_external(ID, source(seed=10))
        assert clone.read(SIZE) == snapshot.read(SIZE) == data(10, SIZE)
        store.register_external(ID, None)
        with fails(ENOTSUP):
            clone.read(SIZE)


def test_blob_is_degraded(bench: Bench, blob: Blob, store: Blobstore) -> None:
    """A blob is degraded when what it reads is missing: that read says so, and only that one."""
    known: list[Device | None] = [None, source(), None]
    blob.write(data(1, SIZE))
    with bench.blob(store, 4, external_snapshot=ID) as clone:
        for device in known:
            store.register_external(ID, device)
            assert blob.read(SIZE) == data(1, SIZE)
            if device is None:
                with fails(ENOTSUP):
                    clone.read(SIZE)
            else:
                assert clone.read(SIZE) == data(9, SIZE)
                clone.write(data(2, CLUSTER))
        assert clone.read(CLUSTER) == data(2, CLUSTER)


def test_blob_esnap_clone_resize(clone: Blob) -> None:
    clone.resize(6 * CLUSTER)
    content = bytearray(data(9, SIZE) + bytes(2 * CLUSTER))
    for at in range(SIZE - 3 * BLOCK, SIZE + 3 * BLOCK, BLOCK):
        clone.write(data(at, BLOCK), at)
        content[at : at + BLOCK] = data(at, BLOCK)
        assert clone.read(6 * CLUSTER) == content
    assert clone.info.allocated_clusters == 2
    clone.inflate()
    assert clone.read(6 * CLUSTER) == content


def test_blob_set_external_parent(
    bench: Bench, store: Blobstore, external: MemoryDevice, clone: Blob
) -> None:
    with fails(EEXIST):
        clone.set_external_parent(ID)
    with fails(ENOENT):
        clone.set_external_parent(b"unknown")
    store.register_external(b"odd", source(size=SIZE + BLOCK))
    with fails(EINVAL):
        clone.set_external_parent(b"odd")
    with bench.blob(store, 4) as thick, fails(EINVAL):
        thick.set_external_parent(ID)
    clone.write(data(1, CLUSTER))
    with clone.snapshot():
        clone.set_external_parent(ID)
        assert (clone.info.external_snapshot, clone.info.parent) == (ID, None)
        assert clone.read(SIZE) == data(9, SIZE)
    with bench.blob(store, 4, thin=True) as plain:
        plain.write(data(2, CLUSTER), CLUSTER)
        plain.set_external_parent(ID)
        wanted = data(9, CLUSTER) + data(2, CLUSTER) + data(9, SIZE)[2 * CLUSTER :]
        assert plain.read(SIZE) == wanted
    with bench.reload(store) as store, store.open_blob(plain.id) as plain:
        store.register_external(ID, source())
        assert plain.read(SIZE) == wanted
