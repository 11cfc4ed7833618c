"""BLOB by name: an id, or the name that one blob alone has."""

from pathlib import Path

import pytest

from blobstore import Blobstore
from tests.cli.conftest import CLUSTER, Image
from tests.cli.runner import run, run_here, unchanged


def names(path: Path) -> list[str]:
    with Blobstore.open(path, read_only=True) as store:
        return [store.open_blob(blob_id).xattrs["name"].decode() for blob_id in store.blob_ids()]


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "STORE", "beta"],
        ["read", "STORE", "beta", "--length", "1"],
        ["xattr", "list", "STORE", "beta"],
        ["xattr", "get", "STORE", "beta", "name"],
        ["xattr", "set", "STORE", "beta", "key", "value"],
        ["resize", "STORE", "beta", "1M"],
        ["zero", "STORE", "beta", "--length", "1"],
        ["unmap", "STORE", "beta", "--length", "1"],
        ["write", "STORE", "beta", "/dev/null"],
        ["import", "STORE", "SOURCE", "beta"],
        ["super", "set", "STORE", "beta"],
        ["rename", "STORE", "beta", "gamma"],
        ["export", "STORE", "beta", "OUT"],
        ["snapshot", "STORE", "beta", "monday"],
        ["inflate", "STORE", "beta"],
        ["set-read-only", "STORE", "beta"],
        ["delete", "STORE", "beta", "--yes"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_every_command_takes_a_name_where_it_takes_a_blob(
    image: Image, tmp_path: Path, arguments: list[str]
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"new")
    places = {"STORE": str(image.path), "OUT": str(tmp_path / "out"), "SOURCE": str(source)}
    words = [places.get(word, word) for word in arguments]
    by_nobodys_name = [word if word != "beta" else "omega" for word in words]
    failed = run_here(*by_nobodys_name, "--json")
    assert failed.error["errno"] == "ENOENT"
    assert "no blob is named 'omega'" in failed.error["message"]
    yes = ["--yes"] if arguments[0] == "import" else []
    assert run_here(*words, *yes).status == 0


def test_relations_take_names_on_both_sides(image: Image, tmp_path: Path) -> None:
    (tmp_path / "device").write_bytes(bytes(16 * CLUSTER))
    for words in (
        ("snapshot", "beta", "monday"),
        ("clone", "monday", "try-it"),
        ("decouple", "try-it"),
        ("set-parent", "try-it", "monday"),
        ("shallow-copy", "monday", str(tmp_path / "device")),
    ):
        done = run_here(words[0], image.path, *words[1:])
        assert (done.status, done.stderr) == (0, ""), words
    assert names(image.path) == ["alpha", "beta", "monday", "try-it"]


def test_a_name_that_several_blobs_have_is_refused_with_their_ids(image: Image) -> None:
    run_here("xattr", "set", image.path, "alpha", "name", "beta")
    same = unchanged(image.path)
    done = run("delete", image.path, "beta", "--yes", "--json")
    assert done.status == 1
    assert done.error["message"].endswith(
        f"2 blobs are named 'beta': {image.thick:#x}, {image.thin:#x}"
    )
    assert same()


def test_a_number_is_an_id_if_there_is_such_a_blob_and_a_name_otherwise(image: Image) -> None:
    run_here("rename", image.path, "alpha", str(image.thin))
    assert run_here("show", image.path, str(image.thin), "--json").json["id"] == image.thin
    run_here("rename", image.path, hex(image.thick), "2024")
    assert run_here("show", image.path, "2024", "--json").json["id"] == image.thick
    missing = run_here("show", image.path, "2025", "--json").error
    assert missing["message"].endswith("blob 0x7e9: no such blob")


def test_the_padding_of_a_name_is_no_part_of_it(image: Image) -> None:
    with Blobstore.open(image.path) as store, store.open_blob(image.thin) as blob:
        blob.set_xattr("name", b"padded".ljust(64, b"\0"))
    assert run_here("show", image.path, "padded", "--json").json["id"] == image.thin
    listed = run_here("list", image.path).text
    assert listed.splitlines()[2].split()[-1] == "padded"
    assert "padded  " in run_here("map", image.path).text


def test_a_blob_of_a_store_that_does_not_open_is_found_by_its_name(
    image: Image, tmp_path: Path
) -> None:
    whole = run_here("read", image.path, "beta").stdout
    with image.path.open("r+b") as file:
        file.write(bytes(4096))
    assert run_here("read", image.path, "beta").stdout == whole
    failed = run_here("read", image.path, "omega")
    assert (failed.status, failed.stdout) == (1, b"")


def test_a_shell_takes_names(image: Image) -> None:
    done = run_here("shell", image.path, stdin=b"snapshot beta monday\nshow monday\n")
    assert (done.status, done.stderr) == (0, "")
