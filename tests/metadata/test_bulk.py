"""Blobs that are read with their neighbours are as `read_blob` reads them, one by one."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any, Final

import pytest

from blobstore.alloc.cluster_map import ClusterMap
from blobstore.drivers.blocking import BlockingDriver
from blobstore.errors import BlobstoreError, CorruptError, DeviceError, NotFoundError
from blobstore.format.checksum import crc32c
from blobstore.format.descriptors import Flags
from blobstore.format.geometry import Geometry, blob_id_of
from blobstore.format.root import Layout, RootState, encode_sector_head, encode_sector_tail
from blobstore.format.super_block import SuperBlock
from blobstore.metadata import bulk
from blobstore.metadata.blob_state import AbsentPages, BlobState, PlainState
from blobstore.metadata.bulk import BulkReader
from blobstore.metadata.fetch import fetch_from_device
from blobstore.metadata.read import read_blob
from blobstore.units import BlobId, PageIndex
from tests.metadata.shapes import PLAIN, SHAPES, TABLED
from tests.proof.forge import Forge, clone_of, extents, flags, table
from tests.proof.fuzz_target import seeds
from tests.proof.image_device import SparseDevice
from tests.proof.mutate import SmallImage, mutated

CHANGES: Final = 12
SHUFFLED: Final = 5
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


def geometry_of(device: SparseDevice) -> Geometry:
    super_block = SuperBlock.decode(device.read(0, 4096))
    return Geometry.of(super_block, device_size=device.size_bytes)


def facts(blob: BlobState | BlobstoreError) -> Any:
    """Return all that a blob's state says, or what is wrong with it."""
    if isinstance(blob, BlobstoreError):
        return type(blob), blob.errno, blob.message
    found = {field.name: getattr(blob, field.name) for field in fields(blob)}
    clusters: ClusterMap = found.pop("clusters")
    for name in ("chain", "extent_pages", "unknown_kinds"):
        found[name] = None if found[name] is None else list(found[name])
    for name in ("xattrs", "internal_xattrs"):
        found[name] = list(found[name].items())
    leaves = [(number, clusters.entries(number)) for number in clusters.present_numbers()]
    return found, clusters.count, clusters.allocated_count, leaves, set(clusters.dirty_leaves)


def one_by_one(device: SparseDevice, ids: Sequence[BlobId]) -> dict[BlobId, Any]:
    geometry = geometry_of(device)
    fetch = fetch_from_device(geometry)

    def read(blob_id: BlobId) -> BlobState | BlobstoreError:
        try:
            return BlockingDriver(device).run(read_blob(geometry, blob_id, fetch))
        except BlobstoreError as error:
            return error

    return {blob_id: facts(read(blob_id)) for blob_id in ids}


def together(
    device: SparseDevice, ids: Sequence[BlobId], near: PageIndex | None = None
) -> dict[BlobId, Any]:
    reader = BulkReader(geometry_of(device), {}, near=near)

    def read(blob_id: BlobId) -> BlobState | BlobstoreError:
        try:
            return BlockingDriver(device).run(reader.read(blob_id))
        except BlobstoreError as error:
            return error

    return {blob_id: facts(read(blob_id)) for blob_id in ids}


def ids_of(geometry: Geometry) -> list[BlobId]:
    return [blob_id_of(PageIndex(root)) for root in range(geometry.md_len)]


def damaged_stores() -> Iterator[SparseDevice]:
    for n, seed in enumerate(seeds()):
        for data in [seed, *(mutated(seed, 1000 * n + change) for change in range(CHANGES))]:
            yield SmallImage.unpack(data).device(read_only=True)


def test_every_blob_of_damaged_stores_is_as_it_is_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bulk, "_SURVEYED_FROM", 1)
    compared = 0
    for device in damaged_stores():
        try:
            ids = ids_of(geometry_of(device))[:64]
        except BlobstoreError:
            continue
        assert together(device, ids, PageIndex(0)) == one_by_one(device, ids)
        compared += len(ids)
    assert compared > 10_000


