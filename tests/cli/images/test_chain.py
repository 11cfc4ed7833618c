"""A chain of qcow2 images becomes a chain of snapshots and comes out again, level for level."""

import json
import os
import random
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from blobstore import Blobstore, VolumeStore
from blobstore.cli.images.qcow2_header import BACKING_FORMAT
from tests.cli.runner import run, run_on_terminal, unchanged
from tests.cli.schema import (
    EXPORTED_CHAIN,
    IMPORTED_CHAIN,
    IMPORTED_CHAIN_OF_VOLUMES,
    conforms,
)

MIB = 1 << 20
CLUSTER = 64 * 1024

pytestmark = pytest.mark.skipif(
    shutil.which("qemu-img") is None or shutil.which("qemu-io") is None,
    reason="qemu-img and qemu-io are not installed",
)


def make_image(path: Path, size: int, *, backing: str | None = None, options: str = "") -> None:
    command = ["qemu-img", "create", "-q", "-f", "qcow2"]
    command += ["-b", backing, "-F", "qcow2"] if backing else []
    command += ["-o", options] if options else []
    subprocess.run([*command, path.name, str(size)], cwd=path.parent, check=True)


def change(path: Path, *commands: str) -> None:
    """Have qemu-io write to an image."""
    words = [word for command in commands for word in ("-c", command)]
    subprocess.run(["qemu-io", *words, path], check=True, capture_output=True)


def is_equal(one: Path, other: Path) -> bool:
    """Ask qemu-img whether two images read the same, with all that is below them."""
    command = ["qemu-img", "compare", "-q", "-f", "qcow2", "-F", "qcow2", str(one), str(other)]
    return subprocess.run(command, check=False).returncode == 0


