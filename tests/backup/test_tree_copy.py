"""Copies of trees read the same, share the same, and can be followed by differences."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blobstore import (
    Blob,
    Blobstore,
    CorruptError,
    ExistsError,
    InvalidArgumentError,
    MemoryDevice,
    NoSpaceError,
    VolumeStore,
)
from blobstore.backup.receiving import receive
from blobstore.backup.sending import send
from blobstore.backup.snapshot_identity import identity_of, take_snapshot
from blobstore.backup.tree_copy import copy_blobs, tree_of, whole_store
from blobstore.backup.unfinished import INCOMPLETE, MARKS, unfinished_blobs
from blobstore.store.relations import SNAPSHOT_ID
from tests.backup.random_trees import (
    CHANGES,
    CLUSTER,
    OUTSIDE,
    OUTSIDE_SIZE,
    Change,
    grow,
    new_store,
)


def outside() -> MemoryDevice:
    device = MemoryDevice(OUTSIDE_SIZE)
    device.write(0, [b"outside" * (OUTSIDE_SIZE // 7)])
    return device


@pytest.mark.slow
@settings(max_examples=40)
@given(changes=CHANGES, cluster=st.sampled_from([4096, 16384]))
def test_the_copy_of_a_random_store_reads_and_shares_the_same(
    changes: list[Change], cluster: int
) -> None:
    with (
        new_store() as store,
        Blobstore.create(MemoryDevice(24 << 20), cluster_size=cluster, md_pages=128) as other,
    ):
        other.register_external(OUTSIDE, outside())
        blobs = grow(store, changes)
        made = copy_blobs(store, other, whole_store(store))
        assert set(made) == {blob.id for blob in blobs}
        for blob in blobs:
            with other.open_blob(made[blob.id]) as copy:
                old, new = blob.info, copy.info
                assert copy.read(blob.size) == blob.read(blob.size)
                assert not any(copy.read(copy.size - blob.size, blob.size))
                assert new.parent == (None if old.parent is None else made[old.parent])
                assert (new.thin, new.data_read_only) == (old.thin, old.data_read_only)
                assert identity_of(new) == identity_of(old)
                # A new parent takes the identity away: a copy is made without that note.
                assert {**new.xattrs, SNAPSHOT_ID: b""} == {**old.xattrs, SNAPSHOT_ID: b""}
                if cluster == CLUSTER:
                    assert new.allocated_clusters == old.allocated_clusters


@pytest.fixture
def source() -> VolumeStore:
    store = VolumeStore.create(MemoryDevice(8 << 20), name="source", cluster_size=CLUSTER)
    disk = store.create_volume("disk", 8 * CLUSTER, thin=True, xattrs={"owner": b"me"})
    disk.write(b"1" * 3 * CLUSTER)
    first = take_snapshot(disk, "disk@1", now=1)
    first.clone("try-it")
    disk.write(b"2" * CLUSTER)
    store.create_volume("alone", CLUSTER)
    return store


def test_a_tree_of_volumes_keeps_names_attributes_and_identities(source: VolumeStore) -> None:
    with VolumeStore.create(MemoryDevice(8 << 20), name="t", cluster_size=CLUSTER) as target:
        made = copy_blobs(source, target, tree_of(source, source["try-it"].id))
        assert sorted(info.name for info in target) == ["disk", "disk@1", "try-it"]
        assert made[source["disk"].id] == target["disk"].id
        assert target["disk"].get_xattr("owner") == b"me"
        assert target["disk"].uuid != source["disk"].uuid
        assert identity_of(target["disk@1"].info) == source["disk@1"].uuid
        assert target["disk"].info.parent == target["disk@1"].id
        second, stream = take_snapshot(source["disk"], "disk@2"), io.BytesIO()
        send(second, stream, base=source["disk@1"])
        stream.seek(0)
        received = receive(target, stream)
        assert received.read(received.size) == second.read(second.size)
        assert received.info.parent == target["disk@1"].id


def test_a_copy_within_a_store_takes_a_prefix(source: VolumeStore) -> None:
    before = len(source)
    with pytest.raises(ExistsError, match="exists"):
        copy_blobs(source, source, whole_store(source))
    assert len(source) == before
    copy_blobs(source, source, tree_of(source, source["disk"].id), prefix="old-")
    assert source["old-disk"].read(CLUSTER) == source["disk"].read(CLUSTER)
    assert source["old-disk"].info.parent == source["old-disk@1"].id


def test_a_copy_that_does_not_fit_leaves_nothing(source: VolumeStore) -> None:
    with Blobstore.create(MemoryDevice(1 << 20), cluster_size=CLUSTER, md_pages=16) as target:
        target.create_blob((target.free_clusters - 3) * CLUSTER).close()
        free = target.free_clusters
        with pytest.raises(NoSpaceError):
            copy_blobs(source, target, whole_store(source))
        assert len(target.blob_ids()) == 1
        assert target.free_clusters == free


def test_a_copy_that_fails_right_after_a_clone_was_made_leaves_no_blob(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with new_store() as store, new_store() as other:
        with store.create_blob(4 * CLUSTER, thin=True) as blob:
            take_snapshot(blob).close()
        before = other.blob_ids()

        def full(*_arguments: object) -> None:
            raise NoSpaceError("no clusters left")

        monkeypatch.setattr(Blob, "resize", full)
        with pytest.raises(NoSpaceError):
            copy_blobs(store, other, whole_store(store))
        assert other.blob_ids() == before


def test_a_name_that_no_volume_can_have_is_refused_before_anything_is_copied() -> None:
    device = MemoryDevice(4 << 20)
    with (
        new_store() as store,
        VolumeStore.create(device, name="s", cluster_size=CLUSTER) as volumes,
    ):
        store.create_blob(CLUSTER, name="short").close()
        store.create_blob(CLUSTER, name="n" * 64).close()
        with pytest.raises(InvalidArgumentError):
            copy_blobs(store, volumes, whole_store(store))
        assert len(volumes) == 0


def test_the_copy_of_an_unfinished_receipt_is_unfinished_and_the_next_stream_goes_on_with_it(
    source: VolumeStore,
) -> None:
    stream = io.BytesIO()
    send(source["disk@1"], stream, level=0)
    with (
        VolumeStore.create(MemoryDevice(8 << 20), name="cut", cluster_size=CLUSTER) as cut,
        VolumeStore.create(MemoryDevice(8 << 20), name="t", cluster_size=CLUSTER) as target,
    ):
        with pytest.raises(CorruptError, match="early"):
            receive(cut, io.BytesIO(stream.getvalue()[:-1]))
        (made,) = copy_blobs(cut, target, whole_store(cut)).values()
        assert [info.blob_id for info, _command in unfinished_blobs(target)] == [made]
        received = receive(target, io.BytesIO(stream.getvalue()))
        assert (received.id, received.name) == (made, "disk@1")
        assert received.read(received.size) == source["disk@1"].read(received.size)


@pytest.mark.parametrize("mark", MARKS)
def test_a_copy_of_what_is_not_complete_keeps_the_mark(source: VolumeStore, mark: str) -> None:
    source["alone"].set_xattr(mark, INCOMPLETE)
    copy_blobs(source, source, tree_of(source, source["alone"].id), prefix="old-")
    assert source["old-alone"].get_xattr(mark) == INCOMPLETE
