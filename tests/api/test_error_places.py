"""Every error names the store, and the blob if there is one, once."""

import io
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import blobstore
from blobstore import (
    Blob,
    Blobstore,
    BlobstoreError,
    ClosedError,
    CorruptError,
    DeviceError,
    MemoryDevice,
    PoisonedError,
    ReadOnlyError,
    Rescue,
)
from blobstore.testing.internals import core_of, store_of
from blobstore.units import KIB, MIB, PageIndex

CLUSTER: Final = 16 * KIB
SIZE: Final = 4 * MIB
MISSING: Final = 0x1_0000_0063


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "disk.img"


@pytest.fixture
def store(path: Path) -> Iterator[Blobstore]:
    with Blobstore.create(path, size=SIZE, cluster_size=CLUSTER) as store:
        yield store


@pytest.fixture
def blob(store: Blobstore) -> Blob:
    return store.create_blob(4 * CLUSTER, thin=True)


def closed(blob: Blob) -> Blob:
    blob.close()
    return blob


def closed_store(blob: Blob) -> Blobstore:
    store = store_of(blob)
    store.close()
    return store


def full(blob: Blob) -> Blob:
    """Return another blob, in a store that has no cluster left."""
    store_of(blob).create_blob(store_of(blob).free_clusters * CLUSTER)
    return blob


OF_THE_STORE: Final[dict[str, Callable[[Blobstore, Blob], object]]] = {
    "info of a closed store": lambda _, blob: closed_store(blob).info,
    "ids of a closed store": lambda _, blob: closed_store(blob).blob_ids(),
    "a list of a closed store": lambda _, blob: list(closed_store(blob).list_blobs()),
    "a blob in a closed store": lambda _, blob: closed_store(blob).create_blob(),
    "a flush of a closed store": lambda _, blob: closed_store(blob).flush(),
    "a blob that is too large": lambda store, _: store.create_blob(1 << 60),
    "a thick blob without clusters": lambda store, _: store.create_blob(2 * SIZE),
    "an xattr without a value": lambda store, _: store.create_blob(xattrs={"a": b""}),
    "a name that no blob has": lambda store, _: store.find("monday"),
    "no super blob": lambda store, _: store.super_blob,
    "a type that is too long": lambda store, _: store.set_type(bytes(17)),
    "unloading with an open blob": lambda store, _: store.unload(),
    "destroying with an open blob": lambda store, _: store.destroy(),
}

OF_A_BLOB: Final[dict[str, Callable[[Blobstore, Blob], object]]] = {
    "reading beyond the end": lambda _, blob: blob.read(CLUSTER, 4 * CLUSTER),
    "reading too much": lambda _, blob: blob.read(1 << 62),
    "reading into beyond the end": lambda _, blob: blob.read_into(bytearray(9), 4 * CLUSTER),
    "reading before the start": lambda _, blob: blob.read(1, -1),
    "writing beyond the end": lambda _, blob: blob.write(b"text", 4 * CLUSTER),
    "writing without clusters": lambda _, blob: full(blob).write(b"text"),
    "zeroing beyond the end": lambda _, blob: blob.write_zeroes(0, 5 * CLUSTER),
    "unmapping beyond the end": lambda _, blob: blob.unmap(0, 5 * CLUSTER),
    "data before the start": lambda _, blob: blob.next_data(-1),
    "a hole before the start": lambda _, blob: blob.next_hole(-1),
    "allocated before the start": lambda _, blob: blob.next_allocated(-1),
    "a size that is too large": lambda _, blob: blob.resize(1 << 60),
    "an attribute that is not there": lambda _, blob: blob.get_xattr("a"),
    "removing an attribute that is not there": lambda _, blob: blob.remove_xattr("a"),
    "an attribute that is too large": lambda _, blob: blob.set_xattr("a", bytes(9000)),
    "a clone of a writable blob": lambda _, blob: blob.clone(),
    "decoupling without a parent": lambda _, blob: blob.decouple(),
    "inflating without clusters": lambda _, blob: full(blob).inflate(),
    "a parent that is not there": lambda _, blob: blob.set_parent(MISSING),
    "a rollback to what is no snapshot": lambda _, blob: blob.rollback(MISSING),
    "an external parent that is not there": lambda _, blob: blob.set_external_parent(b"golden"),
    "copying a writable blob": lambda _, blob: blob.shallow_copy(MemoryDevice(SIZE)),
    "deleting an open blob": lambda store, blob: store.delete_blob(blob.id),
    "reading a closed blob": lambda _, blob: closed(blob).read(1),
    "writing a closed blob": lambda _, blob: closed(blob).write(b"text"),
    "opening a closed blob as a file": lambda _, blob: closed(blob).open(),
    "opening as text": lambda _, blob: blob.open("r"),
    "seeking before the start": lambda _, blob: blob.open(buffering=0).seek(-1),
    "writing a file beyond the end": lambda _, blob: filled(blob.open("r+b", buffering=0)),
}


