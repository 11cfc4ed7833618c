"""Blobs are found by their attribute `name`, on the device and in memory."""

import errno
import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blobstore import (
    Blob,
    BlobId,
    BlobInfo,
    Blobstore,
    InvalidArgumentError,
    MemoryDevice,
    NotFoundError,
)
from blobstore.drivers.blocking import BlockingDriver
from blobstore.store.names import NAME, blobs_named_locked
from blobstore.testing.internals import core_of, device_of
from blobstore.units import MIB

CLUSTER = 16384
MANY = 300
PAGES = 128


class KeptDevice(MemoryDevice):
    """Keeps its content when a store has closed it."""

    def close(self) -> None:
        pass


@pytest.fixture
def device() -> MemoryDevice:
    return MemoryDevice(64 * MIB)


@pytest.fixture
def store(device: MemoryDevice) -> Iterator[Blobstore]:
    with Blobstore.create(device, cluster_size=CLUSTER) as store:
        yield store


def test_a_blob_is_found_and_opened_by_the_name_it_was_made_with(store: Blobstore) -> None:
    vol0 = store.create_blob(CLUSTER, name="vol0")
    store.create_blob(CLUSTER, name="vol1")
    assert store.find("vol0") == vol0.id
    with store.open_blob(name="vol0") as again:
        assert (again.id, again.name) == (vol0.id, "vol0")


def test_a_name_is_the_first_attribute_and_others_follow(store: Blobstore) -> None:
    blob = store.create_blob(name="vol0", xattrs={"owner": b"me"})
    assert list(blob.xattrs.items()) == [("name", b"vol0"), ("owner", b"me")]


def test_snapshots_and_clones_get_names(store: Blobstore) -> None:
    blob = store.create_blob(CLUSTER, name="vol0")
    monday = blob.snapshot(name="monday")
    copy = monday.clone(xattrs={"owner": b"me"}, name="copy")
    assert [store.find(name) for name in ("vol0", "monday", "copy")] == [
        blob.id,
        monday.id,
        copy.id,
    ]
    assert copy.xattrs["owner"] == b"me"


def test_a_blob_without_a_name_has_none(store: Blobstore) -> None:
    assert store.create_blob().name is None


def test_a_name_that_no_blob_has_is_not_found(store: Blobstore) -> None:
    store.create_blob(name="vol0", xattrs={"alias": b"vol1"})
    store.create_blob(name="vol1-old")
    for search in (store.find, lambda name: store.open_blob(name=name)):
        with pytest.raises(NotFoundError, match="no blob is named 'vol1'"):
            search("vol1")


def test_a_name_of_several_blobs_is_an_error_that_lists_their_ids(store: Blobstore) -> None:
    ids = [store.create_blob(name="twin").id for _ in range(2)]
    for search in (store.find, lambda name: store.open_blob(name=name)):
        with pytest.raises(InvalidArgumentError) as caught:
            search("twin")
        assert caught.value.errno == errno.ENOTUNIQ
        assert all(f"{blob_id:#x}" in str(caught.value) for blob_id in ids)


def test_an_error_about_very_many_blobs_of_one_name_is_still_a_line(store: Blobstore) -> None:
    for _ in range(MANY):
        store.create_blob(name="same").close()
    with pytest.raises(InvalidArgumentError, match=f"{MANY} blobs are named 'same'.*, \\.\\.\\.$"):
        store.find("same")


def test_padding_of_a_volume_stores_name_does_not_count(store: Blobstore) -> None:
    blob = store.create_blob(xattrs={"name": b"vol0".ljust(64, b"\0")})
    blob_id = blob.id
    assert (store.find("vol0"), blob.name) == (blob_id, "vol0")
    blob.close()
    assert store.find("vol0") == blob_id


def test_a_new_name_counts_before_it_is_durable_and_the_old_one_does_not(store: Blobstore) -> None:
    blob = store.create_blob(name="old")
    blob.xattrs["name"] = b"new"
    assert store.find("new") == blob.id
    with pytest.raises(NotFoundError):
        store.find("old")


def test_a_deleted_blobs_name_is_not_found(store: Blobstore) -> None:
    blob = store.create_blob(name="vol0")
    blob.close()
    store.delete_blob(blob.id)
    with pytest.raises(NotFoundError):
        store.find("vol0")


