"""The codec of streams: what it writes it reads, and it believes nothing else."""

import hashlib
import io
import struct
import tracemalloc
from typing import Any
from uuid import UUID

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from blobstore import Blobstore, BlobstoreError, CorruptError, InvalidArgumentError, MemoryDevice
from blobstore.backup.receiving import read_records, receive
from blobstore.backup.stream_format import (
    DATA_MAX,
    HEAD_SIZE,
    PREAMBLE_SIZE,
    VERSION,
    Begin,
    Data,
    Record,
    StreamEncoder,
    Zeroes,
)
from blobstore.format.checksum import crc32c

HEAD = struct.Struct("<BBHIQQI")
BEGIN, DATA, ZEROES, END = 1, 2, 3, 4

SOME: list[Record] = [
    Begin(
        size=1 << 20,
        name=b"disk@monday",
        identity=UUID(int=7),
        base=UUID(int=8),
        taken_at=1_800_000_000,
        data_length=300,
        xattrs=((b"owner", b"me\xff"),),
    ),
    Data(0, b"some text that is no zeroes" * 3),
    Zeroes(4096, 1 << 18),
    Data(1 << 19, b"more" * 100),
]


def encoded(records: list[Record], *, level: int = 0) -> bytes:
    encoder = StreamEncoder(level)
    parts = [part for record in records for part in encoder.encode(record)]
    return b"".join(bytes(part) for part in [*parts, *encoder.end()])


def decoded(stream: bytes) -> list[Record]:
    return list(read_records(io.BytesIO(stream)))


RECORDS = st.lists(
    st.one_of(
        st.builds(Data, st.just(0), st.binary(min_size=1, max_size=5000)),
        st.builds(Zeroes, st.just(0), st.integers(1, 1 << 40)),
    ),
    max_size=8,
)


@given(records=RECORDS, level=st.sampled_from([0, 1]), name=st.none() | st.binary(max_size=20))
def test_what_is_written_is_read(records: list[Any], level: int, name: bytes | None) -> None:
    at, placed = 0, []
    for record in records:
        placed.append(_at(record, at))
        at += record.length if isinstance(record, Zeroes) else len(record.content)
    all_of_it = [Begin(size=at, name=name), *placed]
    assert decoded(encoded(all_of_it, level=level)) == all_of_it


def _at(record: Any, offset: int) -> Record:
    if isinstance(record, Zeroes):
        return Zeroes(offset, record.length)
    return Data(offset, record.content)


@pytest.mark.parametrize("level", [0, 3])
def test_a_flipped_bit_anywhere_is_refused(level: int) -> None:
    stream = bytearray(encoded(SOME, level=level))
    for at in range(len(stream)):
        for bit in range(8):
            stream[at] ^= 1 << bit
            with pytest.raises(CorruptError):
                decoded(bytes(stream))
            stream[at] ^= 1 << bit
    assert decoded(bytes(stream)) == SOME


@pytest.mark.slow
def test_a_stream_with_a_flipped_bit_leaves_no_snapshot() -> None:
    begin = Begin(size=1 << 20, name=b"disk@monday")
    stream = bytearray(encoded([begin, *SOME[1:]]))
    with Blobstore.create(MemoryDevice(4 << 20), cluster_size=4096) as store:
        for at in range(len(stream)):
            stream[at] ^= 1 << at % 8
            with pytest.raises(CorruptError):
                receive(store, io.BytesIO(stream))
            stream[at] ^= 1 << at % 8
            assert store.blob_ids() == []
        receive(store, io.BytesIO(stream))
        assert len(store.blob_ids()) == 1


def test_a_stream_that_is_cut_anywhere_is_refused() -> None:
    stream = encoded(SOME)
    for length in range(len(stream)):
        with pytest.raises(CorruptError, match="early" if length else "stream: empty"):
            decoded(stream[:length])


def parts_of(stream: bytes) -> list[bytes]:
    """Return the records of a stream, each with its head; the preamble is left out."""
    parts, at = [], PREAMBLE_SIZE
    while at < len(stream):
        size = HEAD_SIZE + HEAD.unpack_from(stream, at)[3]
        parts.append(stream[at : at + size])
        at += size
    return parts


def test_records_that_are_missing_doubled_swapped_or_of_another_stream_are_refused() -> None:
    stream = encoded(SOME)
    preamble, parts = stream[:PREAMBLE_SIZE], parts_of(stream)
    other = parts_of(encoded([SOME[0], Data(0, b"other text that is no zeroes" * 3), *SOME[2:]]))
    for number in range(1, len(parts) - 1):
        for changed in (
            [*parts[:number], *parts[number + 1 :]],
            [*parts[: number + 1], *parts[number:]],
            [*parts[:number], parts[number + 1], parts[number], *parts[number + 2 :]],
        ):
            with pytest.raises(CorruptError):
                decoded(preamble + b"".join(changed))
    with pytest.raises(CorruptError, match="digest"):
        decoded(preamble + b"".join([parts[0], other[1], *parts[2:]]))


