"""How recovery reads the metadata region."""

from collections.abc import Sequence

from blobstore import Blobstore
from blobstore.device.memory import MemoryDevice
from blobstore.device.ring import address_of
from blobstore.units import MIB


class AddressRecorder(MemoryDevice):
    """Notes where in memory the buffers of large reads begin."""

    def __init__(self) -> None:
        super().__init__(64 * MIB)
        self.addresses: list[int] = []

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        self.addresses += [address_of(buffer) for buffer in buffers if len(buffer) > 4096]
        super().read_into(offset, buffers)

    def close(self) -> None:
        """Stay open, for the next store."""


def test_the_region_is_read_into_memory_that_direct_io_takes_without_a_copy() -> None:
    device = AddressRecorder()
    with Blobstore.create(device, md_pages=2_000) as store:
        for _ in range(3):
            store.create_blob("1MiB", thin=True).close()
    device.addresses.clear()
    with Blobstore.open(device, force_recovery=True) as store:
        assert len(store.blob_ids()) == 3
    assert device.addresses
    assert [address % 4096 for address in device.addresses] == [0] * len(device.addresses)
