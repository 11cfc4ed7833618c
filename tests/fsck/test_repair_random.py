"""Stores broken in several places by chance: one repair is enough, and can always be taken back.

What is broken comes from a seed: corruptions of the catalogue, then bytes of
metadata pages, mostly with a checksum that fits again. What one seed found once
stands below by itself.
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from blobstore import BlobId, Blobstore, CheckReport, Rescue, check, repair, undo
from blobstore.errors import BlobstoreError, CorruptError, NoSpaceError
from blobstore.format.checksum import crc32c
from blobstore.format.descriptors import HAS_INTERNAL_XATTRS
from blobstore.format.geometry import Geometry, root_of
from blobstore.format.mask import MASK_CLUSTERS, MASK_HEAD_SIZE, MASK_PAGES
from blobstore.format.page import BODY_SIZE, CRC_OFFSET, NO_PAGE, PAGE_SIZE, MetadataPage
from blobstore.format.super_block import SUPER_BLOCK_SIZE, SuperBlock
from blobstore.fsck.finding import Severity
from blobstore.testing.simulated_device import SimulatedDevice
from blobstore.testing.simulated_disk import Event, Flushed, SimulatedDisk, Written
from blobstore.units import KIB, MIB, PageIndex
from tests.descriptors import Descriptor
from tests.fsck.stores import contents, device_of, repaired
from tests.golden.images import load_image
from tests.proof.corruptions.catalogue import MODES
from tests.proof.corruptions.image import StoreImage
from tests.proof.corruptions.sample import (
    CLUSTER,
    CLUSTER_COUNT,
    LAYOUTS,
    METADATA_PAGES,
    Fingerprint,
    ImageDevice,
    Sample,
    pattern,
    sample,
)
from tests.proof.corruptor import CORRUPTIONS

SECTOR, COMPACT = LAYOUTS
SEEDS = 60
CUT_SEEDS = 12
GOLDEN = (
    "clones_of_clones_clean", "deleted_dirty", "esnap_dirty", "fragmented_et0_dirty",
    "lvolstore_bl4096_clean", "pf_snapcreate_big_et1_n04of05", "xattrs_spill_et0_clean",
)  # fmt: skip
SUPER_BLOCK = range(1, 8)
UNFINISHED = 43
"""A note of what recovery decides, which may be another thing once its partner is mended."""

both_layouts = pytest.mark.parametrize("layout", LAYOUTS, ids=["sector", "compact"])


@dataclass(frozen=True, slots=True)
class Base:
    """A sound store, the atomicity of the device it lies on, and its sample if it is one."""

    image: bytes
    layout: int
    sample: Sample | None = None
    dirty: bool = False


@cache
def large_pages(layout: int) -> bytes:
    """Return a store with metadata pages of 16 KiB."""
    device = ImageDevice(bytes(4 * MIB), atomic_write_size=layout)
    size = 32 * KIB
    with Blobstore.create(device, cluster_size=size, md_page_size=16 * KIB, md_pages=24) as store:
        for n in range(4):
            xattrs = {"name": b"%d" % n, "much": pattern(n)[: 1000 * (n + 1)]}
            thin, table = n % 2 == 1, n < 2
            size_of = (n + 2) * size
            with store.create_blob(size_of, thin=thin, extent_table=table, xattrs=xattrs) as blob:
                blob.write(pattern(100 + n, 6))
                if n == 0:
                    with blob.snapshot() as snapshot, snapshot.clone() as clone:
                        clone.write(pattern(201), size)
    return device.image


def base_for(chance: random.Random) -> Base:
    """Choose a store; one in the compact layout may lie on a device that tears pages."""
    kind = chance.randrange(10)
    if kind == 0:
        return Base(load_image(chance.choice(GOLDEN)), chance.choice(LAYOUTS))
    layout = chance.choice(LAYOUTS)
    device = SECTOR if layout == SECTOR else chance.choice(LAYOUTS)
    if kind < 3:
        return Base(large_pages(layout), device)
    sound, dirty = sample(layout), chance.random() < 0.4
    return Base(sound.dirty if dirty else sound.clean, device, sound, dirty)


def break_by_chance(chance: random.Random, base: Base) -> bytes:
    """Break two to five things, those of the catalogue first: they look into a sound store."""
    count = chance.randint(2, 5)
    data = bytearray(base.image)
    if base.sample is not None:
        image = base.sample.image(dirty=base.dirty)
        for corruption in chance.sample(CORRUPTIONS, chance.randint(0, count)):
            if len(image.data) == len(base.image):
                with suppress(CorruptError, AssertionError, LookupError, ValueError):
                    corruption.apply(image)  # where another one left it anything to break
                    count -= 1
        data = image.data
    geometry = Geometry.of(SuperBlock.decode(base.image[:PAGE_SIZE]), device_size=len(base.image))
    offsets = [geometry.page_offset(PageIndex(page)) for page in range(geometry.md_len)]
    used = [at for at in offsets if any(base.image[at : at + PAGE_SIZE])]
    used = [at for at in used if at + PAGE_SIZE <= len(data)]
    for _ in range(count if used else 0):
        break_page(chance, data, chance.choice(used), used)
    return bytes(data)


def break_page(chance: random.Random, data: bytearray, at: int, pages: list[int]) -> None:
    """Change a page, in most cases with a checksum that is right again."""
    page = bytearray(data[at : at + PAGE_SIZE])
    meant = [n for n, byte in enumerate(page[:CRC_OFFSET]) if byte]
    place = chance.choice(meant) if meant else 0
    match chance.choice(["bit", "byte", "word", "sector", "nothing", "other"]):
        case "bit":
            page[place] ^= 1 << chance.randrange(8)
        case "byte":
            page[place] = chance.choice([0, 1, 0x7F, 0xFF])
        case "word":
            word = chance.choice([0, 1, 0xFFFF_FFFF, chance.randrange(120)])
            page[place & ~3 : (place & ~3) + 4] = word.to_bytes(4, "little")
        case "sector":
            page[place & ~511 : (place & ~511) + 512] = bytes(512)
        case "nothing":
            page = bytearray(PAGE_SIZE)
        case _:
            other = chance.choice(pages)
            page = data[other : other + PAGE_SIZE]
    if chance.random() < 0.6 and len(page) == PAGE_SIZE:
        page[CRC_OFFSET:] = crc32c(page[:CRC_OFFSET]).to_bytes(4, "little")
    data[at : at + len(page)] = page


# What holds whatever was broken


def is_hopeless(report: CheckReport) -> bool:
    """Tell whether nobody knows where the store's parts lie, or what is a newer version's."""
    return any(
        (found.invariant in SUPER_BLOCK and found.severity is Severity.ERROR)
        or (found.invariant == 26 and "invalid flags" in found.message)
        for found in report.findings
    )


def readable(image: bytes, layout: int) -> dict[BlobId, Fingerprint]:
    """Return what the blobs hold, as far as the store opens."""
    try:
        return contents(image, layout)
    except BlobstoreError:
        return {}


def unsuspected(image: bytes, layout: int, report: CheckReport) -> dict[BlobId, Fingerprint]:
    """Return the blobs that no finding names, nor any of what they read."""
    errors = " ".join(
        str(found)
        for found in report.findings
        if found.severity is not Severity.NOTE or found.invariant == UNFINISHED
    )
    with Rescue.open(device_of(image, layout)) as rescue:
        parents = {blob.id: blob.parent for blob in rescue.blobs()}

    def is_sound(blob_id: BlobId) -> bool:
        at: BlobId | None = blob_id
        for _generation in range(len(parents)):
            if at is None:
                return True
            if f"{at:#x}" in errors:
                return False
            at = parents.get(at)
        return False

    return {id_: found for id_, found in readable(image, layout).items() if is_sound(id_)}


def kept_of(image: bytes, layout: int, kept: Mapping[BlobId, object]) -> dict[BlobId, Fingerprint]:
    now = readable(image, layout)
    return {blob_id: now[blob_id] for blob_id in kept if blob_id in now}


@pytest.mark.parametrize("seed", range(SEEDS))
def test_one_repair_is_enough_harms_nothing_sound_and_can_be_taken_back(
    seed: int, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    base = base_for(chance)
    image = break_by_chance(chance, base)
    device = device_of(image, base.layout)
    report = repair(device, "all", undo=tmp_path / "undo")
    after = device.image
    again = check(device_of(after, base.layout))
    assert again == report.after
    assert repaired(after, base.layout, "all")[0] == after
    if not is_hopeless(again):
        assert again.clean, "\n".join(map(str, (*again.findings, *report.repaired)))
        if not is_hopeless(report.before):
            kept = unsuspected(image, base.layout, report.before)
            assert kept_of(after, base.layout, kept) == kept
        with Blobstore.open(device_of(after, base.layout)) as store:
            assert not store.errors
            assert not store.read_only
    if report.undo is not None:
        undo(device, report.undo)
    assert device.image == image


# Power failures


def cut_states(before: bytes, events: list[Event], chance: random.Random) -> Iterator[bytes]:
    """Yield the device after each write, and before each flush with any of the sectors."""
    durable = bytearray(before)
    group: list[Written] = []
    for event in events:
        if isinstance(event, Written):
            group.append(event)
            yield with_sectors(durable, group, chance, share=1.0)
        elif isinstance(event, Flushed):
            yield with_sectors(durable, group, chance, share=chance.random())
            durable = bytearray(with_sectors(durable, group, chance, share=1.0))
            group = []
    assert not group


def with_sectors(
    durable: bytearray, group: list[Written], chance: random.Random, *, share: float
) -> bytes:
    state = bytearray(durable)
    for event in group:
        for at in range(0, len(event.data), 512):
            if chance.random() <= share:
                part = event.data[at : at + 512]
                state[event.offset + at : event.offset + at + len(part)] = part
    return bytes(state)


@pytest.mark.parametrize("seed", range(CUT_SEEDS))
def test_a_repair_cut_off_at_any_write_can_be_taken_back_or_done_again(
    seed: int, tmp_path: Path
) -> None:
    chance = random.Random(1000 + seed)
    layout = LAYOUTS[seed % 2]
    sound, dirty = sample(layout), seed % 3 == 0
    image = break_by_chance(
        chance, Base(bytes(sound.image(dirty=dirty).data), layout, sound, dirty)
    )
    disk = SimulatedDisk(image, atomic_write_size=layout)
    report = repair(SimulatedDevice(disk), "all", undo=tmp_path / "undo")
    for number, state in enumerate(cut_states(image, disk.events, chance)):
        torn = SimulatedDisk(state, atomic_write_size=layout)
        undo(SimulatedDevice(torn), tmp_path / "undo")
        assert torn.content == image
        if number % 4 == 0 and not is_hopeless(report.after):
            assert repaired(state, layout, "all")[1].after.clean


# What was found by chance


def image_of(layout: int, *, dirty: bool = False) -> StoreImage:
    return sample(layout).image(dirty=dirty)


def break_with(image: StoreImage, *names: str) -> None:
    by_name = {corruption.name: corruption for corruption in CORRUPTIONS}
    for name in names:
        by_name[name].apply(image)


def is_marked(image: StoreImage, kind: int, index: int) -> bool:
    byte = image.data[image.mask_offset(kind) + MASK_HEAD_SIZE + index // 8]
    return bool(byte >> index % 8 & 1)


@both_layouts
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("others", [(), ("chain-page-of-another-blob",)], ids=["alone", "beside"])
def test_what_is_marked_used_beside_a_blob_of_a_newer_version_stays_its_own(
    others: tuple[str, ...], mode: str, layout: int
) -> None:
    image = image_of(layout)
    break_with(image, "descriptor-that-a-flag-announces", *others)
    cluster, page, root = image.free_clusters[3], image.free_pages[2], image.root("thick")
    image.mark(MASK_CLUSTERS, cluster, True)
    image.mark(MASK_PAGES, page, True)
    body = b"\x4d\x04\0\0\0" + cluster.to_bytes(4, "little")
    theirs = MetadataPage(image.names["thick"], 0, body.ljust(BODY_SIZE, b"\0"), NO_PAGE)
    image.put_bytes(page, theirs.encode())
    before = image.page_bytes(root)
    image.data[:] = repaired(bytes(image.data), layout, mode)[0]
    assert image.page_bytes(page) == theirs.encode()
    assert image.page_bytes(root) == before
    assert SuperBlock.decode(bytes(image.data[:SUPER_BLOCK_SIZE])).clean
    assert is_marked(image, MASK_CLUSTERS, cluster)
    assert is_marked(image, MASK_PAGES, page)


@both_layouts
def test_freeing_leaks_takes_nothing_from_a_snapshot_with_a_marker(layout: int) -> None:
    image = image_of(layout)
    break_with(image, "snapshot-being-removed-that-goes")
    before = check(device_of(bytes(image.data), layout))
    after, report = repaired(bytes(image.data), layout, "leaks")
    assert after == image.data
    assert report.after == before


@both_layouts
@pytest.mark.parametrize("mode", ["safe", "all"])
def test_a_marked_snapshot_of_a_clean_store_goes_with_all_that_it_alone_owns(
    mode: str, layout: int
) -> None:
    image = image_of(layout)
    break_with(image, "snapshot-being-removed-that-goes")
    after, report = repaired(bytes(image.data), layout, mode)
    assert report.after.clean
    assert image.names["old"] not in contents(after, layout)
    assert repaired(after, layout, mode)[0] == after


def test_a_clone_of_what_recovery_removes_is_salvaged_by_the_same_repair() -> None:
    image = image_of(SECTOR, dirty=True)
    break_with(image, "snapshot-being-made-that-is-dropped")
    image.set_parent("clone", image.names["new"])
    after, report = repaired(bytes(image.data), SECTOR, "all")
    assert report.after.clean
    assert repaired(after, SECTOR, "all")[0] == after


@both_layouts
def test_a_snapshot_stays_when_its_partner_forgot_whose_clone_it_is(layout: int) -> None:
    image = image_of(layout)
    break_with(image, "clean-store-with-a-snapshot-being-made")
    image.put_bytes(image.root("middle"), b"\xdd" * PAGE_SIZE)
    after, report = repaired(bytes(image.data), layout, "all")
    assert report.after.clean
    old = image.names["old"]
    assert contents(after, layout)[old] == contents(sample(layout).clean, layout)[old]


@both_layouts
def test_internal_attributes_that_no_flag_announces_are_found_and_announced(layout: int) -> None:
    image = image_of(layout)
    image.set_flags("clone", drop=HAS_INTERNAL_XATTRS)
    after, report = repaired(bytes(image.data), layout, "all")
    assert [found.invariant for found in report.before.findings] == [26]
    assert report.after.clean
    assert contents(after, layout) == contents(sample(layout).clean, layout)


def test_nothing_is_salvaged_where_the_super_block_cannot_be_mended() -> None:
    image = image_of(SECTOR)
    break_with(image, "run-in-the-metadata", "extent-page-of-513-entries")
    break_with(image, "device-cut-to-its-metadata")
    after, report = repaired(bytes(image.data), SECTOR, "all")
    assert after == image.data
    assert report.repaired == ()


@pytest.mark.parametrize(
    "name",
    ["neither-clean-nor-dirty", "another-super-block-length", "super-block-with-a-flipped-bit"],
)
def test_a_page_that_names_what_is_not_there_keeps_no_super_block_from_being_mended(
    name: str,
) -> None:
    image = image_of(SECTOR)
    break_with(image, "endless-run-of-clusters", "chain-that-leads-outside", name)
    after, report = repaired(bytes(image.data), SECTOR, "all")
    assert report.after.clean
    assert repaired(after, SECTOR, "all")[0] == after


# Stores in the original's layout on a device that tears pages


def compact_store(md_pages: int = METADATA_PAGES) -> tuple[ImageDevice, Blobstore]:
    device = ImageDevice(bytes(CLUSTER * CLUSTER_COUNT), atomic_write_size=COMPACT)
    return device, Blobstore.create(device, cluster_size=CLUSTER, md_pages=md_pages)


def say_twice(found: list[Descriptor]) -> list[Descriptor]:
    return [found[0], *found]


def test_the_copy_of_a_root_that_was_being_converted_is_not_written_over() -> None:
    device, store = compact_store()
    with store:
        with store.create_blob(CLUSTER, xattrs={"much": pattern(1)[:1500]}) as blob:
            blob.write(pattern(1))
            torn = blob.id
        with store.create_blob(CLUSTER, xattrs={"a": pattern(2)[:2500]}, extent_table=False) as bad:
            names = {"bad": bad.id}
    sound = device.image
    disk = SimulatedDisk(sound, atomic_write_size=SECTOR)
    with Blobstore.open(SimulatedDevice(disk)) as again, again.open_blob(torn) as blob:
        blob.set_xattr("more", b"1")
    image = StoreImage.of(sound, sound, names)
    root_at = image.geometry.page_offset(root_of(torn))
    for event in disk.events:
        if isinstance(event, Written):
            image.data[event.offset : event.offset + len(event.data)] = event.data
            if event.offset == root_at:
                break
    cut_off = contents(bytes(image.data), SECTOR)[torn]
    image.edit(image.root("bad"), say_twice)
    after, report = repaired(bytes(image.data), SECTOR, "all")
    assert report.after.clean
    assert contents(after, SECTOR)[torn] == cut_off == contents(sound, COMPACT)[torn]


def test_a_snapshot_is_mended_in_its_place_where_no_page_is_free() -> None:
    device, store = compact_store(md_pages=9)
    with store:
        with store.create_blob(2 * CLUSTER, xattrs={"a": pattern(2)[:2000]}) as origin:
            origin.write(pattern(2, 2))
            with origin.snapshot(xattrs={"a": pattern(3)[:2000]}) as snapshot:
                names = {"snapshot": snapshot.id}
        for has_table in (True, False):
            with suppress(NoSpaceError):
                while True:
                    store.create_blob(CLUSTER, extent_table=has_table).close()
    image = StoreImage.of(device.image, device.image, names)
    assert not image.free_pages
    owned = image.clusters("snapshot")
    image.set_flags("snapshot", data_ro=0)
    image.data[:], report = repaired(bytes(image.data), SECTOR, "all")
    assert report.after.clean
    assert contents(bytes(image.data), SECTOR) == contents(device.image, COMPACT)
    assert image.clusters("snapshot") == owned


def test_an_extent_page_with_a_strange_id_is_read_before_it_is_written_over() -> None:
    device, store = compact_store()
    with store:
        with store.create_blob(CLUSTER, xattrs={"a": pattern(2)[:2500]}, extent_table=False) as one:
            one.write(pattern(1))
        with store.create_blob(2 * CLUSTER) as other:
            other.write(pattern(2, 2))
        names = {"one": one.id, "other": other.id}
    image = StoreImage.of(device.image, device.image, names)
    image.rewrite(image.extent_pages("other")[0], blob_id=BlobId(0xDEAD))
    for name in names:
        image.edit(image.root(name), say_twice)
    after, report = repaired(bytes(image.data), SECTOR, "all")
    assert report.after.clean
    sound, now = contents(device.image, COMPACT), contents(after, SECTOR)
    assert [now[id_].content for id_ in sound] == [found.content for found in sound.values()]
