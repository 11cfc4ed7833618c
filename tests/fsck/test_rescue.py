"""Whatever is broken in a store, what can be read of it is read, and the rest is named."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest

from blobstore import (
    Blob,
    BlobId,
    Blobstore,
    ClosedError,
    CorruptError,
    DeviceError,
    InvalidArgumentError,
    MemoryDevice,
    NotFoundError,
    Rescue,
    RescuedBlob,
    UnreadableRange,
    UnsupportedError,
)
from blobstore.units import MIB, PageIndex
from tests.fsck.stores import device_of
from tests.golden.images import IMAGE_NAMES, load_image
from tests.proof.corruptions.catalogue import Corruption
from tests.proof.corruptions.sample import (
    CLUSTER,
    EXTERNAL_ID,
    LAYOUTS,
    THIN_CLUSTERS,
    ImageDevice,
    external,
    fingerprints,
    pattern,
    sample,
)
from tests.proof.corruptor import CORRUPTIONS

LAYOUT = LAYOUTS[0]
NAMES = sample(LAYOUT).names
BLOCK = 4096
HUGE = 1 << 26
SOME_IMAGES = IMAGE_NAMES[:: len(IMAGE_NAMES) // 40]
NOT_THE_SAME = {5, 41}
"""Invariants with which less can be read, or where an external snapshot is in doubt."""


class FaultyDevice(ImageDevice):
    """A device with bad blocks: a read that touches one of them fails."""

    def __init__(self, content: bytes, bad: Sequence[int]) -> None:
        super().__init__(content, atomic_write_size=LAYOUT)
        self.bad = bad

    def read(self, offset: int, length: int) -> bytes:
        for block in self.bad:
            if offset < (block + 1) * BLOCK and block * BLOCK < offset + length:
                raise DeviceError(f"{self.name}: {length} bytes at {offset}: bad")
        return super().read(offset, length)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        for view in buffers:
            view[:] = self.read(offset, len(view))
            offset += len(view)


def rescue(device: ImageDevice) -> Rescue:
    found = Rescue.open(device)
    found.register_external(EXTERNAL_ID, external())
    return found


def broken_by(name: str, *, layout: int = LAYOUT) -> bytes:
    (corruption,) = [each for each in CORRUPTIONS if each.name == name]
    return corruption.break_store(sample(layout))[0]


def bytes_of(image: bytes) -> dict[BlobId, bytes]:
    """Return what a sound store's blobs hold, as it is usually read."""
    found: dict[BlobId, bytes] = {}
    with Blobstore.open(device_of(image, LAYOUT), read_only=True) as store:
        store.register_external(EXTERNAL_ID, external())
        for blob_id in store.blob_ids():
            with store.open_blob(blob_id) as blob:
                found[blob_id] = blob.read(blob.size)
    return found


SOUND = bytes_of(sample(LAYOUT).clean)


def assert_readable_equals(blob: RescuedBlob, expected: bytes) -> None:
    """Compare all that is readable, byte for byte; the rest is zero when that is wanted."""
    data = bytearray(expected)
    for missing in blob.unreadable():
        data[missing.offset : missing.offset + missing.length] = bytes(missing.length)
    assert blob.read(blob.size, zero_fill=True) == data


# Sound stores


@pytest.mark.parametrize("name", SOME_IMAGES)
def test_what_can_be_read_of_an_image_is_rescued_as_it_is(name: str) -> None:
    image = load_image(name)
    normal = read_all(image)
    if not normal:
        return
    with Rescue.open(device_of(image, LAYOUT)) as found:
        for blob_id, content in normal.items():
            blob = found.blob(blob_id)
            assert blob.unreadable() == []
            assert sha256_of(blob) == content


def read_all(image: bytes) -> dict[BlobId, str]:
    """Return the hash of every blob that opens, and is of a size to be read."""
    found: dict[BlobId, str] = {}
    with (
        suppress(CorruptError),
        Blobstore.open(device_of(image, LAYOUT), read_only=True, force=True) as store,
    ):
        store.register_external(EXTERNAL_ID, external())
        for blob_id in store.blob_ids():
            with (
                suppress(CorruptError, NotFoundError, UnsupportedError),
                store.open_blob(blob_id) as blob,
            ):
                if blob.size < HUGE:
                    found[blob_id] = sha256_of(blob)
    return found


def sha256_of(blob: Blob | RescuedBlob) -> str:
    digest = sha256()
    for at in range(0, blob.size, MIB):
        digest.update(blob.read(min(MIB, blob.size - at), at))
    return digest.hexdigest()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dirty", [False, True], ids=["clean", "dirty"])
