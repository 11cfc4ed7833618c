"""create, list, show, resize, delete."""

import hashlib
from pathlib import Path

import pytest

from blobstore import Blobstore
from tests.cli.conftest import CLUSTER, Image
from tests.cli.runner import run, unchanged

SHORT_FIELDS = [
    "id", "clusters", "size", "allocated_clusters", "thin", "read_only", "snapshot", "clone",
    "parent", "clones", "external_snapshot", "extent_table", "clear_method", "xattrs",
]  # fmt: skip
LONG_FIELDS = [
    *SHORT_FIELDS, "extents", "metadata_pages", "extent_pages", "invalid_flags", "data_ro_flags",
    "md_ro_flags", "internal_xattrs",
]  # fmt: skip


def test_create_prints_the_id(empty: Path) -> None:
    done = run("create", empty, "--size", "1M")
    with Blobstore.open(empty, read_only=True) as store:
        assert done.text == "".join(f"{blob_id:#x}\n" for blob_id in store.blob_ids())


def test_create_makes_the_blob_as_told(empty: Path) -> None:
    blob_id = run(
        "create", empty, "vol", "--size", "100000", "--thin", "--extents", "runs",
        "--clear", "zeroes", "--xattr", "a=text", "--xattr", "b=hex:00ff", "--xattr", "c=x=y",
        "--json",
    ).json["id"]  # fmt: skip
    shown = run("show", empty, str(blob_id), "--json").json
    assert (shown["size"], shown["clusters"], shown["allocated_clusters"]) == (131072, 2, 0)
    assert (shown["thin"], shown["extent_table"], shown["clear_method"]) == (True, False, "zeroes")
    assert list(shown["xattrs"].items()) == [
        ("name", b"vol".hex()), ("a", b"text".hex()), ("b", "00ff"), ("c", b"x=y".hex()),
    ]  # fmt: skip


def test_create_is_thick_with_a_table_unless_told(empty: Path) -> None:
    blob_id = run("create", empty, "--size", "128K", "--json").json["id"]
    shown = run("show", empty, hex(blob_id), "--json").json
    assert (shown["thin"], shown["extent_table"], shown["clear_method"]) == (False, True, "default")
    assert (shown["allocated_clusters"], shown["xattrs"]) == (2, {})


@pytest.mark.parametrize("method", ["default", "none", "unmap", "zeroes"])
def test_create_takes_every_clear_method(empty: Path, method: str) -> None:
    blob_id = run("create", empty, "--size", "0", "--clear", method, "--json").json["id"]
    assert run("show", empty, str(blob_id), "--json").json["clear_method"] == method


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--xattr", "novalue"], "expected NAME=VALUE", id="no value"),
        pytest.param(["vol", "--xattr", "name=x"], "given twice", id="name twice"),
        pytest.param(["--xattr", "a=hex:0"], "hex digits", id="bad hex"),
    ],
)
def test_create_refuses_attributes_that_make_no_sense(
    empty: Path, arguments: list[str], message: str
) -> None:
    same = unchanged(empty)
    done = run("create", empty, "--size", "1M", *arguments, "--json")
    assert done.error["errno"] == "EINVAL"
    assert message in done.error["message"]
    assert same()


def test_create_without_room_is_refused(empty: Path) -> None:
    assert run("create", empty, "--size", "1G", "--json").error["errno"] == "ENOSPC"


def test_list_of_an_empty_store_is_empty(empty: Path) -> None:
    assert run("list", empty, "--json").json == {"blobs": []}
    assert run("list", empty).text.split() == [
        "ID", "SIZE", "CLUSTERS", "ALLOCATED", "KIND", "PARENT", "NAME",
    ]  # fmt: skip


def test_list_has_an_entry_for_each_blob_in_the_order_of_ids(image: Image) -> None:
    thick, thin = run("list", image.path, "--json").json["blobs"]
    assert (list(thick), list(thin)) == (SHORT_FIELDS, SHORT_FIELDS)
    assert (thick["id"], thin["id"]) == (image.thick, image.thin)
    assert (thick["thin"], thin["thin"]) == (False, True)
    assert (thin["clusters"], thin["allocated_clusters"]) == (16, 1)
    assert thin["xattrs"] == {"name": b"beta".hex()}
    assert (thin["parent"], thin["clones"], thin["external_snapshot"]) == (None, [], None)