def filled(file: Any) -> None:
    file.seek(0, io.SEEK_END)
    file.write(b"text")


def check_places(error: BlobstoreError, store: str, blob: int | None) -> None:
    """Look for the places at the start of the message, and for no second mention."""
    text = str(error)
    assert text.startswith(f"{store}: ")
    assert text.count(store) == 1
    assert error.filename == store
    assert error.blob == blob
    if blob is not None:
        assert text.startswith(f"{store}: blob {blob:#x}: ")
        assert text.count(f"{blob:#x}") == 1


@pytest.mark.parametrize("situation", OF_THE_STORE)
def test_an_error_of_a_store_names_it(
    path: Path, store: Blobstore, blob: Blob, situation: str
) -> None:
    with pytest.raises(BlobstoreError) as caught:
        OF_THE_STORE[situation](store, blob)
    check_places(caught.value, str(path), None)


@pytest.mark.parametrize("situation", OF_A_BLOB)
def test_an_error_of_a_blob_names_the_store_and_the_blob(
    path: Path, store: Blobstore, blob: Blob, situation: str
) -> None:
    with pytest.raises(BlobstoreError) as caught:
        OF_A_BLOB[situation](store, blob)
    check_places(caught.value, str(path), blob.id)


def test_a_blob_that_is_not_there_is_named(path: Path, store: Blobstore) -> None:
    for use in (store.open_blob, store.delete_blob):
        with pytest.raises(BlobstoreError) as caught:
            use(MISSING)
        check_places(caught.value, str(path), MISSING)


def test_a_change_of_a_read_only_store_names_it(path: Path, store: Blobstore) -> None:
    blob_id = store.create_blob(CLUSTER).id
    store.close()
    with Blobstore.open(path, read_only=True) as again:
        with pytest.raises(ReadOnlyError) as caught:
            again.create_blob()
        check_places(caught.value, str(path), None)
        with again.open_blob(blob_id) as blob, pytest.raises(ReadOnlyError) as caught:
            blob.write(b"text")
        check_places(caught.value, str(path), blob_id)


OPENING: Final[dict[str, Callable[[Path], object]]] = {
    "open": Blobstore.open,
    "create": lambda path: Blobstore.create(path),
    "check": blobstore.check,
    "repair": blobstore.repair,
    "undo": lambda path: blobstore.undo(path, "undo"),
    "grow": blobstore.grow,
    "dump": blobstore.dump,
    "rescue": Rescue.open,
}


def unopenable(tmp_path: Path) -> Iterator[Path]:
    """Yield what is missing, no file, in use."""
    yield tmp_path / "missing.img"
    yield tmp_path
    os.mkfifo(tmp_path / "pipe")
    yield tmp_path / "pipe"


@pytest.mark.parametrize("way", OPENING)
def test_what_cannot_be_opened_is_named(tmp_path: Path, way: str) -> None:
    for path in unopenable(tmp_path):
        with pytest.raises(BlobstoreError) as caught:
            OPENING[way](path)
        check_places(caught.value, str(path), None)


@pytest.mark.parametrize("way", ["open", "repair", "undo", "grow", "rescue"])
def test_a_store_in_use_is_named(path: Path, store: Blobstore, way: str) -> None:
    with pytest.raises(BlobstoreError) as caught:
        OPENING[way](path)
    check_places(caught.value, str(path), None)


@pytest.mark.parametrize("way", ["open", "grow"])
def test_a_device_without_a_store_is_named(tmp_path: Path, way: str) -> None:
    path = tmp_path / "zeroes.img"
    path.write_bytes(bytes(SIZE))
    with pytest.raises(CorruptError) as caught:
        OPENING[way](path)
    check_places(caught.value, str(path), None)


