"""A repair reaches the device behind an undo file, and can be taken back from any state.

The plans here are made up: what is tested is what becomes of their changes.
"""

import random
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import blobstore
from blobstore import Blobstore, CheckReport, FileDevice, MemoryDevice, RepairReport
from blobstore.api.check import Plan, repair_device
from blobstore.device.base import Device
from blobstore.device.block import BlockDevice
from blobstore.errors import (
    BusyError,
    CorruptError,
    DeviceError,
    ExistsError,
    InvalidArgumentError,
    NotFoundError,
    ReadOnlyError,
)
from blobstore.format.checksum import crc32c
from blobstore.format.repair_mark import MARK_OFFSET
from blobstore.format.super_block import SuperBlock
from blobstore.fsck.examine import Examination
from blobstore.fsck.finding import Severity
from blobstore.metadata.store_state import DeviceTraits
from blobstore.operations import Batch, Buffer, Copy, Flush, Read, Write, WriteZeroes
from blobstore.testing.device_contract import pattern
from blobstore.testing.simulated_device import SimulatedDevice
from blobstore.testing.simulated_disk import Event, Failure, Flushed, SimulatedDisk, Written
from blobstore.units import KIB, MIB, BlobId
from tests.device.loops import attached
from tests.fsck.stores import undo_records

SIZE = 8 * MIB
GOOD_AT = 5 * MIB + 4096
METADATA_END = 36 * 4096
ROOT_AT, ERASED_AT = 4 * 4096, 5 * 4096
LATER_AT = METADATA_END - 4096


async def plan(_traits: DeviceTraits) -> tuple[str, ...]:
    """Change pages here and there, a large range, and the super block, which is clean again."""
    found = SuperBlock.decode(await Read(0, 4096))
    dirty = found.with_changes(clean=False).balanced_against(found)
    await Write(0, dirty.encode())
    await Batch([Write(GOOD_AT, b"good"), Write(GOOD_AT + 8192, pattern(8192))])
    await WriteZeroes(2 * MIB, 2 * MIB + 512)
    await Write(MIB, await Read(MIB, 4096))  # as it was
    await Flush()
    final = dirty.with_changes(clean=True, super_blob=BlobId(1 << 32))
    await Write(0, final.balanced_against(found).encode())
    return ("made it good",)


async def plan_of_nothing(_traits: DeviceTraits) -> tuple[str, ...]:
    await Write(0, await Read(0, 8192))
    return ()


async def examine(_traits: DeviceTraits) -> Examination:
    examination = Examination(b"")
    if await Read(GOOD_AT, 4) != b"good":
        examination.findings.add(17, "it is not good")
    return examination


def apply(device: Device, *, undo: Path | None = None, dry_run: bool = False) -> RepairReport:
    return repair_device(device, plan, examine, undo, dry_run=dry_run)


@pytest.fixture(scope="module")
def content() -> bytes:
    """A store's image, with data in it."""
    device = Kept(SIZE)
    with Blobstore.create(device, cluster_size=64 * KIB, md_pages=32) as store:
        blob = store.create_blob(6 * MIB)
        blob.write(pattern(6 * MIB))
    return device.image


class Kept(MemoryDevice):
    """Remembers what it held when it was closed."""

    image = b""

    def close(self) -> None:
        self.image = self.image or self.read(0, self.size_bytes)
        super().close()


@pytest.fixture(scope="module")
def repaired(content: bytes) -> bytes:
    device = memory(content)
    apply(device)
    return device.read(0, SIZE)


def memory(content: bytes) -> MemoryDevice:
    device = MemoryDevice(len(content))
    device.write(0, [content])
    return device


