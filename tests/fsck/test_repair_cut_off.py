"""What a repair or an undo that was cut off once lost, or called clean."""

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from blobstore import Blobstore, FileDevice, Rescue, check, repair, undo
from blobstore.errors import CorruptError
from blobstore.format.super_block import SuperBlock
from blobstore.operations import Buffer
from blobstore.testing.simulated_device import SimulatedDevice
from blobstore.testing.simulated_disk import Event, SimulatedDisk, Written
from blobstore.units import MIB
from tests.fsck.stores import broken, contents, device_of, repaired
from tests.proof.corruptions.sample import sample
from tests.proof.corruptor import CORRUPTIONS

SECTOR = 512


def damaged(name: str) -> bytes:
    corruption = next(each for each in CORRUPTIONS if each.name == name)
    return broken(corruption, SECTOR)[0]


def after_each_write(before: bytes, events: list[Event]) -> Iterator[bytes]:
    """Yield the device after each write but the last."""
    state = bytearray(before)
    writes = [event for event in events if isinstance(event, Written)]
    for event in writes[:-1]:
        state[event.offset : event.offset + len(event.data)] = event.data
        yield bytes(state)


def events_of_repair(image: bytes, undo_file: Path) -> tuple[bytes, list[Event]]:
    disk = SimulatedDisk(image)
    repair(SimulatedDevice(disk), "all", undo=undo_file)
    return bytes(disk.content), disk.events


def test_an_undo_that_was_cut_off_can_be_finished_where_page_0_is_the_same_before_and_after(
    tmp_path: Path,
) -> None:
    image = damaged("cluster-marked-for-nobody")
    after, _events = events_of_repair(image, tmp_path / "undo")
    assert after[:4096] == image[:4096]
    disk = SimulatedDisk(after)
    undo(SimulatedDevice(disk), tmp_path / "undo")
    states = list(after_each_write(after, disk.events))
    assert states
    for state in states:
        assert not check(device_of(state, SECTOR)).clean
        with pytest.raises(CorruptError, match="an undo was cut off"):
            Blobstore.open(device_of(state, SECTOR))
        again = device_of(state, SECTOR)
        undo(again, tmp_path / "undo")
        assert again.image == image


def test_a_lost_blob_of_a_clean_store_survives_a_repair_that_was_cut_off(tmp_path: Path) -> None:
    image = damaged("root-with-a-wrong-crc")
    after, events = events_of_repair(image, tmp_path / "undo")
    for state in after_each_write(image, events):
        report = check(device_of(state, SECTOR))
        assert 46 in {finding.invariant for finding in report.findings}
        again, done = repaired(state, SECTOR, "all")
        assert done.after.clean
        assert contents(again, SECTOR).keys() == contents(after, SECTOR).keys()


def test_contested_clusters_read_the_same_after_a_repair_that_was_cut_off(tmp_path: Path) -> None:
    image = damaged("cluster-of-two-blobs")
    after, events = events_of_repair(image, tmp_path / "undo")
    wanted = {blob_id: found.content for blob_id, found in contents(after, SECTOR).items()}
    for state in after_each_write(image, events):
        again, done = repaired(state, SECTOR, "all")
        assert done.after.clean
        found = {blob_id: found.content for blob_id, found in contents(again, SECTOR).items()}
        assert found == wanted


def test_rescue_reads_a_store_whose_repair_was_cut_off(tmp_path: Path) -> None:
    image = damaged("root-with-a-wrong-crc")
    _after, events = events_of_repair(image, tmp_path / "undo")
    state = next(after_each_write(image, events))
    with Rescue.open(device_of(state, SECTOR)) as rescue:
        found = {blob.id: blob for blob in rescue.blobs()}
        assert found.keys() == set(sample(SECTOR).names.values())
        assert any(finding.invariant == 46 for finding in rescue.findings)


def test_a_repair_with_a_damaged_undo_file_says_what_can_be_done_without_it(
    tmp_path: Path,
) -> None:
    image = damaged("root-with-a-wrong-crc")
    _after, events = events_of_repair(image, tmp_path / "undo")
    device = device_of(next(after_each_write(image, events)), SECTOR)
    before = device.image
    (tmp_path / "undo").write_bytes((tmp_path / "undo").read_bytes()[:-1])
    with pytest.raises(CorruptError, match=r"cut off, .*; without .*/undo `repair all` mends what"):
        repair(device, "all", undo=tmp_path / "undo")
    assert device.image == before


class Counting(FileDevice):
    """Counts the bytes that are read."""

    counts: ClassVar[list[int]] = []

    def read(self, offset: int, length: int) -> bytes:
        self.counts.append(length)
        return super().read(offset, length)


def test_the_metadata_of_a_large_store_is_not_read_where_it_is_a_hole(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with Blobstore.create(image, size="16GiB", cluster_size="64KiB") as store:
        store.create_blob("1MiB").close()
    with image.open("r+b") as file:
        super_block = SuperBlock.decode(file.read(4096))
        assert super_block.md_len * 4096 == 1024 * MIB
        mask_at = super_block.used_clusters.start * 4096
        file.seek(mask_at + 5 + 20_000)
        file.write(b"\1")
    with FileDevice.open(image) as device:
        device.__class__ = Counting
        report = repair(device, "leaks")
        assert report.undo is not None
        assert undo(device, report.undo) == 4096
        assert 0 < sum(Counting.counts) < 16 * MIB


class InterruptedDevice(SimulatedDevice):
    """Sends this process SIGINT at its second write, `times` times."""

    times = 1
    write_count = 0

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        super().write(offset, buffers)
        self.write_count += 1
        if self.write_count == 2:
            for _time in range(self.times):
                signal.raise_signal(signal.SIGINT)


def test_ctrl_c_once_left_a_repair_and_an_undo_half_done(tmp_path: Path) -> None:
    image = damaged("root-with-a-wrong-crc")
    wanted, _events = events_of_repair(image, tmp_path / "wanted")
    disk = SimulatedDisk(image)
    with pytest.raises(KeyboardInterrupt):
        repair(InterruptedDevice(disk), "all", undo=tmp_path / "undo")
    assert bytes(disk.content) == wanted
    with pytest.raises(KeyboardInterrupt):
        undo(InterruptedDevice(disk), tmp_path / "undo")
    assert bytes(disk.content) == image


def test_a_second_ctrl_c_ends_a_repair_at_once_and_undo_brings_back_every_byte(
    tmp_path: Path,
) -> None:
    image = damaged("root-with-a-wrong-crc")
    disk = SimulatedDisk(image)
    device = InterruptedDevice(disk)
    device.times = 2
    with pytest.raises(KeyboardInterrupt):
        repair(device, "all", undo=tmp_path / "undo")
    with pytest.raises(CorruptError, match="a repair was cut off"):
        Blobstore.open(SimulatedDevice(disk))
    undo(SimulatedDevice(disk), tmp_path / "undo")
    assert bytes(disk.content) == image
