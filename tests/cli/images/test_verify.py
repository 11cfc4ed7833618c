"""--verify: what was written is read again, and what differs is an error."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from blobstore import Blob
from blobstore.cli import copying
from blobstore.cli.progress import Advance
from blobstore.cli.rescuing import Content
from tests.cli.conftest import CLUSTER, Image
from tests.cli.runner import run_here
from tests.cli.schema import VERIFIED_EXPORT, VERIFIED_IMPORT, conforms


def test_the_hash_is_that_of_the_file(image: Image, tmp_path: Path) -> None:
    file, out = tmp_path / "in", tmp_path / "out"
    file.write_bytes(b"content" * 20_000)
    expected = hashlib.sha256(file.read_bytes()).hexdigest()
    for more in (("--thin",), ("beta", "--yes")):
        done = run_here("import", image.path, file, *more, "--verify", "--json").json
        assert conforms(done, VERIFIED_IMPORT)
        assert done["sha256"] == expected
    export = ("export", image.path, "beta", out, "--length", "140000", "--verify", "--json")
    done = run_here(*export).json
    assert conforms(done, VERIFIED_EXPORT)
    assert done["sha256"] == expected == hashlib.sha256(out.read_bytes()).hexdigest()


def test_an_import_that_lost_a_byte_is_an_error_and_leaves_no_blob(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = copying.fill_new

    def wrong(blob: Blob, *arguments: Any, **options: Any) -> None:
        right(blob, *arguments, **options)
        blob.write(b"!", 70_000)

    monkeypatch.setattr("blobstore.cli.importing.fill_new", wrong)
    (tmp_path / "in").write_bytes(b"x" * 2 * CLUSTER)
    done = run_here("import", image.path, tmp_path / "in", "--verify", "--json")
    assert (done.status, done.error["errno"]) == (1, "EIO")
    assert "expected that of" in done.error["message"]
    assert len(run_here("list", image.path, "--json").json["blobs"]) == 2


def test_an_export_that_lost_a_byte_is_an_error(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = copying.copy_out

    def wrong(content: Content, target: int, length: int, *, advance: Advance) -> None:
        right(content, target, length, advance=advance)
        os.pwrite(target, b"!", 10)

    monkeypatch.setattr("blobstore.cli.commands.export.copy_out", wrong)
    done = run_here("export", image.path, "alpha", tmp_path / "out", "--verify", "--json")
    assert (done.status, done.error["errno"]) == (1, "EIO")
    assert f"expected that of blob {image.thick:#x}" in done.error["message"]