@pytest.mark.parametrize("options", [{"cluster_size": 5000}, {"md_pages": 1 << 30}])
def test_a_store_that_cannot_be_made_is_named(path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(BlobstoreError) as caught:
        Blobstore.create(path, size=SIZE, **options)
    check_places(caught.value, str(path), None)


class FailingDevice(MemoryDevice):
    """Fails when it is told to."""

    fails = False

    def write(self, offset: int, buffers: Any) -> None:
        if self.fails:
            raise DeviceError(f"{self.name}: write at {offset}: gone")
        super().write(offset, buffers)

    def flush(self) -> None:
        if self.fails:
            raise DeviceError(f"{self.name}: flush: gone")


def test_a_device_that_names_itself_is_named_once_and_so_it_is_ever_after() -> None:
    device = FailingDevice(SIZE, name="disk")
    store = Blobstore.create(device, cluster_size=CLUSTER)
    blob = store.create_blob(CLUSTER)
    device.fails = True
    with pytest.raises(DeviceError) as caught:
        blob.write(b"text")
    check_places(caught.value, "disk", blob.id)
    assert re.fullmatch(f"disk: blob {blob.id:#x}: write at [0-9]+: gone", str(caught.value))
    with pytest.raises(DeviceError, match="flush: gone"):
        blob.flush()
    with pytest.raises(PoisonedError) as after:
        blob.flush()
    expected = f"disk: unusable for changes since: blob {blob.id:#x}: flush: gone"
    assert (str(after.value), after.value.filename, after.value.blob) == (expected, "disk", blob.id)
    with pytest.raises(PoisonedError) as at_last:
        store.close()
    check_places(at_last.value, "disk", None)


class BrokenParent(MemoryDevice):
    """Cannot be read."""

    def read_into(self, offset: int, buffers: Any) -> None:
        raise DeviceError(f"{self.name}: read at {offset}: gone")


def test_an_external_parent_that_fails_is_named_after_the_store_and_the_blob(
    path: Path, store: Blobstore
) -> None:
    store.register_external(b"golden", BrokenParent(SIZE, name="golden.img"))
    clone = store.create_blob(CLUSTER, external_snapshot=b"golden")
    with pytest.raises(DeviceError) as caught:
        clone.read(1)
    check_places(caught.value, str(path), clone.id)
    assert ": golden.img: read at 0: gone" in str(caught.value)


def test_blobs_in_quarantine_are_named_with_their_store(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with Blobstore.create(path, size=SIZE, cluster_size=CLUSTER, md_pages=64) as store:
        blob_id = store.create_blob(CLUSTER).id
        at = core_of(store).geometry.page_offset(PageIndex(0))
    with path.open("r+b") as file:
        file.seek(at + 4096 - 20)
        file.write(b"broken")
    with Blobstore.open(path, read_only=True, force_recovery=True) as store:
        (error,) = store.errors.values()
        check_places(error, str(path), blob_id)


def test_reading_what_rescue_cannot_read_names_the_store_and_the_blob(
    path: Path, store: Blobstore, blob: Blob
) -> None:
    blob_id = blob.id
    blob.write(bytes(4 * CLUSTER))
    store.close()
    os.truncate(path, 2 * MIB)
    with Rescue.open(path) as rescue:
        with pytest.raises(BlobstoreError) as caught:
            rescue.blob(MISSING)
        check_places(caught.value, str(path), MISSING)
        rescued = rescue.blob(blob_id)
        with pytest.raises(BlobstoreError) as caught:
            rescued.read(1, 9 * CLUSTER)
        check_places(caught.value, str(path), blob_id)
    with pytest.raises(ClosedError) as end:
        rescue.blob(blob_id)
    check_places(end.value, str(path), blob_id)


def test_threads_that_share_a_failed_flush_see_the_same_places() -> None:
    device = FailingDevice(SIZE, name="disk")
    store = Blobstore.create(device, cluster_size=CLUSTER)
    blobs = [store.create_blob(CLUSTER) for _ in range(4)]
    device.fails = True
    found: list[BlobstoreError] = []

    def flush(blob: Blob) -> None:
        try:
            blob.flush()
        except BlobstoreError as error:
            found.append(error)

    threads = [threading.Thread(target=flush, args=(blob,)) for blob in blobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(str(error).count("disk: ") == 1 for error in found)
    with pytest.raises(PoisonedError):
        store.close()
