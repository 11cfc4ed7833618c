"""A store that crashed, and then lost a root page: what damage cannot hide, and what is told."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from blobstore import BlobId, Blobstore, Finding, ReadOnlyError, Rescue, Severity, check, repair
from blobstore.format.geometry import blob_id_of
from blobstore.units import PageIndex

CLUSTER = 65536
PAGE = 4096
MAIL, WEB = blob_id_of(PageIndex(0)), blob_id_of(PageIndex(2))
MAIL_EXTENTS, WEB_EXTENTS = 1, 3
LOST = Finding(22, Severity.ERROR, "", MAIL, PageIndex(0))


@pytest.fixture(params=[512, 4096])
def atomic(request: pytest.FixtureRequest) -> int:
    """The device's atomic write size, which decides the layout of roots."""
    size: int = request.param
    return size


@pytest.fixture
def crashed(tmp_path: Path, atomic: int) -> Path:
    """A store with two blobs that were there at its last unload, copied while it was in use."""
    path, copy = tmp_path / "disk.img", tmp_path / "crashed.img"
    with Blobstore.create(
        path, size="8MiB", cluster_size=CLUSTER, md_pages=32, atomic_write_size=atomic
    ) as store:
        store.create_blob(2 * CLUSTER, name="mail").write(b"mail" * (CLUSTER // 2))
        store.create_blob(4 * CLUSTER, name="web", thin=True).write(b"web")
    with Blobstore.open(path, atomic_write_size=atomic) as store:
        web = store.open_blob(WEB)
        web.set_xattr("seen", b"yes")
        web.flush()
        shutil.copy(path, copy)
    return copy


def md_offset(path: Path) -> int:
    with Blobstore.open(path, read_only=True) as store:
        return store.info.md_start * PAGE


def overwrite(path: Path, page: int, change: Callable[[bytearray, int], None]) -> None:
    """Change the image; the function gets it, and where this metadata page begins."""
    image = bytearray(path.read_bytes())
    change(image, md_offset(path) + page * PAGE)
    path.write_bytes(image)


def put(image: bytearray, at: int, data: bytes | bytearray) -> None:
    image[at : at + len(data)] = data


def garbage(image: bytearray, at: int) -> None:
    put(image, at, random.Random(1).randbytes(PAGE))


def no_id(image: bytearray, at: int) -> None:
    put(image, at, bytes(8))


def another_sequence(image: bytearray, at: int) -> None:
    put(image, at + 8, b"\7")


def is_lost(path: Path) -> bool:
    """Tell whether both `check` and opening say that the blob in page 0 is lost."""
    found = any(
        (each.invariant, each.severity, each.blob) == (LOST.invariant, LOST.severity, LOST.blob)
        for each in check(path).findings
    )
    with Blobstore.open(path, read_only=True) as store:
        assert (MAIL in store.errors) == found
        assert store.blob_ids() == ([MAIL, WEB] if found else [WEB])
    if found:
        with Blobstore.open(path) as store, pytest.raises(ReadOnlyError):
            store.create_blob(CLUSTER)
    return found


@pytest.mark.parametrize("change", [garbage, no_id, another_sequence])
def test_a_root_that_no_power_failure_could_overwrite_like_this_is_lost_and_not_free(
    crashed: Path, change: Callable[[bytearray, int], None]
) -> None:
    overwrite(crashed, 0, change)
    assert is_lost(crashed)
    before = crashed.read_bytes()
    assert repair(crashed, "safe").repaired == ()
    assert crashed.read_bytes() == before
    with Rescue.open(crashed) as rescue:
        assert rescue.blob(MAIL).read(2 * CLUSTER) == b"mail" * (CLUSTER // 2)


@pytest.mark.parametrize("atomic", [512], indirect=True)
def test_a_root_in_the_sector_layout_is_never_taken_for_a_free_page_elsewhere(
    crashed: Path,
) -> None:
    overwrite(crashed, 0, lambda image, at: put(image, at, image[at + 2 * PAGE : at + 3 * PAGE]))
    assert is_lost(crashed)


def test_the_mask_of_the_last_unload_tells_that_a_blob_without_other_pages_is_lost(
    tmp_path: Path, atomic: int
) -> None:
    path, copy = tmp_path / "disk.img", tmp_path / "crashed.img"
    with Blobstore.create(
        path, size="8MiB", cluster_size=CLUSTER, md_pages=32, atomic_write_size=atomic
    ) as store:
        store.create_blob(0, name="empty")
        store.create_blob(0, name="changed")
    with Blobstore.open(path, atomic_write_size=atomic) as store:
        store.create_blob(0, name="new")
        shutil.copy(path, copy)
    before = copy.read_bytes()
    overwrite(copy, 0, garbage)
    with Blobstore.open(copy) as store:
        assert list(store.errors) == [MAIL]
    copy.write_bytes(before)
    overwrite(copy, 2, garbage)  # not in the mask, and no page has its id: nothing tells of it
    with Blobstore.open(copy) as store:
        assert not store.errors


def test_garbage_in_a_page_in_which_no_blob_was_changes_nothing(crashed: Path) -> None:
    overwrite(crashed, 20, garbage)
    with Blobstore.open(crashed) as store:
        assert not store.errors
        assert not store.read_only
        store.create_blob(CLUSTER)
    assert check(crashed).clean


def lost_first_sector(image: bytearray, at: int) -> None:
    put(image, at, bytes(512))


def lost_last_sector(image: bytearray, at: int) -> None:
    put(image, at + PAGE - 512, bytes(512))


def lost_half(image: bytearray, at: int) -> None:
    put(image, at, bytes(PAGE // 2))


def all_zero(image: bytearray, at: int) -> None:
    put(image, at, bytes(PAGE))


@pytest.mark.parametrize("change", [lost_first_sector, lost_last_sector, lost_half, all_zero])
def test_a_root_that_a_power_failure_could_have_erased_is_noted_and_rescued_by_its_pages(
    crashed: Path, change: Callable[[bytearray, int], None]
) -> None:
    overwrite(crashed, 0, change)
    assert not is_lost(crashed)
    report = check(crashed)
    assert report.clean
    (note,) = [each for each in report.findings if each.invariant == 22]
    assert (note.severity, note.blob, note.page) == (Severity.NOTE, MAIL, 0)
    assert "before anything changes the store" in note.message
    with Rescue.open(crashed) as rescue:
        assert [blob.id for blob in rescue.blobs()] == [MAIL, WEB]
        lost = rescue.blob(MAIL)
        assert note in lost.findings
        assert any(each.invariant == 24 and each.page == 1 for each in lost.findings)
        assert lost.read(2 * CLUSTER) == b"mail" * (CLUSTER // 2)


def test_a_blob_that_was_deleted_before_the_crash_is_not_called_lost(
    tmp_path: Path, atomic: int
) -> None:
    path, copy = tmp_path / "disk.img", tmp_path / "crashed.img"
    with Blobstore.create(
        path, size="8MiB", cluster_size=CLUSTER, md_pages=32, atomic_write_size=atomic
    ) as store:
        store.create_blob(CLUSTER, name="mail")
        store.create_blob(CLUSTER, name="web")
    with Blobstore.open(path, atomic_write_size=atomic) as store:
        store.delete_blob(MAIL)
        web = store.open_blob(WEB)
        for number in range(3):  # of which each brings the erasing of the root further
            web.set_xattr("seen", b"%d" % number)
            web.flush()
        shutil.copy(path, copy)
    assert [each for each in check(copy).findings if each.invariant == 22] == []
    with Rescue.open(copy) as rescue:
        assert [blob.id for blob in rescue.blobs()] == [WEB]


def test_a_lost_root_is_salvaged_by_name_with_the_clusters_that_its_pages_name(
    crashed: Path,
) -> None:
    overwrite(crashed, 0, garbage)
    assert repair(crashed, "all").after.clean
    with Blobstore.open(crashed) as store, store.open_blob(BlobId(MAIL)) as mail:
        assert mail.read(2 * CLUSTER, offset=0) == b"mail" * (CLUSTER // 2)
        assert mail.read_only
