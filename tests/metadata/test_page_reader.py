"""Pages come in few reads where they lie near each other, and alone where they do not."""

from typing import Final

import pytest

from blobstore.drivers.blocking import BlockingDriver
from blobstore.errors import BlobstoreError, DeviceError
from blobstore.format.geometry import Geometry
from blobstore.format.super_block import SuperBlock
from blobstore.metadata.page_reader import PageReader
from blobstore.units import PageIndex
from tests.proof.forge import Forge, flags, table
from tests.proof.image_device import SparseDevice

MANY: Final = 3000


class CountingDevice(SparseDevice):
    """Counts reads, and cannot read some pieces."""

    reads = 0
    pages = 0
    failed = 0
    bad: frozenset[int] = frozenset()

    def read(self, offset: int, length: int) -> bytes:
        self.reads += 1
        self.pages += -(-length // 4096)
        if self.bad & set(range(offset // 4096, -(-(offset + length) // 4096))):
            self.failed += 1
            raise DeviceError("medium: bad sector")
        return super().read(offset, length)


def device_of(count: int, *, page_size: int = 4096) -> CountingDevice:
    """Return a device with so many roots, each of which names its place."""
    forge = Forge(md_len=count + 8, cluster_count=count + 200, page_size=page_size)
    forge.cluster_size = max(forge.cluster_size, page_size)
    for number in range(count):
        forge.root(number, flags(), table(2, (0, 1)))
    found = forge.device(read_only=True)
    pieces = {n: found.piece(n) for n in range(found.size_bytes // 4096)}
    return CountingDevice(found.size_bytes, pieces, read_only=True)


def geometry_of(device: SparseDevice) -> Geometry:
    super_block = SuperBlock.decode(device.read(0, 4096))
    return Geometry.of(super_block, device_size=device.size_bytes)


def fetched(device: CountingDevice, pages: list[int]) -> list[int | str]:
    """Fetch pages, and return which place each names, or what is wrong with it."""
    reader = PageReader(geometry_of(device))
    device.reads = device.pages = device.failed = 0
    found: list[int | str] = []
    for page in pages:
        try:
            data = BlockingDriver(device).run(reader.fetch(PageIndex(page)))
        except BlobstoreError as error:
            found.append(type(error).__name__)
        else:
            assert len(data) == 4096
            found.append(int.from_bytes(data[:4], "little"))
    return found


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("step", [1, 2, 9])
def test_neighbours_take_few_reads_in_either_direction(step: int, backwards: bool) -> None:
    device = device_of(MANY)
    pages = list(range(0, MANY, step))[:: -1 if backwards else 1]
    assert fetched(device, pages) == pages
    assert device.reads < 30


@pytest.mark.parametrize("backwards", [False, True])
def test_roots_and_extent_pages_far_from_each_other_take_few_reads(backwards: bool) -> None:
    device = device_of(2 * MANY)
    order = range(MANY)[:: -1 if backwards else 1]
    pages = [page for number in order for page in (number, MANY + number)]
    assert fetched(device, pages) == pages
    assert device.reads < 60


@pytest.mark.parametrize("backwards", [False, True])
def test_roots_with_an_extent_page_behind_each_take_few_reads(backwards: bool) -> None:
    device = device_of(2 * MANY)
    order = range(MANY)[:: -1 if backwards else 1]
    pages = [page for number in order for page in (2 * number, 2 * number + 1)]
    assert fetched(device, pages) == pages
    assert device.reads < 60


@pytest.mark.parametrize(("step", "most"), [(1, 2), (3, 4), (15, 16), (257, 3), (1031, 3)])
def test_pages_in_any_order_bring_few_others_with_them(step: int, most: int) -> None:
    device = device_of(MANY)
    pages = [number * step % MANY for number in range(MANY // max(2, min(step, 15)))]
    assert fetched(device, pages) == pages
    assert device.pages <= most * len(pages) + 10


def test_one_page_far_from_the_others_is_one_read() -> None:
    device = device_of(MANY)
    assert fetched(device, [5, MANY - 1, 1500]) == [5, MANY - 1, 1500]
    assert (device.reads, device.pages) == (3, 3)


def test_huge_pages_are_read_one_by_one() -> None:
    device = device_of(6, page_size=1 << 20)
    assert fetched(device, [0, 1, 2, 3]) == [0, 1, 2, 3]
    assert (device.reads, device.pages) == (4, 4)


def test_a_page_that_cannot_be_read_is_nobody_elses_business() -> None:
    device = device_of(MANY)
    device.bad = frozenset({geometry_of(device).page_offset(PageIndex(700)) // 4096})
    found = fetched(device, list(range(MANY)))
    assert found[700] == "DeviceError"
    assert [place for place, page in enumerate(found) if place != page] == [700]
    assert device.failed == 2  # the window, then the page


def test_pages_that_are_not_as_on_the_device_come_from_the_caller() -> None:
    device = device_of(100)
    reader = PageReader(geometry_of(device), {PageIndex(50): b"restored"})
    run = BlockingDriver(device).run
    assert run(reader.fetch(PageIndex(50))) == b"restored"
    assert run(reader.fetch(PageIndex(51)))[:4] == (51).to_bytes(4, "little")
