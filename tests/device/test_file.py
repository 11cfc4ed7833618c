"""The file device: its lock, its file, the host's failures and what a flush is."""

import contextlib
import errno
import fcntl
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import blobstore.errors
from blobstore.device import file as file_module
from blobstore.device.fallocate import PUNCH_HOLE, ZERO_RANGE, fallocate
from blobstore.device.file import FileDevice
from blobstore.drivers.perform import perform
from blobstore.errors import (
    BusyError,
    ClosedError,
    DeviceError,
    ExistsError,
    InvalidArgumentError,
    NoSpaceError,
    NotFoundError,
)
from blobstore.operations import Batch, Core, Flush, ReadInto, Unmap, Write, WriteZeroes
from blobstore.testing.device_contract import pattern
from blobstore.units import KIB, MIB

SOURCES = str(Path(blobstore.errors.__file__).parent.parent)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name an image of 4 MiB which nobody has open."""
    path = tmp_path / "disk.img"
    FileDevice.create(path, 4 * MIB).close()
    return path


@pytest.fixture
def device(path: Path) -> Iterator[FileDevice]:
    with FileDevice.open(path) as device:
        yield device


def python(script: str, *arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": SOURCES}


@contextlib.contextmanager
def holder(path: Path, *, read_only: bool) -> Iterator[subprocess.Popen[str]]:
    """Run a process that has the image open, until its standard input ends."""
    script = """
        import sys
        from blobstore.device.file import FileDevice
        with FileDevice.open(sys.argv[1], read_only=sys.argv[2] == "True"):
            print("open", flush=True)
            sys.stdin.read()
    """
    with subprocess.Popen(
        python(script, path, str(read_only)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process


# Creating and opening


def test_a_created_file_has_its_size_and_reads_as_zeroes(tmp_path: Path) -> None:
    with FileDevice.create(tmp_path / "new.img", MIB + 7) as device:
        assert device.size_bytes == MIB + 7
        assert device.read(0, MIB + 7) == bytes(MIB + 7)
    assert (tmp_path / "new.img").stat().st_size == MIB + 7


def test_creating_over_an_existing_file_is_refused_and_leaves_it_alone(path: Path) -> None:
    path.write_bytes(b"precious")
    with pytest.raises(ExistsError, match=re.escape(str(path))):
        FileDevice.create(path, MIB)
    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize("size", [4, 8, 100])
def test_creating_without_exclusive_gives_an_existing_file_its_size(path: Path, size: int) -> None:
    path.write_bytes(b"contents")
    with FileDevice.create(path, size, exclusive=False) as device:
        assert device.size_bytes == size
    assert path.read_bytes() == b"contents"[:size].ljust(size, b"\0")


def test_creating_without_exclusive_does_not_touch_a_file_in_use(
    path: Path, device: FileDevice
) -> None:
    with pytest.raises(BusyError):
        FileDevice.create(path, 512, exclusive=False)
    assert device.refresh_size() == 4 * MIB


def test_a_create_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with limited_file_size(MIB), pytest.raises(DeviceError) as caught:
        FileDevice.create(tmp_path / "new.img", 2 * MIB)
    assert caught.value.errno == errno.EFBIG
    with pytest.raises(InvalidArgumentError, match="block size"):
        FileDevice.create(tmp_path / "new.img", MIB, block_size=100)
    with pytest.raises(InvalidArgumentError, match="size -1"):
        FileDevice.create(tmp_path / "new.img", -1)
    assert list(tmp_path.iterdir()) == []


def test_creating_and_growing_sync_the_file_and_then_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        fsync(descriptor)
        size = os.fstat(descriptor).st_size
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        synced.append(f"{name} {size}" if name.endswith(".img") else name)

    monkeypatch.setattr(os, "fsync", record)
    with FileDevice.create(tmp_path / "new.img", MIB) as device:
        assert synced == [f"{tmp_path}/new.img {MIB}", str(tmp_path)]
        device.resize(2 * MIB)
        assert synced[2:] == [f"{tmp_path}/new.img {2 * MIB}"]


def test_an_absent_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="absent"):
        FileDevice.open(tmp_path / "absent.img")
    with pytest.raises(NotFoundError, match="absent"):
        FileDevice.create(tmp_path / "absent" / "new.img", MIB)


def test_a_directory_is_no_device(tmp_path: Path) -> None:
    for read_only in (True, False):
        with pytest.raises(InvalidArgumentError, match=r"directory|neither"):
            FileDevice.open(tmp_path, read_only=read_only)


def test_a_pipe_is_refused_without_waiting_for_its_other_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for read_only in (True, False):
        with pytest.raises(InvalidArgumentError, match="neither a file nor a block device"):
            FileDevice.open(tmp_path / "pipe", read_only=read_only)


def test_a_character_device_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="/dev/null"):
        FileDevice.open("/dev/null")


def test_a_path_with_a_null_byte_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="not a path"):
        FileDevice.open("disk\0.img")


def test_a_file_that_may_not_be_written_is_refused_with_the_hosts_errno() -> None:
    script = """
        import os, sys
        from blobstore.device.file import FileDevice
        from blobstore.errors import DeviceError
        if os.getuid() == 0:
            os.setgroups([]), os.setgid(65534), os.setuid(65534)
        try:
            FileDevice.open(sys.argv[1])
        except DeviceError as error:
            print(error.errno_name, type(error.__cause__).__name__)
    """
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        image = Path(directory, "disk.img")
        image.touch(0o444)
        done = subprocess.run(
            python(script, image), capture_output=True, text=True, env=environment(), check=True
        )
    assert done.stdout == "EACCES PermissionError\n"


def test_the_descriptor_is_not_inherited_and_blocks(device: FileDevice) -> None:
    descriptor = device.fast_descriptor
    assert descriptor is not None
    assert not os.get_inheritable(descriptor)
    assert os.get_blocking(descriptor)


# Size


def test_a_grown_file_reads_zeroes_in_what_was_added(device: FileDevice) -> None:
    device.write(4 * MIB - 512, [pattern(512)])
    device.resize(6 * MIB)
    assert device.size_bytes == 6 * MIB
    assert device.read(4 * MIB - 512, 1024) == pattern(512) + bytes(512)


def test_a_file_that_another_has_grown_shows_it_when_asked(path: Path, device: FileDevice) -> None:
    os.truncate(path, 5 * MIB)
    with pytest.raises(InvalidArgumentError):
        device.read(4 * MIB, 512)
    assert device.refresh_size() == 5 * MIB
    assert device.read(4 * MIB, 512) == bytes(512)


def test_a_resize_that_the_host_refuses_leaves_the_size(device: FileDevice) -> None:
    with limited_file_size(4 * MIB), pytest.raises(DeviceError) as caught:
        device.resize(5 * MIB)
    assert caught.value.errno == errno.EFBIG
    assert device.size_bytes == 4 * MIB


def test_no_refused_write_makes_the_file_longer(path: Path, device: FileDevice) -> None:
    with pytest.raises(InvalidArgumentError):
        device.write(4 * MIB - 1, [b"xy"])
    with pytest.raises(InvalidArgumentError):
        device.write_zeroes(4 * MIB - MIB, 2 * MIB)
    with pytest.raises(InvalidArgumentError):
        device.allocate(4 * MIB, 512)
    assert path.stat().st_size == 4 * MIB


@pytest.mark.parametrize(
    ("left", "offset", "length"),
    [
        pytest.param(MIB, 2 * MIB, 4096, id="wholly past the new end"),
        pytest.param(2 * MIB + 100, 2 * MIB, 4096, id="partly past the new end"),
        pytest.param(0, 0, 4096, id="nothing left"),
    ],
)
def test_a_file_that_shrank_is_an_error_and_never_zeroes(
    path: Path, device: FileDevice, left: int, offset: int, length: int
) -> None:
    os.truncate(path, left)
    buffer = bytearray(length)
    reads: list[Callable[[], object]] = [
        lambda: device.read(offset, length),
        lambda: device.read_into(offset, [memoryview(buffer)]),
        lambda: device.read_into(offset, [memoryview(buffer)[:7], memoryview(buffer)[7:]]),
    ]
    for read in reads:
        with pytest.raises(DeviceError) as caught:
            read()
        assert caught.value.errno == errno.EIO
        assert f"file of {left} bytes found, expected {4 * MIB}" in caught.value.message
        assert str(path) in caught.value.message


# The lock


def test_a_second_writer_in_this_process_is_refused(path: Path, device: FileDevice) -> None:
    with pytest.raises(BusyError, match=re.escape(str(path))):
        FileDevice.open(path)


def test_a_reader_beside_a_writer_is_refused(path: Path, device: FileDevice) -> None:
    with pytest.raises(BusyError, match=re.escape(str(path))):
        FileDevice.open(path, read_only=True)


def test_readers_share_and_keep_a_writer_out(path: Path) -> None:
    with FileDevice.open(path, read_only=True), FileDevice.open(path, read_only=True) as second:
        assert second.read(0, 512) == bytes(512)
        with pytest.raises(BusyError):
            FileDevice.open(path)
    FileDevice.open(path).close()


def test_a_closed_device_lets_the_next_writer_in(path: Path, device: FileDevice) -> None:
    device.close()
    with FileDevice.open(path) as following:
        assert not following.read_only


@pytest.mark.parametrize(
    ("theirs_read_only", "ours_read_only"), [(False, False), (False, True), (True, False)]
)
def test_another_process_keeps_us_out(
    path: Path, theirs_read_only: bool, ours_read_only: bool
) -> None:
    busy = pytest.raises(BusyError, match=re.escape(str(path)))
    with holder(path, read_only=theirs_read_only), busy:
        FileDevice.open(path, read_only=ours_read_only)
    FileDevice.open(path, read_only=ours_read_only).close()


def test_readers_of_two_processes_share(path: Path) -> None:
    with holder(path, read_only=True), FileDevice.open(path, read_only=True) as device:
        assert device.read(0, 512) == bytes(512)


def test_the_lock_of_a_killed_process_does_not_block(path: Path) -> None:
    with holder(path, read_only=False) as process:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        FileDevice.open(path).close()


def test_a_failed_open_leaves_no_lock_behind(path: Path) -> None:
    with pytest.raises(InvalidArgumentError):
        FileDevice.open(path, block_size=100)
    FileDevice.open(path).close()


def test_a_forgotten_device_warns_and_lets_go_of_its_lock(path: Path) -> None:
    forgotten = [FileDevice.open(path)]
    with pytest.warns(ResourceWarning, match="unclosed <FileDevice"):
        forgotten.clear()
    FileDevice.open(path).close()


# Forking


class Child:
    """A forked child that answers one question, then lives until it is told to end."""

    def __init__(self, ask: Callable[[], str]) -> None:
        answer_end, answer = os.pipe()
        wait, self.go_on = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            os.close(self.go_on)
            try:
                os.write(answer, ask().encode())
                os.read(wait, 1)
            finally:
                os._exit(0)
        os.close(answer)
        os.close(wait)
        self.answer = os.read(answer_end, 1000).decode()
        os.close(answer_end)

    def end(self) -> None:
        os.close(self.go_on)
        os.waitpid(self.process, 0)


def what_happens(action: Callable[[], object]) -> str:
    try:
        action()
    except Exception as error:
        return type(error).__name__
    return "nothing"


@contextlib.contextmanager
def forked(ask: Callable[[], str]) -> Iterator[str]:
    child = Child(ask)
    try:
        yield child.answer
    finally:
        child.end()


def test_a_forked_child_finds_its_device_closed(device: FileDevice) -> None:
    descriptor = device.fast_descriptor
    assert descriptor is not None

    def ask() -> str:
        found = [
            what_happens(lambda: device.write(0, [b"child"])),
            what_happens(lambda: device.read(0, 0)),
            what_happens(lambda: os.fstat(descriptor)),
            str(device.fast_descriptor),
        ]
        device.close()
        return " ".join(found)

    with forked(ask) as answer:
        assert answer == "ClosedError ClosedError OSError None"
    assert device.read(0, 5) == bytes(5)


def test_a_forked_child_does_not_unlock_its_parent(path: Path, device: FileDevice) -> None:
    with forked(lambda: what_happens(lambda: FileDevice.open(path))) as answer:
        assert answer == "BusyError"
        with pytest.raises(BusyError):
            FileDevice.open(path)
    with pytest.raises(BusyError):
        FileDevice.open(path)


def test_a_living_child_does_not_keep_its_parents_lock(path: Path, device: FileDevice) -> None:
    with forked(lambda: "alive") as answer:
        assert answer == "alive"
        device.close()
        FileDevice.open(path).close()


def test_a_copy_of_the_descriptor_elsewhere_does_not_keep_the_lock(
    path: Path, device: FileDevice
) -> None:
    """Such as that of a child between fork and exec."""
    descriptor = device.fast_descriptor
    assert descriptor is not None
    copy = os.dup(descriptor)
    device.close()
    FileDevice.open(path).close()
    os.close(copy)


def test_a_forked_child_can_open_devices_of_its_own(tmp_path: Path, device: FileDevice) -> None:
    def ask() -> str:
        with FileDevice.create(tmp_path / "child.img", 4096) as own:
            own.write(0, [b"child"])
            return own.read(0, 5).decode()

    with forked(ask) as answer:
        assert answer == "child"


@pytest.mark.slow
def test_devices_opened_while_another_thread_forks_are_closed_in_the_children(
    tmp_path: Path,
) -> None:
    """Runs in a process of its own, whose threads open and fork as fast as they can."""
    script = """
        import os, sys, threading, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        from blobstore.device.file import FileDevice

        image, done = sys.argv[1], threading.Event()

        def open_and_close():
            while not done.is_set():
                FileDevice.open(image).close()

        def leaks():
            own = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd")
                   if os.path.lexists(entry.path)]
            return image in own

        FileDevice.create(image, 4096).close()
        opener = threading.Thread(target=open_and_close)
        opener.start()
        statuses = set()
        for _ in range(300):
            child = os.fork()
            if child == 0:
                os._exit(leaks())
            statuses.add(os.waitpid(child, 0)[1])
        done.set()
        opener.join()
        print(statuses)
    """
    done = subprocess.run(
        python(script, tmp_path / "disk.img"), capture_output=True, text=True, env=environment()
    )
    assert (done.stdout, done.stderr) == ("{0}\n", "")


# Short results and failures of the host


@contextlib.contextmanager
def limited_file_size(limit: int) -> Iterator[None]:
    """Let no file of this process grow, or be written, past `limit`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def cut(views: Sequence[Any], most: int) -> list[memoryview]:
    """Keep the first bytes, as a host does that answers with less than was asked for."""
    kept: list[memoryview] = []
    for view in views:
        part = memoryview(view).cast("B")[:most]
        kept.append(part)
        most -= len(part)
    return kept


