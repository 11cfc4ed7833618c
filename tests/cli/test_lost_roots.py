"""A crashed store without a root page: `check` warns, `rescue` and `export` give the blob."""

import shutil
from pathlib import Path

import pytest

from blobstore import Blobstore
from tests.cli.runner import run

CLUSTER = 65536
PAGE = 4096
MAIL = 1 << 32


@pytest.fixture
def erased(tmp_path: Path) -> Path:
    """A store that crashed, and the first half of whose first root page is zero since then."""
    path, copy = tmp_path / "disk.img", tmp_path / "crashed.img"
    with Blobstore.create(path, size="8MiB", cluster_size=CLUSTER) as store:
        store.create_blob(2 * CLUSTER, name="mail").write(b"mail" * (CLUSTER // 2))
        store.create_blob(CLUSTER, name="web")
        start = store.info.md_start
    with Blobstore.open(path) as store:
        store.create_blob(CLUSTER, name="new")
        shutil.copy(path, copy)
    image = bytearray(copy.read_bytes())
    image[start * PAGE : start * PAGE + PAGE // 2] = bytes(PAGE // 2)
    copy.write_bytes(image)
    return copy


def test_check_says_what_to_do_before_recover(erased: Path) -> None:
    result = run("check", erased)
    assert result.status == 0
    note, last = result.text.splitlines()[-2:]
    assert note.startswith(f"note 22: page 0: blob {MAIL:#x}: deleted, or lost: ")
    assert "run `rescue` and `export` before anything changes the store" in note
    assert last.endswith(
        "not unloaded: read the note about a lost blob before `blobstore recover` leaves it clean"
    )


def test_rescue_lists_the_blob_and_export_gives_its_content(erased: Path, tmp_path: Path) -> None:
    found = run("rescue", erased, "--json").json["blobs"]
    (blob,) = [each for each in found if each["id"] == MAIL]
    assert (blob["size"], blob["readable"]) == (2 * CLUSTER, 2 * CLUSTER)
    assert {22, 24} <= {each["invariant"] for each in blob["findings"]}
    out = tmp_path / "mail.out"
    run("export", erased, f"{MAIL:#x}", out, "--zero-fill")
    assert out.read_bytes() == b"mail" * (CLUSTER // 2)
