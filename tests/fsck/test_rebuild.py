"""A super block rebuilt from the device: whatever field is damaged, and never by guessing."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Final

import pytest

from blobstore import Blobstore, DeviceError, MemoryDevice
from blobstore.drivers.blocking import BlockingDriver
from blobstore.format.checksum import crc32c
from blobstore.format.page import MetadataPage
from blobstore.format.super_block import SUPER_BLOCK_SIZE, MaskRegion, SuperBlock
from blobstore.fsck.rebuild import (
    Rebuilt,
    cluster_sizes_for,
    rebuild_super_block,
    smaller_cluster_sizes_for,
)
from blobstore.metadata.store_state import DeviceTraits
from blobstore.testing.internals import core_of
from blobstore.units import MIB, BlobId, PageIndex
from tests import matrix
from tests.golden.images import load_image

FIELDS: Final = {
    "signature": (0, 8), "version": (8, 4), "length": (12, 4), "cluster size": (28, 4),
    "page mask start": (32, 4), "page mask length": (36, 4), "cluster mask start": (40, 4),
    "cluster mask length": (44, 4), "md start": (48, 4), "md length": (52, 4),
    "id mask start": (72, 4), "id mask length": (76, 4), "size": (80, 8), "io unit": (88, 4),
    "page size": (92, 4), "crc": (4092, 4),
}  # fmt: skip

CONTENT: Final = b"what must not be lost"


class LastingDevice(MemoryDevice):
    """A memory device that outlives the store on it; some of it may be unreadable."""

    unreadable: range = range(0)

    def read(self, offset: int, length: int) -> bytes:
        if set(range(offset, offset + length, 4096)) & set(self.unreadable):
            raise DeviceError(f"read at {offset}: failed")
        return super().read(offset, length)

    def close(self) -> None:
        """Keep the content."""


@dataclass(frozen=True)
class Store:
    """A device with a store on it, and what its page 0 was."""

    device: LastingDevice
    page: bytes

    @property
    def good(self) -> SuperBlock:
        return SuperBlock.decode(self.page)

    def rebuilt(self, data: bytes) -> Rebuilt | None:
        """Damage page 0 and rebuild the super block."""
        self.device.write(0, [data])
        traits = DeviceTraits(size_bytes=self.device.size_bytes)
        return BlockingDriver(self.device).run(rebuild_super_block(traits, data))

    def expect(self, data: bytes) -> SuperBlock:
        """Rebuild what can be; the result says dirty, and is given back with the old `clean`."""
        found = self.rebuilt(data)
        assert found is not None
        assert not found.super_block.clean
        return replace(found.super_block, clean=self.good.clean)


def made(
    *, size: int = 8 * MIB, cluster_size: int = 65536, page_size: int = 4096, state: str = "clean"
) -> Store:
    """Make a store with two blobs: never unloaded, unloaded once, or in use once more."""
    device = LastingDevice(size)
    store = Blobstore.create(
        device, cluster_size=cluster_size, md_page_size=page_size, bstype=b"REBUILD"
    )
    with store.create_blob(2 * cluster_size) as blob:
        blob.write(CONTENT)
    if state != "never unloaded":
        store.unload()
    if state == "dirty":
        store = Blobstore.open(device)
        with store.create_blob(2 * cluster_size, thin=True) as blob:
            blob.write(CONTENT, cluster_size)
    return Store(device, device.read(0, SUPER_BLOCK_SIZE))


@cache
def layouts() -> list[Store]:
    """Return stores of all layouts and states; the device of some ends within a cluster."""
    sizes = {65536: 4 * MIB + 20480, MIB: 10 * MIB}
    return [
        made(size=sizes[cluster_size], cluster_size=cluster_size, page_size=page_size, state=state)
        for cluster_size, page_size, state in product(
            (65536, MIB), (4096, 16384), ("never unloaded", "clean", "dirty")
        )
    ]


def with_right_crc(page: bytes) -> bytes:
    return page[:4092] + crc32c(page[:4092]).to_bytes(4, "little")


def with_field(page: bytes, name: str, value: int) -> bytes:
    offset, length = FIELDS[name]
    return page[:offset] + value.to_bytes(length, "little") + page[offset + length :]


def damaged(page: bytes, turn: int) -> Iterator[tuple[str, int, bytes]]:
    """Yield page 0 with each field overwritten by nothing, by all ones, by something near.

    Layouts take turns with one of the first two values, and one of the near ones.
    """
    for name, (offset, length) in FIELDS.items():
        right = int.from_bytes(page[offset : offset + length], "little")
        near = (right + 1) % (1 << 8 * length), (right - 1) % (1 << 8 * length)
        values = [0, 0xFFFF_FFFF, *near]
        for value in {*(values if matrix.is_full() else values[turn % 2 :: 2])} - {right}:
            yield name, value, with_field(page, name, value)


@pytest.mark.parametrize("number", range(12))
def test_any_one_damaged_field_is_restored_when_the_checksum_was_not(number: int) -> None:
    store = layouts()[number]
    for name, value, data in damaged(store.page, number):
        assert store.expect(data) == store.good, (name, value)


@pytest.mark.parametrize("number", range(12))
def test_any_one_damaged_field_is_restored_when_the_checksum_agrees_with_the_damage(
    number: int,
) -> None:
    """Or it is kept, because nothing on the device speaks against it: then it is no error at all.

    So it is with a size that gives the same clusters, a unit of I/O, a
    store of another version; and with what only masks could tell of a store that
    has none yet.
    """
    store = layouts()[number]
    harmless = {"version", "size", "io unit", "page size"}
    if number % 3 == 0:
        harmless |= {"cluster size", "md length", "id mask length"}
    for name, value, data in damaged(store.page, number):
        if name != "crc":
            found = store.expect(with_right_crc(data))
            if found != store.good:
                assert name in harmless, (name, value)
                assert name != "page size" or store.good.md_page_size == 4096
                kept = SuperBlock.as_it_stands(data)
                assert found == replace(kept, clean=store.good.clean), (name, value)


@pytest.mark.parametrize("number", range(12))
def test_a_zeroed_page_is_written_anew_when_the_store_was_unloaded_once(number: int) -> None:
    store = layouts()[number]
    if number % 3 == 0:
        assert store.rebuilt(bytes(SUPER_BLOCK_SIZE)) is None
        return
    found = store.expect(bytes(SUPER_BLOCK_SIZE))
    lost = replace(store.good, bstype=bytes(16), reserved=found.reserved)
    assert found == lost


def test_what_was_rebuilt_can_be_opened_and_has_its_content() -> None:
    store = made(cluster_size=49152, page_size=16384, state="dirty")
    found = store.rebuilt(bytes(SUPER_BLOCK_SIZE))
    assert found is not None
    store.device.write(0, [found.super_block.encode()])
    with Blobstore.open(store.device) as again:
        first, second = again.blob_ids()
        with again.open_blob(first) as blob:
            assert blob.read(len(CONTENT)) == CONTENT
        with again.open_blob(second) as blob:
            assert blob.read(len(CONTENT), 49152) == CONTENT


def test_reasons_say_what_was_changed_into_what_and_why() -> None:
    store = made()
    found = store.rebuilt(with_field(store.page, "cluster size", 0))
    assert found is not None
    assert found.reasons == ("super block: cluster size 0 becomes 65536: the checksum confirms it",)
    found = store.rebuilt(with_right_crc(with_field(store.page, "cluster size", 0)))
    assert found is not None
    assert found.reasons == (
        "super block: cluster size 0 becomes 65536: it fits the masks and pages on the device",
        "super block: the checksum is written again",
    )
    found = store.rebuilt(with_right_crc(with_field(store.page, "version", 9)))
    assert found is not None
    assert found.reasons[0] == "super block: signature, version 3 and length are written again"


def test_a_super_block_with_nothing_wrong_needs_no_reasons() -> None:
    store = made()
    found = store.rebuilt(store.page)
    assert found == Rebuilt(store.good.with_changes(clean=False), ())


def test_several_damaged_fields_are_restored_together() -> None:
    store = made(page_size=16384, size=16 * MIB)
    data = store.page
    for name in ("cluster size", "page size", "md start", "id mask start", "size"):
        data = with_field(data, name, 0xFFFF_FFFF)
    assert store.expect(with_right_crc(data)) == store.good


def test_a_super_blob_that_is_no_root_is_dropped_with_the_fields_that_are_guessed() -> None:
    store = made()
    data = store.good.with_changes(super_blob=BlobId(77)).encode()
    found = store.rebuilt(with_field(data, "crc", 1))
    assert found is not None
    assert found.super_block == store.good.with_changes(clean=False)
    assert found.reasons[0].startswith("super block: super blob 0x4d becomes none")


@pytest.mark.parametrize("fill", ["zeroes", "noise", "a store inside", "a mask"])
def test_a_device_without_a_blobstore_gets_none(fill: str) -> None:
    device = LastingDevice(8 * MIB)
    if fill == "noise":
        device.write(0, [random.Random(5).randbytes(8 * MIB)])
    if fill == "a store inside":
        inside = made(size=6 * MIB)
        device.write(MIB, [inside.device.read(0, 6 * MIB)])
    if fill == "a mask":
        device.write(4096, [b"\0\x80\0\0\0\xff"])
    store = Store(device, b"")
    for data in (device.read(0, 4096), bytes(4096), b"SPDKBLOB" + bytes(4088)):
        assert store.rebuilt(data) is None
    assert store.rebuilt(b"") is None


def test_something_else_on_page_0_is_not_overwritten() -> None:
    store = made()
    assert store.rebuilt(random.Random(6).randbytes(SUPER_BLOCK_SIZE)) is None
    assert store.rebuilt(bytes(1080) + b"\x53\xef" + bytes(3014)) is None


def test_two_cluster_sizes_that_fit_alike_are_not_chosen_from() -> None:
    store = made(size=40 * MIB, cluster_size=3 * MIB)
    assert store.rebuilt(bytes(SUPER_BLOCK_SIZE)) is None
    assert store.expect(with_field(store.page, "cluster size", 0)) == store.good
    assert store.rebuilt(with_right_crc(with_field(store.page, "cluster size", 0))) is None


def test_a_page_size_that_roots_alone_leave_open_is_told_by_the_way_init_lays_out() -> None:
    store = made(page_size=16384, state="never unloaded")
    data = with_right_crc(with_field(store.page, "md start", 8))
    assert store.expect(data) == store.good


def test_a_store_that_grew_while_it_is_open_may_have_an_older_cluster_mask() -> None:
    store = made()
    store.device.resize(12 * MIB)
    with Blobstore.open(store.device) as opened:
        opened.grow()
        page = store.device.read(0, SUPER_BLOCK_SIZE)
        assert not SuperBlock.decode(page).clean
        grown = Store(store.device, page)
        for name in ("md length", "md start", "page size", "crc"):
            data = with_right_crc(with_field(page, name, 3)) if name != "crc" else page[:4092] * 1
            assert grown.expect(data.ljust(4096, b"\1")) == grown.good, name
        store.device.write(0, [page])


def test_a_store_on_a_device_that_became_larger_keeps_its_clusters() -> None:
    store = made()
    store.device.resize(12 * MIB)
    found = store.expect(bytes(SUPER_BLOCK_SIZE))
    assert found == replace(store.good, bstype=bytes(16), reserved=found.reserved)
    data = with_right_crc(with_field(store.page, "size", 0xFFFF_FFFF))
    assert store.expect(data) == store.good


def test_a_store_cut_short_is_not_made_smaller() -> None:
    store = made()
    store.device.resize(4 * MIB)
    assert store.rebuilt(with_field(store.page, "crc", 0)) is None


def test_places_that_cannot_be_read_are_passed_over() -> None:
    store = made(state="dirty")
    store.device.unreadable = range(12288, 12289)  # the mask of blob ids
    data = with_right_crc(with_field(store.page, "cluster size", 0))
    assert store.expect(data) == store.good


def test_the_copy_of_a_root_is_no_root_in_a_wrong_place() -> None:
    store = made(state="dirty")
    layout = core_of(Blobstore.open(store.device)).geometry
    root = store.device.read(layout.page_offset(PageIndex(0)), 4096)
    store.device.write(layout.page_offset(PageIndex(9)), [root])
    data = with_right_crc(with_field(store.page, "page size", 8192))
    assert store.expect(data) == store.good


def test_a_root_of_no_store_in_the_metadata_leaves_nothing_that_fits() -> None:
    store = made(state="dirty")
    layout = core_of(Blobstore.open(store.device)).geometry
    stray = MetadataPage(BlobId(0x1_0000_0020), 0, b"", PageIndex(0xFFFF_FFFF)).encode()
    store.device.write(layout.page_offset(PageIndex(9)), [stray])
    assert store.rebuilt(with_right_crc(with_field(store.page, "cluster size", 0))) is None


def test_descriptors_that_do_not_add_up_and_pages_with_wrong_checksums_say_nothing() -> None:
    store = made(state="dirty")
    layout = core_of(Blobstore.open(store.device)).geometry
    broken = MetadataPage(BlobId(0x1_0000_0009), 0, b"\1\7\0\0\0", PageIndex(0xFFFF_FFFF))
    store.device.write(layout.page_offset(PageIndex(9)), [broken.encode()])
    store.device.write(layout.page_offset(PageIndex(10)), [broken.encode()[:4000]])
    data = with_right_crc(with_field(store.page, "cluster size", 0))
    assert store.expect(data) == store.good


def test_a_store_inside_a_blob_says_nothing_of_the_store_around_it() -> None:
    inside = made(size=2 * MIB)
    store = made(size=6 * MIB)
    with Blobstore.open(store.device) as opened, opened.create_blob(2 * MIB) as blob:
        blob.write(inside.device.read(0, 2 * MIB))
    for name in ("cluster size", "page size", "md start", "md length", "size"):
        data = with_right_crc(with_field(store.page, name, 0xFFFF_FFFF))
        assert store.expect(data) == store.good, name


def test_runs_name_clusters_too() -> None:
    store = made(state="dirty")
    opened = Blobstore.open(store.device)
    opened.create_blob(100 * 65536, extent_table=False)
    page = store.device.read(0, SUPER_BLOCK_SIZE)
    used = Store(store.device, page)
    # With half as many clusters, all else being right, this blob would end beyond the store.
    smaller = replace(used.good, size_bytes=5 * MIB).encode()
    assert used.expect(smaller) == used.good


@pytest.mark.parametrize(
    "name",
    [
        "bad_super_badcrc_clean", "bad_super_badsig_clean", "bad_super_v0_clean",
        "bad_super_v4_clean",
    ],
)  # fmt: skip
def test_super_blocks_of_the_original_that_were_broken_by_hand_are_restored(name: str) -> None:
    image = load_image(name)
    device = LastingDevice(len(image))
    device.write(0, [image])
    healthy = SuperBlock.decode(load_image("bad_used_cluster_mask_clean")[:SUPER_BLOCK_SIZE])
    assert Store(device, healthy.encode()).expect(image[:SUPER_BLOCK_SIZE]) == healthy


@pytest.mark.parametrize("name", ["v1_bl4096_clean", "v2_bl512_dirty", "v3old_bl512_clean"])
def test_older_stores_of_the_original_keep_what_is_old_about_them(name: str) -> None:
    image = load_image(name)
    device = LastingDevice(len(image))
    device.write(0, [image])
    store = Store(device, image[:SUPER_BLOCK_SIZE])
    for field in ("crc", "md start", "cluster size", "page mask length", "version"):
        assert store.expect(with_field(store.page, field, 0xFFFF_FFFF)) == store.good, field
    if store.good.used_blob_ids.length == 0:
        data = with_right_crc(with_field(store.page, "version", 0))
        assert store.expect(data).version == 2


def test_a_checksum_alone_is_restored_in_every_kind_of_store_of_the_original() -> None:
    """An empty store that was never unloaded has nothing but its super block to speak for it."""
    for name in (
        "phys16k_dirty",
        "empty_bl512_cs64k_dirty",
        "full_dirty",
        "cbug_cs48k_default_load_clean",
    ):
        image = load_image(name)
        device = LastingDevice(len(image))
        device.write(0, [image])
        store = Store(device, image[:SUPER_BLOCK_SIZE])
        assert store.expect(with_field(store.page, "crc", 0)) == store.good, name


def test_a_cluster_size_is_not_taken_from_a_number_of_pages_that_may_have_been_asked_for() -> None:
    image = load_image("md_full_dirty")  # 8 pages for 64 clusters, which are no 8 clusters
    device = LastingDevice(len(image))
    device.write(0, [image])
    page = image[:SUPER_BLOCK_SIZE]
    assert Store(device, page).rebuilt(with_right_crc(with_field(page, "cluster size", 0))) is None


def test_the_oldest_stores_had_no_mask_of_blob_ids_and_no_room_for_one() -> None:
    store = made(state="never unloaded")
    region = store.good
    old = replace(
        region, version=1, used_blob_ids=MaskRegion(0, 0), md_start=3, size_bytes=0,
        io_unit_size=0, md_page_size=0, bstype=bytes(16),
    )  # fmt: skip
    pages = store.device.read(4 * 4096, 128 * 4096)
    store.device.write(3 * 4096, [pages])
    older = Store(store.device, old.encode())
    for name in ("md start", "cluster mask start", "page mask length"):
        data = with_right_crc(with_field(older.page, name, 0xFFFF_FFFF))
        assert older.expect(data) == older.good, name


@pytest.mark.parametrize(
    ("size", "count", "page_size", "expected"),
    [
        pytest.param(16 * MIB, 256, 4096, [65536], id="a power of two"),
        pytest.param(16 * MIB + 5, 256, 4096, [65536], id="a power of two and a rest"),
        pytest.param(64 * MIB, 1365, 16384, [49152], id="the only multiple"),
        pytest.param(64 * MIB, 21, 4096, [], id="one of many"),
        pytest.param(16 * MIB, 0, 4096, [], id="no clusters"),
        pytest.param(16 * MIB, 5000, 4096, [], id="smaller than a page"),
        pytest.param(16 * MIB, 4095, 4096, [], id="no multiple"),
    ],
)
def test_a_cluster_size_follows_from_a_number_of_clusters_where_it_is_sure(
    size: int, count: int, page_size: int, expected: list[int]
) -> None:
    assert cluster_sizes_for(size, count, page_size) == expected


@pytest.mark.parametrize(
    ("size", "count", "expected"),
    [
        pytest.param(24 * MIB, 128, [16384, 32768, 65536, 131072], id="a device that has grown"),
        pytest.param(40 * MIB, 13, [], id="it may be full of clusters of many sizes"),
        pytest.param(40 * MIB, 0, [], id="no clusters"),
        pytest.param(4 * MIB, 1000, [], id="smaller than a page"),
    ],
)
def test_a_store_on_a_larger_device_has_clusters_of_a_usual_size(
    size: int, count: int, expected: list[int]
) -> None:
    assert smaller_cluster_sizes_for(size, count, 16384) == expected


def test_a_region_too_short_for_a_root_that_is_there_is_made_longer() -> None:
    store = made(state="never unloaded")
    with Blobstore.open(store.device) as opened:
        opened.create_blob().close()
        page = store.device.read(0, SUPER_BLOCK_SIZE)
        in_use = Store(store.device, page)
        data = with_right_crc(with_field(page, "md length", 1))
        assert in_use.expect(data) == in_use.good
        store.device.write(0, [page])


def test_attributes_say_nothing_of_the_layout() -> None:
    store = made()
    with Blobstore.open(store.device) as opened:
        opened.create_blob(65536, xattrs={"name": b"value"}, extent_table=False).close()
    assert store.expect(bytes(SUPER_BLOCK_SIZE)).cluster_size == 65536


def test_a_zeroed_page_whose_clusters_tell_nothing_belongs_to_a_store_that_fills_its_device() -> (
    None
):
    store = made()
    with Blobstore.open(store.device) as opened:
        for blob_id in opened.blob_ids():
            opened.delete_blob(blob_id)
        opened.create_blob().close()
    assert store.expect(bytes(SUPER_BLOCK_SIZE)).cluster_size == 65536
    assert store.expect(bytes(SUPER_BLOCK_SIZE)).size_bytes == 8 * MIB


@pytest.mark.parametrize("page_size", [0, 4096, 8192, 65536, 131072, 262144, MIB])
def test_a_page_size_with_which_no_root_lies_in_its_place_is_not_believed(page_size: int) -> None:
    store = made(size=10 * MIB, cluster_size=MIB, page_size=16384, state="dirty")
    data = with_right_crc(with_field(store.page, "page size", page_size))
    assert store.expect(data) == store.good
