"""`rpc`: what hinders its start is named, in one line."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blobstore import VolumeStore
from tests.cli.runner import COMMAND, run, unchanged
from tests.nbd.servers import short_directory

_NOBODY = 65534


@pytest.fixture
def place() -> Iterator[Path]:
    with short_directory() as path:
        VolumeStore.create(path / "disk.img", name="vms", size="16MiB").close()
        yield path


def cut(path: Path) -> None:
    os.truncate(path, 1 << 20)


def overwritten(path: Path) -> None:
    path.write_bytes(b"\xff" * path.stat().st_size)


def text(path: Path) -> None:
    path.write_bytes(b"root:x:0:0\n")


def no_file(path: Path) -> None:
    path.unlink()


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "number", "message"),
    [
        (text, "EILSEQ", "no blobstore: 11 bytes, a super block takes 4096"),
        (no_file, "ENOENT", "no such file or directory"),
        (directory, "EISDIR", "a directory"),
        (cut, "EILSEQ", "super block: the store has 16777216 bytes, the device 1048576"),
        (
            overwritten,
            "EILSEQ",
            r"no blobstore, or its super block is lost: begins with b'\xff\xff",
        ),
    ],
)
def test_what_is_no_store_is_named_and_not_changed(
    place: Path, damage: Callable[[Path], None], number: str, message: str
) -> None:
    damage(place / "disk.img")
    before = {path: path.stat().st_mtime_ns for path in place.iterdir()}
    shown = run("rpc", "--socket", place / "s", place / "disk.img")
    assert (shown.status, shown.text, shown.stderr.count("\n")) == (1, "", 1)
    assert shown.stderr.startswith(f"{place}/disk.img: {message}")
    told = run("rpc", "--socket", place / "s", place / "disk.img", "--json")
    assert told.status == 1
    assert told.error["errno"] == number
    assert {path: path.stat().st_mtime_ns for path in place.iterdir()} == before


def test_two_stores_of_one_file_name_are_refused(place: Path) -> None:
    (place / "other").mkdir()
    VolumeStore.create(place / "other/disk.img", name="others", size="16MiB").close()
    done = run("rpc", "--socket", place / "s", place / "disk.img", place / "other/disk.img")
    assert done.status == 1
    assert done.stderr == f"{place}/other/disk.img: another device is named 'disk.img'\n"


def test_two_stores_of_one_name_are_refused(place: Path) -> None:
    VolumeStore.create(place / "b.img", name="vms", size="16MiB").close()
    done = run("rpc", "--socket", place / "s", place / "disk.img", place / "b.img")
    assert done.status == 1
    assert done.stderr == f"{place}/b.img: a store named 'vms' is loaded already\n"


def test_a_store_in_use_names_the_process_that_has_it(place: Path) -> None:
    same = unchanged(place / "disk.img")
    with VolumeStore.open(place / "disk.img", read_only=True):
        done = run("rpc", "--socket", place / "s", place / "disk.img", "--json")
        assert done.status == 1
        assert done.error == {
            "errno": "EBUSY",
            "message": f"{place}/disk.img: cannot be opened for writing: in use by this process",
        }
    assert same()


def test_a_store_that_the_user_may_not_open_says_so(place: Path) -> None:
    os.chmod(place, 0o777)
    os.chmod(place / "disk.img", 0)
    run("rpc", "--socket", place / "s", place / "none.img")  # imports what only root may read
    user = os.geteuid()
    os.seteuid(_NOBODY if user == 0 else user)
    try:
        done = run("rpc", "--socket", place / "s", place / "disk.img", "--json")
    finally:
        os.seteuid(user)
    assert done.status == 1
    assert done.error == {
        "errno": "EACCES",
        "message": f"{place}/disk.img: open: Permission denied",
    }


@pytest.mark.slow
def test_the_socket_of_a_killed_server_is_taken_over(place: Path) -> None:
    command = [*COMMAND, "rpc", "--socket", f"{place}/s", f"{place}/disk.img", "--json"]
    for number in (signal.SIGKILL, signal.SIGTERM):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
            assert server.stdout is not None
            assert server.stdout.readline()
            server.send_signal(number)
            assert server.wait(60) == {signal.SIGKILL: -9, signal.SIGTERM: 0}[number]
    assert not (place / "s").exists()