def forged(*, count: int = 1) -> tuple[Forge, dict[BlobId, str]]:
    """Return a store with all these roots, and which is which."""
    forge = Forge(md_len=64 * count, cluster_count=2000)
    names: dict[BlobId, str] = {}
    for number, (name, body) in enumerate(SHAPES.items()):
        forge.root(number, body)
        names[blob_id_of(PageIndex(number))] = name
    forge.put(61, 9, extents(0, [220, 221]))
    forge.put(60, 9, extents(0, [1260, 1261]))
    forge.put(59, 59, flags(), sequence=1)
    return forge, names


@pytest.mark.parametrize("order", range(SHUFFLED))
def test_bare_roots_of_every_kind_are_taken_and_the_others_are_read(order: int) -> None:
    forge, names = forged()
    device = forge.device(read_only=True)
    ids = ids_of(geometry_of(device))
    random.Random(order).shuffle(ids)
    assert together(device, ids, PageIndex(0)) == one_by_one(device, ids)
    reader = BulkReader(geometry_of(device), {}, near=PageIndex(0))
    for blob_id, name in names.items():
        is_plain = BlockingDriver(device).run(reader.plain(blob_id)) is not None
        assert is_plain == (name in PLAIN), name


def test_a_root_in_the_sector_layout_keeps_the_checksum_of_its_head() -> None:
    forge, _names = forged()
    geometry = geometry_of(forge.device())
    blob_id = blob_id_of(PageIndex(40))
    head = encode_sector_head(blob_id)
    device = forge.device()
    crc = crc32c(head)
    tail = encode_sector_tail(
        flags() + table(2, (0, 1)), next_page=PageIndex(0xFFFF_FFFF), head_crc=crc
    )
    device.write(geometry.page_offset(PageIndex(40)), [head + tail])
    assert together(device, [blob_id], PageIndex(0)) == one_by_one(device, [blob_id])
    state = BlockingDriver(device).run(BulkReader(geometry, {}, near=PageIndex(0)).read(blob_id))
    assert state.root_state.layout is Layout.SECTOR
    assert state.root_state.head_crc == crc


def chain_of(count: int) -> Forge:
    forge = Forge(md_len=count + 8, cluster_count=count + 200)
    forge.root(0, flags(TABLED, 1), table(2, (0, 1)))
    for number in range(1, count):
        forge.root(number, clone_of(number - 1, data_ro=1), table(2, (0, 1)))
    return forge


