"""What the documents show passes a strict type checker."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.test_guides import script_of
from tests.shared import CHECKOUT

GUIDES = ("guide-python.md", "guide-asyncio.md")
CACHE = ".mypy_cache"
CHECKED = [CHECKOUT / "README.md", *(CHECKOUT / "docs" / name for name in GUIDES)]


@pytest.mark.parametrize("path", CHECKED, ids=lambda path: path.name)
def test_every_example_passes_mypy_strict(path: Path, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(script_of(path.read_text(encoding="utf-8")), encoding="utf-8")
    done = mypy(script)
    assert done.returncode == 0, done.stdout


def test_a_wrong_use_does_not_pass(tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text("from blobstore import Blobstore\nBlobstore.open(5)\n", encoding="utf-8")
    done = mypy(script)
    assert done.returncode == 1
    assert 'incompatible type "int"' in done.stdout


def mypy(script: Path) -> subprocess.CompletedProcess[str]:
    """Check a script, strictly, with what `make types` has kept of the package in its cache."""
    options = [f"--config-file={CHECKOUT / 'pyproject.toml'}", f"--cache-dir={CHECKOUT / CACHE}"]
    return subprocess.run(
        [sys.executable, "-m", "mypy", *options, script.name],
        cwd=script.parent,
        capture_output=True,
        text=True,
        check=False,
    )
