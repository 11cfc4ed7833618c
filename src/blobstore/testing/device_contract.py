"""What every writable device must do, as tests: subclass, supply the fixtures, run pytest.

The subclass supplies a fixture `device`, and for `ReadOnlyContract` also
`read_only_device`. The device may hold anything at first, and must hold at
least `MINIMUM_SIZE` bytes. The module does not import pytest: the methods are
plain functions of a device.
"""

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final

from blobstore.device.base import Device
from blobstore.errors import (
    BlobstoreError,
    ClosedError,
    InvalidArgumentError,
    ReadOnlyError,
)
from blobstore.operations import Buffer
from blobstore.units import KIB, MIB

MINIMUM_SIZE: Final = 8 * MIB

Request = Callable[[Device], object]

READS: Final[dict[str, Request]] = {
    "read": lambda device: device.read(0, 512),
    "read_into": lambda device: device.read_into(0, [memoryview(bytearray(512))]),
}
CHANGES: Final[dict[str, Request]] = {
    "write": lambda device: device.write(0, [b"x" * 512]),
    "write_zeroes": lambda device: device.write_zeroes(0, 512),
    "unmap": lambda device: device.unmap(0, 512),
    "allocate": lambda device: device.allocate(0, 512),
    "resize": lambda device: device.resize(MINIMUM_SIZE),
}
OTHERS: Final[dict[str, Request]] = {
    "flush": lambda device: device.flush(),
    "refresh_size": lambda device: device.refresh_size(),
}

