"""A write that went to the wrong place: an extent page that holds a copy of another blob's."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from blobstore import BlobId, Blobstore, CorruptError, FileDevice, Rescue, Severity, check, repair
from blobstore.api.source import traits_of
from blobstore.drivers.blocking import BlockingDriver
from blobstore.format.checksum import crc32c
from blobstore.fsck.examine import examine
from blobstore.store.salvaged_mark import SALVAGED
from blobstore.units import PageIndex

CLUSTER = 65536
PAGE = 4096


@dataclass(frozen=True)
class Store:
    """A blob with a snapshot, and two clones of that, each with some clusters of its own."""

    path: Path
    data: BlobId
    snapshot: BlobId
    web: BlobId
    shop: BlobId

    def page_of(self, blob_id: BlobId) -> PageIndex:
        """Return the blob's only extent page."""

        async def find() -> PageIndex:
            view = (await examine(traits_of(device))).view
            assert view is not None
            (page,) = (await view.walk(blob_id)).extent_pages
            return page

        with FileDevice.open(self.path, read_only=True) as device:
            return BlockingDriver(device).run(find())

    def copy_page(self, source: BlobId, target: BlobId) -> None:
        """Write the extent page of one blob over that of another, as `dd` does."""
        image = bytearray(self.path.read_bytes())
        with Blobstore.open(self.path, read_only=True) as store:
            start = store.info.md_start
        first, second = (
            (start + page) * PAGE for page in (self.page_of(source), self.page_of(target))
        )
        image[second : second + PAGE] = image[first : first + PAGE]
        self.path.write_bytes(image)

    def read(self, blob_id: BlobId) -> bytes:
        with Blobstore.open(self.path, read_only=True) as store:
            return store.open_blob(blob_id).read(6 * CLUSTER, offset=0)

    def salvaged(self) -> set[BlobId]:
        """Return the blobs whose content is doubtful, without the blob of unowned clusters."""
        with Blobstore.open(self.path, read_only=True) as store:
            return {
                blob_id
                for blob_id in store.blob_ids()
                for xattrs in [store.open_blob(blob_id).xattrs]
                if SALVAGED in xattrs and not xattrs.get("name", b"").startswith(b"unowned")
            }


@pytest.fixture(params=[512, 4096])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Store:
    path = tmp_path / "disk.img"
    with Blobstore.create(
        path,
        size="8MiB",
        cluster_size=CLUSTER,
        md_pages=32,
        atomic_write_size=request.param,
    ) as blobs:
        data = blobs.create_blob(6 * CLUSTER, name="data", thin=True)
        data.write(b"data" * CLUSTER)
        snapshot = data.snapshot()
        web, shop = (snapshot.clone() for _number in range(2))
        for blob, content in ((data, b"more"), (web, b"web "), (shop, b"shop")):
            blob.write(content * (CLUSTER // 4), offset=CLUSTER)
            blob.write(content * (CLUSTER // 4), offset=4 * CLUSTER)
        return Store(path, data.id, snapshot.id, web.id, shop.id)


@pytest.mark.parametrize("copied_over", ["shop", "data"])
def test_the_blob_that_was_overwritten_is_found_where_the_other_wrote_the_page(
    store: Store, copied_over: str
) -> None:
    victim: BlobId = getattr(store, copied_over)
    page, original = store.page_of(victim), store.page_of(store.web)
    before = store.read(store.web)
    store.copy_page(store.web, victim)
    (error,) = [each for each in check(store.path).findings if each.severity is Severity.ERROR]
    assert (error.invariant, error.blob, error.page) == (31, victim, page)
    assert error.message.endswith(f"was overwritten with a copy of page {original}")
    with Rescue.open(store.path) as rescue:
        assert rescue.blob(store.web).read(6 * CLUSTER) == before
        assert [each.length for each in rescue.blob(victim).unreadable()] == [6 * CLUSTER]
    assert repair(store.path, "all").after.clean
    assert store.read(store.web) == before
    assert store.salvaged() == {victim}


def test_between_a_snapshot_and_its_clone_both_are_doubtful(store: Store) -> None:
    before = store.read(store.web)
    store.copy_page(store.web, store.snapshot)
    errors = [each for each in check(store.path).findings if each.severity is Severity.ERROR]
    assert {each.invariant for each in errors} == {35}
    for error in errors:
        assert f"{store.web:#x}" in error.message
        assert f"{store.snapshot:#x}" in error.message
    report = repair(store.path, "all")
    assert report.after.clean
    assert store.salvaged() == {store.web, store.snapshot}
    assert store.read(store.web)[CLUSTER : 2 * CLUSTER] == before[CLUSTER : 2 * CLUSTER]
    with Blobstore.open(store.path) as blobs:
        assert all(blobs.open_blob(each).read_only for each in (store.web, store.snapshot))
    assert repair(store.path, "all").repaired == ()


def test_opening_names_both_blobs_that_own_a_cluster(store: Store) -> None:
    store.copy_page(store.web, store.snapshot)
    said = f"blob {store.web:#x}: owns a cluster that blob {store.snapshot:#x} owns too"
    with Blobstore.open(store.path) as blobs, pytest.raises(CorruptError, match=said):
        blobs.open_blob(store.web)


@pytest.mark.parametrize("victim", ["snapshot", "shop"])
@pytest.mark.parametrize("mode", ["leaks", "safe"])
def test_clusters_without_an_owner_are_not_freed_while_two_blobs_own_the_same(
    store: Store, victim: str, mode: str
) -> None:
    store.copy_page(store.web, getattr(store, victim))
    before = store.path.read_bytes()
    report = check(store.path)
    assert not [each for each in report.findings if each.severity is Severity.LEAK]
    assert any(each.invariant == 13 for each in report.findings)
    assert repair(store.path, mode).repaired == ()
    assert store.path.read_bytes() == before


def test_an_extent_page_that_two_blobs_name_makes_both_doubtful(store: Store) -> None:
    image = bytearray(store.path.read_bytes())
    page, other = store.page_of(store.web), store.page_of(store.shop)
    entry, changed = other.to_bytes(4, "little") + b"\1\0\0\0", page.to_bytes(4, "little")
    with Blobstore.open(store.path, read_only=True) as blobs:
        start = blobs.info.md_start
    root = (start + store.shop - (1 << 32)) * PAGE
    at = image.index(entry, root, root + PAGE)
    image[at : at + 4] = changed
    fix_crc(image, root)
    store.path.write_bytes(image)
    assert 36 in {each.invariant for each in check(store.path).findings}
    assert repair(store.path, "all").after.clean
    assert store.salvaged() == {store.web, store.shop}


def fix_crc(image: bytearray, at: int) -> None:
    content = bytes(image[at : at + PAGE - 4])
    image[at + PAGE - 4 : at + PAGE] = crc32c(content).to_bytes(4, "little")


def test_what_a_repair_did_is_said_in_the_right_number(store: Store) -> None:
    store.copy_page(store.web, store.shop)
    said = "; ".join(repair(store.path, "all").repaired)
    assert "the masks were rebuilt from the blobs, and the store was left clean" in said
    assert " 1 clusters" not in said
    assert " 1 pages" not in said
    assert "new, read-only, with 2 clusters of no blob: perhaps of " in said
