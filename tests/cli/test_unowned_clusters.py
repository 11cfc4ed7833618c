"""Repair after a snapshot's root is lost: its clones read right data, or none; never another's."""

from dataclasses import dataclass
from pathlib import Path
from shutil import copy

import pytest

from blobstore import Blobstore, VolumeStore
from blobstore.format.checksum import crc32c
from tests.cli.runner import Result, run

CLUSTER = 65536
ORDER = (3, 2, 1, 0)
"""The blob's clusters are written from the last to the first, so their order is not the disk's."""

WANTED = b"".join(b"%d" % index * CLUSTER for index in range(4))
SECRET = b"SECRET!!" * (CLUSTER // 8)


@dataclass(frozen=True)
class Damaged:
    """A store with a disk that owns no cluster, its snapshot and another disk."""

    path: Path
    disk: int
    snapshot: int
    other: int
    pages: dict[str, int]
    """Where on the device the pages are that a test erases."""

    def erase(self, *names: str) -> None:
        with self.path.open("r+b") as file:
            for name in names:
                file.seek(4096 * self.pages[name])
                file.write(bytes(4096))

    def read(self) -> bytes:
        with Blobstore.open(self.path, read_only=True) as store, store.open_blob(self.disk) as blob:
            return blob.read(len(WANTED))

    def repair(self) -> Result:
        done = run("check", self.path, "--repair", "all")
        assert done.status == 1
        assert run("check", self.path).status == 0
        return done


@pytest.fixture(params=[512, 4096])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Damaged:
    path = tmp_path / "disk.img"
    layout: int = request.param
    with Blobstore.create(
        path, size="16MiB", cluster_size=CLUSTER, atomic_write_size=layout
    ) as blobs:
        disk = blobs.create_blob(4 * CLUSTER, thin=True, name="db")
        for index in ORDER:
            disk.write(WANTED[index * CLUSTER :][:CLUSTER], offset=index * CLUSTER)
        snapshot = disk.snapshot("db@1")
        other = blobs.create_blob(4 * CLUSTER, thin=True, name="web")
        other.write(SECRET * 4)
        other.sync_md()
        start = blobs.info.md_start
        ids = disk.id, snapshot.id, other.id
        pages = {
            "snapshot": start + snapshot.id - (1 << 32),
            "extents": start + snapshot.info.extent_pages[0],
            "other": start + other.id - (1 << 32),
            "other extents": start + other.info.extent_pages[0],
        }
    return Damaged(path, *ids, pages)


def test_the_extent_pages_that_a_lost_snapshot_had_from_its_origin_are_its_content_again(
    store: Damaged,
) -> None:
    store.erase("snapshot")
    done = store.repair()
    assert "its likely content was found in 1 extent page with the id of a clone" in done.text
    assert "parts may be wrong" in done.text
    assert "unowned" not in done.text
    assert store.read() == WANTED
    assert "salvaged parent" in run("list", store.path).text


def test_rescue_and_export_read_a_lost_snapshot_by_the_pages_of_its_origin(
    store: Damaged, tmp_path: Path
) -> None:
    store.erase("snapshot")
    said = run("rescue", store.path).text
    assert "its content was found in extent pages with the id of a clone: likely" in said
    done = run("export", store.path, "db", tmp_path / "db.raw")
    assert done.status == 0
    assert "likely to be right, but not proved" in done.stderr
    assert (tmp_path / "db.raw").read_bytes() == WANTED


@pytest.mark.parametrize("layout", [512, 4096])
def test_after_a_crash_a_lost_snapshot_is_found_by_the_pages_of_its_origin_too(
    tmp_path: Path, layout: int
) -> None:
    path = tmp_path / "crashed.img"
    whole = tmp_path / "whole.img"
    with Blobstore.create(
        whole, size="8MiB", cluster_size=CLUSTER, atomic_write_size=layout
    ) as blobs:
        disk = blobs.create_blob(4 * CLUSTER, thin=True, name="db")
        disk.write(WANTED)
        snapshot = disk.snapshot("db@1")
        root = blobs.info.md_start + snapshot.id - (1 << 32)
        copy(whole, path)  # as a power failure would leave it
    with path.open("r+b") as file:
        file.seek(4096 * root)
        file.write(bytes(4096))
    assert run("export", path, "db", tmp_path / "db.raw").status == 0
    assert (tmp_path / "db.raw").read_bytes() == WANTED
    assert run("check", path, "--repair", "all").status == 1
    assert run("read", path, "db").stdout == WANTED


def test_clusters_that_nothing_names_are_kept_in_a_blob_that_no_disk_reads(store: Damaged) -> None:
    store.erase("snapshot", "other", "other extents")
    done = store.repair()
    assert store.read() == bytes(len(WANTED))
    (line,) = [line for line in done.text.splitlines() if "unowned clusters" in line]
    assert "new, read-only, with 8 clusters of no blob: perhaps of " in line
    assert f"{store.snapshot:#x}, {store.other:#x}, but nothing proves whose they are" in line
    with Blobstore.open(store.path, read_only=True) as blobs:
        (kept_in,) = [
            each.id for each in blobs.iter_blobs() if (each.name or "").startswith("unowned")
        ]
        with blobs.open_blob(kept_in) as blob:
            kept = blob.read(8 * CLUSTER)
            assert (blob.read_only, "salvaged" in blob.xattrs) == (True, True)
    assert kept.count(SECRET) == 4
    assert all(WANTED[index * CLUSTER :][:CLUSTER] in kept for index in ORDER)


def test_a_page_that_two_lost_blobs_can_have_owned_is_given_to_neither(store: Damaged) -> None:
    store.erase("snapshot", "other")
    store.repair()
    assert store.read() == bytes(len(WANTED))


def test_a_page_whose_clusters_another_blob_owns_is_not_taken(store: Damaged) -> None:
    image = store.path.read_bytes()
    page = image[4096 * store.pages["other extents"] :][:4096]
    forged = store.disk.to_bytes(8, "little") + page[8:-4]
    store.erase("snapshot", "extents")
    with store.path.open("r+b") as file:
        file.seek(4096 * store.pages["extents"])
        file.write(forged + crc32c(forged).to_bytes(4, "little"))
    done = store.repair()
    assert store.read() == bytes(len(WANTED))
    assert "new, read-only, with 4 clusters of no blob" in done.text
    with Blobstore.open(store.path, read_only=True) as blobs, blobs.open_blob(store.other) as other:
        assert other.read(len(WANTED)) == SECRET * 4


def test_rescue_of_blobs_of_which_nothing_can_be_read_gives_no_hint_to_copy_one(
    store: Damaged,
) -> None:
    store.erase("snapshot", "extents", "other", "other extents")
    done = run("rescue", store.path)
    assert done.status == 1
    assert "to copy one out" not in done.text
    doubt = f"reads the lost blob {store.snapshot:#x}: what can be read of that is likely"
    assert doubt in done.text


def test_undo_restores_every_byte_after_the_new_blob_was_written(store: Damaged) -> None:
    store.erase("snapshot", "other", "other extents")
    before = store.path.read_bytes()
    store.repair()
    assert store.path.read_bytes() != before
    assert run("undo", store.path, f"{store.path}.undo-1").status == 0
    assert store.path.read_bytes() == before


def test_without_a_free_metadata_page_the_clusters_are_left_out_and_the_repair_says_so(
    store: Damaged,
) -> None:
    store.erase("snapshot", "other", "other extents")
    store.repair()
    with Blobstore.open(store.path) as blobs:
        (kept,) = [
            each.id for each in blobs.iter_blobs() if (each.name or "").startswith("unowned")
        ]
        start = blobs.info.md_start
        while blobs.info.free_md_pages:
            blobs.create_blob(0).close()
    store.pages["kept"] = start + kept - (1 << 32)
    store.erase("kept")
    before = store.path.read_bytes()
    done = store.repair()
    (line,) = [line for line in done.text.splitlines() if "of no blob" in line]
    assert "8 clusters of no blob: free now, as there is no metadata page" in line
    assert run("undo", store.path, f"{store.path}.undo-2").status == 0
    assert store.path.read_bytes() == before


def test_in_a_volume_store_the_new_blob_is_a_volume_with_a_name_and_a_uuid(tmp_path: Path) -> None:
    path = tmp_path / "volumes.img"
    with VolumeStore.create(path, name="pool", size="8MiB", cluster_size=CLUSTER) as store:
        volume = store.create_volume("web", CLUSTER, thin=True)
        volume.write(SECRET)
        volume.sync_md()
        at = 4096 * (store.info.md_start + volume.info.extent_pages[0])
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"X")
    assert run("check", path, "--repair", "all").status == 1
    with VolumeStore.open(path, read_only=True) as store:
        (info,) = [info for info in store if info.name.startswith("unowned clusters")]
        assert info.uuid is not None
        assert store[info.uuid].read(CLUSTER) == SECRET