def test_a_sound_store_is_rescued_whole(layout: int, dirty: bool) -> None:
    sound = sample(layout)
    image = sound.dirty if dirty else sound.clean
    xattrs = fingerprints(image, atomic_write_size=layout)
    expected = read_all(image)
    with rescue(device_of(image, layout)) as found:
        blobs = list(found.blobs())
        assert [blob.id for blob in blobs] == sorted(expected)
        for blob in blobs:
            assert sha256_of(blob) == expected[blob.id]
            assert blob.xattrs == xattrs[blob.id].xattrs
            assert (blob.unreadable(), blob.findings, blob.is_whole) == ([], (), True)
        assert found.blob(sound.names["clone"]).parent == sound.names["middle"]


# Broken ones


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=[each.name for each in CORRUPTIONS])
def test_a_broken_store_gives_all_that_is_not_broken(corruption: Corruption) -> None:
    image, _place = corruption.break_store(sample(LAYOUT))
    if len(image) < BLOCK:
        with pytest.raises(CorruptError, match="neither be solved"):
            Rescue.open(device_of(image, LAYOUT))
        return
    same = read_all(image) or expected_kept(corruption)
    device = device_of(image, LAYOUT)
    with rescue(device) as found:
        for blob in found.blobs():
            assert blob.size >= HUGE or len(blob.read(blob.size, zero_fill=True)) == blob.size
            is_another = any("overwritten with a copy" in each.message for each in blob.findings)
            if is_another:  # which whoever opens the blob alone cannot tell
                assert blob.unreadable() != []
            elif blob.id in same and not NOT_THE_SAME.intersection(corruption.invariants):
                assert blob.unreadable() == []
                assert sha256_of(blob) == same[blob.id]
    assert device.image == image


def expected_kept(corruption: Corruption) -> Mapping[BlobId, str]:
    """Return what the blobs hold that the corruption leaves as they are."""
    kept = corruption.ids_kept(NAMES)
    return {blob_id: sha256(SOUND[blob_id]).hexdigest() for blob_id in kept}


def clusters_behind(image: bytes) -> dict[BlobId, dict[int, int]]:
    """Return which cluster each place of each blob is read from."""
    found: dict[BlobId, dict[int, int]] = {}
    with Blobstore.open(device_of(image, LAYOUT), read_only=True) as store:
        for blob_id in store.blob_ids():
            at: BlobId | None = blob_id
            while at is not None:
                with store.open_blob(at) as blob:
                    info = blob.info
                index = 0
                for first, count in info.extents:
                    for step in range(count if first else 0):
                        found.setdefault(blob_id, {}).setdefault(index + step, first + step)
                    index += count
                at = info.parent
    return found


METADATA_END = min(
    min(places.values()) for places in clusters_behind(sample(LAYOUT).clean).values()
)


@pytest.mark.parametrize("is_clean", [True, False], ids=["clean", "dirty"])
def test_of_a_truncated_device_exactly_what_lay_beyond_is_unreadable(is_clean: bool) -> None:
    image = sample(LAYOUT).clean if is_clean else sample(LAYOUT).dirty
    behind = clusters_behind(image)
    lengths = [*range(METADATA_END * CLUSTER, len(image), 6 * CLUSTER + 4096 + 513), len(image) - 1]
    for length in lengths:
        with rescue(device_of(image[:length], LAYOUT)) as found:
            for blob_id, expected in SOUND.items():
                blob = found.blob(blob_id)
                assert missing_bytes(blob) == {
                    index * CLUSTER + at
                    for index, cluster in behind.get(blob_id, {}).items()
                    for at in range(CLUSTER)
                    if index * CLUSTER < blob.size and cluster * CLUSTER + at >= length
                }
                assert_readable_equals(blob, expected)


def missing_bytes(blob: RescuedBlob) -> set[int]:
    return {
        at
        for missing in blob.unreadable()
        for at in range(missing.offset, missing.offset + missing.length)
    }


def test_a_device_cut_in_its_metadata_gives_the_roots_before() -> None:
    image = sample(LAYOUT).clean
    with rescue(device_of(image[: BLOCK * 12], LAYOUT)) as found:
        assert set(NAMES.values()) >= {blob.id for blob in found.blobs()}
        for blob in found.blobs():
            assert_readable_equals(blob, SOUND[blob.id][: blob.size])


def test_a_broken_extent_page_loses_what_it_names_and_nothing_else() -> None:
    with rescue(device_of(broken_by("extent-page-with-a-wrong-crc"), LAYOUT)) as found:
        blob = found.blob(NAMES["thin"])
        (lost,) = blob.unreadable()
        assert (lost.offset, lost.length) == (0, 512 * CLUSTER)
        assert "metadata" in lost.reason
        assert blob.size == THIN_CLUSTERS * CLUSTER
        assert_readable_equals(blob, SOUND[blob.id])