def test_a_name_that_does_not_fit_into_the_root_page_is_found(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with Blobstore.create(path, size=64 * MIB, cluster_size=CLUSTER) as store:
        others = {f"before {number}": bytes(1000) for number in range(12)}
        wanted = store.create_blob(xattrs={**others, "name": b"far away"}).id
        for _ in range(MANY):
            store.create_blob(xattrs={**others, "name": b"elsewhere"}).close()
    with Blobstore.open(path, read_only=True) as store:
        assert store.find("far away") == wanted


def test_names_are_any_text_and_bytes_that_are_no_text_stand_for_themselves(
    store: Blobstore,
) -> None:
    for name in ("Größe", "日本", os.fsdecode(b"\xff\xfe")):
        blob = store.create_blob(name=name)
        assert store.find(name) == blob.id


WRONG: list[tuple[object, type[Exception]]] = [
    ("", InvalidArgumentError),
    ("a\0b", InvalidArgumentError),
    ("\ud800", InvalidArgumentError),
    (b"bytes", TypeError),
    (5, TypeError),
]


@pytest.mark.parametrize(("name", "kind"), WRONG, ids=repr)
def test_what_cannot_be_a_name_is_refused_before_anything_begins(
    store: Blobstore, name: str, kind: type[Exception]
) -> None:
    blob = store.create_blob(CLUSTER)
    for use in (
        lambda: store.find(name),
        lambda: store.open_blob(name=name),
        lambda: store.create_blob(name=name),
        lambda: blob.snapshot(name=name),
    ):
        with pytest.raises(kind, match="name: expected "):
            use()
    blob.set_xattr("usable", b"yes")
    blob.flush()
    assert store.blob_ids() == [blob.id]


def test_a_name_and_an_attribute_name_contradict_each_other(store: Blobstore) -> None:
    with pytest.raises(InvalidArgumentError, match="name: 'a', but xattrs"):
        store.create_blob(name="a", xattrs={"name": b"b"})


def test_a_blob_is_opened_by_its_id_or_its_name_not_by_both_and_not_by_neither(
    store: Blobstore,
) -> None:
    open_blob: Callable[..., Blob] = store.open_blob
    with pytest.raises(TypeError):
        open_blob()
    with pytest.raises(TypeError):
        open_blob(1, name="a")


def by_name(blobs: list[BlobInfo]) -> dict[str, set[BlobId]]:
    named: defaultdict[str, set[BlobId]] = defaultdict(set)
    for info in blobs:
        if info.xattrs.get(NAME, b"").rstrip(b"\0"):
            named[os.fsdecode(info.xattrs[NAME].rstrip(b"\0"))].add(info.blob_id)
    return named


def found_by_name(store: Blobstore, name: str) -> set[BlobId]:
    return set(BlockingDriver(device_of(store)).run(blobs_named_locked(core_of(store), name)))


def named_store(device: MemoryDevice) -> None:
    """Fill a device with blobs of every kind of name, and leave it clean."""
    with Blobstore.create(device, cluster_size=CLUSTER, md_pages=PAGES) as store:
        for number in range(12):
            store.create_blob(CLUSTER, name=f"vol{number % 10}", thin=bool(number % 2))
            store.create_blob(xattrs={"first": bytes(3000), "name": b"%d" % number, "z": b"vol3"})
            store.create_blob(xattrs={"name": b"vol%d" % number + bytes(number)})
        store.open_blob(name="9").snapshot(name="monday").clone(name="vol9\udcff")


@pytest.mark.parametrize("force_recovery", [False, True], ids=["clean", "recovered"])
def test_in_damaged_stores_every_name_is_found_that_a_list_shows(force_recovery: bool) -> None:
    whole = KeptDevice(2 * MIB)
    named_store(whole)
    compared = 0
    for seed in range(0, 40, 4):
        device, chance = KeptDevice(2 * MIB), random.Random(seed)
        device.write(0, [whole.read(0, whole.size_bytes)])
        for _ in range(seed):
            device.write(chance.randrange(5 * 4096, (5 + PAGES) * 4096), [chance.randbytes(2)])
        with Blobstore.open(device, read_only=True, force_recovery=force_recovery) as store:
            readable = [info for info in store.list_blobs() if info.error is None]
            for name, listed in by_name(readable).items():
                found = found_by_name(store, name)
                assert listed <= found
                assert not {info.blob_id for info in readable} & (found - listed)
                compared += 1
    assert compared > 100


def test_names_are_found_in_a_store_that_was_not_unloaded(device: MemoryDevice) -> None:
    store = Blobstore.create(device, cluster_size=CLUSTER)
    blob = store.create_blob(CLUSTER, name="vol0")
    monday = blob.snapshot(name="monday")
    image = device.read(0, device.size_bytes)
    store.close()
    cut = MemoryDevice(device.size_bytes)
    cut.write(0, [image])
    with Blobstore.open(cut) as recovered:
        assert [recovered.find(name) for name in ("vol0", "monday")] == [blob.id, monday.id]


def test_opening_by_name_holds_the_blob_even_if_it_is_renamed_meanwhile(store: Blobstore) -> None:
    made: Blob = store.create_blob(name="vol0")
    opened = store.open_blob(name="vol0")
    made.xattrs["name"] = b"vol1"
    assert opened.name == "vol1"