def test_list_long_adds_where_everything_is(image: Image) -> None:
    _thick, thin = run("list", image.path, "--long", "--json").json["blobs"]
    assert list(thin) == LONG_FIELDS
    assert [count for _first, count in thin["extents"]] == [2, 1, 13]
    assert thin["extents"][0][0] == thin["extents"][2][0] == 0


def test_list_sha256_adds_the_hash_of_the_whole_content(image: Image) -> None:
    thick, thin = run("list", image.path, "--sha256", "--json").json["blobs"]
    assert list(thin) == [*SHORT_FIELDS, "sha256"]
    content = (b"thick" * 1000).ljust(4 * CLUSTER, b"\0")
    assert thick["sha256"] == hashlib.sha256(content).hexdigest()
    content = (bytes(2 * CLUSTER) + b"thin" * 1000).ljust(16 * CLUSTER, b"\0")
    assert thin["sha256"] == hashlib.sha256(content).hexdigest()


def test_list_as_text_is_a_table_and_more_when_asked(image: Image) -> None:
    _head, thick, thin, *_ = run("list", image.path).text.splitlines()
    assert thick.split() == [f"{image.thick:#x}", "256", "KiB", "4", "4", "thick", "-", "alpha"]
    assert thin.split() == [f"{image.thin:#x}", "1", "MiB", "16", "1", "thin", "-", "beta"]
    more = run("list", image.path, "--long", "--sha256").text
    assert more.count("extents ") == more.count("sha256 ") == 2
    assert "2 x hole, " in more


def test_list_shows_a_dirty_store_as_recovery_will_leave_it(dirty_image: Image) -> None:
    names = [
        blob["xattrs"]["name"] for blob in run("list", dirty_image.path, "--json").json["blobs"]
    ]
    assert names == [b"alpha".hex(), b"beta".hex(), b"gamma".hex()]


def test_show_is_one_entry_of_the_long_list(image: Image) -> None:
    entries = run("list", image.path, "--long", "--json").json["blobs"]
    assert run("show", image.path, str(image.thin), "--json").json == entries[1]
    assert run("show", image.path, hex(image.thick), "--json").json == entries[0]


def test_show_as_text_has_a_line_for_each_fact(image: Image) -> None:
    shown = run("show", image.path, hex(image.thin)).text
    assert f"id              {image.thin:#x}\n" in shown
    assert "size            1 MiB, 16 clusters\n" in shown
    assert "xattr name      beta\n" in shown


def test_show_of_a_blob_that_is_not_there_fails(image: Image) -> None:
    done = run("show", image.path, "7", "--json")
    assert (done.status, done.error["errno"]) == (1, "ENOENT")


def test_resize_rounds_up_to_clusters_and_lasts(image: Image) -> None:
    done = run("resize", image.path, str(image.thin), "1M", "--json").json
    assert done == {"id": image.thin, "size": 16 * CLUSTER, "clusters": 16}
    done = run("resize", image.path, hex(image.thin), str(2 * CLUSTER + 1), "--json").json
    assert (done["size"], done["clusters"]) == (3 * CLUSTER, 3)
    assert run("show", image.path, str(image.thin), "--json").json["clusters"] == 3
    assert run("resize", image.path, str(image.thin), "5M").stdout == b""
    assert run("show", image.path, str(image.thin), "--json").json["size"] == 5 << 20


def test_resize_beyond_the_store_is_refused(image: Image) -> None:
    done = run("resize", image.path, str(image.thick), "1G", "--json")
    assert (done.status, done.error["errno"]) == (1, "ENOSPC")


def test_delete_removes_the_blob(image: Image) -> None:
    assert run("delete", image.path, str(image.thick), "--yes", "--json").json == {
        "id": image.thick
    }
    assert [blob["id"] for blob in run("list", image.path, "--json").json["blobs"]] == [image.thin]


def test_delete_not_on_a_terminal_without_yes_is_refused(image: Image) -> None:
    same = unchanged(image.path)
    done = run("delete", image.path, str(image.thick), "--json", stdin=b"y\n")
    assert (done.status, done.error["errno"]) == (1, "EPERM")
    assert "--yes" in done.error["message"]
    assert same()


def test_delete_of_a_blob_that_is_not_there_fails(image: Image) -> None:
    assert run("delete", image.path, "7", "--yes", "--json").error["errno"] == "ENOENT"
