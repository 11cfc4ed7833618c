"""What docs/guide-images.md shows happens as it stands there, line for line and in its order."""

import shutil
from pathlib import Path

import pytest

from tests.docs.console import run_page
from tests.shared import CHECKOUT


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("qemu-img") is None or shutil.which("qemu-io") is None,
    reason="qemu-img and qemu-io are not installed",
)
def test_the_commands_do_what_is_shown(tmp_path: Path) -> None:
    page = (CHECKOUT / "docs" / "guide-images.md").read_text(encoding="utf-8")
    assert run_page(page, tmp_path) > 20