RANGED: Final[dict[str, Callable[[Device, int, int], object]]] = {
    "read": lambda device, offset, length: device.read(offset, length),
    "read_into": lambda device, offset, length: device.read_into(
        offset, [memoryview(bytearray(length))]
    ),
    "write": lambda device, offset, length: device.write(offset, [bytes(length)]),
    "write two": lambda device, offset, length: device.write(
        offset, [bytes(length // 2), bytes(length - length // 2)]
    ),
    "write_zeroes": lambda device, offset, length: device.write_zeroes(offset, length),
    "unmap": lambda device, offset, length: device.unmap(offset, length),
    "allocate": lambda device, offset, length: device.allocate(offset, length),
}


def pattern(length: int, seed: int = 1) -> bytes:
    """Make bytes that repeat only every 64 KiB and a bit, and differ from seed to seed."""
    unit = _unit(seed)
    return (unit * (length // len(unit) + 1))[:length]


@cache
def _unit(seed: int) -> bytes:
    return b"".join(
        (seed * 0x9E37_79B1 + index * 0x85EB_CA6B & 0xFFFF_FFFF).to_bytes(4, "little")
        for index in range(16 * KIB + 1)
    )


@contextmanager
def _refused(name: str, kind: type[BlobstoreError], saying: str = "") -> Iterator[None]:
    """Require that the request `name` raises such an error."""
    message = None
    try:
        yield
    except kind as error:
        message = error.message
    assert message is not None, f"{name}: did not raise {kind.__name__}"
    assert saying in message, f"{name}: {message!r} does not say {saying!r}"


def _is_pattern_outside(found: bytes, content: bytes, offset: int, length: int) -> bool:
    """Say whether two contents are equal outside of a range; one comparison, no long message."""
    end = offset + length
    return found[:offset] == content[:offset] and found[end:] == content[end:]


class DeviceContract:
    """The contract; the subclass supplies a fixture `device`, open for writing."""

    # Reading and writing

    def test_what_was_written_is_read_back(self, device: Device) -> None:
        device.write(4096, [pattern(4096)])
        assert device.read(4096, 4096) == pattern(4096)

    def test_read_into_fills_the_buffer(self, device: Device) -> None:
        device.write(4096, [pattern(4096)])
        buffer = bytearray(4096)
        device.read_into(4096, [memoryview(buffer)])
        assert buffer == pattern(4096)

    def test_a_later_write_replaces_an_earlier_one(self, device: Device) -> None:
        device.write(0, [pattern(8192, seed=1)])
        device.write(4096, [pattern(4096, seed=2)])
        assert device.read(0, 8192) == pattern(8192, seed=1)[:4096] + pattern(4096, seed=2)

    def test_buffers_are_written_one_after_the_other(self, device: Device) -> None:
        whole = pattern(3 * 4096)
        parts: list[Buffer] = [whole[:512], bytearray(whole[512:4096]), memoryview(whole)[4096:]]
        device.write(512, parts)
        assert device.read(512, len(whole)) == whole

    def test_buffers_are_filled_one_after_the_other(self, device: Device) -> None:
        whole = pattern(3 * 4096)
        device.write(512, [whole])
        parts = [bytearray(512), bytearray(0), bytearray(2 * 4096), bytearray(4096 - 512)]
        device.read_into(512, [memoryview(part) for part in parts])
        assert b"".join(parts) == whole

    def test_more_buffers_than_one_system_call_takes_are_written_and_read(
        self, device: Device
    ) -> None:
        whole = pattern(2500 * 512)
        device.write(0, [whole[at : at + 512] for at in range(0, len(whole), 512)])
        found = bytearray(len(whole))
        view = memoryview(found)
        device.read_into(0, [view[at : at + 512] for at in range(0, len(whole), 512)])
        assert found == whole

    def test_views_of_wider_items_count_in_bytes(self, device: Device) -> None:
        whole = pattern(4096)
        device.write(0, [memoryview(whole).cast("Q")])
        device.write(4096, [memoryview(whole).cast("Q"), memoryview(whole).cast("I")])
        found = bytearray(3 * 4096)
        device.read_into(0, [memoryview(found).cast("Q")])
        assert found == 3 * whole

    def test_any_byte_range_is_written_and_read(self, device: Device) -> None:
        device.write(0, [pattern(4096, seed=1)])
        device.write(701, [pattern(1333, seed=2)])
        expected = bytearray(pattern(4096, seed=1))
        expected[701 : 701 + 1333] = pattern(1333, seed=2)
        assert device.read(0, 4096) == expected
        assert device.read(3, 2001) == expected[3:2004]

    def test_several_mebibytes_are_written_and_read_at_once(self, device: Device) -> None:
        device.write(512, [pattern(5 * MIB)])
        assert device.read(512, 5 * MIB) == pattern(5 * MIB)

    def test_the_last_byte_can_be_written_and_read(self, device: Device) -> None:
        device.write(device.size_bytes - 1, [b"z"])
        assert device.read(device.size_bytes - 1, 1) == b"z"

    # Bounds

    def test_a_request_of_no_length_is_allowed_anywhere_inside(self, device: Device) -> None:
        before = device.read(0, 4096)
        for name, request in RANGED.items():
            for offset in (0, 100, device.size_bytes):
                request(device, offset, 0)
            assert device.read(0, 4096) == before, name

    def test_no_buffers_are_a_request_of_no_length(self, device: Device) -> None:
        before = device.read(0, 4096)
        device.write(0, [])
        device.read_into(0, [])
        assert device.read(0, 4096) == before

    def test_a_request_past_the_end_is_refused_and_changes_nothing(self, device: Device) -> None:
        size = device.size_bytes
        device.write(size - 1024, [pattern(1024)])
        for name, request in RANGED.items():
            for from_end, length in ((0, 1), (-512, 1024), (1, 0), (2**63, 512), (2**64, 512)):
                case = f"{name} of {length} bytes at the end + {from_end}"
                with _refused(case, InvalidArgumentError, "outside"):
                    request(device, size + from_end, length)
                assert device.read(size - 1024, 1024) == pattern(1024), case
                assert device.refresh_size() == size, case

    def test_an_offset_that_would_overflow_is_refused(self, device: Device) -> None:
        for name, request in RANGED.items():
            for offset in (2**63, 2**63 - 1, 2**64, 2**64 - 512):
                with _refused(f"{name} at {offset}", InvalidArgumentError, "outside"):
                    request(device, offset, 512)

    def test_a_negative_offset_is_refused(self, device: Device) -> None:
        for name, request in RANGED.items():
            with _refused(name, InvalidArgumentError, "outside"):
                request(device, -1, 512)

    def test_a_negative_length_is_refused(self, device: Device) -> None:
        for name in ("read", "write_zeroes", "unmap", "allocate"):
            with _refused(name, InvalidArgumentError, "outside"):
                RANGED[name](device, 4096, -512)

    # Zeroes

    def test_write_zeroes_makes_exactly_its_range_read_as_zeroes(self, device: Device) -> None:
        content = pattern(6 * MIB)
        large = (MIB, 4 * MIB), (MIB + 7, 3 * MIB + 100)
        for offset, length in ((4096, 4096), (1000, 3000), *large):
            device.write(0, [content])
            device.write_zeroes(offset, length)
            found = device.read(0, 6 * MIB)
            assert _is_pattern_outside(found, content, offset, length), (offset, length)
            assert found[offset : offset + length] == bytes(length), (offset, length)

    def test_unmap_touches_nothing_outside_its_range(self, device: Device) -> None:
        content = pattern(6 * MIB)
        for offset, length in ((4096, 4096), (1000, 3000), (MIB, 4 * MIB)):
            device.write(0, [content])
            device.unmap(offset, length)
            found = device.read(0, 6 * MIB)
            assert _is_pattern_outside(found, content, offset, length), (offset, length)
            if device.unmap_zeroes:
                assert found[offset : offset + length] == bytes(length), (offset, length)

    def test_an_unmapped_range_can_be_written_again(self, device: Device) -> None:
        device.write(0, [pattern(MIB, seed=1)])
        device.unmap(0, MIB)
        device.write(4096, [pattern(4096, seed=2)])
        assert device.read(4096, 4096) == pattern(4096, seed=2)

    def test_allocate_keeps_the_content(self, device: Device) -> None:
        device.write(4096, [pattern(4096)])
        device.allocate(0, MIB)
        assert device.read(4096, 4096) == pattern(4096)

    # Durability

    def test_flush_keeps_the_content(self, device: Device) -> None:
        device.write(0, [pattern(4096)])
        device.flush()
        assert device.read(0, 4096) == pattern(4096)

    # The measures

    def test_the_size_is_stable(self, device: Device) -> None:
        assert device.size_bytes >= MINIMUM_SIZE
        assert device.refresh_size() == device.size_bytes

    def test_block_sizes_are_powers_of_two(self, device: Device) -> None:
        sizes = (device.block_size, device.physical_block_size, device.atomic_write_size)
        assert all(size >= 512 and size & (size - 1) == 0 for size in sizes)

    # Refusals

    def test_a_closed_device_refuses_everything(self, device: Device) -> None:
        device.close()
        for name, request in (READS | CHANGES | OTHERS).items():
            with _refused(name, ClosedError):
                request(device)

    def test_a_closed_device_refuses_requests_of_no_length(self, device: Device) -> None:
        device.close()
        for name, request in RANGED.items():
            with _refused(name, ClosedError):
                request(device, 0, 0)

    def test_closing_twice_is_closing_once(self, device: Device) -> None:
        device.close()
        device.close()
        assert device.closed
        assert device.fast_descriptor is None

    def test_leaving_the_context_closes(self, device: Device) -> None:
        with device as entered:
            assert entered is device
            assert not device.closed
        assert device.closed

    def test_errors_carry_the_place_and_survive_pickling(self, device: Device) -> None:
        try:
            device.read(device.size_bytes, 512)
        except BlobstoreError as error:
            raised = error
        else:
            raise AssertionError("a read past the end did not raise")
        again = pickle.loads(pickle.dumps(raised))
        assert type(again) is type(raised)
        assert (again.message, again.errno) == (raised.message, raised.errno)
        assert device.name in again.message
        assert str(device.size_bytes) in again.message


class ReadOnlyContract(DeviceContract):
    """The contract of devices that can be opened read-only, too: a fixture `read_only_device`."""

    def test_a_read_only_device_refuses_every_change(self, read_only_device: Device) -> None:
        assert read_only_device.read_only
        before = read_only_device.read(0, 4096)
        for name, request in CHANGES.items():
            with _refused(name, ReadOnlyError):
                request(read_only_device)
            assert read_only_device.read(0, 4096) == before, name

    def test_a_read_only_device_allows_the_rest(self, read_only_device: Device) -> None:
        before = read_only_device.read(0, 4096)
        for request in (READS | OTHERS).values():
            request(read_only_device)
        assert read_only_device.read(0, 4096) == before
