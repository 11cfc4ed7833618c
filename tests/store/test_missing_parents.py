"""A blob names a parent that is no blob: it is lost after a crash, and its id is given to none."""

import random
from collections.abc import Iterable
from copy import copy
from functools import cache
from typing import Final

import pytest

from blobstore import (
    BlobId,
    Blobstore,
    CorruptError,
    Finding,
    NoSpaceError,
    NotFoundError,
    ReadOnlyError,
    Rescue,
    Severity,
    check,
    repair,
)
from blobstore.format.geometry import BLOB_ID_BASE, root_of
from blobstore.format.mask import MASK_HEAD_SIZE
from blobstore.format.page import PAGE_SIZE
from blobstore.format.root import encode_tombstone_tail
from blobstore.format.super_block import SuperBlock
from blobstore.units import PageIndex
from tests.proof.forge import Forge, clone_of, extents, flags, table
from tests.proof.image_device import ImageDevice

CLUSTER: Final = 16384
MANY: Final = 100
"""More roots than are decoded one by one."""
CONTENTS: Final = ["zeroes", "random", "tombstone"]


class Sample:
    """A store with a clone of a snapshot that was new when the store crashed, and other blobs.

    `crashed` is the image at that moment; `clean` the one after unloading.
    """

    def __init__(self, atomic: int, others: int) -> None:
        self.atomic = atomic
        image = bytearray(16 << 20)
        with self.create(image) as store:
            db = store.create_blob(4 * CLUSTER, name="db", thin=True)
            db.write(b"d" * CLUSTER)
            self.db = db.id
            self.others = [store.create_blob(0, name=f"other {n}").id for n in range(others)]
        with self.open(image) as store:
            self.snapshot = store.open_blob(self.db).snapshot().id
            self.crashed = bytearray(image)
            self.md_start = store.info.md_start
        self.clean = image
        self.root = root_of(self.snapshot)

    def create(self, image: bytearray) -> Blobstore:
        device = ImageDevice(image, atomic_write_size=self.atomic)
        return Blobstore.create(device, cluster_size=CLUSTER, md_pages=256)

    def open(self, image: bytearray, *, force: bool = False) -> Blobstore:
        return Blobstore.open(ImageDevice(image, atomic_write_size=self.atomic), force=force)

    def page(self, image: bytearray, page: PageIndex) -> bytes:
        start = (self.md_start + page) * PAGE_SIZE
        return bytes(image[start : start + PAGE_SIZE])

    def put(self, image: bytearray, page: PageIndex, data: bytes) -> None:
        start = (self.md_start + page) * PAGE_SIZE
        image[start : start + PAGE_SIZE] = data

    def lose(self, image: bytearray, content: str) -> None:
        """Overwrite the snapshot's root."""
        old = self.page(image, self.root)
        new = {
            "zeroes": bytes(PAGE_SIZE),
            "random": random.Random(1).randbytes(PAGE_SIZE),
            "tombstone": old[: PAGE_SIZE - 512] + encode_tombstone_tail(old),
        }
        self.put(image, self.root, new[content])

    def forget(self, image: bytearray, pages: Iterable[PageIndex]) -> None:
        """Clear the bits of pages in the masks of used pages and ids, as if they were free."""
        plan = SuperBlock.decode(image[:PAGE_SIZE])
        for region in (plan.used_pages, plan.used_blob_ids):
            for page in pages:
                at = region.start * PAGE_SIZE + MASK_HEAD_SIZE + page // 8
                image[at] &= ~(1 << page % 8)


@pytest.fixture(params=[512, 4096])
def atomic(request: pytest.FixtureRequest) -> int:
    """The device's atomic write size, which decides the layout of roots."""
    size: int = request.param
    return size


@pytest.fixture(params=[1, MANY], ids=["few", "many"])
def sample(request: pytest.FixtureRequest, atomic: int) -> Sample:
    return sample_of(atomic, request.param)


def sample_of(atomic: int, others: int) -> Sample:
    """Return one whose images are the caller's own."""
    made = copy(_made(atomic, others))
    made.crashed, made.clean = made.crashed[:], made.clean[:]
    return made


@cache
def _made(atomic: int, others: int) -> Sample:
    return Sample(atomic, others)


def problems(image: bytearray) -> set[tuple[int, BlobId | None]]:
    return {
        (each.invariant, each.blob)
        for each in check(ImageDevice(image)).findings
        if each.severity is Severity.ERROR
    }


@pytest.mark.parametrize("content", CONTENTS)
def test_after_a_crash_a_snapshot_that_a_clone_names_is_lost_whatever_its_page_holds(
    sample: Sample, content: str
) -> None:
    image = sample.crashed
    sample.lose(image, content)
    before = bytes(image)
    with sample.open(image) as store:
        assert list(store.errors) == [sample.snapshot]
        assert f"{sample.snapshot:#x}" in str(store.errors[sample.snapshot])
        assert sample.snapshot in store.blob_ids()
        with pytest.raises(CorruptError):
            store.open_blob(sample.db)
        with pytest.raises(ReadOnlyError, match="quarantine"):
            store.create_blob(0)
    assert repair(ImageDevice(image), "safe").repaired == ()
    assert image == before
    assert {(22, sample.snapshot), (39, sample.db)} <= problems(image)
    with Rescue.open(ImageDevice(image)) as rescue:
        assert sample.snapshot in [blob.id for blob in rescue.blobs()]


