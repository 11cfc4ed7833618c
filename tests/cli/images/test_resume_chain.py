"""The import of a chain that was interrupted goes on after the levels that are complete."""

import os
import shutil
from pathlib import Path

import pytest

from tests.cli.images.test_chain import change, is_equal, make_image, new_store
from tests.cli.runner import run
from tests.cli.test_import_resume import bytes_written, killed

MIB = 1 << 20

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("qemu-img") is None or shutil.which("qemu-io") is None,
        reason="qemu-img and qemu-io are not installed",
    ),
]


@pytest.fixture
def chain(tmp_path: Path) -> list[Path]:
    """Three images, each with 2 writes of its own."""
    directory = tmp_path / "images"
    directory.mkdir()
    paths = [directory / f"{name}.qcow2" for name in ("base", "monday", "web")]
    for number, path in enumerate(paths):
        make_image(path, 8 * MIB, backing=paths[number - 1].name if number else None)
        change(path, f"write -P {number + 1} {number}M 1M", f"write -P {number + 5} 5M 64k")
    return paths


@pytest.mark.parametrize("volumes", [False, True], ids=["blobs", "volumes"])
@pytest.mark.parametrize(("number", "levels_done"), [(2, 0), (4, 1), (6, 2)])
def test_a_killed_import_of_a_chain_keeps_its_levels_and_every_level_is_equal(
    tmp_path: Path,
    chain: list[Path],
    volumes: bool,
    number: int,
    levels_done: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, out = tmp_path / "store.img", tmp_path / "out"
    new_store(store, volumes=volumes)
    killed(number, "import", store, chain[-1], "--chain")
    listed = [each for each in run("list", store, "--json").json["blobs"] if each["size"]]
    assert [each["snapshot"] for each in listed].count(True) == levels_done
    assert [each.get("unfinished") for each in listed].count("import") == bool(listed)
    lengths = bytes_written(monkeypatch)
    done = run("import", store, chain[-1], "--chain", "--resume", "--verify", "--json").json
    assert len(done["snapshots"]) == 2
    assert len(lengths) == 2 * (3 - levels_done)
    out.mkdir()
    assert run("export", store, "web", out / "web.qcow2", "--chain").status == 0
    for path in chain:
        assert is_equal(path, out / path.name)


def test_a_chain_is_not_gone_on_with_when_one_of_its_images_has_changed(
    tmp_path: Path, chain: list[Path]
) -> None:
    store = tmp_path / "store.img"
    new_store(store, volumes=False)
    killed(6, "import", store, chain[-1], "--chain")
    os.utime(chain[0], ns=(1, 1))
    done = run("import", store, chain[-1], "--chain", "--resume", "--json")
    assert "has changed" in done.error["message"]
    deleted = run("delete", store, "--unfinished", "--yes", "--json").json["deleted"]
    assert len(deleted) == 3
    assert run("list", store, "--json").json["blobs"] == []
