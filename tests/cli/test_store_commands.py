"""init, info, dump, recover."""

import os
from pathlib import Path

import pytest

from blobstore import Blobstore, dump, iter_dump
from tests.cli.conftest import CLUSTER, Image
from tests.cli.runner import run, run_here, unchanged

MIB = 1024 * 1024

INFO_FIELDS = {
    "version": int, "clean": bool, "size": int, "cluster_size": int, "page_size": int,
    "io_unit_size": int, "total_clusters": int, "data_clusters": int, "free_clusters": int,
    "md_start": int, "md_len": int, "bstype": str, "super_blob": type(None), "blobs": int,
    "max_growable_size": int,
    "free_md_pages": int,
}  # fmt: skip


def test_init_makes_the_file_and_describes_the_store(tmp_path: Path) -> None:
    path = tmp_path / "new.img"
    made = run("init", path, "--size", "8M", "--json").json
    assert {name: type(value) for name, value in made.items()} == INFO_FIELDS
    assert (path.stat().st_size, made["size"], made["cluster_size"]) == (8 * MIB, 8 * MIB, MIB)
    assert (made["clean"], made["blobs"], made["bstype"]) == (True, 0, "00" * 16)
    assert run("info", path, "--json").json == made


@pytest.mark.parametrize("kind", [(), ("--volumes", "vms")], ids=["blobs", "volumes"])
def test_init_of_either_kind_takes_the_number_of_metadata_pages(
    tmp_path: Path, kind: tuple[str, ...]
) -> None:
    made = run_here("init", tmp_path / "a", "--size", "8M", "--md-pages", "100", *kind, "--json")
    in_use = 1 if kind else 0  # the super blob's
    assert (made.json["md_len"], made.json["free_md_pages"]) == (100, 100 - in_use)
    shown = run_here("info", tmp_path / "a").text
    assert f"100 pages from page {made.json['md_start']}, {100 - in_use} free" in shown


def test_a_store_without_free_metadata_pages_says_so_and_what_helps(tmp_path: Path) -> None:
    path = tmp_path / "full.img"
    assert run_here("init", path, "--size", "8M", "--md-pages", "1").status == 0
    assert run_here("create", path, "--size", "1M", "--thin").status == 0
    assert run_here("info", path, "--json").json["free_md_pages"] == 0
    full = run_here("create", path, "--size", "1M", "--thin")
    assert full.status == 1
    assert "metadata pages: 1 needed, 0 free; delete blobs or snapshots" in full.stderr
    assert "`init --md-pages`" in full.stderr


@pytest.mark.parametrize(
    "size", ["8388608", "8192K", "8192KiB", "8M", "8MiB", "8 MiB"], ids=lambda size: str(size)
)
def test_init_takes_a_size_in_every_form(tmp_path: Path, size: str) -> None:
    assert run("init", tmp_path / "a", "--size", size, "--json").json["size"] == 8 * MIB


@pytest.mark.parametrize(
    ("size", "expected"),
    [("2G", 2 << 30), ("1GiB", 1 << 30), ("1T", 1 << 40), ("2TiB", 2 << 40)],
    ids=lambda value: str(value),
)
def test_large_sizes_have_units_too(tmp_path: Path, size: str, expected: int) -> None:
    path = tmp_path / "large"
    made = run("init", path, "--size", size, "--cluster-size", "64M", "--md-pages", "16", "--json")
    assert (made.json["size"], path.stat().st_size) == (expected, expected)