@pytest.mark.parametrize("most", [1, 100, 511, 4096, 5000])
def test_short_reads_and_writes_go_on_until_all_is_done(
    device: FileDevice, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    preadv, pwritev, pread = os.preadv, os.pwritev, os.pread
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: preadv(fd, cut(views, most), at))
    monkeypatch.setattr(os, "pwritev", lambda fd, views, at: pwritev(fd, cut(views, most), at))
    monkeypatch.setattr(os, "pread", lambda fd, length, at: pread(fd, min(length, most), at))
    whole = pattern(9000)
    device.write(100, [whole])
    assert device.read(100, 9000) == whole
    device.write(200, [whole[:13], b"", memoryview(whole)[13:7000], whole[7000:]])
    parts = [bytearray(2999), bytearray(0), bytearray(6001)]
    device.read_into(200, [memoryview(part) for part in parts])
    assert b"".join(parts) == whole


def test_a_write_cut_short_by_the_host_ends_as_the_hosts_error(
    path: Path, device: FileDevice
) -> None:
    """The limit makes the first call short, and the second fail."""
    with limited_file_size(MIB), pytest.raises(DeviceError) as caught:
        device.write(MIB - 1000, [pattern(4096)])
    assert caught.value.errno == errno.EFBIG
    assert f"{path}: write of 3096 bytes at {MIB}" in caught.value.message
    assert isinstance(caught.value.__cause__, OSError)
    assert device.read(MIB - 1000, 4096) == pattern(4096)[:1000] + bytes(3096)


