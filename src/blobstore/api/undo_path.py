"""Undo files on the host: where they lie, how they are made, replaced and found again."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import BinaryIO, TypeAlias

from blobstore.device.base import Device
from blobstore.device.file import FileDevice
from blobstore.device.opening import failure, open_failure, sync_directory_of
from blobstore.errors import BlobstoreError, ExistsError, InvalidArgumentError
from blobstore.fsck.undo_file import UndoDecoder

Path: TypeAlias = str | os.PathLike[str]


def make_undo_file(device: Device, path: Path | None) -> tuple[str, BinaryIO] | None:
    """Create an empty one; return its name, None where it has no place and none was named.

    Raises:
        ExistsError: It exists.
        InvalidArgumentError: The device is in no directory, and there is no name.
        DeviceError: The host failed.
    """
    if path is not None:
        return os.fspath(path), _create(os.fspath(path))
    if device.needs_undo_path:
        raise InvalidArgumentError(
            f"{device.name}: in no directory for an undo file: name one (--undo FILE)"
        )
    if not isinstance(device, FileDevice):
        return None
    for number in count(1):
        name = f"{device.name}.undo-{number}"
        with suppress(ExistsError):
            return name, _create(name)
    raise AssertionError("numbers do not end")


def write_undo_file(name: str, file: BinaryIO, parts: Iterable[bytes]) -> None:
    """Fill it, durably.

    Raises:
        DeviceError: The host failed. The file is not left.
    """
    try:
        with file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        sync_directory_of(name)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(name)
        if isinstance(error, OSError) and not isinstance(error, BlobstoreError):
            raise failure(f"{name}: write", error) from error
        raise


def remove_undo_file(name: str) -> None:
    """Remove one that has served its purpose.

    Raises:
        DeviceError: The host failed.
    """
    try:
        os.unlink(name)
    except OSError as error:
        raise failure(f"{name}: remove", error) from error
    sync_directory_of(name)


def _create(name: str) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.fdopen(os.open(name, flags, 0o600), "wb")
    except FileExistsError as error:
        found = ExistsError("exists; an undo file is never overwritten")
        raise found.at(store=name) from error
    except OSError as error:
        raise open_failure(name, "create", error) from error


@contextmanager
def open_undo_file(path: Path) -> Iterator[BinaryIO]:
    """Open it for reading.

    Raises:
        NotFoundError: There is no such file.
        DeviceError: The host failed.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            yield file
    except BlobstoreError:
        raise
    except OSError as error:
        raise open_failure(name, "read", error) from error


def shown_name(device: Device, name: str) -> bytes:
    """Return the name for the mark in the store: short where the file lies beside the image."""
    path = os.path.abspath(name)
    directory, short = os.path.split(path)
    is_beside = directory == os.path.dirname(os.path.abspath(device.name))
    return os.fsencode(short if isinstance(device, FileDevice) and is_beside else path)


def find_undo_file(device: Device, undo_id: bytes, path: Path | None) -> str | None:
    """Return the undo file with that id: the one that was named, or one beside the image.

    The name in the store's mark is not followed: an image does not say what is opened.
    """
    if path is not None and _has_id(os.fspath(path), undo_id):
        return os.fspath(path)
    if not isinstance(device, FileDevice):
        return None
    directory, beginning = os.path.split(f"{device.name}.undo-")
    try:
        found = sorted(os.listdir(directory or "."))
    except OSError as error:
        raise failure(f"{directory}: list", error) from error
    paths = (os.path.join(directory, name) for name in found if name.startswith(beginning))
    return next((name for name in paths if _has_id(name, undo_id)), None)


def _has_id(name: str, undo_id: bytes) -> bool:
    try:
        with open_undo_file(name) as file:
            return bool(UndoDecoder(file.read).undo_id == undo_id)
    except BlobstoreError:
        return False
