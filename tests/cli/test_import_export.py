"""import and export: raw files, sparse both ways, and what they refuse."""

import os
import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore import Blob, Blobstore
from blobstore.cli.content import data_runs
from tests.cli.conftest import CLUSTER, Image
from tests.cli.runner import run, unchanged

MIB = 1024 * 1024
HOLE = 2 * MIB


def sparse_file(path: Path) -> bytes:
    """Make a file with data, a hole, written zeroes, data, and a hole at its end."""
    data = random.Random(7).randbytes(100_000)
    with path.open("wb") as file:
        file.write(data)
        file.seek(HOLE)
        file.write(bytes(CLUSTER * 4))
        file.write(data)
        file.truncate(4 * MIB + 5)
    return path.read_bytes()


def disk_usage(path: Path) -> int:
    return path.stat().st_blocks * 512


def content(path: Path, blob_id: int) -> bytes:
    with Blobstore.open(path, read_only=True) as store, store.open_blob(blob_id) as blob:
        return blob.read(blob.size)


def test_a_sparse_file_goes_into_a_thin_blob_and_out_again_with_its_holes(
    empty: Path, tmp_path: Path
) -> None:
    expected = sparse_file(tmp_path / "in")
    blob_id = run("import", empty, tmp_path / "in", "--thin", "--name", "disk", "--json").json["id"]
    shown = run("show", empty, str(blob_id), "--json").json
    assert (shown["thin"], shown["clusters"], shown["allocated_clusters"]) == (True, 65, 4)
    assert shown["xattrs"] == {"name": b"disk".hex()}
    done = run("export", empty, str(blob_id), tmp_path / "out", "--length", str(4 * MIB + 5))
    assert (done.status, done.stdout, done.stderr) == (0, b"", "")
    assert (tmp_path / "out").read_bytes() == expected
    assert disk_usage(tmp_path / "out") <= disk_usage(tmp_path / "in") - 4 * CLUSTER + 4096


def test_a_thick_blob_is_exported_with_holes_for_its_zeroes(empty: Path, tmp_path: Path) -> None:
    expected = sparse_file(tmp_path / "in")
    blob_id = run("import", empty, tmp_path / "in").text.strip()
    assert run("show", empty, blob_id, "--json").json["allocated_clusters"] == 65
    done = run("export", empty, blob_id, tmp_path / "out", "--json").json
    assert done == {"id": int(blob_id, 16), "length": 65 * CLUSTER}
    assert (tmp_path / "out").read_bytes() == expected.ljust(65 * CLUSTER, b"\0")
    assert disk_usage(tmp_path / "out") < MIB


def test_an_empty_file_gives_an_empty_blob(empty: Path, tmp_path: Path) -> None:
    (tmp_path / "in").touch()
    blob_id = run("import", empty, tmp_path / "in").text.strip()
    assert run("export", empty, blob_id, tmp_path / "out").status == 0
    assert (tmp_path / "out").stat().st_size == 0


@pytest.mark.parametrize("thin", [False, True], ids=["thick", "thin"])
def test_import_into_a_blob_replaces_all_it_held(image: Image, tmp_path: Path, thin: bool) -> None:
    blob_id = image.thin if thin else image.thick
    with Blobstore.open(image.path) as store, store.open_blob(blob_id) as blob:
        blob.write(b"\xee" * blob.size)
    with (tmp_path / "in").open("wb") as file:
        file.seek(70_000)
        file.write(b"new")
    assert run("import", image.path, tmp_path / "in", hex(blob_id), "--yes", "--json").json == {
        "id": blob_id
    }
    found = content(image.path, blob_id)
    assert found == (bytes(70_000) + b"new").ljust(len(found), b"\0")
    shown = run("show", image.path, str(blob_id), "--json").json
    assert shown["allocated_clusters"] == (1 if thin else 4)


def test_import_into_a_blob_that_is_too_small_is_refused(image: Image, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"x" * (4 * CLUSTER + 1))
    before = content(image.path, image.thick)
    done = run("import", image.path, tmp_path / "in", str(image.thick), "--json")
    assert done.error["errno"] == "EINVAL"
    assert content(image.path, image.thick) == before


def test_import_into_a_blob_takes_no_options_of_a_new_one(image: Image) -> None:
    assert run("import", image.path, "/dev/null", str(image.thick), "--thin").status == 2


@pytest.mark.parametrize("thin", [[], ["--thin"]], ids=["thick", "thin"])
def test_an_import_that_does_not_fit_leaves_no_blob(
    empty: Path, tmp_path: Path, thin: list[str]
) -> None:
    (tmp_path / "in").write_bytes(b"x" * (9 * MIB))
    assert run("import", empty, tmp_path / "in", *thin, "--json").error["errno"] == "ENOSPC"
    assert run("list", empty, "--json").json == {"blobs": []}


