"""What an open blob says of itself: read-only, degraded, external; and blobs at loading."""

from pathlib import Path

import pytest

from blobstore import Blob, Blobstore, ClosedError, DeviceError, MemoryDevice, UnsupportedError
from blobstore.format.descriptors import Flags
from tests.descriptors import Descriptor
from tests.proof.corruptions.image import StoreImage
from tests.proof.corruptions.sample import ImageDevice

CLUSTER = 16384
SIZE = 4 * CLUSTER
ID = b"outside"
UNKNOWN = 1 << 7


@pytest.fixture
def store() -> Blobstore:
    return Blobstore.create(MemoryDevice(8 << 20), cluster_size=CLUSTER)


def test_a_blob_is_read_only_from_the_sync_on_that_made_it_so(store: Blobstore) -> None:
    blob = store.create_blob(SIZE)
    assert (blob.read_only, blob.data_read_only) == (False, False)
    blob.set_read_only()
    assert (blob.read_only, blob.data_read_only) == (False, False)
    blob.sync_md()
    assert (blob.read_only, blob.data_read_only) == (True, True)
    assert (blob.info.read_only, blob.info.data_read_only) == (True, True)


def with_unknown_md_ro(found: list[Descriptor]) -> list[Descriptor]:
    return [
        Flags(item.invalid, item.data_ro, UNKNOWN) if isinstance(item, Flags) else item
        for item in found
    ]


def test_read_only_metadata_makes_a_blob_read_only_and_its_data_can_be_written() -> None:
    made = ImageDevice(bytes(8 << 20), atomic_write_size=512)
    with Blobstore.create(made, cluster_size=CLUSTER) as store:
        blob_id = store.create_blob(SIZE).id
    image = StoreImage.of(made.image, made.image, {"blob": blob_id})
    image.edit_root("blob", with_unknown_md_ro)
    with Blobstore.open(ImageDevice(bytes(image.data), atomic_write_size=512)) as store:
        with store.open_blob(blob_id) as blob:
            assert (blob.read_only, blob.data_read_only) == (True, False)
            assert (blob.info.read_only, blob.info.data_read_only) == (True, False)
            blob.write(b"data")
            assert blob.read(4) == b"data"
        (listed,) = store.list_blobs()
        assert (listed.read_only, listed.data_read_only) == (True, False)


def test_a_blob_is_degraded_while_what_it_reads_is_not_registered(store: Blobstore) -> None:
    device = MemoryDevice(SIZE, fill=0xEE)
    store.register_external(ID, device)
    clone = store.create_blob(SIZE, external_snapshot=ID)
    snapshot = clone.snapshot()
    other = store.create_blob(SIZE)
    for registered, degraded in ((device, False), (None, True), (device, False)):
        store.register_external(ID, registered)
        assert [blob.degraded for blob in (clone, snapshot, other)] == [degraded, degraded, False]
        assert snapshot.external is registered
    store.register_external(ID, None)
    with pytest.raises(UnsupportedError):
        clone.read(CLUSTER)


def test_a_blob_tells_what_is_registered_for_its_external_snapshot(
    store: Blobstore, tmp_path: Path
) -> None:
    device = MemoryDevice(SIZE)
    path = tmp_path / "outside.img"
    path.write_bytes(bytes(SIZE))
    store.register_external(ID, device)
    clone = store.create_blob(SIZE, external_snapshot=ID)

    def external() -> object:
        return clone.external

    assert external() is device
    with Blobstore.create(MemoryDevice(8 << 20), cluster_size=CLUSTER) as others:
        blob = others.create_blob(SIZE)
        store.register_external(ID, blob)
        assert external() is blob
    store.register_external(ID, path)
    assert getattr(external(), "name", "") == str(path)
    assert store.create_blob(SIZE).external is None
    store.close()


def test_a_closed_blob_tells_nothing(store: Blobstore) -> None:
    blob = store.create_blob(SIZE)
    blob.close()
    for name in ("read_only", "data_read_only", "degraded", "external"):
        with pytest.raises(ClosedError):
            getattr(blob, name)


def test_loading_calls_with_every_blob_in_order_each_open_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with Blobstore.create(path, size=8 << 20, cluster_size=CLUSTER) as store:
        ids = [store.create_blob(SIZE, name=f"blob {number}").id for number in range(5)]
    seen: list[Blob] = []
    names: list[str | None] = []

    def note(blob: Blob) -> None:
        seen.append(blob)
        names.append(blob.name)

    with Blobstore.open(path, on_blob=note) as store:
        assert [blob.id for blob in seen] == ids == store.blob_ids()
        assert names == [f"blob {number}" for number in range(5)]
        assert all(blob.closed for blob in seen)


def test_a_callback_that_fails_while_loading_closes_the_store(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with Blobstore.create(path, size=8 << 20, cluster_size=CLUSTER) as store:
        store.create_blob(SIZE).close()

    def fail(_blob: Blob) -> None:
        raise DeviceError("no")

    for _again in range(2):
        with pytest.raises(DeviceError, match="no"):
            Blobstore.open(path, on_blob=fail)
    Blobstore.open(path).close()
