"""The tests of one image follow each other, so that it is unpacked once."""

from pathlib import Path
from typing import Final

import pytest

HERE: Final = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = [at for at, item in enumerate(items) if HERE in item.path.parents]
    ordered = sorted((items[at] for at in places), key=_image_of)
    for at, item in zip(places, ordered, strict=True):
        items[at] = item


def _image_of(item: pytest.Item) -> str:
    """Return the name of the image that a test is about; nothing for a test without one."""
    callspec = getattr(item, "callspec", None)  # none where a test has no parameters
    name = "" if callspec is None else callspec.params.get("name", "")
    return name if isinstance(name, str) else ""
