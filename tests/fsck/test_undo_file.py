"""The undo file's bytes: there and back, and every kind of damage."""

import struct
from zlib import crc32

import pytest

from blobstore.errors import CorruptError
from blobstore.format.checksum import balance_sector, crc32c
from blobstore.fsck.undo_file import (
    RECORD_MAX,
    UndoDecoder,
    UndoEncoder,
    UndoRecord,
    surrounding_sum,
)
from blobstore.testing.device_contract import pattern
from blobstore.units import MIB
from tests.fsck.stores import undo_records

SIZE = 4 * MIB
ID = pattern(16, 9)
PAGE = (0, pattern(4096, 1), pattern(4096, 2))
RECORD_SIZE = 24


def header(*, device_size: int = SIZE, metadata_end: int = 8192) -> bytes:
    encoder = UndoEncoder()
    return encoder.header(device_size=device_size, metadata_end=metadata_end, undo_id=ID)


def encoded(*records: tuple[int, bytes, bytes], device_size: int = SIZE) -> bytes:
    encoder = UndoEncoder()
    parts = [encoder.header(device_size=device_size, metadata_end=8192, undo_id=ID)]
    parts += [encoder.record(offset, old=old, new=new) for offset, old, new in records]
    return b"".join([*parts, encoder.end([0x12345678])])


def example() -> bytes:
    return encoded(PAGE, (8192, pattern(1024, 4), pattern(1024, 5)))


def records_of(data: bytes) -> list[UndoRecord]:
    return undo_records(data)[1]


def test_what_was_encoded_is_decoded() -> None:
    decoder, records = undo_records(example())
    assert (decoder.device_size, decoder.metadata_end, decoder.undo_id) == (SIZE, 8192, ID)
    assert decoder.surroundings == (0x12345678,)
    assert [(record.offset, record.old) for record in records] == [
        (0, pattern(4096, 1)),
        (8192, pattern(1024, 4)),
    ]
    assert [len(record.sums) for record in records] == [8, 2]
    assert records[1].sums == (crc32(pattern(1024, 5)[:512]), crc32(pattern(1024, 5)[512:]))
    assert records[1].holds_new(pattern(1024, 5))
    assert not records[1].holds_new(pattern(1024, 4))


def test_the_bytes_are_as_documented() -> None:
    old, new = b"o" * 4096, b"n" * 4096
    head = struct.pack("<8sIIQQ16s12x", b"BSUNDO\r\n", 2, 512, SIZE, 8192, ID)
    start = struct.pack("<QIII", 0, 4096, 0, crc32c(old))
    sums = struct.pack("<I", crc32(new[:512])) * 8
    whole = head + struct.pack("<I", crc32c(head))
    whole += start + struct.pack("<I", crc32c(start + sums)) + sums + old
    whole += struct.pack("<QQII", 2**64 - 1, 0, 1, 0x12345678)
    assert encoded((0, old, new)) == whole + struct.pack("<I", crc32c(whole))


def test_a_file_without_records_is_refused() -> None:
    with pytest.raises(CorruptError, match="end: 0 records, expected some"):
        undo_records(encoded())


def test_a_sector_at_the_end_of_a_device_may_be_short() -> None:
    data = encoded(PAGE, (4096, b"o" * 4700, b"n" * 4700), device_size=8796)
    record = records_of(data)[1]
    assert record.first_strange_sector(b"n" * 4700) is None
    assert record.first_strange_sector(b"n" * 4699 + b"x") == 8704


def test_a_record_of_the_largest_size_is_taken() -> None:
    records = records_of(encoded(PAGE, (MIB, bytes(RECORD_MAX), bytes(RECORD_MAX))))
    assert len(records[1].old) == RECORD_MAX == 1 * MIB


@pytest.mark.parametrize(
    ("ranges", "zeroed"),
    [
        pytest.param([], [], id="none"),
        pytest.param([(4096, 4096), (SIZE, 512)], [], id="before and after it"),
        pytest.param([(MIB - 512, 1024), (2 * MIB - 512, MIB)], [(0, 512), (MIB - 512, 512)],
                     id="over its ends"),
        pytest.param([(0, 4096), (MIB + 512, 512), (MIB + 4096, 8192)],
                     [(512, 512), (4096, 8192)], id="inside"),
    ],
)  # fmt: skip
def test_the_sum_of_the_surroundings_is_that_of_all_but_the_ranges(
    ranges: list[tuple[int, int]], zeroed: list[tuple[int, int]]
) -> None:
    content = bytearray(pattern(MIB, 3))
    expected = bytearray(content)
    for start, length in zeroed:
        expected[start : start + length] = bytes(length)
    assert surrounding_sum(content, MIB, ranges) == crc32(expected)


# What a range may hold


