"""The undo file's bytes: there and back, and every kind of damage."""

import struct
from zlib import crc32

import pytest

from blobstore.errors import CorruptError
from blobstore.format.checksum import balance_sector, crc32c
from blobstore.fsck.undo_file import RECORD_MAX, UndoDecoder, UndoEncoder, UndoRecord, decode_all
from blobstore.testing.device_contract import pattern
from blobstore.units import MIB

SIZE = 4 * MIB


def encoded(*records: tuple[int, bytes, list[bytes]], device_size: int = SIZE) -> bytes:
    encoder = UndoEncoder()
    parts = [encoder.header(device_size=device_size)]
    parts += [encoder.record(offset, old=old, new=new) for offset, old, new in records]
    return b"".join([*parts, encoder.end()])


def example() -> bytes:
    return encoded(
        (0, pattern(4096, 1), [pattern(4096, 2), pattern(4096, 3), bytes(4096)]),
        (8192, pattern(1024, 4), [pattern(1024, 5)]),
    )


def records_of(data: bytes) -> list[UndoRecord]:
    return decode_all(data)[1]


def test_what_was_encoded_is_decoded() -> None:
    size, records = decode_all(example())
    assert size == SIZE
    assert [(record.offset, record.old) for record in records] == [
        (0, pattern(4096, 1)),
        (8192, pattern(1024, 4)),
    ]
    assert [len(record.sums) for record in records] == [3, 1]
    assert records[1].sums == ((crc32(pattern(1024, 5)[:512]), crc32(pattern(1024, 5)[512:])),)


def test_the_bytes_are_as_documented() -> None:
    old, new = b"o" * 512, b"n" * 512
    head = struct.pack("<8sIIQI", b"BSUNDO\r\n", 1, 512, SIZE, 0)
    start = struct.pack("<QIII", 1024, 512, 1, crc32c(old))
    sums = struct.pack("<I", crc32(new))
    whole = head + struct.pack("<I", crc32c(head))
    whole += start + struct.pack("<I", crc32c(start + sums)) + sums + old
    whole += struct.pack("<QQI", 2**64 - 1, 0, 1)
    assert encoded((1024, old, [new])) == whole + struct.pack("<I", crc32c(whole))


def test_a_repair_of_nothing_has_a_file_without_records() -> None:
    assert decode_all(encoded()) == (SIZE, [])


def test_a_sector_at_the_end_of_a_device_may_be_short() -> None:
    data = encoded((512, b"o" * 700, [b"n" * 700]), device_size=1212)
    (record,) = records_of(data)
    assert record.first_strange_sector(b"n" * 700) is None
    assert record.first_strange_sector(b"n" * 699 + b"x") == 1024


def test_a_record_of_the_largest_size_is_taken() -> None:
    (record,) = records_of(encoded((MIB, bytes(RECORD_MAX), [bytes(RECORD_MAX)])))
    assert len(record.old) == RECORD_MAX == 1 * MIB


# What a range may hold


def test_any_mixture_of_old_and_new_sectors_is_known_and_others_are_named() -> None:
    record, _other = records_of(example())
    found = bytearray(pattern(4096, 1))
    found[512:1024] = pattern(4096, 2)[512:1024]
    found[1024:1536] = pattern(4096, 3)[1024:1536]
    found[4095] = 0
    found[3584:4096] = bytes(512)
    assert record.first_strange_sector(bytes(found)) is None
    found[1536:2048] = pattern(4096, 2)[:512]
    assert record.first_strange_sector(bytes(found)) == 1536


def test_a_sector_that_was_replaced_with_its_checksum_kept_is_noticed() -> None:
    new = pattern(512, 2)
    (record,) = records_of(encoded((0, pattern(512, 1), [new])))
    other = balance_sector(new, b"another super block")
    assert crc32c(other) == crc32c(new)
    assert record.first_strange_sector(new) is None
    assert record.first_strange_sector(other) == 0


# Damage


@pytest.mark.parametrize("position", [*range(80), *range(1000, 6500, 97)])
def test_every_changed_byte_is_noticed(position: int) -> None:
    data = bytearray(example())
    data[position % len(data)] ^= 0x40
    with pytest.raises(CorruptError, match="undo file: "):
        decode_all(data)


