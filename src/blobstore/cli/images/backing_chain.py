"""A qcow2 image and the files below it: which each needs, and which of them we open.

An image names its backing file, and whoever wrote the image chose that name. So a name is
followed only to a file in the directory of the first image, below that directory, or in
a directory that the user names. Everything else is refused, links that lead out included.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from blobstore.cli.files import open_to_read
from blobstore.cli.images.formats import FORMATS, check_format, image_format
from blobstore.cli.images.qcow2_header import Header, read_header
from blobstore.errors import InvalidArgumentError

_LEVELS_MAX: Final = 256
_PROTOCOL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


@dataclass(frozen=True, slots=True)
class Level:
    """One image of a chain; `size` is its disk's in bytes, None for a base that does not say."""

    path: str
    image_format: str
    size: int | None = None

    @property
    def name(self) -> str:
        """The file's name without its extension, for what becomes of it."""
        stem, _extension = os.path.splitext(os.path.basename(self.path))
        return stem


def find_chain(path: str, directories: Sequence[str] = ()) -> list[Level]:
    """Return an image and what it needs, base first.

    Raises:
        InvalidArgumentError: It is no qcow2 image, or names what is not opened, or itself.
        OSError: A file is not there.
    """
    allowed = [os.path.realpath(os.path.dirname(os.path.abspath(path)))]
    allowed += map(os.path.realpath, directories)
    levels: list[Level] = []
    found: tuple[str, str | None] | None = (path, "qcow2")
    while found is not None:
        at, expected = found
        if len(levels) == _LEVELS_MAX or any(_is_same(at, level.path) for level in levels):
            problem = f"its chain of backing files has a loop, or more than {_LEVELS_MAX} images"
            raise InvalidArgumentError(f"{at}: {problem}")
        level, header = _read_level(at, expected)
        levels.insert(0, level)
        found = None
        if header is not None and header.backing is not None:
            found = _allowed(at, header.backing, allowed), header.backing_format
    return levels


def _read_level(path: str, expected: str | None) -> tuple[Level, Header | None]:
    with open_to_read(path) as descriptor:
        kind = expected or image_format(descriptor) or "raw"
        if kind not in FORMATS:
            raise InvalidArgumentError(f"{path}: format {kind!r}, expected one of {FORMATS}")
        check_format(descriptor, kind, path=path)
        if kind != "qcow2":
            return Level(path, kind), None
        header = read_header(descriptor, path=path)
        return Level(path, kind, header.disk_size), header


def _is_same(path: str, other: str) -> bool:
    return os.path.exists(path) and os.path.samefile(path, other)


def _allowed(image: str, name: str, directories: Sequence[str]) -> str:
    """Return the path of the backing file `name` of an image.

    Raises:
        InvalidArgumentError: It is none, or in no directory that may be looked into.
    """
    if _PROTOCOL.match(name):
        raise InvalidArgumentError(f"{image}: needs {name}, expected the path of a file")
    path = os.path.join(os.path.dirname(image), name)
    real = os.path.realpath(path)
    if not any(os.path.commonpath([real, directory]) == directory for directory in directories):
        raise InvalidArgumentError(
            f"{image}: needs {path}, which is not beside it: "
            f"--backing-dir {os.path.dirname(real)} allows that"
        )
    return path
