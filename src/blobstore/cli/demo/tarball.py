"""What the demo stores by default: a tar of Python's own standard library."""

import os
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from blobstore.units import MIB

_LEFT_OUT: Final = frozenset(("site-packages", "dist-packages", "test", "tests", "__pycache__"))
_BUILD_FILES: Final = "config-"  # a static library and what it was made of
_SIZE_MAX: Final = 64 * MIB


def make_source(path: Path) -> None:
    """Write the tar, a few tens of MiB."""
    root = Path(sysconfig.get_path("stdlib"))
    total = 0
    with tarfile.open(path, "w") as archive:
        for file in _files_below(root):
            total += file.stat().st_size
            if total > _SIZE_MAX:
                return
            archive.add(file, arcname=file.relative_to(root), recursive=False)


def _files_below(root: Path) -> Iterator[Path]:
    for directory, names, files in os.walk(root):
        names[:] = sorted(
            name for name in names if name not in _LEFT_OUT and not name.startswith(_BUILD_FILES)
        )
        for name in sorted(files):
            path = Path(directory, name)
            if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK):
                yield path