def test_every_cut_is_noticed() -> None:
    data = example()
    for length in (*range(120), *range(120, len(data), 31), len(data) - 1):
        with pytest.raises(CorruptError, match="cut off"):
            decode_all(data[:length])


def test_a_cut_at_a_records_end_is_noticed_and_named() -> None:
    data = example()[:-24]
    with pytest.raises(CorruptError, match=rf"record 2 at byte {len(data)}: cut off"):
        decode_all(data)


def test_bytes_behind_the_end_are_noticed() -> None:
    with pytest.raises(CorruptError, match=f"byte {len(example())}: more behind the end"):
        decode_all(example() + b"\0")


def test_a_record_that_is_missing_or_doubled_is_noticed() -> None:
    data = encoded((0, bytes(512), [bytes(512)]), (512, bytes(512), [bytes(512)]))
    size = 24 + 4 + 512
    with pytest.raises(CorruptError, match="undo file: end: crc"):
        decode_all(data[:32] + data[32 + size :])
    with pytest.raises(CorruptError, match=r"record 1 .* 512 bytes at 0 of the device"):
        decode_all(data[: 32 + size] + data[32:])


def test_a_wrong_number_of_records_is_noticed() -> None:
    data = encoded((0, bytes(512), [bytes(512)]))[:-8]
    forged = data + struct.pack("<I", 2)
    with pytest.raises(CorruptError, match="end: 1 records, expected 2"):
        decode_all(forged + struct.pack("<I", crc32c(forged)))


def test_another_kind_of_file_and_another_version_are_refused() -> None:
    with pytest.raises(CorruptError, match="begins with b'SPDKBLOB'"):
        decode_all(b"SPDKBLOB" + bytes(4096))
    head = struct.pack("<8sIIQI", b"BSUNDO\r\n", 2, 512, SIZE, 0)
    with pytest.raises(CorruptError, match="version 2"):
        decode_all(head + struct.pack("<I", crc32c(head)))


@pytest.mark.parametrize(
    ("offset", "length", "device_size"),
    [
        pytest.param(0, 0, SIZE, id="nothing"),
        pytest.param(0, 2**32 - 1, 2**40, id="more memory than there is"),
        pytest.param(0, RECORD_MAX + 512, SIZE, id="more than a record holds"),
        pytest.param(100, 512, SIZE, id="in the middle of a sector"),
        pytest.param(0, 100, SIZE, id="a part of a sector"),
        pytest.param(SIZE, 512, SIZE, id="behind the device"),
        pytest.param(SIZE - 512, 1024, SIZE, id="over the device's end"),
        pytest.param(2**64 - 512, 512, SIZE, id="beyond 64 bits"),
    ],
)
def test_a_range_that_cannot_be_is_refused_before_it_is_read(
    offset: int, length: int, device_size: int
) -> None:
    header = UndoEncoder().header(device_size=device_size)
    head = struct.pack("<QIII", offset, length, 1, 0)
    with pytest.raises(CorruptError, match=r"record 0 at byte 32: .* of the device, expected"):
        decode_all(header + head + bytes(4096))


@pytest.mark.parametrize("versions", [0, 5, 2**32 - 1])
def test_a_number_of_new_contents_that_cannot_be_is_refused(versions: int) -> None:
    header = UndoEncoder().header(device_size=SIZE)
    with pytest.raises(CorruptError, match=f"{versions} new contents"):
        decode_all(header + struct.pack("<QIII", 0, 512, versions, 0))


def test_records_come_one_by_one_and_the_damage_behind_them_comes_last() -> None:
    data = example()[:-1]
    taken = memoryview(data)

    def take(length: int) -> bytes:
        nonlocal taken
        part, taken = bytes(taken[:length]), taken[length:]
        return part

    records = UndoDecoder(take).records()
    assert [next(records).offset, next(records).offset] == [0, 8192]
    with pytest.raises(CorruptError, match="end: cut off"):
        next(records)
