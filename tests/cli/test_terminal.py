"""What happens on a terminal: questions, progress, colours."""

import re
from pathlib import Path

import pytest

from blobstore import Blobstore
from tests.cli.conftest import Image
from tests.cli.runner import run, run_on_terminal, unchanged

pytestmark = pytest.mark.slow

COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9]")


def test_delete_asks_and_takes_yes_for_an_answer(image: Image) -> None:
    done = run_on_terminal("delete", image.path, str(image.thick), typed="y\n")
    assert done.status == 0
    assert f"blob {image.thick:#x}: delete it? [y/N]" in done.stderr
    with Blobstore.open(image.path, read_only=True) as store:
        assert store.blob_ids() == [image.thin]


def test_delete_asks_and_takes_anything_else_for_no(image: Image) -> None:
    same = unchanged(image.path)
    done = run_on_terminal("delete", image.path, str(image.thick), typed="\n")
    assert (done.status, done.stdout) == (1, b"")
    assert "aborted" in done.stderr
    assert same()


def test_init_asks_before_it_overwrites(image: Image) -> None:
    same = unchanged(image.path)
    assert run_on_terminal("init", image.path, typed="n\n").status == 1
    assert same()
    init = ("init", image.path, "--cluster-size", "64K")
    assert run_on_terminal(*init, typed="y\n").status == 0
    assert run("list", image.path, "--json").json == {"blobs": []}


def test_export_asks_before_it_overwrites(image: Image, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"mine")
    export = ("export", image.path, str(image.thick), tmp_path / "out")
    assert run_on_terminal(*export, typed="n\n").status == 1
    assert (tmp_path / "out").read_bytes() == b"mine"
    assert run_on_terminal(*export, typed="y\n").status == 0
    assert (tmp_path / "out").read_bytes().startswith(b"thick")


def test_progress_is_shown_on_a_terminal_and_the_result_is_not_mixed_with_it(
    empty: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(b"x" * 5_000_000)
    shown = run_on_terminal("import", empty, tmp_path / "in", environment={"NO_COLOR": ""})
    assert re.fullmatch(rb"0x[0-9a-f]+\n", shown.stdout)
    assert "import" in shown.stderr
    assert COLOUR.search(shown.stderr)


def test_no_color_means_no_colours(image: Image, tmp_path: Path) -> None:
    export = ("export", image.path, str(image.thin), tmp_path / "out")
    shown = run_on_terminal(*export, environment={"NO_COLOR": "1"})
    assert "export" in shown.stderr
    assert not COLOUR.search(shown.stderr)


@pytest.mark.parametrize("action", ["import", "export"])
def test_progress_has_a_rate_and_counts_no_holes(empty: Path, tmp_path: Path, action: str) -> None:
    """3 of 64 MiB are data: they are all there is to do."""
    with (tmp_path / "in").open("wb") as file:
        file.write(b"x" * (3 << 20))
        file.truncate(64 << 20)
    arguments: tuple[str | Path, ...] = ("import", empty, tmp_path / "in", "--thin")
    if action == "export":
        assert run(*arguments, "--name", "disk").status == 0
        arguments = ("export", empty, "disk", tmp_path / "out")
    shown = run_on_terminal(*arguments).stderr
    assert "3.0/3.0 MiB" in shown
    assert re.search(r"\d [kMG]?B/s", shown)
    assert re.search(r"\d:\d\d:\d\d", shown)


def test_not_on_a_terminal_there_is_no_progress(image: Image, tmp_path: Path) -> None:
    assert run("export", image.path, str(image.thin), tmp_path / "out").stderr == ""
