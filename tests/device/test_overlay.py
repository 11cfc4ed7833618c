"""The overlay device: the contract, and a base of which no byte changes."""

import random
from pathlib import Path

import pytest

from blobstore.device.base import Device
from blobstore.device.file import FileDevice
from blobstore.device.memory import MemoryDevice
from blobstore.device.overlay import BLOCK_SIZE, OverlayDevice
from blobstore.device.zeroes import ZeroesDevice
from blobstore.errors import DeviceError, InvalidArgumentError
from blobstore.testing.device_contract import MINIMUM_SIZE, DeviceContract, pattern
from blobstore.testing.simulated_device import SimulatedDevice
from blobstore.testing.simulated_disk import SimulatedDisk
from blobstore.units import KIB, MIB, TIB

SIZE = 64 * KIB


class TestOverlayDevice(DeviceContract):
    @pytest.fixture
    def device(self) -> Device:
        return OverlayDevice(MemoryDevice(MINIMUM_SIZE, fill=0xDD, read_only=True))


def base_of(content: bytes) -> MemoryDevice:
    device = MemoryDevice(len(content))
    device.write(0, [content])
    device.read_only = True
    return device


def test_the_traits_are_the_bases_and_it_can_always_be_written() -> None:
    base = MemoryDevice(SIZE, 4096, atomic_write_size=4096, read_only=True, name="below")
    overlay = OverlayDevice(base)
    for name in ("name", "size_bytes", "block_size", "physical_block_size", "atomic_write_size"):
        assert getattr(overlay, name) == getattr(base, name)
    assert overlay.unmap_zeroes
    assert not overlay.read_only


def test_the_base_never_changes_and_stays_open() -> None:
    disk = SimulatedDisk(pattern(SIZE))
    with OverlayDevice(SimulatedDevice(disk)) as overlay:
        overlay.write(100, [b"new"])
        overlay.write_zeroes(8192, 8192)
        overlay.unmap(32 * KIB, 4096)
        overlay.copy(0, 48 * KIB, 4096)
        overlay.flush()
    assert disk.read(0, SIZE) == pattern(SIZE)
    assert not disk.events


def test_data_is_what_the_base_has_and_what_was_changed(tmp_path: Path) -> None:
    with FileDevice.create(tmp_path / "disk.img", MIB) as base, OverlayDevice(base) as overlay:
        base.write(512 * KIB, [b"x" * 4096])
        overlay.write(128 * KIB, [b"new"])
        assert overlay.next_data(0) == 128 * KIB
        assert overlay.next_data(128 * KIB + 1) == 128 * KIB + 1
        assert 128 * KIB + 3 < overlay.next_data(128 * KIB + 3) <= 512 * KIB
        assert overlay.next_data(600 * KIB) == MIB
        assert overlay.next_data(2 * MIB) == 2 * MIB


def test_what_is_unmapped_stays_where_the_base_promises_no_zeroes() -> None:
    base = base_of(pattern(SIZE))
    base.unmap_zeroes = False
    overlay = OverlayDevice(base)
    overlay.write(4096, [b"new" * 100])
    before = overlay.read(0, SIZE)
    overlay.unmap(0, SIZE)
    assert overlay.read(0, SIZE) == before


def test_zeroes_over_terabytes_take_no_memory() -> None:
    overlay = OverlayDevice(ZeroesDevice(4 * TIB))
    overlay.write(TIB, [b"data"])
    overlay.write_zeroes(4096, 4 * TIB - 8192)
    overlay.write(2 * TIB, [b"data"])
    assert overlay.read(TIB, 4) == bytes(4)
    assert overlay.read(2 * TIB - 2, 8) == b"\0\0data\0\0"
    assert list(overlay.changed_ranges()) == [(4096, 4 * TIB - 8192)]


def test_a_replaced_range_of_the_base_is_never_read() -> None:
    class Failing(MemoryDevice):
        def read(self, offset: int, length: int) -> bytes:
            raise DeviceError("a bad place")

    overlay = OverlayDevice(Failing(SIZE))
    overlay.write(4096, [pattern(4096)])
    overlay.write_zeroes(8192, 4096)
    assert overlay.read(4096, 8192) == pattern(4096) + bytes(4096)
    with pytest.raises(DeviceError, match="a bad place"):
        overlay.read(4095, 2)


# Changed ranges


def test_nothing_was_changed_at_first_and_by_nothing() -> None:
    overlay = OverlayDevice(MemoryDevice(SIZE))
    assert list(overlay.changed_ranges()) == []
    overlay.write(4096, [])
    overlay.write_zeroes(SIZE, 0)
    overlay.copy(0, 4096, 0)
    assert list(overlay.changed_ranges()) == []


