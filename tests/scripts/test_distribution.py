"""What is published: the wheel has all that the program reads, and nothing of the tests."""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.shared import CHECKOUT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build both; hatchling refuses classifiers that do not exist."""
    target = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(target)]
    subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True)
    return target


def test_the_wheel_has_every_file_of_the_package(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("blobstore/")}
    source = CHECKOUT / "src"
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "blobstore"],
        cwd=source, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    assert names == {name for name in tracked if (source / name).is_file()}
    assert {"blobstore/py.typed", "blobstore/cli/picture/page.js"} <= names


def test_the_wheel_says_what_it_is_and_where_it_begins(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        (entries,) = [name for name in archive.namelist() if name.endswith("/entry_points.txt")]
        text = archive.read(metadata).decode()
        points = archive.read(entries).decode()
    assert "Description-Content-Type: text/markdown" in text
    assert "License-Expression: BSD-3-Clause" in text
    assert re.search(r"^Provides-Extra: fsspec$", text, re.MULTILINE)
    assert "blobstore = blobstore.__main__:main" in points
    assert "[fsspec.specs]" in points


def test_the_sdist_has_tests_and_documents(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "CHANGELOG.md", "Makefile", "constraints.txt"} <= names
    assert {"docs/guide-images.md", "tests/cli/test_main.py", "scripts/man_pages.py"} <= names
    assert not any(name.startswith((".ci", ".venv", "dist")) for name in names)
