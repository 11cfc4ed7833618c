"""Snapshots that are sent arrive as they are: whole, differences, cut and continued."""

import io
import os
import random
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from blobstore import (
    Blob,
    Blobstore,
    CorruptError,
    ExistsError,
    InvalidArgumentError,
    MemoryDevice,
    NoSpaceError,
    NotFoundError,
    Volume,
    VolumeStore,
)
from blobstore.backup.receiving import (
    parse_token,
    read_records,
    receive,
    receive_records,
    resume_token,
    unfinished_receipts,
)
from blobstore.backup.sending import Sent, send
from blobstore.backup.snapshot_identity import identity_of, take_snapshot, taken_at
from blobstore.backup.stream_format import Begin, Data, Record, StreamDecoder
from blobstore.backup.unfinished import RECEIVE_STATE
from blobstore.operations import Buffer
from tests.backup.random_trees import CHANGES, CLUSTER, Change, grow, new_store

SIZE = 64 * CLUSTER


def stream_of(snapshot: Blob, base: Blob | None = None, *, level: int = 0, start: int = 0) -> bytes:
    file = io.BytesIO()
    sent = send(snapshot, file, base=base, level=level, start=start)
    assert sent.stream_length == len(file.getvalue())
    return file.getvalue()


def target(cluster_size: int = CLUSTER) -> Blobstore:
    return Blobstore.create(MemoryDevice(24 << 20), cluster_size=cluster_size, md_pages=128)


def shows_the_same(received: Blob, sent: Blob) -> bool:
    """Compare contents; a size that is no multiple of the new store's clusters was rounded up."""
    content = received.read(received.size)
    return content[: sent.size] == sent.read(sent.size) and not any(content[sent.size :])


@pytest.mark.slow
@settings(max_examples=40)
@given(changes=CHANGES, level=st.sampled_from([0, 1]), cluster=st.sampled_from([4096, 16384]))
def test_every_snapshot_of_a_random_tree_arrives_whole(
    changes: list[Change], level: int, cluster: int
) -> None:
    with new_store() as store, target(cluster) as other:
        for snapshot in grow(store, changes):
            if not snapshot.data_read_only:
                continue
            received = receive(other, io.BytesIO(stream_of(snapshot, level=level)))
            assert shows_the_same(received, snapshot)
            assert (received.data_read_only, received.info.parent) == (True, None)
            assert identity_of(received.info) == identity_of(snapshot.info)
            assert taken_at(received.info.xattrs) == taken_at(snapshot.info.xattrs)


@pytest.mark.slow
@settings(max_examples=40)
@given(
    changes=CHANGES,
    picks=st.lists(st.integers(0, 9), min_size=2, max_size=6),
    cut=st.floats(0, 1),
    cluster=st.sampled_from([4096, 16384]),
)
def test_differences_between_any_snapshots_are_cut_continued_and_arrive(
    changes: list[Change], picks: list[int], cut: float, cluster: int
) -> None:
    with new_store() as store, target(cluster) as other:
        snapshots = [blob for blob in grow(store, changes) if blob.data_read_only]
        if not snapshots:
            return
        chosen = [snapshots[pick % len(snapshots)] for pick in picks]
        receive(other, io.BytesIO(stream_of(chosen[0]))).close()
        for base, snapshot in pairwise(chosen):
            stream = stream_of(snapshot, base)
            before = set(other.blob_ids())
            with pytest.raises(CorruptError, match=r"early|stream: empty"):
                receive(other, io.BytesIO(stream[: int(cut * (len(stream) - 1))]))
            rest = stream
            for _info, state in list(unfinished_receipts(other)):
                rest = stream_of(snapshot, base, start=state.offset)
            received = receive(other, io.BytesIO(rest))
            assert shows_the_same(received, snapshot)
            assert received.info.parent is not None
            assert len(set(other.blob_ids()) - before) == 1
        assert list(unfinished_receipts(other)) == []


@pytest.fixture
def source() -> VolumeStore:
    return VolumeStore.create(MemoryDevice(8 << 20), name="source", cluster_size=CLUSTER)


