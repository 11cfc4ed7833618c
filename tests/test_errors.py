"""Errors are `OSError`s, of Python's own classes where it has them, and survive being passed on."""

import copy
import errno
import io
import multiprocessing.reduction
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import blobstore
from blobstore import (
    AccessError,
    Blobstore,
    BlobstoreError,
    BusyError,
    ClosedError,
    CorruptError,
    DeviceError,
    DeviceFullError,
    ExistsError,
    InvalidArgumentError,
    IsDirectoryError,
    MemoryDevice,
    NoSpaceError,
    NotDirectoryError,
    NotFoundError,
    PathNotFoundError,
    PoisonedError,
    ReadOnlyError,
    UnsupportedError,
    WrongTypeError,
)
from blobstore.device.opening import open_failure
from blobstore.units import MIB

BLOB = 0x1_0000_0002

KINDS: list[tuple[type[BlobstoreError], int, tuple[type[Exception], ...]]] = [
    (BlobstoreError, errno.EIO, (OSError,)),
    (NoSpaceError, errno.ENOSPC, (OSError,)),
    (CorruptError, errno.EILSEQ, (OSError,)),
    (WrongTypeError, errno.ENXIO, (OSError,)),
    (ReadOnlyError, errno.EPERM, (PermissionError,)),
    (BusyError, errno.EBUSY, (OSError,)),
    (NotFoundError, errno.ENOENT, (LookupError,)),
    (PathNotFoundError, errno.ENOENT, (NotFoundError, FileNotFoundError)),
    (ExistsError, errno.EEXIST, (FileExistsError,)),
    (InvalidArgumentError, errno.EINVAL, (ValueError,)),
    (IsDirectoryError, errno.EISDIR, (InvalidArgumentError, IsADirectoryError)),
    (ClosedError, errno.EBADF, (ValueError,)),
    (UnsupportedError, errno.ENOTSUP, (OSError,)),
    (DeviceError, errno.EIO, (OSError,)),
    (DeviceFullError, errno.ENOSPC, (NoSpaceError, DeviceError)),
    (AccessError, errno.EACCES, (DeviceError, PermissionError)),
    (NotDirectoryError, errno.ENOTDIR, (DeviceError, NotADirectoryError)),
    (PoisonedError, errno.EIO, (DeviceError,)),
]
every_kind = pytest.mark.parametrize(("kind", "number", "others"), KINDS)


def test_every_public_error_is_in_the_table() -> None:
    public = {getattr(blobstore, name) for name in blobstore.__all__ if name.endswith("Error")}
    assert public == {kind for kind, _number, _others in KINDS}


@every_kind
def test_an_error_is_an_os_error_with_its_parts(
    kind: type[BlobstoreError], number: int, others: tuple[type[Exception], ...]
) -> None:
    error = kind("page 3: crc 1, expected 2")
    assert isinstance(error, (OSError, *others))
    assert all(issubclass(kind, other) for other in others)
    assert (error.errno, error.strerror, error.filename) == (number, str(error), None)
    assert error.args == (number, "page 3: crc 1, expected 2")
    assert error.errno_name == errno.errorcode[number]
    assert repr(error) == f"{kind.__name__}('page 3: crc 1, expected 2')"
    assert kind("x", errno=errno.ENOMEM).errno_name == "ENOMEM"


def test_a_missing_blob_is_not_a_missing_file() -> None:
    assert not issubclass(NotFoundError, FileNotFoundError)


def through_a_process(error: BlobstoreError) -> Any:
    return pickle.loads(bytes(multiprocessing.reduction.ForkingPickler.dumps(error)))


def pickled(protocol: int) -> Callable[[BlobstoreError], Any]:
    return lambda error: pickle.loads(pickle.dumps(error, protocol))


WAYS: dict[str, Callable[[BlobstoreError], Any]] = {
    **{f"pickle {number}": pickled(number) for number in range(pickle.HIGHEST_PROTOCOL + 1)},
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "process": through_a_process,
    "without_traceback": lambda error: error.without_traceback(),
}


@every_kind
@pytest.mark.parametrize("way", WAYS)
def test_an_error_stays_what_it_is_however_it_is_passed_on(
    way: str, kind: type[BlobstoreError], number: int, others: tuple[type[Exception], ...]
) -> None:
    error = kind("no room", errno=errno.ENOMEM).at(store="disk.img", blob=BLOB)
    error.add_note("while copying")
    again = WAYS[way](error)
    assert type(again) is kind
    assert isinstance(again, others)
    assert (again.errno, again.strerror, again.filename, again.blob) == (
        errno.ENOMEM,
        "no room",
        "disk.img",
        BLOB,
    )
    assert str(again) == str(error) == f"disk.img: blob {BLOB:#x}: no room"
    assert again.args == (errno.ENOMEM, "no room")
    if way != "without_traceback":
        assert again.__notes__ == ["while copying"]