def disk_size(path: Path) -> int:
    command = ["qemu-img", "info", "--output=json", str(path)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return int(found["virtual-size"])


@pytest.fixture
def chain(tmp_path: Path) -> list[Path]:
    """Five images: with data, holes, zeroes over data, other cluster sizes, grown and shrunk."""
    directory = tmp_path / "images"
    directory.mkdir()
    names = ["base", "monday", "tuesday", "wednesday", "web"]
    paths = [directory / f"{name}.qcow2" for name in names]
    make_image(paths[0], 8 * MIB)
    change(paths[0], "write -P 1 0 2M", "write -P 2 5M 300k", "write -P 3 8000k 100k")
    make_image(paths[1], 8 * MIB, backing="base.qcow2", options="cluster_size=4k")
    change(paths[1], "write -P 4 4k 4k", "write -z 1M 200k", "write -P 5 6M 1")
    make_image(paths[2], 12 * MIB + 512, backing="monday.qcow2", options="cluster_size=1M")
    change(paths[2], "write -P 6 9M 1M", "write -P 7 12M 512")
    make_image(paths[3], 6 * MIB + 1024, backing="tuesday.qcow2")
    change(paths[3], "write -P 0 64k 64k", "write -P 8 6M 1k")
    make_image(
        paths[4], 10 * MIB, backing="wednesday.qcow2", options="extended_l2=on,cluster_size=128k"
    )
    change(paths[4], "write -P 9 100k 3", "write -P 10 7M 4k", "discard 5M 128k")
    return paths


def new_store(path: Path, *, volumes: bool, cluster_size: int = CLUSTER) -> None:
    if volumes:
        VolumeStore.create(path, name="s", size="64MiB", cluster_size=cluster_size).close()
    else:
        Blobstore.create(path, size="64MiB", cluster_size=cluster_size).close()


@pytest.mark.slow
@pytest.mark.parametrize("cluster_size", [CLUSTER, 16 * 1024, MIB])
@pytest.mark.parametrize("volumes", [False, True], ids=["blobs", "volumes"])
def test_five_images_go_in_and_come_out_and_every_level_is_equal(
    tmp_path: Path, chain: list[Path], volumes: bool, cluster_size: int
) -> None:
    store, out = tmp_path / "store.img", tmp_path / "out"
    new_store(store, volumes=volumes, cluster_size=cluster_size)
    out.mkdir()
    done = run("import", store, chain[-1], "--chain", "--verify", "--json").json
    assert conforms(done, IMPORTED_CHAIN_OF_VOLUMES if volumes else IMPORTED_CHAIN)
    assert len(done["snapshots"]) == 4
    blobs = {blob["id"]: blob for blob in run("list", store, "--json").json["blobs"]}
    parents = [blobs[each["id"]]["parent"] for each in done["snapshots"]]
    assert [*parents, blobs[done["id"]]["parent"]] == [
        None, *(each["id"] for each in done["snapshots"]),
    ]  # fmt: skip
    exported = run("export", store, "web", out / "web.qcow2", "--chain", "--verify", "--json").json
    assert conforms(exported, EXPORTED_CHAIN)
    assert exported["files"] == [str(out / path.name) for path in chain]
    for path in chain:
        subprocess.run(["qemu-img", "check", "-q", out / path.name], check=True)
        assert is_equal(path, out / path.name), path.name
        assert disk_size(out / path.name) == -(-disk_size(path) // cluster_size) * cluster_size
    assert run("check", store).status == 0


@pytest.mark.slow
def test_what_came_out_goes_in_again_with_the_same_clusters(
    tmp_path: Path, chain: list[Path]
) -> None:
    found = []
    source = chain[-1]
    for number in range(2):
        store = tmp_path / f"{number}.img"
        new_store(store, volumes=False)
        assert run("import", store, source, "--chain").status == 0
        listed = run("list", store, "--sha256", "--json").json["blobs"]
        found.append([(blob["sha256"], blob["allocated_clusters"]) for blob in listed])
        source = tmp_path / str(number) / "web.qcow2"
        source.parent.mkdir()
        assert run("export", store, "web", source, "--chain").status == 0
    assert found[0] == found[1]


def test_only_what_differs_takes_clusters(tmp_path: Path) -> None:
    store, base, top = tmp_path / "store.img", tmp_path / "base.qcow2", tmp_path / "top.qcow2"
    new_store(store, volumes=False)
    make_image(base, 8 * MIB)
    change(base, "write -P 1 0 4M")
    make_image(top, 8 * MIB, backing="base.qcow2")
    change(top, "write -P 1 0 1M", "write -P 2 1M 64k", "write -z 6M 1M")
    done = run("import", store, top, "--chain", "--name", "vol", "--json").json
    shown = run("show", store, "vol", "--json").json
    assert (shown["id"], shown["allocated_clusters"]) == (done["id"], 1)
    (snapshot,) = done["snapshots"]
    assert run("show", store, str(snapshot["id"]), "--json").json["allocated_clusters"] == 64


@pytest.mark.slow
def test_a_base_that_is_raw_and_one_that_has_no_format_are_taken(tmp_path: Path) -> None:
    store, raw, top = tmp_path / "store.img", tmp_path / "base.raw", tmp_path / "top.qcow2"
    new_store(store, volumes=False)
    raw.write_bytes(random.Random(1).randbytes(100_000).ljust(MIB, b"\0"))
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(raw), "-F", "raw", str(top)]
    subprocess.run(create, check=True)
    assert run("import", store, top, "--chain", "--verify").status == 0
    make_image(tmp_path / "second.qcow2", MIB, backing="top.qcow2")
    second = tmp_path / "second.qcow2"
    image = second.read_bytes()
    format_of_backing, unknown = struct.pack(">I", BACKING_FORMAT), b"none"
    assert image.count(format_of_backing) == 1
    second.write_bytes(image.replace(format_of_backing, unknown))
    other = tmp_path / "other.img"
    new_store(other, volumes=False)
    done = run("import", other, second, "--chain", "--json").json
    assert run("read", other, str(done["id"]), "--length", "1M").stdout == raw.read_bytes()


def test_a_base_that_needs_another_file_is_refused(tmp_path: Path) -> None:
    """qemu-img would read zeroes where the other file has data."""
    store, top = tmp_path / "store.img", tmp_path / "top.qcow2"
    new_store(store, volumes=False)
    create = ["qemu-img", "create", "-q", "-f"]
    for words in (
        ["vmdk", "base.vmdk", "1M"],
        ["vmdk", "-b", "base.vmdk", "-F", "vmdk", "middle.vmdk"],
        ["qcow2", "-b", "middle.vmdk", "-F", "vmdk", "top.qcow2"],
    ):
        subprocess.run([*create, *words], check=True, cwd=tmp_path)
    done = run("import", store, top, "--chain", "--json")
    assert done.error["errno"] == "EINVAL"
    assert "middle.vmdk: needs another file" in done.error["message"]
    assert run("list", store, "--json").json == {"blobs": []}


def test_snapshots_inside_an_image_are_not_imported_and_a_warning_counts_them(
    tmp_path: Path,
) -> None:
    store, base, top = tmp_path / "store.img", tmp_path / "base.qcow2", tmp_path / "top.qcow2"
    new_store(store, volumes=False)
    make_image(base, MIB)
    for name in ("monday", "tuesday"):
        subprocess.run(["qemu-img", "snapshot", "-c", name, base], check=True)
    make_image(top, MIB, backing="base.qcow2")
    for file, options in ((base, ("--format", "qcow2", "--name", "alone")), (top, ("--chain",))):
        done = run("import", store, file, *options)
        assert done.status == 0
        assert f"warning: {base}: 2 internal snapshots are not imported; `qemu-img" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    other = tmp_path / "other.img"
    new_store(other, volumes=False)
    assert run("import", other, top, "--chain", "--json").json["dropped_snapshots"] == 2
    assert "dropped_snapshots" not in run("import", other, base, "--json", "--format", "raw").json


def test_an_image_that_needs_another_is_refused_and_the_error_names_the_option(
    tmp_path: Path, chain: list[Path]
) -> None:
    store = tmp_path / "store.img"
    new_store(store, volumes=False)
    done = run("import", store, chain[1], "--format", "qcow2", "--json")
    assert done.error == {
        "errno": "EINVAL",
        "message": f"{chain[1]}: needs another file, base.qcow2: --chain imports that one, and "
        "those that it needs, as snapshots",
    }


def test_an_image_elsewhere_is_opened_only_if_told_whatever_leads_there(tmp_path: Path) -> None:
    store, inside, outside = tmp_path / "store.img", tmp_path / "in", tmp_path / "out"
    new_store(store, volumes=False)
    inside.mkdir()
    outside.mkdir()
    make_image(outside / "secret.qcow2", MIB)
    (inside / "link.qcow2").symlink_to(outside / "secret.qcow2")
    for number, backing in enumerate(("../out/secret.qcow2", "link.qcow2")):
        top = inside / f"top{number}.qcow2"
        make_image(top, MIB, backing=backing)
        done = run("import", store, top, "--chain", "--json")
        assert done.error["errno"] == "EINVAL"
        assert f"--backing-dir {outside} allows that" in done.error["message"]
        assert run("import", store, top, "--chain", "--backing-dir", outside).status == 0


@pytest.mark.parametrize("name", ["nbd://host/x", "json:{}", "file:base.qcow2"])
def test_a_name_that_is_no_path_is_refused(tmp_path: Path, name: str) -> None:
    store, top = tmp_path / "store.img", tmp_path / "top.qcow2"
    new_store(store, volumes=False)
    make_image(tmp_path / "base.qcow2", MIB)
    make_image(top, MIB, backing="base.qcow2")
    command = ["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", name, str(top)]
    subprocess.run(command, check=True)
    done = run("import", store, top, "--chain", "--json")
    assert (done.status, done.error["errno"]) == (1, "EINVAL")
    assert f"needs {name}, expected the path of a file" in done.error["message"]


def test_images_that_need_each_other_are_refused(tmp_path: Path) -> None:
    store, one, two = tmp_path / "store.img", tmp_path / "one.qcow2", tmp_path / "two.qcow2"
    new_store(store, volumes=False)
    make_image(one, MIB)
    make_image(two, MIB, backing="one.qcow2")
    command = [
        "qemu-img",
        "rebase",
        "-u",
        "-f",
        "qcow2",
        "-F",
        "qcow2",
        "-b",
        "two.qcow2",
        str(one),
    ]
    subprocess.run(command, check=True)
    assert "its chain of backing files has a loop" in run("import", store, two, "--chain").stderr


def test_a_missing_image_and_one_that_is_cut_short_leave_no_blob(
    tmp_path: Path, chain: list[Path]
) -> None:
    store = tmp_path / "store.img"
    new_store(store, volumes=True)
    os.truncate(chain[3], chain[3].stat().st_size - 70_000)
    assert "cut short" in run("import", store, chain[-1], "--chain").stderr
    chain[0].unlink()
    done = run("import", store, chain[-1], "--chain", "--json")
    assert done.error["errno"] == "ENOENT"
    assert len(run("list", store, "--json").json["blobs"]) == 1  # the store's own
    assert run("info", store, "--json").json["clean"]


def test_a_name_that_a_volume_has_is_refused_before_anything_is_made(
    tmp_path: Path, chain: list[Path]
) -> None:
    store = tmp_path / "store.img"
    new_store(store, volumes=True)
    assert run("create", store, "monday", "--size", "1M").status == 0
    same = unchanged(store)
    done = run("import", store, chain[-1], "--chain", "--json")
    assert done.error["errno"] == "EEXIST"
    assert same()


@pytest.mark.parametrize("volumes", [False, True], ids=["blobs", "volumes"])
def test_a_second_image_over_the_same_base_is_imported_with_other_names(
    tmp_path: Path, volumes: bool
) -> None:
    store = tmp_path / "store.img"
    new_store(store, volumes=volumes)
    make_image(tmp_path / "base.qcow2", MIB)
    for name in ("web", "shop"):
        make_image(tmp_path / f"{name}.qcow2", MIB, backing="base.qcow2")
    assert run("import", store, tmp_path / "web.qcow2", "--chain").status == 0
    for file, way in (
        ("shop", "--prefix gives it another\n"), ("web", "--name gives the blob another\n"),
    ):  # fmt: skip
        prefix = ("--prefix", "new-") if file == "web" else ()
        done = run("import", store, tmp_path / f"{file}.qcow2", "--chain", *prefix)
        assert done.status == 1
        assert done.stderr.startswith(f"{store}: ")
        assert done.stderr.endswith(f"an image of the chain has this name: {way}")
    shop = tmp_path / "shop.qcow2"
    assert run("import", store, shop, "--chain", "--prefix", "shop-").status == 0
    names = [blob["xattrs"]["name"] for blob in run("list", store, "--json").json["blobs"]]
    found = {bytes.fromhex(name).rstrip(b"\0").decode() for name in names}
    assert found >= {"web", "base", "shop", "shop-base"}


def test_a_name_that_no_volume_can_have_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    store, image = tmp_path / "store.img", tmp_path / f"{'n' * 64}.qcow2"
    new_store(store, volumes=True)
    make_image(image, MIB)
    same = unchanged(store)
    done = run("import", store, image, "--chain", "--json")
    assert done.error["errno"] == "EINVAL"
    assert same()


def test_options_that_do_not_fit_each_other_are_usage_errors(tmp_path: Path) -> None:
    store = tmp_path / "store.img"
    new_store(store, volumes=False)
    for arguments in (
        ("import", store, "x", "blob", "--chain"),
        ("import", store, "x", "--chain", "--format", "raw"),
        ("import", store, "x", "--backing-dir", "y"),
        ("import", store, "x", "--prefix", "y"),
        ("export", store, "blob", "x", "--chain", "--length", "1"),
        ("export", store, "blob", "x", "--tree", "--zero-fill"),
        ("export", store, "blob", "x", "--chain", "--format", "raw"),
        ("export", store, "blob", "x", "--tree", "--format", "vmdk"),
    ):
        assert run(*arguments).status == 2


def test_a_tree_of_snapshots_and_clones_becomes_a_tree_of_images(
    tmp_path: Path, chain: list[Path]
) -> None:
    store, out, single = tmp_path / "store.img", tmp_path / "out", tmp_path / "single"
    new_store(store, volumes=True)
    out.mkdir()
    single.mkdir()
    assert run("import", store, chain[2], "--chain").status == 0
    for name, text in (("mail", b"mail"), ("db", b"db")):
        assert run("clone", store, "monday", name).status == 0
        assert run("write", store, name, stdin=text).status == 0
    assert run("snapshot", store, "db", "db@friday").status == 0
    done = run("export", store, "monday", out / "monday.qcow2", "--tree", "--verify", "--json").json
    assert conforms(done, EXPORTED_CHAIN)
    names = [Path(path).name for path in done["files"]]
    assert names[:2] == ["base.qcow2", "monday.qcow2"]
    assert sorted(names[2:]) == ["db.qcow2", "db@friday.qcow2", "mail.qcow2", "tuesday.qcow2"]
    assert names.index("db@friday.qcow2") < names.index("db.qcow2")
    for path in chain[:3]:
        assert is_equal(path, out / path.name)
    for name in ("mail", "db"):
        subprocess.run(["qemu-img", "check", "-q", out / f"{name}.qcow2"], check=True)
        assert run("export", store, name, single / name, "--format", "qcow2").status == 0
        assert is_equal(single / name, out / f"{name}.qcow2")


def test_an_export_never_replaces_a_file_unasked_and_makes_none_if_one_is_there(
    tmp_path: Path, chain: list[Path]
) -> None:
    store, out = tmp_path / "store.img", tmp_path / "out"
    new_store(store, volumes=False)
    out.mkdir()
    assert run("import", store, chain[1], "--chain").status == 0
    (out / "base.qcow2").write_bytes(b"mine")
    export = ("export", store, "monday", out / "top.qcow2", "--chain", "--json")
    assert run(*export).error["errno"] == "EEXIST"
    assert [path.name for path in out.iterdir()] == ["base.qcow2"]
    assert run(*export, "--yes").status == 0
    assert is_equal(chain[1], out / "top.qcow2")


@pytest.mark.slow
def test_names_that_cannot_be_names_of_files_become_others(tmp_path: Path) -> None:
    store, out = tmp_path / "store.img", tmp_path / "out"
    new_store(store, volumes=False)
    out.mkdir()
    with Blobstore.open(store) as opened:
        blob = opened.create_blob(MIB, thin=True)
        for number, name in enumerate(
            ("../a:b", ".hidden", "top", "", "x" * 300, "\udcff", "\udcfe")
        ):
            blob.write(bytes([number + 1]) * 1000, number * 1000)
            blob.snapshot(name or None).close()
        blob.set_xattr("name", b"top")
        blob_id = blob.id
    export = ("export", store, hex(blob_id), out / "top.qcow2", "--chain", "--verify", "--json")
    names = [Path(path).name for path in run(*export).json["files"]]
    assert names[:2] == ["_._a_b.qcow2", "_hidden.qcow2"]
    assert names[5] == "_.qcow2"
    assert names[6].endswith("-_.qcow2")
    assert len({*names}) == 8
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    subprocess.run(["qemu-img", "check", "-q", out / "top.qcow2"], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        pytest.param("[bold]", "import [bold]", id="looks like markup"),
        pytest.param("a\x1b]0;title\x07", r"import a\x1b]0;title\x07", id="moves the cursor"),
    ],
)
def test_the_progress_shows_the_name_of_an_image_as_it_is(
    tmp_path: Path, name: str, shown: str
) -> None:
    store, image = tmp_path / "store.img", tmp_path / f"{name}.qcow2"
    new_store(store, volumes=False)
    make_image(tmp_path / "image", MIB)
    (tmp_path / "image").rename(image)
    done = run_on_terminal("import", store, image, "--chain")
    assert done.status == 0, done.stderr
    assert shown in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", done.stderr)


def test_a_path_that_qemu_img_cannot_take_is_refused_and_the_error_says_why(
    tmp_path: Path,
) -> None:
    store, image = tmp_path / "store.img", tmp_path / "\udcff.qcow2"
    new_store(store, volumes=False)
    make_image(tmp_path / "image", MIB)
    (tmp_path / "image").rename(image)
    for option in (("--format", "qcow2"), ("--chain",)):
        error = run("import", store, image, *option, "--json").error
        assert error["errno"] == "EINVAL"
        assert error["message"].endswith(".qcow2: a path for qemu-img, expected UTF-8")
    assert run("list", store, "--json").json["blobs"] == []
