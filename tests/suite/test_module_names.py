"""A module's name says what it is: no other has the same."""

from collections import defaultdict
from pathlib import Path
from typing import Final

import blobstore

PACKAGE: Final = Path(blobstore.__file__).parent
ENTRIES: Final = {"__init__", "__main__"}
COMMANDS: Final = PACKAGE / "cli" / "commands"
"""A command is named as what it does, and so may the module be that does it."""


def test_no_two_modules_share_a_name() -> None:
    places = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.stem not in ENTRIES and path.parent != COMMANDS:
            places[path.stem].append(str(path.relative_to(PACKAGE)))
    assert places
    assert [those for those in places.values() if len(those) > 1] == []
