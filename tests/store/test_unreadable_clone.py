"""A blob that cannot be read may be a clone: what may be its parent is not deleted."""

import asyncio
from collections.abc import Callable
from typing import Final

import pytest

from blobstore import AsyncBlobstore, Blobstore, CorruptError
from blobstore.format.descriptors import HAS_INTERNAL_XATTRS, HEADER
from blobstore.format.page import HEAD, PAGE_SIZE
from blobstore.format.root import TAIL_OFFSET
from tests.proof.image_device import ImageDevice

CLUSTER: Final = 16384
MANY: Final = 100
"""More roots than are decoded one by one."""


def flip(page: bytearray, at: int) -> None:
    page[at] ^= 0xFF


DAMAGES: Final[dict[str, Callable[[bytearray], None]]] = {
    "a byte of padding": lambda page: flip(page, 100),
    "a byte of descriptors": lambda page: flip(page, PAGE_SIZE - 50),
    "the id": lambda page: flip(page, 0),
    "the flag of internal attributes": lambda page: page.__setitem__(
        TAIL_OFFSET + HEADER.size, page[TAIL_OFFSET + HEADER.size] ^ HAS_INTERNAL_XATTRS
    ),
    "no flags": lambda page: flip(page, TAIL_OFFSET),
    "zeroes": lambda page: page.__setitem__(slice(PAGE_SIZE), bytes(PAGE_SIZE)),
}


class Damaged:
    """A clean store: a snapshot, its clone, whose root is broken, and others."""

    def __init__(self, damage: Callable[[bytearray], None], *, others: int = 1) -> None:
        image = bytearray(8 << 20)
        with Blobstore.create(ImageDevice(image), cluster_size=CLUSTER) as store:
            clone = store.create_blob(4 * CLUSTER, thin=True)
            clone.write(b"1" * CLUSTER)
            self.snapshot = clone.snapshot().id
            self.others = [store.create_blob(CLUSTER).id for _ in range(others)]
            self.clone, (page, *_) = clone.id, clone.info.metadata_pages
            start = store.info.md_start * PAGE_SIZE + page * PAGE_SIZE
        self.root = bytes(image[start : start + PAGE_SIZE])
        self.start, self.image = start, image
        broken = bytearray(self.root)
        damage(broken)
        image[start : start + PAGE_SIZE] = broken

    def open(self, *, force: bool = False) -> Blobstore:
        return Blobstore.open(ImageDevice(self.image), force=force)

    def mend(self) -> None:
        self.image[self.start : self.start + PAGE_SIZE] = self.root


@pytest.mark.parametrize("others", [1, MANY], ids=["few blobs", "many blobs"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_the_snapshot_of_a_clone_that_cannot_be_read_is_kept(damage: str, others: int) -> None:
    damaged = Damaged(DAMAGES[damage], others=others)
    before = bytes(damaged.image)
    with damaged.open() as store:
        with pytest.raises(CorruptError, match=f"{damaged.clone:#x} cannot be read") as caught:
            store.delete_blob(damaged.snapshot)
        assert "check" in str(caught.value)
        assert "--force" in str(caught.value)
    assert damaged.image == before
    damaged.mend()
    with damaged.open() as store, store.open_blob(damaged.clone) as clone:
        assert clone.read(CLUSTER) == b"1" * CLUSTER


def test_a_snapshot_with_one_more_clone_is_not_merged_into_that() -> None:
    image = bytearray(8 << 20)
    with Blobstore.create(ImageDevice(image), cluster_size=CLUSTER) as store:
        lost = store.create_blob(CLUSTER, thin=True)
        snapshot = lost.snapshot()
        other = snapshot.clone()
        flip_at = (store.info.md_start + lost.info.metadata_pages[0]) * PAGE_SIZE + HEAD.size + 80
        ids = snapshot.id, other.id
    flip(image, flip_at)
    with Blobstore.open(ImageDevice(image)) as store:
        with pytest.raises(CorruptError, match="may be its clone"):
            store.delete_blob(ids[0])
        store.delete_blob(ids[1])


def test_everything_else_goes_on_beside_a_blob_that_cannot_be_read() -> None:
    damaged = Damaged(DAMAGES["zeroes"], others=3)
    with damaged.open() as store:
        blob = store.create_blob(CLUSTER)
        blob.write(b"new")
        kept = blob.snapshot()
        for blob_id in damaged.others:
            store.delete_blob(blob_id)
        assert kept.read(3) == b"new"
        assert {*store.blob_ids()} == {damaged.snapshot, damaged.clone, blob.id, kept.id}


def test_forced_open_the_store_deletes_the_snapshot() -> None:
    damaged = Damaged(DAMAGES["zeroes"])
    with damaged.open(force=True) as store:
        store.delete_blob(damaged.snapshot)
        assert damaged.snapshot not in store.blob_ids()


def test_the_snapshot_is_kept_under_asyncio_too() -> None:
    damaged = Damaged(DAMAGES["a byte of padding"])

    async def delete() -> None:
        async with await AsyncBlobstore.open(ImageDevice(damaged.image)) as store:
            await store.delete_blob(damaged.snapshot)

    with pytest.raises(CorruptError, match="may be its clone"):
        asyncio.run(delete())
