"""The guides: their examples run as they stand."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.shared import CHECKOUT

GUIDES: Final = sorted((CHECKOUT / "docs").glob("guide-*.md"))

_EXAMPLE: Final = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FENCE: Final = re.compile(r"^```python", re.MULTILINE)


def script_of(guide: str) -> str:
    """Return a guide's examples as one script, each at the line where it stands in the guide."""
    script = ""
    for example in _EXAMPLE.finditer(guide):
        line = guide.count("\n", 0, example.start(1))
        script += "\n" * (line - script.count("\n")) + example[1]
    return script


def test_an_example_keeps_its_line_number() -> None:
    guide = "text\n```python\nx = 1\n```\n```console\n$ ls\n```\n```python\nx += 1\n```\n"
    assert script_of(guide).split("\n") == ["", "", "x = 1", *[""] * 5, "x += 1", ""]


def test_there_are_guides() -> None:
    assert GUIDES


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.name)
def test_every_example_of_a_guide_is_found_and_they_run_in_an_empty_directory(
    path: Path, tmp_path: Path
) -> None:
    guide = path.read_text(encoding="utf-8")
    assert len(_EXAMPLE.findall(guide)) == len(_FENCE.findall(guide)) > 0
    script = tmp_path / path.name
    script.write_text(script_of(guide), encoding="utf-8")
    directory = tmp_path / "empty"
    directory.mkdir()
    command = [sys.executable, "-W", "error", str(script)]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