@pytest.fixture
def store() -> VolumeStore:
    return VolumeStore.create(MemoryDevice(8 << 20), name="target", cluster_size=CLUSTER)


def chain_in(source: VolumeStore) -> tuple[Volume, Volume]:
    """Make two snapshots of a volume; the second one differs in two clusters."""
    disk = source.create_volume("disk", SIZE, thin=True, xattrs={"owner": b"me"})
    disk.write(b"1" * 20 * CLUSTER, 4 * CLUSTER)
    first = take_snapshot(disk, "disk@1", now=1_800_000_000)
    disk.write(b"22", 5 * CLUSTER - 1)
    second = take_snapshot(disk, "disk@2", now=1_800_003_600)
    assert isinstance(first, Volume)
    assert isinstance(second, Volume)
    return first, second


def test_a_difference_holds_only_what_differs_and_lands_on_its_base(
    source: VolumeStore, store: VolumeStore
) -> None:
    first, second = chain_in(source)
    whole, difference = stream_of(first), stream_of(second, first)
    assert len(whole) > 20 * CLUSTER
    assert 2 * CLUSTER < len(difference) < 3 * CLUSTER
    old = receive(store, io.BytesIO(whole))
    new = receive(store, io.BytesIO(difference), "renamed")
    assert (old.name, new.name, new.info.parent) == ("disk@1", "renamed", old.id)
    assert new.info.allocated_clusters == 2
    assert (old.read(SIZE), new.read(SIZE)) == (first.read(SIZE), second.read(SIZE))
    assert isinstance(old, Volume)
    assert old.uuid != first.uuid, "a volume's uuid is unique"


def test_compressed_streams_are_smaller_and_say_the_same(
    source: VolumeStore, store: VolumeStore
) -> None:
    first, _second = chain_in(source)
    packed = stream_of(first, level=3)
    assert len(packed) < 2000
    assert receive(store, io.BytesIO(packed)).read(SIZE) == first.read(SIZE)


def test_a_difference_to_a_snapshot_that_is_not_there_changes_nothing(
    source: VolumeStore, store: VolumeStore
) -> None:
    first, second = chain_in(source)
    with pytest.raises(NotFoundError, match="which is not here"):
        receive(store, io.BytesIO(stream_of(second, first)))
    other = VolumeStore.create(MemoryDevice(8 << 20), name="other", cluster_size=CLUSTER)
    receive(store, io.BytesIO(stream_of(chain_in(other)[0])))
    with pytest.raises(NotFoundError, match=str(first.uuid)):
        receive(store, io.BytesIO(stream_of(second, first)), "new")
    assert [info.name for info in store] == ["disk@1"]


def test_what_can_change_or_has_no_identity_is_not_sent(source: VolumeStore) -> None:
    first, _second = chain_in(source)
    with pytest.raises(InvalidArgumentError, match="not read-only"):
        stream_of(source["disk"])
    with pytest.raises(InvalidArgumentError, match="not read-only"):
        stream_of(first, source["disk"])
    with target() as plain:
        blob = plain.create_blob(SIZE, thin=True)
        old = blob.snapshot()
        with pytest.raises(InvalidArgumentError, match="no identity"):
            stream_of(blob.snapshot(), old)


def test_a_snapshot_without_identity_arrives_and_is_not_kept_in_part(store: VolumeStore) -> None:
    with target() as plain:
        blob = plain.create_blob(SIZE, thin=True)
        blob.write(b"content", CLUSTER)
        stream = stream_of(blob.snapshot("bare"))
    with pytest.raises(CorruptError, match="early"):
        receive(store, io.BytesIO(stream[:-1]))
    assert list(store) == []
    bare = receive(store, io.BytesIO(stream))
    assert (bare.name, bare.read(7, CLUSTER)) == ("bare", b"content")


