"""zero, unmap, rename, super, grow, destroy."""

import os
from pathlib import Path

import pytest

from blobstore import Blobstore
from tests.cli.conftest import CLUSTER, Image
from tests.cli.runner import run, run_here, run_on_terminal, unchanged
from tests.cli.schema import RANGE, STORE, conforms


@pytest.mark.parametrize(("command", "allocated"), [("zero", 1), ("unmap", 0)])
def test_a_range_reads_as_zeroes_and_the_rest_stays(
    command: str, allocated: int, image: Image
) -> None:
    where = ("--offset", "64K", "--length", "128K")
    done = run(command, image.path, str(image.thin), *where, "--json")
    assert conforms(done.json, RANGE)
    assert done.json == {"id": image.thin, "offset": CLUSTER, "length": 2 * CLUSTER}
    # the thin blob holds its third cluster
    where = ("--offset", "128K", "--length", "64K")
    assert run_here(command, image.path, str(image.thin), *where).stdout == b""
    shown = run_here("show", image.path, str(image.thin), "--json").json
    assert shown["allocated_clusters"] == allocated * 2
    assert not any(run_here("read", image.path, str(image.thin)).stdout)
    done = run_here(command, image.path, str(image.thick), "--offset", "3", "--length", "1")
    assert done.status == 0
    assert run_here("read", image.path, str(image.thick), "--length", "5").stdout == b"thi\0k"


@pytest.mark.parametrize("command", ["zero", "unmap"])
def test_a_range_beyond_the_end_is_refused(command: str, image: Image) -> None:
    same = unchanged(image.path)
    done = run_here(command, image.path, str(image.thin), "--length", "2M", "--json")
    assert done.error["errno"] == "EINVAL"
    assert same()


def test_rename_gives_another_name(image: Image) -> None:
    done = run("rename", image.path, str(image.thin), "gamma", "--json")
    assert done.json == {"id": image.thin, "name": "gamma"}
    shown = run_here("show", image.path, str(image.thin), "--json").json
    assert shown["xattrs"] == {"name": b"gamma".hex()}


def test_the_super_blob_is_set_got_and_cleared(image: Image) -> None:
    same = unchanged(image.path)
    assert run("super", "get", image.path, "--json").error["errno"] == "ENOENT"
    assert same()
    assert run("super", "set", image.path, str(image.thin), "--json").json == {"id": image.thin}
    same = unchanged(image.path)
    assert run_here("super", "get", image.path).text == f"{image.thin:#x}\n"
    assert run_here("super", "get", image.path, "--json").json == {"id": image.thin}
    assert same()
    assert run("super", "clear", image.path, "--json").json == {"id": None}
    assert run_here("info", image.path, "--json").json["super_blob"] is None


def test_a_blob_that_is_not_there_does_not_become_the_super_blob(image: Image) -> None:
    same = unchanged(image.path)
    assert run_here("super", "set", image.path, "7", "--json").error["errno"] == "ENOENT"
    assert same()


def test_grow_uses_a_file_that_has_grown(image: Image) -> None:
    os.truncate(image.path, 16 << 20)
    done = run("grow", image.path, "--json")
    assert conforms(done.json, STORE)
    assert (done.json["size"], done.json["total_clusters"]) == (16 << 20, 256)
    assert "16 MiB" in run_here("grow", image.path).text


def test_grow_of_a_store_that_is_not_clean_is_refused(dirty_image: Image) -> None:
    os.truncate(dirty_image.path, 16 << 20)
    same = unchanged(dirty_image.path)
    assert run_here("grow", dirty_image.path, "--json").error["errno"] == "EIO"
    assert same()


def test_destroy_asks_and_then_there_is_no_store(image: Image) -> None:
    same = unchanged(image.path)
    assert run_here("destroy", image.path, "--json").error["errno"] == "EPERM"
    assert run_on_terminal("destroy", image.path, typed="\n").status == 1
    assert same()
    assert run("destroy", image.path, "--yes", "--json").json == {"destroyed": True}
    assert run_here("info", image.path, "--json").error["errno"] == "EILSEQ"


def test_direct_io_gives_the_same(empty: Path) -> None:
    done = run("create", empty, "--size", "1M", "--direct", "--json")
    made = str(done.json["id"])
    assert run_here("write", empty, made, "--direct", "--offset", "3", stdin=b"abc").status == 0
    assert run_here("read", empty, made, "--direct", "--length", "8").stdout == b"\0\0\0abc\0\0"
    assert run_here("dump", empty, "--direct").stdout == run_here("dump", empty).stdout
    assert run_here("grow", empty, "--direct").status == 0
    os.truncate(empty, 16 << 20)
    assert run_here("init", empty, "--direct", "--yes").status == 0
    with Blobstore.open(empty, read_only=True) as store:
        assert store.blob_ids() == []


def test_unmap_says_what_of_a_clone_still_reads_its_parent(image: Image) -> None:
    run("write", image.path, str(image.thin), "--offset", str(CLUSTER), stdin=b"x" * 2 * CLUSTER)
    run("snapshot", image.path, str(image.thin))
    run("write", image.path, str(image.thin), "--offset", str(CLUSTER), stdin=b"y" * CLUSTER)
    part = ("--offset", str(CLUSTER), "--length", str(2 * CLUSTER))
    done = run("unmap", image.path, str(image.thin), *part)
    assert (done.status, done.stdout) == (0, b"")
    assert done.stderr == (
        f"blob {image.thin:#x}: {CLUSTER} of {2 * CLUSTER} bytes still read its parent; "
        "`zero` makes them zeroes\n"
    )
    assert run("unmap", image.path, str(image.thin), *part, "--json").json["inherited"] == CLUSTER
    read = run("read", image.path, str(image.thin), *part).stdout
    assert read == bytes(CLUSTER) + b"x" * CLUSTER
    own = ("--offset", str(CLUSTER), "--length", str(CLUSTER))
    assert run("unmap", image.path, str(image.thin), *own).stderr == ""