@pytest.mark.parametrize("content", CONTENTS)
def test_a_store_that_was_forced_open_keeps_id_and_page_of_the_lost_snapshot(
    atomic: int, content: str
) -> None:
    sample = sample_of(atomic, 1)
    sample.lose(sample.crashed, content)
    before = sample.page(sample.crashed, sample.root)
    with sample.open(sample.crashed, force=True) as store:
        assert sample.snapshot not in [store.create_blob(0).id for _ in range(4)]
    assert sample.page(sample.crashed, sample.root) == before
    with sample.open(sample.crashed) as store, pytest.raises(CorruptError):
        store.open_blob(sample.db)


def test_repair_all_leaves_a_store_that_opens_and_no_data_of_others(sample: Sample) -> None:
    sample.lose(sample.crashed, "random")
    report = repair(ImageDevice(sample.crashed, atomic_write_size=sample.atomic), "all")
    assert report.after.clean
    with sample.open(sample.crashed) as store:
        assert not store.errors
        assert set(store.open_blob(sample.db).read(4 * CLUSTER)) <= set(b"d\0")


@pytest.mark.parametrize("content", CONTENTS)
def test_the_id_of_a_parent_that_a_clean_store_does_not_know_is_given_to_no_blob(
    sample: Sample, content: str
) -> None:
    image = sample.clean
    sample.lose(image, content)
    sample.forget(image, [sample.root])
    with sample.open(image) as store:
        with pytest.raises(NotFoundError, match="parent"):
            store.open_blob(sample.db)
        other = store.open_blob(sample.others[0])
        made = [other.snapshot().id, store.create_blob(0).id]
        assert sample.snapshot not in made
        with pytest.raises(NotFoundError, match="parent"):
            store.open_blob(sample.db)
        store.delete_blob(sample.db)
    with sample.open(image) as store:
        assert not store.errors
        assert sample.db not in store.blob_ids()


def test_withheld_pages_are_refused_to_new_blobs_before_anything_is_written(atomic: int) -> None:
    sample = sample_of(atomic, 1)
    sample.lose(sample.clean, "zeroes")
    sample.forget(sample.clean, [sample.root])
    with sample.open(sample.clean) as store:
        made: list[BlobId] = []
        with pytest.raises(NoSpaceError, match="metadata pages"):
            made.extend(iter(lambda: _new_blob(store), None))
        assert made
        assert sample.snapshot not in made
        store.delete_blob(made[0])
        assert _new_blob(store) == made[0]
    assert {each for each, _blob in problems(sample.clean)} == {39}


def _new_blob(store: Blobstore) -> BlobId:
    with store.create_blob(0) as blob:
        return blob.id


def test_masks_of_a_store_with_a_withheld_page_stay_true(sample: Sample) -> None:
    sample.lose(sample.clean, "zeroes")
    sample.forget(sample.clean, [sample.root])
    with sample.open(sample.clean) as store:
        store.create_blob(CLUSTER)
    masks = [
        each for each in check(ImageDevice(sample.clean)).findings if _is_of_root(each, sample)
    ]
    assert masks == []


def _is_of_root(finding: Finding, sample: Sample) -> bool:
    return finding.invariant in (12, 14) and finding.page == sample.root


def test_a_clone_whose_parents_id_became_a_blob_that_can_be_written_to_is_refused(
    sample: Sample,
) -> None:
    """As after another program's recovery: the lost snapshot's id was given to a new blob."""
    elsewhere = bytearray(len(sample.clean))
    with sample.create(elsewhere) as store:
        while (stranger := store.create_blob(0, name="stranger")).id != sample.snapshot:
            stranger.close()
    sample.put(sample.clean, sample.root, sample.page(elsewhere, sample.root))
    with sample.open(sample.clean) as store:
        with pytest.raises(CorruptError, match="not read-only"):
            store.open_blob(sample.db)
        with store.open_blob(sample.snapshot) as stranger:
            assert stranger.name == "stranger"
            with pytest.raises(CorruptError, match="not read-only"):
                store.open_blob(sample.db)
        with pytest.raises(CorruptError, match="not read-only"):
            store.delete_blob(sample.snapshot)
        store.delete_blob(sample.db)
        store.delete_blob(sample.snapshot)
    assert not problems(sample.clean)


def test_a_page_that_another_blob_owns_by_now_stays_its_own_while_the_parent_counts_as_lost() -> (
    None
):
    forge = Forge(md_len=64, cluster_count=200, clean=False)
    forge.root(0, clone_of(5), table(2, (0, 1)))
    forge.root(1, flags(), table(2, (5, 1)))
    forge.put(5, 1, extents(0, [150, 151]))
    owner, lost = BlobId(BLOB_ID_BASE + 1), BlobId(BLOB_ID_BASE + 5)
    image = bytearray(forge.device().read(0, forge.device().size_bytes))
    with Blobstore.open(ImageDevice(image)) as store:
        assert list(store.errors) == [lost]
        assert store.read_only
        with store.open_blob(owner) as blob:
            assert blob.info.allocated_clusters == 2
    assert problems(image) == {(39, BLOB_ID_BASE)}
    assert repair(ImageDevice(image), "all").after.clean
    with Blobstore.open(ImageDevice(image)) as store:
        assert not store.errors
        assert store.open_blob(owner).info.allocated_clusters == 2