def counting(device: SparseDevice, bad: frozenset[int] = frozenset()) -> CountingDevice:
    pieces = {n: device.piece(n) for n in range(device.size_bytes // 4096)}
    found = CountingDevice(device.size_bytes, pieces, read_only=True)
    found.bad = bad
    return found


@pytest.mark.parametrize("backwards", [False, True])
def test_neighbours_take_few_reads_in_either_direction(backwards: bool) -> None:
    device = counting(chain_of(MANY).device(read_only=True))
    ids = ids_of(geometry_of(device))[:MANY]
    device.reads = 0
    together(device, ids[::-1] if backwards else ids)
    assert device.reads < MANY / 100


def test_roots_and_extent_pages_far_from_each_other_take_few_reads() -> None:
    forge = Forge(md_len=2 * MANY, cluster_count=6 * MANY)
    for number in range(MANY):
        forge.root(number, flags(), table(1, (MANY + number, 1)))
        forge.put(MANY + number, number, extents(0, [5 * MANY + number % MANY]))
    device = counting(forge.device(read_only=True))
    ids = ids_of(geometry_of(device))[:MANY]
    device.reads = 0
    together(device, ids)
    assert device.reads < MANY / 50


def test_huge_pages_are_read_one_by_one() -> None:
    forge = Forge(md_len=8, cluster_count=16, cluster_size=1 << 20, page_size=1 << 20)
    for number in range(4):
        forge.root(number, flags(), table(2, (0, 1)))
    device = forge.device(read_only=True)
    ids = ids_of(geometry_of(device))[:4]
    assert together(device, ids) == one_by_one(device, ids)


@pytest.mark.parametrize("step", [1, 3, 257, 1031])
def test_pages_in_any_order_bring_no_more_than_twice_as_many_with_them(step: int) -> None:
    device = counting(chain_of(MANY).device(read_only=True))
    ids = [blob_id_of(PageIndex(number * step % MANY)) for number in range(MANY // 2)]
    device.pages = 0
    together(device, ids)
    assert device.pages <= 3 * len(ids) + 10


def test_absent_extent_pages_take_no_memory_and_are_a_sequence_of_none() -> None:
    pages = AbsentPages(1 << 30)
    assert len(pages) == 1 << 30
    assert pages[5] == pages[-1] == 0
    assert list(pages[:3]) == [0, 0, 0]
    assert not any(AbsentPages(1000))
    with pytest.raises(IndexError):
        pages[1 << 30]


def test_one_blob_far_from_the_others_is_one_read() -> None:
    device = counting(chain_of(MANY).device(read_only=True))
    device.reads = 0
    together(device, [blob_id_of(PageIndex(root)) for root in (5, MANY - 1, 1500)])
    assert device.reads <= 1 + 3


def test_a_page_that_cannot_be_read_is_its_own_blobs_business() -> None:
    sound = chain_of(MANY).device(read_only=True)
    geometry = geometry_of(sound)
    device = counting(sound, frozenset({geometry.page_offset(PageIndex(700)) // 4096}))
    ids = ids_of(geometry)[:MANY]
    device.failed = 0
    found, expected = together(device, ids), one_by_one(sound, ids)
    assert device.failed == 2  # the piece, then the page
    assert [blob_id for blob_id in ids if found[blob_id] != expected[blob_id]] == [ids[700]]
    assert found[ids[700]][0] is DeviceError


def test_pages_that_are_not_as_on_the_device_come_from_the_caller() -> None:
    sound = chain_of(100).device(read_only=True)
    geometry = geometry_of(sound)
    root = PageIndex(50)
    instead = sound.read(geometry.page_offset(root), 4096)
    device = chain_of(100).device()
    device.write(geometry.page_offset(root), [b"torn"])
    reader = BulkReader(geometry, {root: instead}, near=PageIndex(0))
    state = BlockingDriver(device).run(reader.read(blob_id_of(root)))
    assert facts(state) == one_by_one(sound, [blob_id_of(root)])[blob_id_of(root)]
    with pytest.raises(CorruptError):
        BlockingDriver(device).run(BulkReader(geometry, {}).read(blob_id_of(root)))


@pytest.mark.parametrize("blob_id", [0, 7, (1 << 32) + 108, (1 << 33), (1 << 64) - 1])
def test_an_id_outside_of_the_region_is_no_blob(blob_id: int) -> None:
    device = chain_of(100).device(read_only=True)
    reader = BulkReader(geometry_of(device), {}, near=PageIndex(0))
    with pytest.raises(NotFoundError):
        BlockingDriver(device).run(reader.read(BlobId(blob_id)))


def test_what_the_state_of_a_plain_blob_does_not_have_is_named() -> None:
    device = chain_of(100).device(read_only=True)
    reader = BulkReader(geometry_of(device), {}, near=PageIndex(0))
    state = BlockingDriver(device).run(reader.read(blob_id_of(PageIndex(50))))
    name = "clone"
    with pytest.raises(AttributeError, match="PlainState has no clone"):
        getattr(state, name)


def test_a_plain_state_has_every_field_of_a_blob() -> None:
    state = PlainState(
        BlobId(1), PageIndex(0), RootState(Layout.COMPACT, 0), Flags(), {}, ClusterMap(), 0,
        BlobId(0), PageIndex(0), is_tabled=False,
    )  # fmt: skip
    assert all(hasattr(state, field.name) for field in fields(BlobState))