def test_a_broken_chain_keeps_what_came_before_and_says_that_the_end_is_lost() -> None:
    with rescue(device_of(broken_by("chain-page-with-a-wrong-crc"), LAYOUT)) as found:
        blob = found.blob(NAMES["attributed"])
        assert not blob.is_whole
        assert blob.unreadable()[-1].offset == blob.size
        assert blob.unreadable()[-1].length == 0
        assert blob.xattrs.items() < {
            "name": b"attributed", **{letter: pattern(ord(letter))[:2500] for letter in "abcd"}
        }.items()  # fmt: skip
        assert_readable_equals(blob, SOUND[blob.id][: blob.size])


def test_a_lost_root_is_believed_as_far_as_it_goes_and_its_clones_say_so() -> None:
    geometry_image = sample(LAYOUT).image()
    root = NAMES["old"] & 0xFFFF_FFFF
    at = geometry_image.geometry.page_offset(PageIndex(root))
    image = bytearray(geometry_image.data)
    image[at + BLOCK - 1] ^= 1
    with rescue(device_of(bytes(image), LAYOUT)) as found:
        for name in ("old", "middle", "origin", "clone"):
            blob = found.blob(NAMES[name])
            assert blob.read(blob.size) == SOUND[blob.id]
            assert 22 in {finding.invariant for finding in blob.findings}


