"""libfuse 3, by mfusepy: the way to the kernel, and the one call that mfusepy lacks.

mfusepy calls the C library by ctypes, so there is nothing to compile. Its table of callbacks has
`lseek`, but no method of its class `FUSE` is called for it: `Fuse` adds that method.
"""

import os
from importlib import import_module
from typing import Any, Final

from blobstore.errors import UnsupportedError

_NEEDS: Final = "files by FUSE need libfuse 3 and mfusepy (pip install mfusepy)"


def _load() -> Any:
    """Import mfusepy for libfuse 3; where both are installed, it would take libfuse 2.

    Raises:
        UnsupportedError: One of the two is not installed.
    """
    os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")
    try:
        return import_module("mfusepy")
    except (ImportError, OSError) as error:
        raise UnsupportedError(f"{_NEEDS}: {error}") from error


_mfusepy: Final = _load()


THREADS: Final[dict[str, str | bool]] = {"max_idle_threads": "10"}
"""The option that says how many idle threads libfuse keeps; 3.14 complains of its own default."""


def _lseek(fuse: Any, _path: bytes | None, offset: int, whence: int, info: Any) -> int:
    found: int = fuse.operations.lseek(offset, whence, info.contents.fh)
    return found


Fuse: Final[Any] = type("Fuse", (_mfusepy.FUSE,), {"lseek": _lseek})
"""Calling it mounts, and returns when the file system was unmounted."""


def leave_loop() -> None:
    """Make the running `Fuse` return; to be called from one of its callbacks only."""
    _mfusepy.fuse_exit()
