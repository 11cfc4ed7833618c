"""qcow2, through qemu-img: it only ever sees files that we name.

A qcow2 image can name other files, a backing file or one for its data. What an
image says is never opened, so such images are refused before qemu-img runs.
"""

import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from blobstore import DeviceError, InvalidArgumentError, UnsupportedError
from blobstore.cli.files import give_name, locked_target, refuse_link
from blobstore.cli.interruption import uninterrupted
from blobstore.cli.qcow2_tables import check_whole

_MAGIC: Final = b"QFI\xfb"
_HEAD: Final = struct.Struct(">4sIQ")  # magic, version, offset of the backing file's name
_FEATURES: Final = struct.Struct(">Q")
_FEATURES_OFFSET: Final = 72
_EXTERNAL_DATA: Final = 1 << 2
_WITH_FEATURES: Final = 3  # the first version that has them


@contextmanager
def as_raw(path: str) -> Iterator[str]:
    """Convert a qcow2 image to a raw file that lives as long as the body runs.

    Raises:
        UnsupportedError: qemu-img is not installed.
        InvalidArgumentError: No qcow2 image, or one that needs other files.
    """
    tool = _find_tool()
    _check_alone(path)
    with _directory(None) as directory:
        raw = os.path.join(directory, "raw")
        _run(tool, "qcow2", "raw", path, raw)
        yield raw


@contextmanager
def to_convert(path: str, *, overwrite: bool) -> Iterator[str]:
    """Give the path of a raw file to make; when the body ends it becomes the qcow2 image `path`.

    Raises:
        UnsupportedError: qemu-img is not installed.
        ExistsError: `path` exists, and `overwrite` was not given.
        BlobstoreError: `path` is a symbolic link (ELOOP).
    """
    tool = _find_tool()
    refuse_link(path)
    parent = os.path.dirname(os.path.abspath(path))
    with locked_target(path, overwrite=overwrite), _directory(parent) as directory:
        raw, image = os.path.join(directory, "raw"), os.path.join(directory, "image")
        yield raw
        _run(tool, "raw", "qcow2", raw, image)
        give_name(image, path, overwrite=overwrite)


@contextmanager
def _directory(parent: str | None) -> Iterator[str]:
    """Make a directory that lives as long as the body runs."""
    with ExitStack() as stack:
        with uninterrupted():
            made = tempfile.TemporaryDirectory(prefix=".blobstore-", dir=parent)
            directory = stack.enter_context(made)
        yield directory


def _find_tool() -> str:
    tool = shutil.which("qemu-img")
    if tool is None:
        raise UnsupportedError("qcow2: needs qemu-img, which is not installed")
    return tool


def _check_alone(path: str) -> None:
    """Refuse an image that names other files, or is cut short."""
    with open(path, "rb") as file:
        head = file.read(_FEATURES_OFFSET + _FEATURES.size)
    if len(head) < _FEATURES_OFFSET + _FEATURES.size or not head.startswith(_MAGIC):
        raise InvalidArgumentError(f"{path}: no qcow2 image")
    _magic, version, backing = _HEAD.unpack_from(head)
    (features,) = _FEATURES.unpack_from(head, _FEATURES_OFFSET)
    if backing or (version >= _WITH_FEATURES and features & _EXTERNAL_DATA):
        raise InvalidArgumentError(f"{path}: needs another file, which is not opened")
    with open(path, "rb") as file:
        check_whole(file.fileno(), path=path)


def _run(tool: str, source_format: str, target_format: str, source: str, target: str) -> None:
    command = [tool, "convert", "-f", source_format, "-O", target_format, "--"]
    paths = [os.path.abspath(source), os.path.abspath(target)]  # never a protocol's prefix
    done = subprocess.run(
        [*command, *paths], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode:
        reason = done.stderr.decode("utf-8", "replace").strip() or f"status {done.returncode}"
        raise DeviceError(f"qemu-img: {reason}")