def framed(kind: int, payload: bytes, **fields: int) -> bytes:
    """Return a record with a right checksum, whatever it says."""
    head = HEAD.pack(
        kind,
        fields.get("coding", 0),
        fields.get("zero", 0),
        fields.get("size", len(payload)),
        fields.get("offset", 0),
        fields.get("length", len(payload)),
        fields.get("number", 1),
    )
    return head + struct.pack("<I", crc32c(head + payload)) + payload


START = encoded([Begin(size=1 << 20)])[: -(HEAD_SIZE + 32)]
BOMB = zstandard.ZstdCompressor().compress(bytes(256 << 20))
UNSIZED = zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 1000)

HOSTILE = {
    "no stream": b"#!/bin/sh\necho this is no stream",
    "a version to come": b"BLOBSTRM" + struct.pack("<I", VERSION + 1) + START[12:],
    "data before the beginning": START[:12] + framed(DATA, b"x", number=0),
    "an end at once": START[:12] + framed(END, hashlib.sha256(START[:12]).digest(), number=0),
    "a second beginning": START + framed(BEGIN, b'{"size":1}'),
    "a beginning of 4 GiB": START[:12] + framed(BEGIN, b"", number=0, size=(1 << 32) - 1),
    "a beginning that is no JSON": START[:12] + framed(BEGIN, b"\xff{", number=0),
    "a beginning that nests": START[:12] + framed(BEGIN, b'{"xattrs":' + b"[" * 99999, number=0),
    "an unknown member": START[:12] + framed(BEGIN, b'{"size":1,"y":2}', number=0),
    "a negative size": START[:12] + framed(BEGIN, b'{"size":-1}', number=0),
    "a size beyond 64 bits": START[:12] + framed(BEGIN, b'{"size":%d}' % (1 << 70), number=0),
    "a start beyond the end": START[:12] + framed(BEGIN, b'{"size":1,"start":2}', number=0),
    "an identity that is none": START[:12] + framed(BEGIN, b'{"size":1,"base":"x"}', number=0),
    "data of 4 GiB": START + framed(DATA, b"", size=(1 << 32) - 1, length=1),
    "data longer than a record": START + framed(DATA, b"x", length=DATA_MAX + 1),
    "data beyond the end": START + framed(DATA, b"xy", offset=(1 << 20) - 1),
    "data far beyond the end": START + framed(DATA, b"xy", offset=(1 << 64) - 1),
    "no data": START + framed(DATA, b""),
    "data before what came": START + framed(DATA, b"xy", offset=9)
    + framed(DATA, b"xy", offset=10, number=2),
    "data of another length": START + framed(DATA, b"xy", length=3),
    "zeroes with a payload": START + framed(ZEROES, b"xy"),
    "zeroes without end": START + framed(ZEROES, b"", length=(1 << 64) - 1),
    "an unknown kind": START + framed(77, b""),
    "an unknown coding": START + framed(DATA, b"x", coding=2),
    "a record of another number": START + framed(DATA, b"x", number=2),
    "something reserved": START + framed(DATA, b"x", zero=1),
    "a bomb": START + framed(DATA, BOMB, coding=1, length=1000),
    "a bomb that says a record": START + framed(DATA, BOMB, coding=1, length=DATA_MAX),
    "a frame without size": START + framed(DATA, UNSIZED, coding=1, length=1000),
    "no frame": START + framed(DATA, b"no frame at all", coding=1, length=1000),
    "a digest of something else": START + framed(END, bytes(32)),
    "a short digest": START + framed(END, b"x"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_stream_is_refused_in_bounded_memory(kind: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(CorruptError):
            decoded(HOSTILE[kind])
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


@given(data=st.binary(max_size=400), at=st.integers(0, 10), body=st.booleans())
def test_what_is_no_stream_ends_with_a_typed_error(data: bytes, at: int, body: bool) -> None:
    stream = (framed(BEGIN, data, number=0), START + data)[body]
    with pytest.raises(BlobstoreError):
        decoded(START[:12] + stream if not body else stream[: len(stream) - at])


def test_attributes_that_fit_into_no_record_are_refused() -> None:
    huge = Begin(size=0, xattrs=tuple((b"%d" % number, bytes(4000)) for number in range(4000)))
    with pytest.raises(InvalidArgumentError, match="attributes"):
        StreamEncoder().encode(huge)
