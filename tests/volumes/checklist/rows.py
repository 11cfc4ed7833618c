"""The original's 60 unit tests of volumes, and where each is: a test of that name, or a reason.

`python -m tests.volumes.checklist` counts them. 37 are of the volume layer, and shown with
`VolumeStore`; 23 are of the device layer, and shown through the RPC server.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.shared import shared

_ROW: Final = re.compile(r"^\| \d+ \| (\w+) \| [BIP] \|", re.MULTILINE)

INTERNAL: Final = {
    "lvol_get_xattr": "a callback that hands out attributes: here they are a mapping",
    "lvol_esnap_load_esnaps": "a callback of the C library: sources are registered by the caller",
    "ut_vbdev_lvol_get_io_channel": "there are no channels",
    "ut_lvol_read_write": "which vector calls of the C framework are used",
    "ut_vbdev_lvol_submit_request": "how the C framework gives a request its buffer",
}


def rows() -> list[str]:
    """Return the names of the original's tests, in order."""
    text = shared("reference/volume-checklist.md").read_text().split("\n# Part B.")[1]
    return [name.removeprefix("test_") for name in _ROW.findall(text)]


def names_of_tests() -> Iterator[str]:
    """Return the names of all tests in this directory, without `test_`."""
    for path in Path(__file__).parent.glob("test_*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield node.name.removeprefix("test_")


def count() -> tuple[int, int, list[str]]:
    """Return how many rows are tested, how many are internal, and those that are missing."""
    names, found = rows(), set(names_of_tests())
    missing = [name for name in names if name not in found and name not in INTERNAL]
    return len(found & set(names)), len(INTERNAL), missing
