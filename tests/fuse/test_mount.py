"""`mount`: what programs see in the directory, and what is in the store afterwards."""

import contextlib
import ctypes
import errno
import os
import random
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from ctypes import c_int64
from pathlib import Path
from typing import Final

import pytest

from blobstore import VolumeStore
from blobstore.units import KIB, MIB
from tests.cli.runner import run, run_here, run_process, sha256
from tests.fuse.mounts import Mount, is_mounted, mounted, skip_without_fuse

pytestmark = pytest.mark.slow

CLUSTER: Final = 64 * KIB
SIZE: Final = 4 * MIB
DATA: Final = random.Random(1).randbytes(2 * CLUSTER)
LIBC: Final = ctypes.CDLL(None, use_errno=True)
PUNCH: Final = 0x03  # linux/falloc.h: punch hole, keep size
ZERO: Final = 0x11


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A volume store: `db`, a clone of the snapshot `monday`, and the empty thin `new`."""
    path = tmp_path / "vms.img"
    with VolumeStore.create(path, name="vms", size="32MiB", cluster_size=CLUSTER) as vms:
        db = vms.create_volume("db", SIZE, thin=True, xattrs={"owner": b"alice"})
        db.write(DATA, CLUSTER)
        db.snapshot("monday")
        vms.create_volume("new", SIZE, thin=True)
    return path


@pytest.fixture
def mount(image: Path) -> Iterator[Mount]:
    with mounted(image, "--rw") as mount:
        yield mount


def fallocate(path: Path, mode: int, offset: int, length: int) -> None:
    """Call fallocate(2), for which Python has no function with a mode."""
    with open(path, "r+b") as file:
        done = LIBC.fallocate(file.fileno(), mode, c_int64(offset), c_int64(length))
    if done != 0:
        raise OSError(ctypes.get_errno(), str(path))


@contextlib.contextmanager
def outliving(path: Path) -> Iterator[int]:
    """Open a file whose file system may be gone before the `with` ends."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        yield descriptor
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def fails(number: int) -> "pytest.RaisesExc[OSError]":
    return pytest.raises(OSError, check=lambda error: error.errno == number)


