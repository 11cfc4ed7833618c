"""Commands that destroy ask; where there is no one to ask they refuse without --yes."""

from pathlib import Path

import pytest

from blobstore import Blobstore
from tests.cli.conftest import CLUSTER, Image
from tests.cli.runner import run, run_here, run_on_terminal


def content(path: Path, blob_id: int) -> bytes:
    with Blobstore.open(path, read_only=True) as store, store.open_blob(blob_id) as blob:
        return blob.read(blob.size)


def test_a_resize_to_less_than_the_blob_holds_is_refused_without_yes(image: Image) -> None:
    before = content(image.path, image.thin)
    done = run("resize", image.path, "beta", "128K", "--json")
    assert (done.status, done.error["errno"]) == (1, "EPERM")
    assert "lose what it holds beyond 128 KiB" in done.error["message"]
    assert content(image.path, image.thin) == before


@pytest.mark.parametrize("consent", ["--yes", "--shrink"])
def test_a_resize_that_loses_content_is_done_with_consent(image: Image, consent: str) -> None:
    assert run_here("resize", image.path, "beta", "128K", consent, "--json").json["clusters"] == 2


def test_a_resize_asks_before_it_cuts_off_what_only_the_snapshot_holds(image: Image) -> None:
    run_here("snapshot", image.path, "beta")
    done = run_here("resize", image.path, "beta", "128K", "--json")
    assert (done.status, done.error["errno"]) == (1, "EPERM")
    assert "lose what it holds beyond 128 KiB" in done.error["message"]
    assert run_here("resize", image.path, "beta", "128K", "--yes").status == 0


def test_a_resize_asks_on_a_terminal(image: Image) -> None:
    done = run_on_terminal("resize", image.path, "beta", "0", typed="n\n")
    assert done.status == 1
    assert "lose what it holds" in done.stderr
    assert run_on_terminal("resize", image.path, "beta", "0", typed="y\n").status == 0
    assert content(image.path, image.thin) == b""


def test_a_resize_that_loses_nothing_asks_nothing(image: Image) -> None:
    # the thin blob holds its third cluster
    for size in ("192K", "193K", "2M"):
        assert run_here("resize", image.path, "beta", size).status == 0


def test_an_import_over_a_blob_with_content_is_refused_without_yes(
    image: Image, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(b"new")
    before = content(image.path, image.thick)
    done = run("import", image.path, tmp_path / "in", "alpha", "--json")
    assert (done.status, done.error["errno"]) == (1, "EPERM")
    assert "replace what it holds" in done.error["message"]
    assert content(image.path, image.thick) == before
    assert run_here("import", image.path, tmp_path / "in", "alpha", "--yes").status == 0
    assert content(image.path, image.thick).startswith(b"new\0")


def test_an_import_into_a_blob_of_zeroes_asks_nothing(image: Image, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"new")
    for options in ([], ["--thin"]):
        run_here("create", image.path, "empty", "--size", str(CLUSTER), *options)
        done = run_here("import", image.path, tmp_path / "in", "empty")
        assert (done.status, done.stderr) == (0, "")
        run_here("delete", image.path, "empty", "--yes")


def test_what_a_clone_shows_is_content(image: Image, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"new")
    run_here("snapshot", image.path, "alpha", "monday")
    run_here("clone", image.path, "monday", "try-it")
    assert run_here("import", image.path, tmp_path / "in", "try-it").status == 1