def test_a_thin_import_that_does_not_fit_is_refused_before_the_first_byte(
    empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = run("info", empty, "--json").json["free_clusters"]
    file = tmp_path / "in"
    with file.open("wb") as target:
        for cluster in range(free + 1):
            target.seek(2 * cluster * CLUSTER)
            target.write(b"x" * 5000)
    wrote = []
    write = Blob.write

    def noting(blob: Blob, data: bytes, offset: int = 0) -> int:
        wrote.append(offset)
        return write(blob, data, offset)

    monkeypatch.setattr(Blob, "write", noting)
    done = run("import", empty, file, "--thin", "--json")
    assert done.error == {
        "errno": "ENOSPC",
        "message": f"{empty}: clusters: more than {free} needed for {file}, {free} free",
    }
    assert wrote == []
    assert run("list", empty, "--json").json == {"blobs": []}


def test_zeroes_in_a_file_do_not_make_an_import_too_large(empty: Path, tmp_path: Path) -> None:
    file = tmp_path / "in"
    file.write_bytes(b"x" * MIB + bytes(20 * MIB) + b"y" * MIB)  # no hole, and more than is free
    assert run("import", empty, file, "--thin", "--verify").status == 0


def test_import_of_what_is_no_file_is_refused(empty: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        assert run("import", empty, path, "--json").error["errno"] == "EINVAL"
    assert run("import", empty, tmp_path / "nothing", "--json").error["errno"] == "ENOENT"


def test_a_store_is_not_imported_into_itself(image: Image) -> None:
    done = run("import", image.path, image.path, str(image.thin), "--json")
    assert done.error["errno"] == "EBUSY"


def test_export_does_not_overwrite_without_yes(image: Image, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"mine")
    done = run("export", image.path, str(image.thick), tmp_path / "out", "--json")
    assert (done.status, done.error["errno"]) == (1, "EEXIST")
    assert (tmp_path / "out").read_bytes() == b"mine"


def test_export_overwrites_with_yes_and_leaves_nothing_of_the_old(
    image: Image, tmp_path: Path
) -> None:
    (tmp_path / "out").write_bytes(b"\xee" * MIB)
    arguments = (str(image.thick), tmp_path / "out", "--length", "100000", "--yes")
    assert run("export", image.path, *arguments).status == 0
    assert (tmp_path / "out").read_bytes() == content(image.path, image.thick)[:100000]


@pytest.mark.parametrize("yes", [[], ["--yes"]], ids=["not told", "told to overwrite"])
@pytest.mark.parametrize("dangling", [False, True], ids=["to a file", "to nothing"])
def test_export_never_follows_a_symlink(
    image: Image, tmp_path: Path, yes: list[str], dangling: bool
) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    if not dangling:
        target.write_bytes(b"mine")
    done = run("export", image.path, str(image.thick), link, *yes, "--json")
    assert (done.status, done.error["errno"]) == (1, "ELOOP")
    assert link.is_symlink()
    assert target.exists() != dangling
    assert dangling or target.read_bytes() == b"mine"


def test_a_store_is_not_exported_over_itself(image: Image) -> None:
    same = unchanged(image.path)
    done = run("export", image.path, str(image.thin), image.path, "--yes", "--json")
    assert done.error["errno"] == "EBUSY"
    assert same()


def test_export_to_what_is_no_file_is_refused(image: Image, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for target, errno in (
        (Path("/dev/null"), "EINVAL"),
        (tmp_path / "pipe", "EINVAL"),
        (tmp_path, "EISDIR"),
    ):
        done = run("export", image.path, str(image.thin), target, "--yes", "--json")
        assert done.error["errno"] == errno


def test_export_of_more_than_the_blob_is_refused_and_leaves_no_file(
    image: Image, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run("export", image.path, str(image.thick), out, "--length", "1M", "--json")
    assert done.error["errno"] == "EINVAL"
    assert not out.exists()


@given(st.lists(st.sampled_from([b"\0" * 4096, b"\0" * 4095, b"\1", b"\0" * 100]), max_size=12))
def test_only_aligned_blocks_of_zeroes_are_left_out(pieces: list[bytes]) -> None:
    data = bytearray(b"".join(pieces))
    blocks = [at for at in range(0, len(data), 4096) if any(data[at : at + 4096])]
    found = list(data_runs(data))
    assert [at for start, end in found for at in range(start, end, 4096)] == blocks
    assert all(end % 4096 == 0 or end == len(data) for _start, end in found)
    assert all(one[1] < other[0] for one, other in pairwise(found))


def test_what_lies_between_blocks_of_zeroes_is_found() -> None:
    block = 4096
    data = bytearray(10 * block + 100)
    assert list(data_runs(bytes(data))) == []
    data[block + 5] = data[2 * block] = data[-1] = 1
    assert list(data_runs(bytes(data))) == [(block, 3 * block), (10 * block, len(data))]