def processes_with(*words: str) -> list[int]:
    """Return the processes whose command line has all of these words."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if all(any(word in part for part in command) for word in words):
                found.append(int(entry.name))
    return found


def check_is_clean(image: Path) -> None:
    assert run_here("check", image).text == f"{image}: no problems\n"


def test_every_volume_is_a_file_of_its_size_with_its_holes_and_attributes(mount: Mount) -> None:
    files = {entry.name: entry.stat() for entry in os.scandir(mount.directory)}
    modes = {name: (f"{found.st_mode:o}", found.st_size) for name, found in files.items()}
    assert modes == {
        "db": ("100644", SIZE), "monday": ("100444", SIZE), "new": ("100644", SIZE)
    }  # fmt: skip
    assert {name: found.st_blocks * 512 for name, found in files.items()} == {
        "db": 0, "monday": 2 * CLUSTER, "new": 0
    }  # fmt: skip
    content = bytes(CLUSTER) + DATA + bytes(SIZE - 3 * CLUSTER)
    assert (mount.directory / "db").read_bytes() == content
    with open(mount.directory / "db", "rb") as file:
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == CLUSTER
        assert os.lseek(file.fileno(), CLUSTER, os.SEEK_HOLE) == 3 * CLUSTER
        with fails(errno.ENXIO):
            os.lseek(file.fileno(), 3 * CLUSTER, os.SEEK_DATA)
    assert set(os.listxattr(mount.directory / "db")) == {"user.owner", "user.name", "user.uuid"}
    assert os.getxattr(mount.directory / "db", "user.owner") == b"alice"
    with fails(errno.ENODATA):
        os.getxattr(mount.directory / "db", "user.none")
    found = os.statvfs(mount.directory)
    assert (found.f_frsize, found.f_bfree) == (CLUSTER, found.f_blocks - 2)


def test_attributes_that_are_set_and_removed_are_the_blobs(image: Path, mount: Mount) -> None:
    db = mount.directory / "db"
    os.setxattr(db, "user.tier", b"\0\xff", os.XATTR_CREATE)
    with fails(errno.EEXIST):
        os.setxattr(db, "user.tier", b"1", os.XATTR_CREATE)
    with fails(errno.ENODATA):
        os.setxattr(db, "user.none", b"1", os.XATTR_REPLACE)
    with fails(errno.EINVAL):
        os.setxattr(db, "user.uuid", b"1")
    os.removexattr(db, "user.owner")
    with fails(errno.ENODATA):
        os.removexattr(db, "user.owner")
    assert mount.end() == 0
    with VolumeStore.open(image, read_only=True) as vms:
        assert (vms["db"].xattrs["tier"], "owner" in vms["db"].xattrs) == (b"\0\xff", False)


def test_without_rw_nothing_can_be_changed_and_no_byte_of_the_store_is(image: Path) -> None:
    before = sha256(image)
    with mounted(image) as mount:
        assert (mount.directory / "db").read_bytes()[CLUSTER : 3 * CLUSTER] == DATA
        assert os.stat(mount.directory / "db").st_mode & 0o777 == 0o444
        with fails(errno.EROFS):
            os.open(mount.directory / "db", os.O_RDWR)
        with fails(errno.EROFS):
            os.setxattr(mount.directory / "db", "user.x", b"")
        assert mount.end() == 0
    assert sha256(image) == before


def test_a_snapshot_cannot_be_written_to(mount: Mount) -> None:
    with fails(errno.EACCES):
        os.open(mount.directory / "monday", os.O_WRONLY)


def test_programs_can_make_and_remove_nothing(mount: Mount) -> None:
    for change in (
        lambda: (mount.directory / "more").touch(),
        lambda: (mount.directory / "db").unlink(),
        lambda: (mount.directory / "db").rename(mount.directory / "other"),
        lambda: (mount.directory / "more").mkdir(),
    ):
        with pytest.raises(PermissionError, match=str(mount.directory)) as caught:
            change()
        assert caught.value.errno == errno.EPERM
    assert {entry.name for entry in os.scandir(mount.directory)} == {"db", "monday", "new"}


def test_a_file_grows_by_truncate_and_never_shrinks(mount: Mount) -> None:
    new = mount.directory / "new"
    with open(new, "r+b", buffering=0) as file:
        assert os.pwrite(file.fileno(), b"1234", SIZE - 2) == 2
        with fails(errno.ENOSPC):
            os.pwrite(file.fileno(), b"34", SIZE)
        file.truncate(SIZE + 1)
        assert os.stat(new).st_size == SIZE + CLUSTER
        assert os.pwrite(file.fileno(), b"34", SIZE) == 2
        with fails(errno.EPERM):
            file.truncate(SIZE)
    with fails(errno.EPERM):
        os.open(new, os.O_WRONLY | os.O_TRUNC)
    assert new.read_bytes() == bytes(SIZE - 2) + b"1234" + bytes(CLUSTER - 2)


def test_what_a_clone_gains_by_truncate_reads_as_zeroes_and_not_as_its_parent(image: Path) -> None:
    with VolumeStore.open(image) as vms:
        vms["db"].resize(2 * CLUSTER)
    with mounted(image, "--rw") as mount:
        db = mount.directory / "db"
        os.truncate(db, 4 * CLUSTER)
        assert db.read_bytes() == bytes(CLUSTER) + DATA[:CLUSTER] + bytes(2 * CLUSTER)


def test_a_punched_hole_frees_clusters_and_a_zeroed_range_has_them(mount: Mount) -> None:
    new = mount.directory / "new"
    with open(new, "r+b") as file:
        file.write(DATA * 2)
    assert os.stat(new).st_blocks * 512 == 4 * CLUSTER
    fallocate(new, PUNCH, CLUSTER, CLUSTER)
    fallocate(new, ZERO, 3 * CLUSTER, CLUSTER)
    fallocate(new, PUNCH, SIZE - CLUSTER, 2 * CLUSTER)
    fallocate(new, PUNCH, SIZE + CLUSTER, CLUSTER)
    expected = DATA[:CLUSTER] + bytes(CLUSTER) + DATA[:CLUSTER] + bytes(CLUSTER)
    assert new.read_bytes()[: 4 * CLUSTER] == expected
    with open(new, "rb") as file:
        os.fsync(file.fileno())
    assert os.stat(new).st_blocks * 512 == 3 * CLUSTER


def test_a_clone_refuses_holes_which_would_show_its_parent_and_takes_zeroes(mount: Mount) -> None:
    db = mount.directory / "db"
    with fails(errno.EOPNOTSUPP):
        fallocate(db, PUNCH, CLUSTER, CLUSTER)
    assert db.read_bytes()[CLUSTER : 3 * CLUSTER] == DATA
    fallocate(db, ZERO, CLUSTER, CLUSTER)
    assert db.read_bytes()[CLUSTER : 3 * CLUSTER] == bytes(CLUSTER) + DATA[CLUSTER:]
    assert (mount.directory / "monday").read_bytes()[CLUSTER : 3 * CLUSTER] == DATA


def test_cp_copies_only_what_is_not_a_hole(mount: Mount, tmp_path: Path) -> None:
    copy = tmp_path / "copy.raw"
    subprocess.run(["cp", mount.directory / "db", copy], check=True)
    assert copy.read_bytes() == (mount.directory / "db").read_bytes()
    assert os.stat(copy).st_blocks * 512 <= 3 * CLUSTER


def test_what_was_synced_survives_a_killed_process(image: Path, mount: Mount) -> None:
    with outliving(mount.directory / "new") as file:
        os.write(file, DATA)
        os.fsync(file)
        assert mount.end(signal.SIGKILL) == -signal.SIGKILL
        with fails(errno.ENOTCONN):
            os.pread(file, 1, SIZE - 1)
    with VolumeStore.open(image) as vms:
        assert vms["new"].read(len(DATA)) == DATA
    check_is_clean(image)


def test_the_mount_of_a_killed_process_that_stays_is_named_with_the_way_to_remove_it(
    image: Path, mount: Mount
) -> None:
    # fusermount3 unmounts, unless it looks before the kernel has ended the connection
    for helper in processes_with("fusermount3", str(mount.directory)):
        os.kill(helper, signal.SIGKILL)
    assert mount.end(signal.SIGKILL) == -signal.SIGKILL
    done = run("mount", image, mount.directory, "--json")
    assert (done.status, done.error["errno"]) == (1, "ENOTCONN")
    command = f"fusermount3 -u {mount.directory}"
    assert f"`{command}` removes it" in done.error["message"]
    subprocess.run(shlex.split(command), check=True)
    with mounted(image) as again:
        assert (again.directory / "new").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_clean_although_a_file_is_open(
    image: Path, mount: Mount, number: signal.Signals
) -> None:
    with outliving(mount.directory / "new") as file:
        os.write(file, DATA)
        assert mount.end(number) == 0
        with fails(errno.ENOTCONN):
            os.pread(file, 1, SIZE - 1)
    assert not is_mounted(mount.directory)
    with VolumeStore.open(image, read_only=True) as vms:
        assert vms.info.clean
        assert vms["new"].read(len(DATA)) == DATA


def test_a_signal_that_does_not_wake_the_waiting_thread_ends_it_too(mount: Mount) -> None:
    process = mount.process.pid
    _main, other_thread, *_rest = sorted(map(int, os.listdir(f"/proc/{process}/task")))
    time.sleep(0.3)  # a signal before the wait is seen in any case
    assert LIBC.tgkill(process, other_thread, signal.SIGTERM) == 0
    assert mount.process.wait(60) == 0
    assert not is_mounted(mount.directory)


def test_umount_ends_it_clean(image: Path, mount: Mount) -> None:
    with open(mount.directory / "new", "r+b") as file:
        file.write(DATA)
    subprocess.run(["umount", mount.directory], check=True)
    assert mount.process.wait(60) == 0
    with VolumeStore.open(image, read_only=True) as vms:
        assert vms.info.clean
        assert vms["new"].read(len(DATA)) == DATA


def test_many_threads_write_and_read_at_once(image: Path, mount: Mount) -> None:
    names, rounds = ("db", "new"), 40
    failures: list[str] = []

    def work(number: int) -> None:
        chance = random.Random(number)
        with open(mount.directory / names[number % 2], "r+b", buffering=0) as file:
            for _round in range(rounds):
                at = (chance.randrange(SIZE // 32 // KIB) * 4 + number // 2) * 8 * KIB
                data = chance.randbytes(8 * KIB)
                os.pwrite(file.fileno(), data, at)
                if os.pread(file.fileno(), len(data), at) != data:
                    failures.append(f"{file.name} at {at}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert mount.end() == 0
    check_is_clean(image)


def test_where_it_cannot_mount_it_says_why_and_leaves_the_store_clean(
    image: Path, tmp_path: Path
) -> None:
    skip_without_fuse()
    (tmp_path / "mnt").mkdir()
    no_library = {"FUSE_LIBRARY_NAME": "none-such"}
    done = run_process("mount", image, tmp_path / "mnt", "--json", environment=no_library)
    assert (done.status, done.error["errno"]) == (1, "ENOTSUP")
    assert "libfuse 3" in done.error["message"]
    done = run_process("mount", image, tmp_path / "none", "--json")
    assert (done.status, done.error["errno"]) == (1, "ENOENT")
    check_is_clean(image)
