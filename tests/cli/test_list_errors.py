"""Names and errors of blobs that cannot be opened, and commands on what is no volume."""

import re
import shutil
from pathlib import Path

import pytest

from blobstore import BlobId, Blobstore, VolumeStore
from blobstore.backup.unfinished import IMPORT_STATE
from tests.cli.runner import run_here, unchanged

CLUSTER = 64 * 1024


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """A volume store with a volume, its snapshot, and a clone of the snapshot."""
    path = tmp_path / "clean.img"
    with VolumeStore.create(path, name="vms", size="8MiB", cluster_size=CLUSTER) as vms:
        mail = vms.create_volume("mail", CLUSTER, thin=True)
        mail.snapshot("mail@1").clone("test")
        shutil.copy(path, tmp_path / "crashed.img")
    return path


@pytest.fixture
def crashed(clean: Path) -> Path:
    """The same store as a crash leaves it."""
    return clean.with_name("crashed.img")


def break_root(path: Path, name: str) -> BlobId:
    with VolumeStore.open(path, read_only=True) as vms, vms.open_volume(name) as volume:
        page = vms.info.md_start + volume.info.metadata_pages[0]
        blob_id = volume.id
    with path.open("r+b") as file:
        file.seek(page * 4096 + 4000)
        file.write(b"\xff\xff\xff\xff")
    return blob_id


@pytest.mark.parametrize("options", [(), ("--sha256",)], ids=["", "sha256"])
@pytest.mark.parametrize("state", ["clean", "crashed"])
def test_volumes_above_an_unreadable_snapshot_keep_their_names_and_uuids_in_the_list(
    clean: Path, state: str, options: tuple[str, ...]
) -> None:
    path = clean.with_name(f"{state}.img")
    with VolumeStore.open(path, read_only=True) as vms:
        uuids = {info.name: str(info.uuid) for info in vms}
    break_root(path, "mail@1")
    lines = run_here("list", path, *options).text.splitlines()
    for name in ("mail", "test"):
        (row,) = (line.split() for line in lines if name in line.split())
        assert row[1:] == ["-", "-", "-", "error", "-", name, uuids[name]]
        assert any(line.startswith(f"{row[0]}  error: ") for line in lines)


def test_the_map_names_the_blobs_that_cannot_be_opened(clean: Path, tmp_path: Path) -> None:
    break_root(clean, "mail@1")
    lines = run_here("map", clean).text.splitlines()
    failed = [line.split()[2] for line in lines if re.search("error: .*page 2: crc 0x", line)]
    assert failed == ["mail", "-", "test"]
    page = tmp_path / "map.html"
    assert run_here("map", clean, "--html", page).status == 0
    assert "<li>mail " in page.read_text()


@pytest.mark.parametrize("state", ["clean", "crashed"])
def test_the_error_of_a_blob_whose_ancestor_cannot_be_read_names_the_ancestor(
    clean: Path, state: str
) -> None:
    path = clean.with_name(f"{state}.img")
    blob_id = break_root(path, "mail@1")
    lines = run_here("list", path).text.splitlines()
    errors = [line.partition("  error: ") for line in lines if "  error: " in line]
    assert len(errors) == 3
    for found, _error, message in errors:
        named = "" if found == f"{blob_id:#x}" else f"its ancestor blob {blob_id:#x}: "
        assert message.startswith(f"{named}page 2: crc 0x")
    shown = run_here("show", path, "test")
    assert f": its ancestor blob {blob_id:#x}: page 2: crc 0x" in shown.stderr


def test_one_damage_has_one_wording_in_a_clean_store_and_after_a_crash(
    clean: Path, crashed: Path
) -> None:
    for path in (clean, crashed):
        blob_id = break_root(path, "mail@1")
        text = run_here("list", path).text
        assert f"{blob_id:#x}  error: page 2: crc 0x" in text


@pytest.mark.parametrize(
    "words",
    [("delete", "{}", "--yes"), ("rename", "{}", "new"), ("snapshot", "{}", "new")],
    ids=lambda words: words[0],
)
def test_the_super_blob_of_a_volume_store_is_called_the_store_itself(
    clean: Path, words: tuple[str, ...]
) -> None:
    with VolumeStore.open(clean, read_only=True) as vms:
        super_blob = vms.info.super_blob
    assert super_blob is not None
    same = unchanged(clean)
    command, *rest = (word.format(hex(super_blob)) for word in words)
    done = run_here(command, clean, *rest)
    assert done.status == 1
    assert f"blob {super_blob:#x}: is the store itself, no volume" in done.stderr
    assert same()


def test_a_snapshot_without_clones_that_was_received_or_lost_them_is_listed_as_a_snapshot(
    clean: Path, tmp_path: Path
) -> None:
    vault = tmp_path / "vault.img"
    run_here("snapshot", clean, "mail", "mail@2")
    run_here("send", clean, "mail@2", "--to", tmp_path / "stream")
    run_here("init", vault, "--volumes", "vault", "--size", "8M", "--cluster-size", "64K")
    run_here("receive", vault, "--from", tmp_path / "stream")
    run_here("delete", clean, "mail", "--yes")
    for path in (vault, clean):
        (row,) = (line for line in run_here("list", path).text.splitlines() if "mail@2" in line)
        assert "snapshot" in row
        assert "read-only" not in row
        (entry,) = (
            blob
            for blob in run_here("list", path, "--json").json["blobs"]
            if blob.get("name") == "mail@2"
        )
        assert (entry["snapshot"], entry["read_only"]) == (False, True)  # as SPDK sees it


def test_the_store_itself_is_no_disk_in_the_table_of_used_space(clean: Path) -> None:
    names = [line.split()[-1] for line in run_here("du", clean).text.splitlines()]
    assert names == ["NAME", "mail", "mail@1", "test"]


def test_extent_pages_that_are_not_there_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "large.img"
    with VolumeStore.create(path, name="vms", size="8MiB", cluster_size=CLUSTER) as vms:
        vms.create_volume("disk", 10 * 512 * CLUSTER, thin=True).write(b"x", 512 * CLUSTER)
    shown = run_here("show", path, "disk").text
    assert re.search(r"^extent pages +1 x none \d+ 8 x none$", shown, re.MULTILINE)
    assert "\nallocated       1 cluster\n" in shown


def test_rescue_says_which_blobs_are_not_complete_and_which_sizes_are_not_known(
    tmp_path: Path,
) -> None:
    path = tmp_path / "plain.img"
    with Blobstore.create(path, size="8MiB", cluster_size=CLUSTER, md_pages=32) as store:
        store.create_blob(CLUSTER, name="part", xattrs={IMPORT_STATE: b"-"})
        lost = store.create_blob(CLUSTER, thin=True)
        page = store.info.md_start + lost.info.metadata_pages[0]
    with path.open("r+b") as file:
        file.seek(page * 4096)
        file.write(b"\xa5" * 4096)
    lines = run_here("rescue", path).text.splitlines()
    (part,) = (line for line in lines if line.split()[1] == "part")
    unknown = next(line for line in lines if line.startswith(f"{lost.id:#x} "))
    assert unknown.split()[1:] == ["-", "0", "B"]
    assert f"{part.split()[0]}  not complete: its import was interrupted" in lines