def test_a_store_made_with_a_larger_max_size_grows_to_it(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    made = run("init", path, "--size", "64M", "--cluster-size", "4K", "--max-size", "1G", "--json")
    assert made.json["max_growable_size"] >= 1 << 30
    assert run_here("info", path, "--json").json["max_growable_size"] >= 1 << 30
    os.truncate(path, 1 << 30)
    assert run_here("grow", path, "--json").json["size"] == 1 << 30


def test_a_store_that_cannot_grow_says_its_limit_and_what_would_have_helped(
    tmp_path: Path,
) -> None:
    path = tmp_path / "disk.img"
    made = run_here("init", path, "--size", "64M", "--cluster-size", "4K", "--md-pages", "64")
    assert "growable to" in made.text
    os.truncate(path, 8 << 30)
    message = run_here("grow", path, "--json").error["message"]
    assert "max_size" in message or "--max-size" in message


def test_init_lays_the_store_out_as_told(tmp_path: Path) -> None:
    made = run(
        "init", tmp_path / "new.img", "--size", "16MiB", "--cluster-size", "128K",
        "--block-size", "4096", "--md-pages", "100", "--md-page-size", "8K", "--type", "vols",
        "--clear", "zeroes", "--atomic-write", "4096", "--json",
    ).json  # fmt: skip
    assert made["cluster_size"] == 128 * 1024
    assert (made["io_unit_size"], made["page_size"], made["md_len"]) == (4096, 8192, 100)
    assert made["bstype"] == b"vols".ljust(16, b"\0").hex()


@pytest.mark.parametrize("atomic_write", ["512", "4096"])
def test_the_atomic_write_size_decides_how_roots_are_written(
    empty: Path, atomic_write: str
) -> None:
    run("create", empty, "--size", "64K", "--atomic-write", atomic_write)
    start = run("info", empty, "--json").json["md_start"] * 4096
    head_of_sector_layout = b"\x00\xeb\x0d\x00\x00"
    found = empty.read_bytes()[start + 16 : start + 21]
    assert (found == head_of_sector_layout) == (atomic_write == "512")


def test_init_without_clear_leaves_the_data_area_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "used"
    path.write_bytes(bytes(4 * MIB) + b"\xdd" * (4 * MIB))
    assert run("init", path, "--cluster-size", "64K", "--clear", "none").status == 0
    assert path.read_bytes()[4 * MIB :] == b"\xdd" * (4 * MIB)


def test_init_on_a_device_that_holds_something_is_refused(image: Image) -> None:
    same = unchanged(image.path)
    done = run("init", image.path, "--json")
    assert (done.status, done.error["errno"]) == (1, "EEXIST")
    assert "--yes" in done.error["message"]
    assert same()


def test_init_with_yes_overwrites(image: Image) -> None:
    assert run("init", image.path, "--cluster-size", "64K", "--yes", "--json").json["blobs"] == 0


def test_init_without_a_size_does_not_make_a_file(tmp_path: Path) -> None:
    assert run("init", tmp_path / "new", "--json").error["errno"] == "ENOENT"
    assert not (tmp_path / "new").exists()


def test_init_that_cannot_work_leaves_no_file(tmp_path: Path) -> None:
    done = run("init", tmp_path / "new", "--size", "1M", "--cluster-size", "5000", "--json")
    assert done.error["errno"] == "EINVAL"
    assert not (tmp_path / "new").exists()


def test_info_says_what_the_store_is(image: Image) -> None:
    found = run("info", image.path, "--json").json
    assert {name: type(value) for name, value in found.items()} == INFO_FIELDS
    assert found["bstype"] == b"test".ljust(16, b"\0").hex()
    assert (found["blobs"], found["total_clusters"]) == (2, 128)
    assert found["data_clusters"] - found["free_clusters"] == 4 + 1


def test_info_as_text_has_a_line_for_each_fact(image: Image) -> None:
    lines = dict(line.split(maxsplit=1) for line in run("info", image.path).text.splitlines())
    assert (lines["version"], lines["clean"], lines["size"]) == ("3", "yes", "8 MiB")
    assert (lines["type"], lines["blobs"]) == ("test", "2")


def test_info_names_the_super_blob(image: Image) -> None:
    with Blobstore.open(image.path) as store:
        store.set_super_blob(image.thin)
    assert run("info", image.path, "--json").json["super_blob"] == image.thin


def test_info_says_that_a_store_was_not_unloaded(dirty_image: Image) -> None:
    found = run("info", dirty_image.path, "--json").json
    assert (found["clean"], found["blobs"]) == (False, 3)


def test_recover_leaves_a_dirty_store_clean(dirty_image: Image) -> None:
    done = run("recover", dirty_image.path, "--json").json
    assert (done.pop("recovered"), done["clean"], done["blobs"]) == (True, True, 3)
    assert run("info", dirty_image.path, "--json").json == done


def test_recover_changes_nothing_in_a_clean_store(image: Image) -> None:
    same = unchanged(image.path)
    done = run("recover", image.path)
    assert done.text.startswith("was clean already\n")
    assert same()


def test_recover_says_so_in_text(dirty_image: Image) -> None:
    assert run("recover", dirty_image.path).text.startswith("recovered\nversion")


@pytest.fixture
def quarantined(dirty_image: Image) -> Image:
    """A dirty store in which one root is broken, but was committed."""
    with (
        Blobstore.open(dirty_image.path, read_only=True) as store,
        store.open_blob(dirty_image.thick) as blob,
    ):
        page = store.info.md_start + blob.info.metadata_pages[0]
    with dirty_image.path.open("r+b") as file:
        file.seek(page * 4096 + 4000)
        file.write(b"\xff\xff\xff\xff")
    return dirty_image


def test_recover_refuses_a_store_with_a_quarantined_blob(quarantined: Image) -> None:
    same = unchanged(quarantined.path)
    done = run("recover", quarantined.path, "--json")
    assert (done.status, done.error["errno"]) == (1, "EILSEQ")
    assert f"{quarantined.thick:#x}" in done.error["message"]
    assert same()


def test_a_quarantined_blob_is_listed_with_its_error(quarantined: Image) -> None:
    entries = {
        entry["id"]: entry for entry in run("list", quarantined.path, "--json").json["blobs"]
    }
    broken = entries.pop(quarantined.thick)
    assert sorted(broken) == ["error", "id"]
    assert sorted(broken["error"]) == ["errno", "message"]
    assert len(entries) == 2
    assert f"{quarantined.thick:#x}  -" in run("list", quarantined.path).text


def test_force_opens_a_store_with_a_quarantined_blob_writable(quarantined: Image) -> None:
    create = ("create", quarantined.path, "--size", str(CLUSTER), "--json")
    assert run(*create).error["errno"] == "EPERM"
    assert "id" in run(*create, "--force").json


def test_dump_prints_the_metadata_whatever_state_it_is_in(dirty_image: Image) -> None:
    text = run("dump", dirty_image.path).text
    assert text.startswith('Signature: "SPDKBLOB" (OK)\n')
    assert text.count("Metadata Page Index") > 3


def test_dump_as_json_has_the_same_text(image: Image) -> None:
    assert run("dump", image.path, "--json").json == {"dump": run("dump", image.path).text}


def test_a_dump_comes_in_pieces_that_are_the_same_text(image: Image) -> None:
    pieces = list(iter_dump(image.path))
    assert len(pieces) > 1
    assert b"".join(pieces) == dump(image.path) == run("dump", image.path).stdout
    with Blobstore.open(image.path, read_only=True) as store:
        assert list(store.iter_dump()) == pieces
        assert store.dump() == b"".join(pieces)


def test_info_shows_sizes_as_a_person_says_them_and_json_exactly(tmp_path: Path) -> None:
    path = tmp_path / "new.img"
    run("init", path, "--size", "62500KiB", "--cluster-size", "1028KiB", "--max-size", "1TiB")
    shown = run("info", path).text
    assert "\nsize          61.0 MiB\n" in shown
    assert "\ncluster size  1028 KiB\n" in shown
    assert run("info", path, "--json").json["size"] == 62500 * 1024
