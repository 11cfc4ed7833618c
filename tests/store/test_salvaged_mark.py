"""The mark of salvaged content is wherever that content is, also after a power failure."""

import io
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from blobstore import Blob, Blobstore, Device, MemoryDevice, NoSpaceError
from blobstore.backup.receiving import receive
from blobstore.backup.sending import send
from blobstore.backup.snapshot_identity import take_snapshot
from blobstore.store.salvaged_mark import SALVAGED
from blobstore.testing.crash_states import Limits
from blobstore.testing.power_cut import PowerCut

CLUSTER = 4096
SIZE = 4 * CLUSTER
FEW = Limits(subsets=8, samples=4, torn_masks=3)
LOST = b"2 of its 4 clusters are lost, and holes now"


def lossy(source: Device | Path, *, atomic_write_size: int = 512) -> tuple[Blobstore, Blob, Blob]:
    """Make a store with a snapshot that is marked, as a repair leaves one, and with its clone."""
    store = Blobstore.create(
        source, cluster_size=CLUSTER, md_pages=32, atomic_write_size=atomic_write_size
    )
    clone = store.create_blob(SIZE, thin=True, name="mail")
    clone.write(b"1" * CLUSTER, 0)
    snapshot = clone.snapshot("mail@1", xattrs={SALVAGED: LOST})
    clone.write(b"2" * CLUSTER, CLUSTER)
    clone.flush()
    return store, snapshot, clone


def merge(store: Blobstore, clone: Blob) -> None:
    parent = clone.info.parent
    assert parent is not None
    store.delete_blob(parent)


def inflate(_store: Blobstore, clone: Blob) -> None:
    clone.inflate()


def decouple(_store: Blobstore, clone: Blob) -> None:
    clone.decouple()


Independence = Callable[[Blobstore, Blob], None]
ways = pytest.mark.parametrize("make_independent", [merge, inflate, decouple])


@ways
def test_a_blob_that_takes_salvaged_content_takes_the_mark(
    make_independent: Independence, tmp_path: Path
) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(1 << 20))
    store, snapshot, clone = lossy(path)
    snapshot.close()
    assert SALVAGED not in clone.xattrs
    make_independent(store, clone)
    assert (clone.info.parent, clone.xattrs[SALVAGED]) == (None, LOST)
    store.close()
    with Blobstore.open(path) as store, store.open_blob(name="mail") as again:
        assert (again.nearest_salvaged, again.xattrs[SALVAGED]) == (again.id, LOST)


@ways
@pytest.mark.parametrize("atomic_write_size", [512, 4096])
def test_no_power_failure_leaves_salvaged_content_without_its_mark(
    make_independent: Independence, atomic_write_size: int
) -> None:
    cut: PowerCut[str] = PowerCut("256KiB", atomic_write_size=atomic_write_size)
    store, snapshot, clone = lossy(cut.device, atomic_write_size=atomic_write_size)
    snapshot.close()
    store.flush()
    cut.begin()
    make_independent(store, clone)
    cut.promise("marked")
    independent = 0
    for after in cut.states(FEW):
        with Blobstore.open(after.device, read_only=True) as left:
            blob = left.open_blob(name="mail")
            assert blob.nearest_salvaged is not None, after.state
            independent += SALVAGED in blob.xattrs
            assert SALVAGED in blob.xattrs or not after.promises, after.state
    assert independent
    store.close()


@ways
def test_a_clone_that_has_written_every_cluster_takes_no_mark(
    make_independent: Independence,
) -> None:
    store, snapshot, clone = lossy(MemoryDevice(1 << 20))
    snapshot.close()
    clone.write(b"3" * SIZE)
    make_independent(store, clone)
    assert clone.nearest_salvaged is None
    store.close()


def test_a_clone_that_keeps_a_salvaged_ancestor_takes_no_mark() -> None:
    store, snapshot, clone = lossy(MemoryDevice(1 << 20))
    clone.snapshot("mail@2").close()
    clone.decouple()
    assert SALVAGED not in clone.xattrs
    assert clone.nearest_salvaged == snapshot.id
    store.close()


def test_a_snapshot_of_marked_content_has_the_mark() -> None:
    store, _snapshot, clone = lossy(MemoryDevice(1 << 20))
    clone.inflate()
    assert clone.snapshot().xattrs[SALVAGED] == LOST
    store.close()


def test_a_blob_that_is_rolled_back_has_the_mark_only_if_the_snapshot_has() -> None:
    store = Blobstore.create(MemoryDevice(1 << 20), cluster_size=CLUSTER)
    blob = store.create_blob(SIZE, thin=True)
    blob.write(b"1" * CLUSTER)
    sound = blob.snapshot("sound")
    salvaged = blob.snapshot("salvaged", xattrs={SALVAGED: LOST})
    blob.decouple()
    assert blob.xattrs[SALVAGED] == LOST
    blob.rollback(sound.id)
    assert blob.nearest_salvaged is None
    with salvaged.clone() as clone:
        assert clone.nearest_salvaged == salvaged.id
    store.close()


@ways
def test_a_blob_that_found_no_room_for_the_change_has_no_mark(
    make_independent: Independence,
) -> None:
    store, snapshot, clone = lossy(MemoryDevice(1 << 20))
    snapshot.close()
    filling: list[Blob] = []
    with suppress(NoSpaceError):
        while True:
            filling.append(store.create_blob(0))
    with pytest.raises(NoSpaceError):
        make_independent(store, clone)
    assert SALVAGED not in clone.xattrs
    for blob in filling:
        blob.close()
        store.delete_blob(blob.id)
    make_independent(store, clone)
    assert clone.xattrs[SALVAGED] == LOST
    store.close()


def received(target: Blobstore, snapshot: Blob, base: Blob | None = None) -> Blob:
    stream = io.BytesIO()
    send(snapshot, stream, base=base)
    stream.seek(0)
    return receive(target, stream)


def test_what_is_received_has_the_mark_of_what_was_read() -> None:
    store, snapshot, clone = lossy(MemoryDevice(1 << 20))
    with Blobstore.create(MemoryDevice(1 << 20), cluster_size=CLUSTER) as target:
        first = take_snapshot(clone, "mail@2")
        copy = received(target, first)
        assert copy.xattrs[SALVAGED] == b"copied from blob %#x, which was salvaged" % snapshot.id
        second = take_snapshot(clone, "mail@3")
        difference = received(target, second, first)
        assert SALVAGED not in difference.xattrs
        assert difference.nearest_salvaged == copy.id
    store.close()