def test_a_name_that_is_taken_or_cannot_be_is_refused_before_anything_is_written(
    source: VolumeStore, store: VolumeStore
) -> None:
    first, _second = chain_in(source)
    store.create_volume("disk@1")
    for name, error in ((None, ExistsError), ("x" * 64, InvalidArgumentError)):
        with pytest.raises(error):
            receive(store, io.BytesIO(stream_of(first)), name)
    with target() as plain:
        plain.create_blob(name="disk@1")
        with pytest.raises(ExistsError):
            receive(plain, io.BytesIO(stream_of(first)))
        assert len(plain.blob_ids()) == 1
    assert len(store) == 1


def test_a_full_store_keeps_what_fits_and_goes_on_when_there_is_room(source: VolumeStore) -> None:
    first, _second = chain_in(source)
    with Blobstore.create(MemoryDevice(1 << 20), cluster_size=CLUSTER, md_pages=16) as store:
        filler = store.create_blob((store.free_clusters - 10) * CLUSTER)
        with pytest.raises(NoSpaceError):
            receive(store, io.BytesIO(stream_of(first, level=0)))
        filler.close()
        store.delete_blob(filler.id)
        assert receive(store, io.BytesIO(stream_of(first))).read(SIZE) == first.read(SIZE)


def test_a_token_says_where_a_cut_stream_goes_on(
    source: VolumeStore, store: VolumeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blobstore.backup.sending.DATA_MAX", CLUSTER)
    first, _second = chain_in(source)
    stream = stream_of(first)
    with pytest.raises(CorruptError, match="early"):
        receive(store, io.BytesIO(stream[: len(stream) // 2]))
    ((info, state),) = unfinished_receipts(store)
    assert info.xattrs[RECEIVE_STATE]
    assert "disk@1" not in store
    assert parse_token(resume_token(state)) == state
    assert 4 * CLUSTER < state.offset < 24 * CLUSTER
    rest = stream_of(first, start=state.offset)
    assert len(rest) < len(stream) * 0.6
    with pytest.raises(NotFoundError, match="as much was not received"):
        receive(store, io.BytesIO(stream_of(first, start=state.offset + CLUSTER)))
    assert receive(store, io.BytesIO(rest)).read(SIZE) == first.read(SIZE)
    assert len(store) == 1


@pytest.mark.parametrize("token", ["", "x", "e30=", "eyJvZmZzZXQiOiAtMX0="])
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidArgumentError, match="resume token"):
        parse_token(token)


def test_a_stream_with_something_after_its_end_is_refused(
    source: VolumeStore, store: VolumeStore
) -> None:
    first, _second = chain_in(source)
    with pytest.raises(CorruptError, match="after its end"):
        receive(store, io.BytesIO(stream_of(first) + b"\0"))
    assert "disk@1" not in store


class Trickle:
    """A pipe that takes and gives a few bytes at a time."""

    def __init__(self) -> None:
        self.content = bytearray()

    def read(self, length: int, /) -> bytes:
        part = bytes(self.content[: min(length, 999)])
        del self.content[: len(part)]
        return part

    def write(self, data: Buffer, /) -> int:
        part = bytes(memoryview(data))[:777]
        self.content += part
        return len(part)


def test_a_pipe_that_takes_and_gives_little_at_a_time_carries_the_same(
    source: VolumeStore, store: VolumeStore
) -> None:
    first, _second = chain_in(source)
    pipe = Trickle()
    seen: list[int] = []
    sent = send(first, pipe, level=0, progress=seen.append)
    assert sent == Sent(20 * CLUSTER, 2, len(pipe.content))
    assert receive(store, pipe, progress=seen.append).read(SIZE) == first.read(SIZE)
    assert seen == [20 * CLUSTER] * 2


def records_in(stream: bytes) -> list[bytes]:
    """Return the preamble, the head and payload of each record, and the end record."""
    decoder, file, cuts = StreamDecoder(), io.BytesIO(stream), [0]
    while not decoder.has_ended:
        if decoder.feed(file.read(decoder.wanted)) is not None:
            cuts.append(file.tell())
    return [stream[start:end] for start, end in pairwise([*cuts, len(stream)])]


def test_what_came_of_a_mixture_of_two_streams_is_deleted_and_no_stream_goes_on_with_it(
    source: VolumeStore, store: VolumeStore
) -> None:
    first, second = chain_in(source)
    begin, *_rest = records_in(stream_of(first))
    _other_begin, *records = records_in(stream_of(second))
    with pytest.raises(CorruptError, match="another stream's"):
        receive(store, io.BytesIO(b"".join([begin, *records])))
    assert list(unfinished_receipts(store)) == []
    assert len(store) == 0
    assert receive(store, io.BytesIO(stream_of(first))).read(SIZE) == first.read(SIZE)


def test_what_came_before_is_deleted_as_well_if_the_rest_is_a_mixture(
    source: VolumeStore, store: VolumeStore
) -> None:
    first, second = chain_in(source)
    with pytest.raises(CorruptError, match="early"):
        receive(store, io.BytesIO(stream_of(first)[:-1]))
    assert len(list(unfinished_receipts(store))) == 1
    mixture = records_in(stream_of(first))[:1] + records_in(stream_of(second))[1:]
    with pytest.raises(CorruptError, match="another stream's"):
        receive(store, io.BytesIO(b"".join(mixture)))
    assert len(store) == 0


def test_a_receipt_that_came_too_late_does_not_delete_the_snapshot(
    source: VolumeStore, store: VolumeStore
) -> None:
    first, _second = chain_in(source)
    begin = next(read_records(io.BytesIO(stream_of(first))))

    def while_another_completes_it() -> Iterator[Record]:
        yield begin
        receive(store, io.BytesIO(stream_of(first))).close()
        raise CorruptError("stream: cut")

    with pytest.raises(CorruptError, match="cut"):
        receive_records(store, while_another_completes_it(), "late")
    assert store["disk@1"].read(SIZE) == first.read(SIZE)


def test_a_stream_to_read_that_does_not_block_is_an_error_and_has_not_ended_early(
    store: VolumeStore,
) -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with (
        open(reading, "rb", buffering=0) as stream,
        open(writing, "wb"),
        pytest.raises(BlockingIOError, match="non-blocking"),
    ):
        receive(store, stream)


def test_a_difference_without_an_identity_of_its_own_arrives(
    source: VolumeStore, store: VolumeStore
) -> None:
    first, second = chain_in(source)
    receive(store, io.BytesIO(stream_of(first)))
    records = [
        replace(record, identity=None) if isinstance(record, Begin) else record
        for record in read_records(io.BytesIO(stream_of(second, first)))
    ]
    assert receive_records(store, records).read(SIZE) == second.read(SIZE)


def test_a_stream_that_does_not_block_is_an_error_and_not_a_stream_with_gaps(
    source: VolumeStore,
) -> None:
    first, _second = chain_in(source)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with (
        open(reading, "rb"),
        open(writing, "wb", buffering=0) as stream,
        pytest.raises(BlockingIOError),
    ):
        send(first, stream, level=0)


@pytest.mark.slow
@pytest.mark.parametrize("cluster", [4096, 65536, 2 << 20])
def test_a_stream_is_the_same_from_any_offset_in_clusters_of_any_size(cluster: int) -> None:
    size = 5 << 20
    content = random.Random(cluster).randbytes(size - 4321)
    with (
        Blobstore.create(MemoryDevice(24 << 20), cluster_size=cluster, md_pages=64) as store,
        target() as other,
    ):
        blob = store.create_blob(size, thin=True)
        blob.write(content[: 1 << 20])
        take_snapshot(blob).close()  # so the next one reads its own clusters and its parent's
        blob.write(content[3 << 19 :], 3 << 19)
        snapshot = take_snapshot(blob)
        stream = stream_of(snapshot)
        received = receive(other, io.BytesIO(stream))
        assert received.read(size) == snapshot.read(size)
        for start in (1, 12345, 65536, (1 << 20) + 777, size - 1):
            for record in read_records(io.BytesIO(stream_of(snapshot, start=start))):
                if isinstance(record, Data):
                    length = memoryview(record.content).nbytes
                    assert record.content == snapshot.read(length, record.offset)