def test_any_mixture_of_old_and_new_sectors_is_known_and_others_are_named() -> None:
    record = records_of(example())[0]
    found = bytearray(pattern(4096, 1))
    found[512:1024] = pattern(4096, 2)[512:1024]
    found[3584:4096] = pattern(4096, 2)[3584:4096]
    assert record.first_strange_sector(bytes(found)) is None
    found[1536:2048] = pattern(4096, 2)[:512]
    assert record.first_strange_sector(bytes(found)) == 1536
    assert record.first_strange_sector(bytes(found[:1536])) is None


def test_a_sector_that_was_replaced_with_its_checksum_kept_is_noticed() -> None:
    new = pattern(4096, 2)
    record = records_of(example())[0]
    other = balance_sector(new[:512], b"another super block")
    assert crc32c(other) == crc32c(new[:512])
    assert record.first_strange_sector(new) is None
    assert record.first_strange_sector(other + new[512:]) == 0


# Damage


def test_every_changed_byte_is_noticed() -> None:
    for position in (*range(80), *range(1000, 6500, 97)):
        data = bytearray(example())
        data[position % len(data)] ^= 0x40
        with pytest.raises(CorruptError, match="undo file: "):
            undo_records(data)


def test_every_cut_is_noticed() -> None:
    data = example()
    for length in (*range(120), *range(120, len(data), 31), len(data) - 1):
        with pytest.raises(CorruptError, match="cut off"):
            undo_records(data[:length])


def test_a_cut_at_a_records_end_is_noticed_and_named() -> None:
    data = example()[:-28]
    with pytest.raises(CorruptError, match=rf"record 2 at byte {len(data)}: cut off"):
        undo_records(data)


def test_bytes_after_the_end_are_noticed() -> None:
    with pytest.raises(CorruptError, match=f"byte {len(example())}: more after the end"):
        undo_records(example() + b"\0")


def test_a_record_that_is_missing_or_doubled_is_noticed() -> None:
    data = encoded(PAGE, (4096, bytes(512), bytes(512)))
    size = RECORD_SIZE + 4 + 512
    with pytest.raises(CorruptError, match="undo file: end: crc"):
        undo_records(data[: -28 - size] + data[-28:])
    with pytest.raises(CorruptError, match=r"record 2 .* 512 bytes at 4096 of the device"):
        undo_records(data[:-28] + data[-28 - size :])


def test_a_wrong_number_of_records_is_noticed() -> None:
    data = encoded(PAGE)[:-12]
    forged = data + struct.pack("<II", 2, 0)
    with pytest.raises(CorruptError, match="end: 1 records, expected 2"):
        undo_records(forged + struct.pack("<I", crc32c(forged)))


def test_another_kind_of_file_and_another_version_are_refused() -> None:
    with pytest.raises(CorruptError, match="begins with b'SPDKBLOB'"):
        undo_records(b"SPDKBLOB" + bytes(4096))
    older = struct.pack("<8sIIQI", b"BSUNDO\r\n", 1, 512, SIZE, 0) + bytes(100)
    with pytest.raises(CorruptError, match=r"version 1 .* expected 2"):
        undo_records(older)


@pytest.mark.parametrize("metadata_end", [0, 4095, SIZE + 1, 2**64 - 1])
def test_metadata_that_ends_where_it_cannot_is_refused(metadata_end: int) -> None:
    with pytest.raises(CorruptError, match=f"metadata ends at {metadata_end}"):
        undo_records(header(metadata_end=metadata_end))


def test_the_first_record_is_page_0_and_no_other_one_is() -> None:
    with pytest.raises(CorruptError, match=r"record 0 .* 512 bytes at 0 of"):
        undo_records(encoded((0, bytes(512), bytes(512))))
    with pytest.raises(CorruptError, match=r"record 0 .* 4096 bytes at 4096 of"):
        undo_records(encoded((4096, bytes(4096), bytes(4096))))


@pytest.mark.parametrize(
    ("offset", "length", "device_size"),
    [
        pytest.param(4096, 0, SIZE, id="nothing"),
        pytest.param(4096, 2**32 - 1, 2**40, id="more memory than there is"),
        pytest.param(4096, RECORD_MAX + 512, SIZE, id="more than a record holds"),
        pytest.param(5000, 512, SIZE, id="in the middle of a sector"),
        pytest.param(4096, 100, SIZE, id="a part of a sector"),
        pytest.param(SIZE, 512, SIZE, id="after the device"),
        pytest.param(SIZE - 512, 1024, SIZE, id="over the device's end"),
        pytest.param(2**64 - 512, 512, SIZE, id="beyond 64 bits"),
    ],
)
def test_a_range_that_cannot_be_is_refused_before_it_is_read(
    offset: int, length: int, device_size: int
) -> None:
    head = struct.pack("<QIII", offset, length, 0, 0)
    data = encoded(PAGE, device_size=device_size)[:-28] + head
    place = len(data) - len(head)
    with pytest.raises(CorruptError, match=rf"record 1 at byte {place}: .* of the device, expect"):
        undo_records(data + bytes(4096))


def test_records_come_one_by_one_and_the_damage_after_them_comes_last() -> None:
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
