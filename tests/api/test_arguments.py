"""A slip of the caller is a TypeError, and the store goes on as if nothing had been asked."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from blobstore import (
    Blob,
    Blobstore,
    InvalidArgumentError,
    MemoryDevice,
    NoSpaceError,
    PoisonedError,
    check,
)
from blobstore.testing.internals import core_of
from blobstore.units import KIB, MIB

CLUSTER: Final = 16 * KIB
EVERY_OTHER: Final = memoryview(bytes(200))[::2]


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Blobstore]:
    source = MemoryDevice(4 * MIB) if request.param == "memory" else tmp_path / "disk.img"
    size = None if request.param == "memory" else 4 * MIB
    with Blobstore.create(source, size=size, cluster_size=CLUSTER) as store:
        yield store


@pytest.fixture
def blob(store: Blobstore) -> Blob:
    blob = store.create_blob(4 * CLUSTER, thin=True)
    blob.write(b"kept", 0)
    return blob


Slip = Callable[[Any, Any], object]

WRONG_TYPES: Final[dict[str, Slip]] = {
    "read into bytes": lambda store, blob: blob.read_into(b"abc"),
    "read into bytes elsewhere": lambda store, blob: blob.read_into(b"abc", 2 * CLUSTER),
    "readv into bytes": lambda store, blob: blob.readv([b"abc"]),
    "read at a float": lambda store, blob: blob.read(1, 1.5),
    "read at a float across clusters": lambda store, blob: blob.read(CLUSTER, 1.5),
    "read at None": lambda store, blob: blob.read(1, None),
    "write every other byte": lambda store, blob: blob.write(EVERY_OTHER, 2 * CLUSTER),
    "write text": lambda store, blob: blob.write("text"),
    "write at a float": lambda store, blob: blob.write(bytes(CLUSTER), 1.5),
    "unmap at None": lambda store, blob: blob.unmap(None, 10),
    "unmap at a float": lambda store, blob: blob.unmap(0.5, 10),
    "write zeroes of None": lambda store, blob: blob.write_zeroes(0, None),
    "write zeroes of text": lambda store, blob: blob.write_zeroes(0, "4KiB"),
    "next data of None": lambda store, blob: blob.next_data(None),
    "next hole of a float": lambda store, blob: blob.next_hole(0.5),
    "next allocated of text": lambda store, blob: blob.next_allocated("0"),
    "next unallocated of None": lambda store, blob: blob.next_unallocated(None),
    "an attribute of text": lambda store, blob: blob.set_xattr("owner", "me"),
    "an attribute of a number": lambda store, blob: blob.set_xattr("owner", 10),
    "an attribute of None": lambda store, blob: blob.set_xattr("owner", None),
    "an attribute named by a number": lambda store, blob: blob.set_xattr(5, b""),
    "an attribute named by bytes": lambda store, blob: blob.set_xattr(b"ab", b""),
    "an item of text": lambda store, blob: blob.xattrs.update(length="5"),
    "a snapshot with text": lambda store, blob: blob.snapshot(xattrs={"name": "text"}),
    "a clone with a number": lambda store, blob: blob.clone(xattrs={1: b""}),
    "a parent that is a blob": lambda store, blob: blob.set_parent(blob),
    "a rollback to a handle": lambda store, blob: blob.rollback(blob),
    "no parent": lambda store, blob: blob.set_parent(None),
    "an external parent of text": lambda store, blob: blob.set_external_parent("golden"),
    "a shallow copy to a path": lambda store, blob: blob.shallow_copy("copy.img"),
    "a new blob with text": lambda store, blob: store.create_blob(xattrs={"name": "text"}),
    "a new clone of text": lambda store, blob: store.create_blob(external_snapshot="golden"),
    "open None": lambda store, blob: store.open_blob(None),
    "open text": lambda store, blob: store.open_blob("0x100000000"),
    "delete a handle": lambda store, blob: store.delete_blob(blob),
    "delete text": lambda store, blob: store.delete_blob("x"),
    "a super blob that is a handle": lambda store, blob: store.set_super_blob(blob),
    "a super blob that is a float": lambda store, blob: store.set_super_blob(1.5),
    "an external that is a number": lambda store, blob: store.register_external(b"golden", 5),
    "an external named by text": lambda store, blob: store.register_external("golden", None),
}


@pytest.mark.parametrize("slip", WRONG_TYPES)
def test_a_wrong_type_changes_nothing(store: Blobstore, blob: Blob, slip: str) -> None:
    with pytest.raises((TypeError, BufferError)):
        WRONG_TYPES[slip](store, blob)
    assert blob.read(4) == b"kept"
    blob.write(b"more", CLUSTER)
    blob.set_xattr("name", b"value")
    blob.flush()
    assert len(store.blob_ids()) == 1


WRONG_VALUES: Final[dict[str, Slip]] = {
    "a length without end": lambda store, blob: blob.read(1 << 62),
    "a length no machine has": lambda store, blob: blob.read(1 << 70),
    "a negative length": lambda store, blob: blob.read(-1),
    "data before the start": lambda store, blob: blob.next_data(-1),
    "a hole before the start": lambda store, blob: blob.next_hole(-1),
}


@pytest.mark.parametrize("slip", WRONG_VALUES)
def test_a_value_that_cannot_be_is_refused_at_once(store: Blobstore, blob: Blob, slip: str) -> None:
    with pytest.raises(InvalidArgumentError):
        WRONG_VALUES[slip](store, blob)
    blob.write(b"more", CLUSTER)
    blob.flush()


def test_closing_a_store_that_became_unusable_says_so_once() -> None:
    store = Blobstore.create(MemoryDevice(4 * MIB), cluster_size=CLUSTER)
    core_of(store).poison = KeyboardInterrupt()
    with pytest.raises(PoisonedError, match="KeyboardInterrupt"):
        store.close()
    store.close()


def test_leaving_an_unusable_store_with_an_error_keeps_that_error() -> None:
    def work() -> None:
        with Blobstore.create(MemoryDevice(4 * MIB), cluster_size=CLUSTER) as store:
            core_of(store).poison = RuntimeError("a flush failed")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"cluster_size": 5000}, InvalidArgumentError),
        ({"md_pages": 100_000}, NoSpaceError),
        ({"bstype": b"a type of more than 16 bytes"}, InvalidArgumentError),
    ],
    ids=["cluster size", "metadata pages", "type"],
)
def test_a_store_that_cannot_be_made_leaves_the_old_one_as_it_was(
    tmp_path: Any, options: dict[str, Any], kind: type[Exception]
) -> None:
    path = tmp_path / "disk.img"
    with Blobstore.create(path, size=8 * MIB, cluster_size=CLUSTER) as store:
        store.create_blob(CLUSTER).write(b"old")
    before = path.read_bytes()
    for size in (0, 100, 4 * MIB, 16 * MIB):
        with pytest.raises((kind, InvalidArgumentError, NoSpaceError)):
            Blobstore.create(path, size=size, overwrite=True, **options)
        assert path.read_bytes() == before


def test_every_blob_is_open_until_the_next_one_is_asked_for(store: Blobstore) -> None:
    first = store.create_blob(CLUSTER, thin=True)
    for _ in range(5):
        first.snapshot().close()
    seen = []
    for found in store.iter_blobs():
        assert found.read(1) == b"\0"
        seen.append(found)
    assert [found.id for found in seen] == store.blob_ids()
    assert all(found.closed for found in seen)


def test_changes_are_refused_where_a_root_page_is_marked_free(tmp_path: Any) -> None:
    """The row `root-marked-free`: the next blob would take its place."""
    path = tmp_path / "disk.img"
    with Blobstore.create(path, size=4 * MIB, cluster_size=CLUSTER) as store:
        blob = store.create_blob(CLUSTER)
        blob.write(b"old")
        blob_id = blob.id
    image = bytearray(path.read_bytes())
    image[4096 + 5] &= 0xFE  # page 0 of the mask of used pages
    path.write_bytes(image)
    assert not check(path).clean
    with Blobstore.open(path) as store:
        assert store.read_only
        assert store.open_blob(blob_id).read(3) == b"old"
    assert path.read_bytes() == bytes(image)