@pytest.mark.parametrize("how", ["zeroed", "torn", "unreadable"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_store_without_a_super_block_is_read_all_the_same(how: str, layout: int) -> None:
    image = bytearray(sample(layout).clean)
    bad = [0] if how == "unreadable" else []
    if how == "zeroed":
        image[:BLOCK] = bytes(BLOCK)
    elif how == "torn":
        image[:512] = sample(layout).dirty[:512]
    expected = read_all(sample(layout).clean)
    with rescue(FaultyDevice(bytes(image), bad)) as found:
        assert {blob.id: sha256_of(blob) for blob in found.blobs()} == expected
        assert found.assumptions or how == "torn"


def test_what_was_never_a_store_is_refused() -> None:
    with pytest.raises(CorruptError, match="neither be solved nor rebuilt"):
        Rescue.open(MemoryDevice(1 << 20))


# Bad blocks


def test_a_bad_block_loses_one_block() -> None:
    image = sample(LAYOUT).clean
    place = clusters_behind(image)[NAMES["thick"]]
    device = FaultyDevice(image, [place[2] * CLUSTER // BLOCK + 1])
    with rescue(device) as found:
        blob = found.blob(NAMES["thick"])
        assert blob.unreadable() == []  # nobody has tried yet
        lost = 2 * CLUSTER + BLOCK
        with pytest.raises(DeviceError, match=f"{blob.id:#x}: {BLOCK} bytes at {lost}: the device"):
            blob.read(blob.size)
        buffer = bytearray(blob.size)
        reason = "the device does not read it (EIO)"
        assert blob.read_into(buffer, zero_fill=True) == [UnreadableRange(lost, BLOCK, reason)]
        expected = bytearray(SOUND[blob.id])
        expected[lost : lost + BLOCK] = bytes(BLOCK)
        assert buffer == expected
        assert blob.read(lost) == SOUND[blob.id][:lost]
        with pytest.raises(DeviceError, match=f"10 bytes at {lost + 5}"):
            blob.read(10, lost + 5)


@pytest.mark.parametrize("block", range(METADATA_END * CLUSTER // BLOCK))
def test_a_bad_block_in_the_metadata_loses_one_blob_at_most(block: int) -> None:
    with rescue(FaultyDevice(sample(LAYOUT).clean, [block])) as found:
        blobs = {blob.id: blob for blob in found.blobs()}
        whole = {
            blob_id
            for blob_id, blob in blobs.items()
            if not blob.unreadable() and blob.read(blob.size) == SOUND[blob_id]
        }
        assert set(blobs) == set(SOUND)
        damaged = set(blobs) - whole
        assert len(damaged) <= 1 or NAMES["old"] in damaged or NAMES["middle"] in damaged
        for blob_id in damaged:
            assert_readable_equals(blobs[blob_id], SOUND[blob_id][: blobs[blob_id].size])


# Relations


def test_what_a_missing_parent_held_is_unreadable() -> None:
    with rescue(device_of(broken_by("clone-of-nothing"), LAYOUT)) as found:
        blob = found.blob(NAMES["clone"])
        (lost,) = blob.unreadable()
        assert (lost.offset, lost.length) == (CLUSTER, 3 * CLUSTER)
        assert "missing" in lost.reason
        assert blob.read(CLUSTER) == pattern(14)
        with pytest.raises(CorruptError, match=f"{blob.id:#x}: 8192 bytes at 16384: the parent"):
            blob.read(CLUSTER, 2 * CLUSTER)
        assert_readable_equals(blob, SOUND[blob.id])


@pytest.mark.parametrize(
    "name", ["clone-of-itself", "two-clones-of-each-other", "three-clones-of-each-other"]
)
def test_a_cycle_of_parents_ends(name: str) -> None:
    with rescue(device_of(broken_by(name), LAYOUT)) as found:
        reasons = {missing.reason for blob in found.blobs() for missing in blob.unreadable()}
        assert reasons
        assert all("its own ancestor" in reason for reason in reasons)


def test_an_external_snapshot_is_readable_as_soon_as_it_is_named() -> None:
    with Rescue.open(device_of(sample(LAYOUT).clean, LAYOUT)) as found:
        blob = found.blob(NAMES["external"])
        places = [(missing.offset, missing.length) for missing in blob.unreadable()]
        assert places == [(0, CLUSTER), (2 * CLUSTER, CLUSTER)]
        assert blob.read(CLUSTER, CLUSTER) == pattern(7)
        with pytest.raises(CorruptError, match="external snapshot b'outside' is not available"):
            blob.read(1)
        found.register_external(EXTERNAL_ID, external())
        assert blob.unreadable() == []
        assert blob.read(blob.size) == SOUND[blob.id]
        found.register_external(EXTERNAL_ID, MemoryDevice(5, fill=0xE5))
        assert blob.read(8) == b"\xe5" * 5 + bytes(3)
        found.register_external(EXTERNAL_ID, FaultyDevice(bytes(4 * CLUSTER), [1]))
        with pytest.raises(DeviceError, match=f"{BLOCK} bytes at {BLOCK}"):
            blob.read(CLUSTER)
        found.register_external(EXTERNAL_ID, None)
        assert len(blob.unreadable()) == 2


def test_a_cluster_of_two_blobs_is_read_for_both_with_a_finding() -> None:
    with rescue(device_of(broken_by("cluster-of-two-blobs"), LAYOUT)) as found:
        for name in ("runs", "thick"):
            blob = found.blob(NAMES[name])
            assert blob.unreadable() == []
            assert 35 in {finding.invariant for finding in blob.findings}


def test_a_long_chain_of_snapshots_is_read_as_usual() -> None:
    device = ImageDevice(bytes(2 << 20), atomic_write_size=LAYOUT)
    with (
        Blobstore.create(device, cluster_size=CLUSTER, md_pages=200) as store,
        store.create_blob(4 * CLUSTER, thin=True) as blob,
    ):
        for number in range(80):
            blob.write(pattern(number)[:64], number % 4 * CLUSTER + 64 * number)
            blob.snapshot().close()
    expected = read_all(device.image)
    with Rescue.open(device_of(device.image, LAYOUT)) as found:
        assert {blob.id: sha256_of(blob) for blob in found.blobs()} == expected


# Manners


def test_a_rescue_is_closed_once_and_leaves_the_device_open(tmp_path: Path) -> None:
    device = device_of(sample(LAYOUT).clean, LAYOUT)
    with rescue(device) as found:
        blob = found.blob(NAMES["thick"])
        assert "thick" not in repr(found) + repr(blob)
        with pytest.raises(NotFoundError, match="no such blob"):
            found.blob(1)
        for offset, length in ((blob.size, 1), (-1, 1), (0, -1), (0, blob.size + 1)):
            with pytest.raises(InvalidArgumentError, match="outside"):
                blob.read(length, offset)
    assert not device.closed
    found.close()
    with pytest.raises(ClosedError):
        blob.read(1)
    with pytest.raises(ClosedError):
        found.blob(blob.id)
    with pytest.raises(NotFoundError):
        Rescue.open(tmp_path / "nothing")


def test_a_file_is_rescued_without_being_touched(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(broken_by("chain-page-with-a-wrong-crc"))
    path.chmod(0o444)
    tmp_path.chmod(0o555)
    before = path.read_bytes(), path.stat().st_mtime_ns, list(tmp_path.iterdir())
    with Rescue.open(path) as found, Rescue.open(str(path)) as other:
        assert len(list(found.blobs())) == len(list(other.blobs())) == len(NAMES)
        assert found.findings
    tmp_path.chmod(0o755)
    assert (path.read_bytes(), path.stat().st_mtime_ns, list(tmp_path.iterdir())) == before