def test_an_error_that_is_raised_from_another_keeps_it() -> None:
    cause = OSError(errno.EIO, "the disk is gone")
    with pytest.raises(DeviceError) as caught:
        raise DeviceError("flush: the disk is gone") from cause
    assert caught.value.__cause__ is cause


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("page 3: torn", "disk.img: blob 0x100000002: page 3: torn"),
        ("blob 0x100000002: closed", "disk.img: blob 0x100000002: closed"),
        ("blob 0x100000001: torn", "disk.img: blob 0x100000002: blob 0x100000001: torn"),
        ("disk.img: flush failed", "disk.img: blob 0x100000002: flush failed"),
        ("store: closed", "disk.img: blob 0x100000002: closed"),
        ("unusable: disk.img: torn", "disk.img: blob 0x100000002: unusable: torn"),
        ("a disk.img: torn", "disk.img: blob 0x100000002: a disk.img: torn"),
    ],
)
def test_a_message_names_the_store_and_the_blob_once(text: str, message: str) -> None:
    error = BlobstoreError(text).at(store="disk.img").at(blob=BLOB)
    assert str(error) == error.message == message
    assert (error.filename, error.blob) == ("disk.img", BLOB)


def test_the_store_that_was_named_first_is_the_one_to_blame() -> None:
    error = ClosedError("closed").at(store="golden.img", blob=BLOB).at(store="disk.img", blob=1)
    assert str(error) == f"golden.img: blob {BLOB:#x}: closed"


# Python's own classes, as they come from paths


def test_a_missing_path_is_a_file_not_found_error(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with pytest.raises(FileNotFoundError) as caught:
        Blobstore.open(path)
    assert isinstance(caught.value, NotFoundError)
    assert caught.value.filename == str(path)
    assert str(caught.value) == f"{path}: no such file or directory"


def test_a_missing_directory_is_a_file_not_found_error_when_a_store_is_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Blobstore.create(tmp_path / "missing" / "disk.img", size=4 * MIB)


def test_a_missing_undo_file_is_a_file_not_found_error(tmp_path: Path) -> None:
    Blobstore.create(tmp_path / "disk.img", size=8 * MIB).close()
    with pytest.raises(FileNotFoundError) as caught:
        blobstore.undo(tmp_path / "disk.img", tmp_path / "missing")
    assert caught.value.filename == str(tmp_path / "missing")


def test_a_store_that_is_there_is_a_file_exists_error(tmp_path: Path) -> None:
    Blobstore.create(tmp_path / "disk.img", size=8 * MIB).close()
    with pytest.raises(FileExistsError):
        Blobstore.create(tmp_path / "disk.img", size=8 * MIB)


def test_a_directory_is_an_is_a_directory_error(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        Blobstore.open(tmp_path)


def test_a_path_through_a_file_is_a_not_a_directory_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        Blobstore.open(tmp_path / "file" / "disk.img")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM])
def test_a_file_that_may_not_be_opened_is_a_permission_error(code: int) -> None:
    error = open_failure("disk.img", "open", OSError(code, os.strerror(code)))
    assert isinstance(error, PermissionError)
    assert (error.errno, error.filename) == (code, "disk.img")
    assert str(error) == f"disk.img: open: {os.strerror(code)}"


def test_a_change_of_a_read_only_store_is_a_permission_error(tmp_path: Path) -> None:
    Blobstore.create(tmp_path / "disk.img", size=8 * MIB).close()
    with (
        Blobstore.open(tmp_path / "disk.img", read_only=True) as store,
        pytest.raises(PermissionError),
    ):
        store.create_blob()


def test_a_missing_blob_lets_no_one_think_that_the_store_is_missing() -> None:
    with Blobstore.create(MemoryDevice(8 * MIB)) as store:
        with pytest.raises(LookupError) as caught:
            store.open_blob(5)
        assert not isinstance(caught.value, FileNotFoundError)


# What Python's library makes of them


def full_blob(store: Blobstore) -> Any:
    return store.create_blob(store.cluster_size).open("r+b", buffering=0)


def test_copying_a_file_into_a_blob_that_is_too_small_is_an_os_error() -> None:
    with Blobstore.create(MemoryDevice(8 * MIB), cluster_size="64KiB") as store:
        with pytest.raises(OSError, match="its end is") as caught:
            shutil.copyfileobj(io.BytesIO(bytes(200_000)), full_blob(store), 65536)
        assert caught.value.errno == errno.ENOSPC


def test_an_archive_that_does_not_fit_into_a_blob_is_an_os_error() -> None:
    with Blobstore.create(MemoryDevice(8 * MIB), cluster_size="64KiB") as store:
        info = tarfile.TarInfo("large")
        info.size = 200_000
        with (
            pytest.raises(OSError, match="its end is"),
            tarfile.open(fileobj=full_blob(store), mode="w") as archive,
        ):
            archive.addfile(info, io.BytesIO(bytes(info.size)))


def test_a_file_object_of_a_closed_blob_raises_what_closed_files_raise() -> None:
    with Blobstore.create(MemoryDevice(8 * MIB)) as store:
        blob = store.create_blob("1MiB")
        file = blob.open(buffering=0)
        blob.close()
        with pytest.raises(ValueError, match="closed"):
            file.read(1)
