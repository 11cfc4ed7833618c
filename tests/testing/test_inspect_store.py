"""Reading a store back: what loading decided about blobs is compared before anything is written."""

from blobstore.api.blobstore import Blobstore
from blobstore.device.memory import MemoryDevice
from blobstore.testing.inspect_store import load_checked
from blobstore.testing.simulated_disk import SimulatedDisk
from blobstore.units import MIB


class KeepingDevice(MemoryDevice):
    """Keeps what it holds at every flush."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self.kept: list[bytes] = []

    def flush(self) -> None:
        super().flush()
        self.kept.append(self.read(0, self.size_bytes))


def test_a_store_cut_off_in_deleting_a_snapshot_with_a_chain_adds_up() -> None:
    device = KeepingDevice(MIB)
    store = Blobstore.create(device, cluster_size=8192, md_pages=40)
    blob = store.create_blob(5 * 8192, thin=True, xattrs={"a": bytes(3000), "b": bytes(3000)})
    blob.write(b"x", 0)
    blob.set_read_only()
    blob.sync_md()
    blob.clone().close()
    blob.close()
    device.kept.clear()
    store.delete_blob(blob.id)
    blob_counts = []
    for image in device.kept:
        loaded = load_checked(SimulatedDisk(image))
        assert loaded is not None
        blob_counts.append(len(loaded[1].blobs))
    assert sorted(blob_counts, reverse=True) == blob_counts
    assert {*blob_counts} == {1, 2}
    store.close()
