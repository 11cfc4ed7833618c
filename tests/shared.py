"""Where the files several checkouts share are: reference images, their dumps, traces.

They are too large for the repository. The directory `shared` lies next to the
checkout; BLOBSTORE_SHARED names another.
"""

import os
from pathlib import Path
from typing import Final

import pytest

CHECKOUT: Final = Path(__file__).resolve().parents[1]


def shared(name: str) -> Path:
    """Return the path of a shared file or directory, such as `golden`.

    A missing one skips the test on a developer's machine and fails it where CI
    is set: an environment that checks changes must not pass for want of files.
    Works in a test, in a fixture and while a module is collected.
    """
    directory = Path(os.environ.get("BLOBSTORE_SHARED") or CHECKOUT.parent / "shared")
    path = directory / name
    if path.exists():
        return path
    message = f"{path}: not found; BLOBSTORE_SHARED names the directory, or it is ../shared"
    if os.environ.get("CI"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message, allow_module_level=True)