@pytest.fixture
def image(content: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(content)
    return path


# Applying


def test_the_device_gets_what_the_plan_made_and_the_report_says_so(
    image: Path, content: bytes, repaired: bytes
) -> None:
    with FileDevice.open(image) as device:
        report = apply(device)
    assert not report.before.clean
    assert report.before.findings[0].message == "it is not good"
    assert report.after == CheckReport(())
    assert report.after.clean
    assert report.repaired == ("made it good",)
    assert image.read_bytes() == repaired
    assert repaired[GOOD_AT : GOOD_AT + 4] == b"good"
    assert repaired[2 * MIB : 4 * MIB + 512] == bytes(2 * MIB + 512)
    assert SuperBlock.decode(repaired[:4096]).clean
    assert SuperBlock.decode(repaired[:4096]) != SuperBlock.decode(content[:4096])


def test_the_undo_file_lies_beside_the_image_for_its_owner_alone(image: Path) -> None:
    with FileDevice.open(image) as device:
        report = apply(device)
    undo = image.with_name("disk.img.undo-1")
    assert report.undo == str(undo)
    assert stat.S_IMODE(undo.stat().st_mode) == 0o600


def test_the_undo_file_holds_what_differs_and_no_more(image: Path, content: bytes) -> None:
    with FileDevice.open(image) as device:
        apply(device)
    decoder, records = undo_records(image.with_name("disk.img.undo-1").read_bytes())
    assert (decoder.device_size, decoder.metadata_end) == (SIZE, METADATA_END)
    assert [(record.offset, len(record.old)) for record in records] == [
        (0, 4096),
        (2 * MIB, MIB),
        (3 * MIB, MIB),
        (4 * MIB, 4096),
        (GOOD_AT, 4096),
        (GOOD_AT + 8192, 8192),
    ]
    for record in records:
        assert record.old == content[record.offset : record.offset + len(record.old)]


def test_the_first_free_number_is_taken_and_links_are_not_followed(
    image: Path, tmp_path: Path
) -> None:
    image.with_name("disk.img.undo-1").write_bytes(b"kept")
    image.with_name("disk.img.undo-2").symlink_to(tmp_path / "nowhere")
    with FileDevice.open(image) as device:
        assert apply(device).undo == f"{image}.undo-3"
    assert image.with_name("disk.img.undo-1").read_bytes() == b"kept"
    assert not (tmp_path / "nowhere").exists()


def test_an_undo_file_is_never_overwritten_and_nothing_changes(image: Path, content: bytes) -> None:
    with FileDevice.open(image) as device, pytest.raises(ExistsError, match="never overwritten"):
        apply(device, undo=image)
    assert image.read_bytes() == content


def test_an_undo_file_that_cannot_be_made_leaves_the_store_as_it_is(
    image: Path, content: bytes, tmp_path: Path
) -> None:
    with FileDevice.open(image) as device, pytest.raises(FileNotFoundError, match="undo: no such"):
        apply(device, undo=tmp_path / "missing" / "undo")
    assert image.read_bytes() == content


def test_a_full_disk_leaves_neither_half_an_undo_file_nor_half_a_repair(
    image: Path, content: bytes, tmp_path: Path
) -> None:
    class Failing(FileDevice):
        reads = 0

        def read(self, offset: int, length: int) -> bytes:
            self.reads += (offset, length) == (GOOD_AT, 4096)
            if self.reads == 2:
                raise OSError(28, "no space left")
            return super().read(offset, length)

    path = tmp_path / "undo"
    with FileDevice.open(image) as device:
        device.__class__ = Failing
        with pytest.raises(DeviceError, match="No space left"):
            apply(device, undo=path)
    assert image.read_bytes() == content
    assert not path.exists()


def test_a_dry_run_changes_nothing_and_needs_no_right_to_write(image: Path, content: bytes) -> None:
    with FileDevice.open(image, read_only=True) as device:
        report = apply(device, dry_run=True)
    assert report.repaired == ("made it good",)
    assert (report.before.clean, report.after.clean, report.undo) == (False, True, None)
    assert image.read_bytes() == content
    assert list(image.parent.iterdir()) == [image]


def test_a_plan_that_changes_nothing_writes_nothing(content: bytes, tmp_path: Path) -> None:
    disk = SimulatedDisk(content)
    report = repair_device(
        SimulatedDevice(disk), plan_of_nothing, examine, tmp_path / "undo", dry_run=False
    )
    assert report.undo is None
    assert disk.events == []
    assert not (tmp_path / "undo").exists()


def test_the_store_does_not_open_while_it_is_changed(
    content: bytes, repaired: bytes, tmp_path: Path
) -> None:
    disk = SimulatedDisk(content)
    apply(SimulatedDevice(disk), undo=tmp_path / "undo")
    groups = groups_of(disk.events)
    assert [[(event.offset, len(event.data)) for event in group] for group in groups] == [
        [(MARK_OFFSET, 512)],
        [(2 * MIB, MIB), (3 * MIB, MIB), (4 * MIB, 4096), (GOOD_AT, 4096), (GOOD_AT + 8192, 8192)],
        [(0, MARK_OFFSET)],
        [(MARK_OFFSET, 512)],
    ]
    marked = content[:MARK_OFFSET] + groups[0][0].data
    assert int.from_bytes(marked[-4:], "little") == crc32c(marked[:-4]) ^ 0xFFFF_FFFF
    with pytest.raises(CorruptError, match=r"a repair was cut off, its undo file is .*/undo: with"):
        Blobstore.open(memory(marked + content[4096:]))
    assert groups[2][0].data + groups[3][0].data == repaired[:4096]


async def plan_of_a_copy(_traits: DeviceTraits) -> tuple[str, ...]:
    await Write(ERASED_AT, bytes(4096))
    await Write(ROOT_AT, b"a root that names the copy, and the new page")
    await Write(LATER_AT, b"a new page")
    await Copy(2 * MIB, 7 * MIB, 64 * KIB)
    return ("copied",)


def test_what_roots_name_is_durable_before_them_and_is_erased_after_them(content: bytes) -> None:
    disk = SimulatedDisk(content)
    repair_device(SimulatedDevice(disk), plan_of_a_copy, examine_nothing, None, dry_run=False)
    groups = groups_of(disk.events)
    places = [[event.offset for event in group] for group in groups]
    assert places == [[MARK_OFFSET], [LATER_AT, 7 * MIB], [ROOT_AT], [ERASED_AT], [MARK_OFFSET]]


def test_a_store_without_a_super_block_is_repaired_all_the_same(tmp_path: Path) -> None:
    async def make_super_block(_traits: DeviceTraits) -> tuple[str, ...]:
        await Write(0, b"no super block" * 100)
        await Write(4096, b"more")
        return ()

    device = MemoryDevice(MIB, fill=0xDD)
    repair_device(device, make_super_block, examine_nothing, tmp_path / "undo", dry_run=False)
    assert device.read(0, 14) == b"no super block"
    assert blobstore.undo(device, tmp_path / "undo") == 8192
    assert device.read(0, MIB) == b"\xdd" * MIB


async def examine_nothing(_traits: DeviceTraits) -> Examination:
    return Examination(await Read(0, 4096))


def test_memory_has_no_undo_file_unless_one_is_named(content: bytes, tmp_path: Path) -> None:
    assert apply(memory(content)).undo is None
    assert apply(memory(content), undo=tmp_path / "undo").undo == str(tmp_path / "undo")


@pytest.mark.parametrize(
    ("block_size", "direct"), [(512, False), (4096, False), (4096, True)], ids=str
)
def test_a_block_device_needs_a_named_undo_file(
    block_size: int, direct: bool, content: bytes, tmp_path: Path
) -> None:
    with (
        attached(tmp_path / "backing.img", block_size=block_size, size=SIZE) as loop,
        BlockDevice.open(loop.path, direct=direct) as device,
    ):
        device.write(0, [content])
        with pytest.raises(InvalidArgumentError, match="undo file: name one"):
            apply(device)
        assert device.read(0, SIZE) == content
        apply(device, undo=tmp_path / "undo")
        assert device.read(GOOD_AT, 4) == b"good"
        blobstore.undo(device, tmp_path / "undo")
        assert device.read(0, SIZE) == content


def test_a_device_that_fails_in_the_middle_names_the_way_back(
    content: bytes, tmp_path: Path
) -> None:
    disk = SimulatedDisk(content)
    device = SimulatedDevice(disk)
    apply(device, undo=tmp_path / "undo")
    count = disk.operation_count
    again = SimulatedDisk(content)
    again.failure = Failure(count - 4)
    with pytest.raises(DeviceError, match=f"half done, to undo it: {tmp_path}/undo-b"):
        apply(SimulatedDevice(again), undo=tmp_path / "undo-b")
    assert again.content != content
    again.failure = None
    blobstore.undo(SimulatedDevice(again), tmp_path / "undo-b")
    assert again.content == content


# Taking back


@pytest.fixture
def undo(image: Path) -> Path:
    """Return the undo file of a repair of the image."""
    with FileDevice.open(image) as device:
        path = apply(device).undo
    assert path is not None
    return Path(path)


def test_undo_brings_every_byte_back_and_may_be_run_again(
    image: Path, undo: Path, content: bytes
) -> None:
    assert blobstore.undo(image, undo) == 4096 + 2 * MIB + 4096 + 4096 + 8192
    assert image.read_bytes() == content
    assert blobstore.undo(image, undo) == 0
    assert image.read_bytes() == content


def test_undo_refuses_a_store_that_was_changed_since_and_says_where(
    image: Path, undo: Path
) -> None:
    changed = bytearray(image.read_bytes())
    changed[GOOD_AT + 8192 + 5000] ^= 1
    image.write_bytes(changed)
    place = rf"changed since the repair: the sector at byte {GOOD_AT + 8192 + 4608}$"
    with pytest.raises(CorruptError, match=place):
        blobstore.undo(image, undo)
    assert image.read_bytes() == changed


@pytest.mark.parametrize(
    ("super_blob", "place"),
    [
        pytest.param(2 << 32, "the sector at byte 0$", id="something new"),
        pytest.param(
            None,
            r"bytes at \d+, partly as before the repair$",
            id="what was there before the repair",
        ),
    ],
)
def test_undo_refuses_a_store_that_was_opened_and_changed_since(
    super_blob: int | None, place: str, image: Path, undo: Path
) -> None:
    with Blobstore.open(image) as store:
        store.set_super_blob(super_blob)
    changed = image.read_bytes()
    with pytest.raises(CorruptError, match=f"was changed since the repair: .*{place}"):
        blobstore.undo(image, undo)
    assert image.read_bytes() == changed


def test_undo_refuses_a_clean_store_of_which_a_part_is_old_again(
    image: Path, undo: Path, content: bytes
) -> None:
    changed = bytearray(image.read_bytes())
    changed[GOOD_AT : GOOD_AT + 4096] = content[GOOD_AT : GOOD_AT + 4096]
    image.write_bytes(changed)
    place = f"changed since the repair: 4096 bytes at {GOOD_AT}, partly as before the repair$"
    with pytest.raises(CorruptError, match=place):
        blobstore.undo(image, undo)
    assert image.read_bytes() == changed


def test_undo_refuses_a_device_of_another_size(image: Path, undo: Path) -> None:
    with open(image, "ab") as file:
        file.truncate(SIZE + 4096)
    with pytest.raises(CorruptError, match=f"{SIZE + 4096} bytes, expected the {SIZE}"):
        blobstore.undo(image, undo)


def test_a_damaged_undo_file_changes_nothing(image: Path, undo: Path, repaired: bytes) -> None:
    whole = undo.read_bytes()
    undo.write_bytes(whole[:-1])
    with pytest.raises(CorruptError, match="undo file: end: cut off"):
        blobstore.undo(image, undo)
    undo.write_bytes(whole[:-9] + b"\x07" + whole[-8:])
    with pytest.raises(CorruptError, match="undo file: end"):
        blobstore.undo(image, undo)
    assert image.read_bytes() == repaired


def test_what_is_no_undo_file_is_refused(image: Path, tmp_path: Path) -> None:
    shutil.copy(image, tmp_path / "copy.img")
    with pytest.raises(CorruptError, match="undo file: begins with b'SPDKBLOB'"):
        blobstore.undo(image, tmp_path / "copy.img")
    with pytest.raises(NotFoundError, match="no such file"):
        blobstore.undo(image, tmp_path / "missing")
    with pytest.raises(IsADirectoryError):
        blobstore.undo(image, tmp_path)


def test_undo_needs_the_device_alone_and_writable(image: Path, undo: Path, repaired: bytes) -> None:
    with FileDevice.open(image, read_only=True) as device:
        with pytest.raises(BusyError):
            blobstore.undo(image, undo)
        with pytest.raises(ReadOnlyError):
            blobstore.undo(device, undo)
    assert image.read_bytes() == repaired


# Power failures


def groups_of(events: list[Event]) -> list[list[Written]]:
    """Return what was written up to each flush."""
    groups: list[list[Written]] = [[]]
    for event in events:
        if isinstance(event, Flushed):
            groups.append([])
        else:
            assert isinstance(event, Written)
            groups[-1].append(event)
    assert groups[-1] == []
    return groups[:-1]


def crash_states(before: bytes, events: list[Event], *, seed: int) -> Iterator[bytes]:
    """Yield, for each flush that did not end, the device with any of the sectors before it."""
    chance = random.Random(seed)
    durable = bytearray(before)
    for group in groups_of(events):
        state = bytearray(durable)
        share = chance.random()
        for event in group:
            for at in range(0, len(event.data), 512):
                if chance.random() < share:
                    start = event.offset + at
                    state[start : start + 512] = event.data[at : at + 512]
            durable[event.offset : event.offset + len(event.data)] = event.data
        yield bytes(state)
        yield bytes(durable)


@pytest.mark.parametrize("seed", range(5))
def test_after_any_power_failure_undo_brings_the_store_back(
    seed: int, content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "undo"
    disk = SimulatedDisk(content)
    apply(SimulatedDevice(disk), undo=path)
    for state in crash_states(content, disk.events, seed=seed):
        torn = SimulatedDisk(state)
        blobstore.undo(SimulatedDevice(torn), path)
        assert torn.content == content
        for again in crash_states(state, torn.events, seed=seed + 100):
            twice = SimulatedDisk(again)
            blobstore.undo(SimulatedDevice(twice), path)
            assert twice.content == content


def test_an_undo_is_the_repair_backwards_and_its_store_does_not_open(
    content: bytes, tmp_path: Path
) -> None:
    disk = SimulatedDisk(content)
    apply_to(SimulatedDevice(disk), tmp_path / "undo-2", plan_of_all_kinds)
    after = bytes(disk.content)
    torn = SimulatedDisk(after)
    blobstore.undo(SimulatedDevice(torn), tmp_path / "undo-2")
    groups = groups_of(torn.events)
    assert [[event.offset for event in group] for group in groups] == [
        [MARK_OFFSET],
        [0, ERASED_AT],
        [ROOT_AT],
        [LATER_AT, GOOD_AT],
        [MARK_OFFSET],
    ]
    with pytest.raises(
        CorruptError, match=r"an undo was cut off, its undo file is .*/undo-2: with"
    ):
        Blobstore.open(memory(after[:MARK_OFFSET] + groups[0][0].data + after[4096:]))
    assert torn.content == content


def apply_to(device: Device, undo: Path, plan: Plan) -> None:
    repair_device(device, plan, examine_nothing, undo, dry_run=False)


async def plan_of_all_kinds(_traits: DeviceTraits) -> tuple[str, ...]:
    found = SuperBlock.decode(await Read(0, 4096))
    await Write(0, found.with_changes(super_blob=BlobId(1 << 32)).encode())
    await Write(ROOT_AT, b"a root")
    await Write(ERASED_AT, bytes(4096))
    await Write(LATER_AT, b"metadata")
    await Write(GOOD_AT, b"data")
    return ("changed",)


# What was cut off


def cut_off(content: bytes, undo: Path, *, groups: int = 2) -> SimulatedDevice:
    """Return a store whose repair was cut off after so many flushes."""
    disk = SimulatedDisk(content)
    apply(SimulatedDevice(disk), undo=undo)
    state = bytearray(content)
    for group in groups_of(disk.events)[:groups]:
        for event in group:
            state[event.offset : event.offset + len(event.data)] = event.data
    return SimulatedDevice(SimulatedDisk(state))


def test_check_says_what_was_cut_off_and_which_file_takes_it_back(
    content: bytes, tmp_path: Path
) -> None:
    report = blobstore.check(cut_off(content, tmp_path / "undo"))
    assert not report.clean
    (finding,) = [each for each in report.findings if each.severity is Severity.ERROR]
    assert finding.invariant == 46
    assert f"a repair was cut off, its undo file is {tmp_path}/undo: with it" in finding.message


def test_the_undo_file_beside_an_image_is_named_without_its_directory(
    image: Path, content: bytes
) -> None:
    with FileDevice.open(image) as device:
        device.__class__ = Failing
        with pytest.raises(DeviceError, match=f"to undo it: {image}.undo-1"):
            apply(device)
    with pytest.raises(CorruptError, match=r"its undo file is disk\.img\.undo-1: with it"):
        Blobstore.open(image)
    assert blobstore.undo(image, f"{image}.undo-1") > 0
    assert image.read_bytes() == content


class Failing(FileDevice):
    """Cannot write to the clusters."""

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        if offset > MIB:
            raise DeviceError("write: failed")
        super().write(offset, buffers)


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_a_repair_that_was_cut_off_begins_again_with_its_undo_file(
    groups: int, content: bytes, repaired: bytes, tmp_path: Path
) -> None:
    device = cut_off(content, tmp_path / "undo", groups=groups)
    report = apply(device, undo=tmp_path / "undo")
    assert report.repaired == (
        f"undone with {tmp_path}/undo: the repair that was cut off",
        "made it good",
    )
    assert device.disk.content == repaired
    assert blobstore.undo(device, tmp_path / "undo") > 0
    assert device.disk.content == content


def test_a_repair_of_an_image_finds_the_undo_file_beside_it(
    image: Path, content: bytes, repaired: bytes, tmp_path: Path
) -> None:
    with FileDevice.open(image) as device:
        device.__class__ = Failing
        with pytest.raises(DeviceError):
            apply(device, undo=tmp_path / "disk.img.undo-7")
    with FileDevice.open(image) as device:
        assert apply(device).undo == f"{image}.undo-1"
    assert image.read_bytes() == repaired
    assert not (tmp_path / "disk.img.undo-7").exists()


def test_a_dry_run_says_what_a_repair_of_what_was_cut_off_would_do_and_changes_nothing(
    content: bytes, tmp_path: Path
) -> None:
    device = cut_off(content, tmp_path / "undo")
    before = bytes(device.disk.content)
    report = apply(device, undo=tmp_path / "undo", dry_run=True)
    assert report.after.clean
    assert report.repaired[1:] == ("made it good",)
    assert device.disk.content == before
    assert (tmp_path / "undo").exists()


def test_undo_refuses_the_file_of_another_repair_and_names_the_right_one(
    content: bytes, tmp_path: Path
) -> None:
    apply(memory(content), undo=tmp_path / "other")
    device = cut_off(content, tmp_path / "undo")
    before = bytes(device.disk.content)
    with pytest.raises(CorruptError, match=f"of another repair; .* is {tmp_path}/undo: with it"):
        blobstore.undo(device, tmp_path / "other")
    assert device.disk.content == before


def test_undo_refuses_when_a_later_repair_changed_what_its_own_did_not(
    content: bytes, tmp_path: Path
) -> None:
    device = memory(content)
    apply(device, undo=tmp_path / "first")
    blobstore.undo(device, tmp_path / "first")
    repair_device(device, plan_of_a_copy, examine_nothing, tmp_path / "later", dry_run=False)
    after = device.read(0, SIZE)
    place = f"changed since the repair: {METADATA_END} bytes at 0, which the repair left alone$"
    with pytest.raises(CorruptError, match=place):
        blobstore.undo(device, tmp_path / "first")
    assert device.read(0, SIZE) == after
    assert blobstore.undo(device, tmp_path / "later") > 0
    assert blobstore.undo(device, tmp_path / "first") == 0


# The public face


def test_a_given_device_stays_open(content: bytes, tmp_path: Path) -> None:
    device = memory(content)
    apply(device, undo=tmp_path / "undo")
    blobstore.undo(device, tmp_path / "undo")
    blobstore.check(device)
    assert device.read(0, SIZE) == content


def test_a_healthy_store_is_clean_and_can_be_checked_by_many(image: Path) -> None:
    with FileDevice.open(image, read_only=True):
        assert blobstore.check(image).clean


def test_what_is_no_store_is_a_finding_and_no_error(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"text" * 4096)
    report = blobstore.check(path)
    assert not report.clean
    assert report.findings[0].invariant == 1


def test_a_store_that_cannot_be_opened_is_an_error(image: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        blobstore.check(tmp_path / "missing")
    with FileDevice.open(image), pytest.raises(BusyError):
        blobstore.check(image)


def test_an_unknown_mode_is_refused(image: Path, content: bytes) -> None:
    with pytest.raises(
        InvalidArgumentError, match="mode: expected one of 'leaks', 'safe', 'all', got 'most'"
    ):
        blobstore.repair(image, "most")
    assert image.read_bytes() == content


def test_a_healthy_store_is_left_as_it_is(image: Path, content: bytes) -> None:
    for mode in ("leaks", "safe", "all"):
        report = blobstore.repair(image, mode)
        assert (report.repaired, report.undo, report.after.clean) == ((), None, True)
    assert image.read_bytes() == content