def test_a_write_of_nothing_that_claims_success_is_an_error(
    device: FileDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwritev", lambda *_: 0)
    with pytest.raises(DeviceError, match="0 bytes written, expected 512"):
        device.write(0, [bytes(512)])


REQUESTS: dict[str, tuple[str, Callable[[FileDevice], object]]] = {
    "read": ("pread", lambda device: device.read(512, 1024)),
    "read_into": ("preadv", lambda device: device.read_into(512, [memoryview(bytearray(9))])),
    "write": ("pwritev", lambda device: device.write(512, [bytes(1024)])),
    "write_zeroes": ("pwritev", lambda device: device.write_zeroes(512, 1024)),
    "allocate": ("fallocate", lambda device: device.allocate(512, 1024)),
    "flush": ("fdatasync", lambda device: device.flush()),
    "resize": ("fsync", lambda device: device.resize(5 * MIB)),
    "refresh_size": ("lseek", lambda device: device.refresh_size()),
}


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("request_name", REQUESTS)
def test_an_error_of_the_host_is_a_device_error_that_keeps_its_errno(
    device: FileDevice, path: Path, monkeypatch: pytest.MonkeyPatch, request_name: str, code: int
) -> None:
    function_name, request = REQUESTS[request_name]

    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    module = file_module if function_name == "fallocate" else os
    monkeypatch.setattr(module, function_name, fail)
    with pytest.raises(DeviceError) as caught:
        request(device)
    assert isinstance(caught.value, NoSpaceError) == (code in {errno.ENOSPC, errno.EDQUOT})
    assert caught.value.errno == code
    assert isinstance(caught.value.__cause__, OSError)
    assert str(path) in caught.value.message
    assert os.strerror(code) in caught.value.message
    assert pickle.loads(pickle.dumps(caught.value)).errno == code


def test_a_failed_request_leaves_the_device_usable(device: FileDevice) -> None:
    with limited_file_size(MIB), pytest.raises(DeviceError):
        device.write(2 * MIB, [b"x"])
    device.write(2 * MIB, [b"y"])
    assert device.read(2 * MIB, 1) == b"y"


def in_a_full_tmpfs(body: str) -> str:
    """Run a script whose `image` lies in a tmpfs of 1 MiB, mounted for it alone."""
    script = f"""
import subprocess, tempfile
from blobstore.device.file import FileDevice
from blobstore.errors import DeviceError
directory = tempfile.mkdtemp()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "none", directory], check=True)
image = directory + "/disk.img"
try:
{textwrap.indent(textwrap.dedent(body), "    ")}
finally:
    subprocess.run(["umount", "-l", directory], check=True)
    subprocess.run(["rmdir", directory], check=True)
"""
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", *python(script)],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def may_mount() -> bool:
    """Try, since containers and distributions forbid it in different ways."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none"]
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*command, "/mnt"], capture_output=True).returncode == 0


needs_mount = pytest.mark.skipif(not may_mount(), reason="no mounts in a user namespace here")


@needs_mount
def test_a_full_host_file_system_is_enospc_at_the_write() -> None:
    body = """
        with FileDevice.create(image, 4 << 20) as device:
            try:
                device.write(0, [bytes(2 << 20)])
            except DeviceError as error:
                print(error.errno_name, device.read(3 << 20, 512) == bytes(512))
    """
    assert in_a_full_tmpfs(body) == "ENOSPC True\n"


@needs_mount
def test_an_allocation_beyond_the_hosts_space_is_enospc() -> None:
    body = """
        with FileDevice.create(image, 4 << 20) as device:
            try:
                device.allocate(0, 2 << 20)
            except DeviceError as error:
                print(error.errno_name)
    """
    assert in_a_full_tmpfs(body) == "ENOSPC\n"


@needs_mount
def test_what_was_allocated_can_be_written_and_zeroed_when_the_host_is_full() -> None:
    body = """
        with FileDevice.create(image, 4 << 20) as device:
            device.allocate(0, 512 << 10)
            try:
                device.write(1 << 20, [bytes(2 << 20)])
            except DeviceError as error:
                print(error.errno_name)
            device.write_zeroes(0, 4096)
            device.write_zeroes(8192, 64 << 10)
            device.write(0, [b"x" * (512 << 10)])
            print(device.read(0, 512 << 10) == b"x" * (512 << 10))
    """
    assert in_a_full_tmpfs(body) == "ENOSPC\nTrue\n"


# Space


def test_space_is_asked_for_once_and_holes_are_told_from_data(
    path: Path, device: FileDevice
) -> None:
    assert device.next_data(0) == device.size_bytes
    for length in (MIB, MIB, 0):
        device.allocate(MIB, length)
    device.write(3 * MIB, [b"x"])
    assert MIB < blocks(path) < 2 * MIB
    assert 2 * MIB < device.next_data(2 * MIB) <= 3 * MIB
    assert device.next_data(3 * MIB) == 3 * MIB
    assert device.next_data(5 * MIB) == 5 * MIB


def test_a_host_that_cannot_promise_space_or_tell_holes_sees_data_alone(
    device: FileDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(file_module, "fallocate", refuse)
    monkeypatch.setattr(os, "lseek", refuse)
    assert device.next_data(512) == 512
    device.allocate(0, 4096)


def blocks(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_a_created_file_takes_no_space_until_it_is_allocated(
    path: Path, device: FileDevice
) -> None:
    assert blocks(path) < 64 * KIB
    device.allocate(0, MIB)
    assert MIB <= blocks(path) < 2 * MIB
    assert path.stat().st_size == 4 * MIB


def test_unmap_gives_space_back_to_the_host(path: Path, device: FileDevice) -> None:
    device.write(0, [pattern(4 * MIB)])
    device.flush()
    before = blocks(path)
    device.unmap(MIB, 2 * MIB)
    device.flush()
    assert blocks(path) <= before - 2 * MIB
    assert path.stat().st_size == 4 * MIB


ZEROINGS: dict[str, tuple[Callable[[FileDevice], object], list[int]]] = {
    "write_zeroes": (lambda device: device.write_zeroes(0, MIB), [ZERO_RANGE, PUNCH_HOLE]),
    "unmap": (lambda device: device.unmap(0, MIB), [PUNCH_HOLE]),
}


@pytest.mark.parametrize(
    ("code", "is_remembered"),
    [(errno.EOPNOTSUPP, True), (errno.ENOSYS, True), (errno.EINVAL, False)],
)
@pytest.mark.parametrize("name", ZEROINGS)
def test_zeroing_that_the_host_does_not_support_is_done_by_writing(
    device: FileDevice, monkeypatch: pytest.MonkeyPatch, name: str, code: int, is_remembered: bool
) -> None:
    zero, modes = ZEROINGS[name]
    asked: list[int] = []

    def refuse(_descriptor: int, mode: int, _offset: int, _length: int) -> None:
        asked.append(mode)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("blobstore.device.file.fallocate", refuse)
    for _ in range(2):
        device.write(0, [pattern(2 * MIB)])
        zero(device)
        assert device.read(0, 2 * MIB) == bytes(MIB) + pattern(2 * MIB)[MIB:]
    assert asked == (modes if is_remembered else 2 * modes)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("name", ZEROINGS)
def test_zeroing_that_fails_is_a_device_error(
    device: FileDevice, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    def fail(*_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("blobstore.device.file.fallocate", fail)
    with pytest.raises(DeviceError) as caught:
        ZEROINGS[name][0](device)
    assert caught.value.errno == code


def test_a_host_without_fallocate_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blobstore.device.fallocate._libc_fallocate", lambda: None)
    with pytest.raises(OSError, match="not implemented") as caught:
        fallocate(0, ZERO_RANGE, 0, 512)
    assert caught.value.errno == errno.ENOSYS


# Durability


def run(core: Core[None], device: FileDevice) -> None:
    """Step a coroutine of the core and perform what it asks for, as a driver does."""
    result: Any = None
    with contextlib.suppress(StopIteration):
        while True:
            result = perform(device, core.send(result))


async def sequence() -> None:
    """A metadata call in small: new data, flush, pointer, flush; reads between."""
    page = pattern(4096)
    await Batch([Write(0, page), Write(8192, page, page), WriteZeroes(MIB, MIB)])
    await Unmap(2 * MIB, MIB)
    await Flush()
    await ReadInto(0, [memoryview(bytearray(512))])
    await Write(512, page[:512])
    await Flush()
    await Flush()


CHANGING_CALLS = {"pwritev", "pwritev2", "pwrite64", "write", "fallocate"}
EXPECTED_ORDER = [*4 * ["change"], "fdatasync", "change", "fdatasync", "fdatasync"]


class Recorder:
    """Records the calls that change a device, when they begin and when they return."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        monkeypatch.setattr(os, "pwritev", self._recorded("change", os.pwritev))
        monkeypatch.setattr(os, "fdatasync", self._recorded("fdatasync", os.fdatasync))
        recorded = self._recorded("change", fallocate)
        monkeypatch.setattr("blobstore.device.file.fallocate", recorded)

    def _recorded(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(*arguments: Any) -> Any:
            self.events.append(f"{name} begins")
            result = call(*arguments)
            self.events.append(f"{name} returned")
            return result

        return recorded


def test_each_flush_is_an_fdatasync_after_all_earlier_writes_returned(
    device: FileDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.write_zeroes(0, MIB)  # what the file system cannot do is known from here on
    device.unmap(0, MIB)
    recorder = Recorder(monkeypatch)
    run(sequence(), device)
    assert recorder.events == [
        f"{call} {moment}" for call in EXPECTED_ORDER for moment in ("begins", "returned")
    ]


def test_a_flush_syncs_the_devices_own_file(
    device: FileDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    device.flush()
    assert synced == [device.fast_descriptor]


def may_trace() -> bool:
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not may_trace(), reason="no strace, or tracing is not allowed")
def test_the_kernel_sees_an_fdatasync_for_each_flush_after_all_earlier_writes(
    path: Path, tmp_path: Path
) -> None:
    script = """
        import sys
        from blobstore.device.file import FileDevice
        from tests.device.test_file import run, sequence
        with FileDevice.open(sys.argv[1]) as device:
            run(sequence(), device)
    """
    trace = tmp_path / "trace"
    names = ",".join(sorted(CHANGING_CALLS | {"fdatasync", "fsync"}))
    tests_parent = str(Path(__file__).parents[2])
    subprocess.run(
        ["strace", "-y", "-o", str(trace), "-e", f"trace={names}", *python(script, path)],
        check=True,
        env=environment() | {"PYTHONPATH": f"{SOURCES}:{tests_parent}"},
    )
    lines = [line for line in trace.read_text().splitlines() if f"<{path}>" in line]
    calls = [line.partition("(")[0] for line in lines if " = -1 " not in line]
    assert ["change" if call in CHANGING_CALLS else call for call in calls] == EXPECTED_ORDER


def test_requests_of_many_threads_do_not_disturb_each_other(device: FileDevice) -> None:
    failures: list[str] = []

    def work(number: int) -> None:
        place, content = number * 64 * KIB, pattern(64 * KIB, seed=number)
        for _ in range(20):
            device.write(place, [content[:1000], content[1000:]])
            if device.read(place, 64 * KIB) != content:
                failures.append(f"thread {number}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_closing_does_not_flush_but_what_was_written_is_there_for_the_next(
    path: Path, device: FileDevice
) -> None:
    device.write(512, [pattern(512)])
    device.close()
    with pytest.raises(ClosedError):
        device.flush()
    with FileDevice.open(path, read_only=True) as again:
        assert again.read(512, 512) == pattern(512)


def test_the_lock_is_a_flock_that_other_programs_can_see(path: Path, device: FileDevice) -> None:
    with path.open("rb") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
