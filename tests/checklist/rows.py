"""The original's 100 unit tests, and where each of them is: a test of that name, or a reason.

`python -m tests.checklist` counts them. None of them runs on a device that
copies by itself, for no device here does: what the original tests in those two
configurations is what it tests in the others.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.shared import shared

_ROW: Final = re.compile(r"^\| \d+ \| (\w+) \|", re.MULTILINE)

NOT_APPLICABLE: Final = {
    "blob_rw_verify_iov_nomem": "requests take no memory that could be refused",
    "blob_esnap_thread_add_remove": "external snapshots have no channels: any thread reads",
}


def rows() -> list[str]:
    """Return the names of the original's tests, in order."""
    return _ROW.findall(shared("reference/feature-checklist.md").read_text())


def names_of_tests() -> Iterator[str]:
    """Return the names of all tests in this directory, without `test_`."""
    for path in Path(__file__).parent.glob("test_*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield node.name.removeprefix("test_")


def count() -> tuple[int, int, list[str]]:
    """Return how many rows are tested, how many are not applicable, and those that are missing."""
    names, found = rows(), set(names_of_tests())
    missing = [name for name in names if name not in found and name not in NOT_APPLICABLE]
    return len(found & set(names)), len(NOT_APPLICABLE), missing