def test_changed_ranges_are_whole_blocks_merged_and_ascending() -> None:
    overlay = OverlayDevice(MemoryDevice(SIZE))
    overlay.write(5 * BLOCK_SIZE + 100, [b"x"])
    overlay.write_zeroes(6 * BLOCK_SIZE, 10)
    overlay.write(2 * BLOCK_SIZE - 1, [b"xx"])
    overlay.write(BLOCK_SIZE + 7, [b"x"])
    overlay.copy(0, 10 * BLOCK_SIZE, BLOCK_SIZE)
    assert list(overlay.changed_ranges()) == [
        (BLOCK_SIZE, 2 * BLOCK_SIZE),
        (5 * BLOCK_SIZE, 2 * BLOCK_SIZE),
        (10 * BLOCK_SIZE, BLOCK_SIZE),
    ]


def test_the_last_changed_block_ends_with_the_device() -> None:
    overlay = OverlayDevice(MemoryDevice(BLOCK_SIZE + 512))
    overlay.write(BLOCK_SIZE + 511, [b"x"])
    assert list(overlay.changed_ranges()) == [(BLOCK_SIZE, 512)]


# Copies


def test_a_copy_is_not_held_in_memory_and_survives_changes_of_its_source() -> None:
    overlay = OverlayDevice(base_of(pattern(SIZE)))
    overlay.copy(4096, 32 * KIB, 8192)
    assert overlay.copies == [(4096, 32 * KIB, 8192)]
    overlay.write(4096, [b"new"])
    overlay.write(32 * KIB + 4096, [b"cut"])
    assert overlay.read(32 * KIB, 4096) == pattern(SIZE)[4096:8192]
    assert overlay.copies == [(4096, 32 * KIB, 4096), (8195, 36 * KIB + 3, 4093)]


def test_a_copy_of_something_changed_is_a_copy_of_the_change() -> None:
    overlay = OverlayDevice(base_of(pattern(SIZE)))
    overlay.write(5000, [b"new"])
    overlay.write_zeroes(8192, 4096)
    overlay.copy(0, 4096, 4096)
    expected = overlay.read(4096, 12 * KIB)
    overlay.copy(4096, 40 * KIB, 12 * KIB)
    overlay.write_zeroes(0, 20 * KIB)
    assert overlay.read(40 * KIB, 12 * KIB) == expected


def test_a_copy_stays_inside_the_device() -> None:
    overlay = OverlayDevice(MemoryDevice(SIZE))
    for source, target in ((SIZE - 4095, 0), (0, SIZE - 4095), (-1, 0)):
        with pytest.raises(InvalidArgumentError, match="outside"):
            overlay.copy(source, target, 4096)


def test_settled_changes_can_be_made_to_the_base_in_any_order() -> None:
    base = MemoryDevice(SIZE)
    base.write(0, [pattern(SIZE)])
    overlay = OverlayDevice(base)
    overlay.copy(0, 4096, 4096)
    overlay.copy(8192, 0, 4096)
    overlay.copy(32 * KIB, 8192, 4096)
    expected = overlay.read(0, SIZE)
    overlay.settle()
    assert overlay.copies == [(32 * KIB, 8192, 4096)]
    ranges = list(overlay.changed_ranges())
    assert ranges == [(0, 12 * KIB)]
    for at in (8192, 0, 4096):
        base.write(at, [overlay.read(at, 4096)])
    assert base.read(0, SIZE) == expected


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_any_changes_read_as_on_a_device(seed: int) -> None:
    chance = random.Random(seed)
    content = pattern(SIZE, seed=seed)
    overlay = OverlayDevice(base_of(content))
    model = bytearray(content)
    for step in range(200):
        length = chance.choice([1, 512, 4096, chance.randrange(SIZE // 4)])
        at, other = chance.randrange(SIZE - length), chance.randrange(SIZE - length)
        match chance.choice(["write", "zeroes", "copy", "settle"]):
            case "write":
                model[at : at + length] = pattern(length, seed=step)
                overlay.write(at, [pattern(length, seed=step)])
            case "zeroes":
                model[at : at + length] = bytes(length)
                overlay.write_zeroes(at, length)
            case "copy":
                model[at : at + length] = model[other : other + length]
                overlay.copy(other, at, length)
            case "settle":
                overlay.settle()
        assert overlay.read(other, length) == model[other : other + length]
    assert overlay.read(0, SIZE) == model
    changed = bytearray(content)
    for offset, length in overlay.changed_ranges():
        changed[offset : offset + length] = model[offset : offset + length]
    assert changed == model


def test_a_large_request_passes_borders_of_all_kinds() -> None:
    content = pattern(4 * MIB)
    overlay = OverlayDevice(base_of(content))
    overlay.write_zeroes(MIB, MIB)
    overlay.write(MIB + 4096, [b"x" * 4096])
    found = bytearray(3 * MIB)
    overlay.read_into(512, [memoryview(found)[:MIB], memoryview(found)[MIB:]])
    expected = bytearray(content)
    expected[MIB : 2 * MIB] = bytes(MIB)
    expected[MIB + 4096 : MIB + 8192] = b"x" * 4096
    assert found == expected[512 : 3 * MIB + 512]
