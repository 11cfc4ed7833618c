"""Block devices: their measures, who may have them, and ends that go away."""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blobstore.api.blobstore import Blobstore
from blobstore.device.address import open_device
from blobstore.device.block import BlockDevice
from blobstore.device.file import FileDevice
from blobstore.device.usage import describe_use, describe_use_of
from blobstore.errors import (
    BlobstoreError,
    BusyError,
    DeviceError,
    ExistsError,
    InvalidArgumentError,
    NotFoundError,
    PoisonedError,
    UnsupportedError,
)
from blobstore.testing.device_contract import pattern
from blobstore.testing.internals import device_of
from blobstore.units import KIB, MIB
from tests.device.loops import Loop, attached

SIZE = 32 * MIB

either_way = pytest.mark.parametrize("direct", [False, True], ids=["buffered", "direct"])


@pytest.fixture(params=[512, 4096], ids=["512", "4096"])
def loop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Loop]:
    with attached(tmp_path / "backing.img", block_size=request.param, size=SIZE) as loop:
        yield loop


@pytest.fixture
def small_blocks(tmp_path: Path) -> Iterator[Loop]:
    with attached(tmp_path / "backing.img", block_size=512, size=SIZE) as loop:
        yield loop


@pytest.fixture
def large_blocks(tmp_path: Path) -> Iterator[Loop]:
    with attached(tmp_path / "backing.img", block_size=4096, size=SIZE) as loop:
        yield loop


def python(script: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]


# The measures


@either_way
def test_a_block_device_has_the_kernels_measures(loop: Loop, direct: bool) -> None:
    block = int(subprocess.check_output(["blockdev", "--getss", loop.path]))
    physical = int(subprocess.check_output(["blockdev", "--getpbsz", loop.path]))
    with open_device(loop.path, read_only=False, direct=direct) as device:
        assert isinstance(device, BlockDevice)
        assert (device.size_bytes, device.block_size) == (SIZE, block)
        assert device.physical_block_size == physical
        assert device.atomic_write_size == (4096 if block == 4096 else 512)
        assert not device.unmap_zeroes
        assert (device.fast_descriptor is None) == direct


def test_sizes_that_are_given_replace_the_kernels(small_blocks: Loop) -> None:
    with open_device(
        small_blocks.path, read_only=False, block_size=4096, atomic_write_size=4096
    ) as device:
        assert (device.block_size, device.atomic_write_size) == (4096, 4096)
        assert device.physical_block_size == 4096


def test_blocks_smaller_than_the_devices_own_are_refused(large_blocks: Loop) -> None:
    with pytest.raises(InvalidArgumentError, match="a multiple of the device's own 4096"):
        open_device(large_blocks.path, read_only=True, block_size=512)
    with pytest.raises(InvalidArgumentError, match="block size 0"):
        open_device(large_blocks.path, read_only=True, block_size=0)
    BlockDevice.open(large_blocks.path).close()


def test_a_block_device_cannot_be_resized(small_blocks: Loop) -> None:
    with BlockDevice.open(small_blocks.path) as device, pytest.raises(UnsupportedError):
        device.resize(MIB)


def test_a_block_device_that_grew_shows_it_when_asked(small_blocks: Loop) -> None:
    with BlockDevice.open(small_blocks.path) as device:
        small_blocks.set_size(SIZE + MIB)
        assert device.size_bytes == SIZE
        assert device.refresh_size() == SIZE + MIB


# Kinds


def test_a_file_is_no_block_device(tmp_path: Path) -> None:
    (tmp_path / "disk.img").touch()
    for path in (tmp_path / "disk.img", tmp_path, Path("/dev/null")):
        with pytest.raises(InvalidArgumentError):
            BlockDevice.open(path, read_only=True)
    with pytest.raises(NotFoundError):
        BlockDevice.open(tmp_path / "absent")


def test_a_block_device_is_no_file(small_blocks: Loop) -> None:
    with pytest.raises(InvalidArgumentError, match="a block device"):
        FileDevice.open(small_blocks.path)
    with pytest.raises(InvalidArgumentError, match="a block device"):
        FileDevice.create(small_blocks.path, MIB, exclusive=False)


# Who may have it


@contextlib.contextmanager
def holder(path: Path, *, read_only: bool) -> Iterator[None]:
    """Run a process that has the device open, until its standard input ends."""
    script = """
        import sys
        from blobstore.device.address import open_device
        with open_device(sys.argv[1], read_only=sys.argv[2] == "True"):
            print("open", flush=True)
            sys.stdin.read()
    """
    with subprocess.Popen(
        python(script, path, read_only), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield


@pytest.mark.parametrize(
    ("theirs_read_only", "ours_read_only"), [(False, False), (False, True), (True, False)]
)
def test_another_process_keeps_us_off_a_block_device(
    small_blocks: Loop, theirs_read_only: bool, ours_read_only: bool
) -> None:
    busy = pytest.raises(BusyError, match=str(small_blocks.path))
    with holder(small_blocks.path, read_only=theirs_read_only), busy:
        BlockDevice.open(small_blocks.path, read_only=ours_read_only)
    BlockDevice.open(small_blocks.path, read_only=ours_read_only).close()


def test_readers_share_a_block_device(small_blocks: Loop) -> None:
    with (
        holder(small_blocks.path, read_only=True),
        BlockDevice.open(small_blocks.path, read_only=True) as device,
    ):
        assert device.read(0, 512) == bytes(512)


def test_a_second_writer_in_this_process_is_refused(small_blocks: Loop) -> None:
    with BlockDevice.open(small_blocks.path), pytest.raises(BusyError):
        BlockDevice.open(small_blocks.path)


def test_a_shared_lock_that_is_soon_gone_is_waited_for(small_blocks: Loop) -> None:
    """udev looks at a device that a writer has closed, under such a lock."""
    descriptor = os.open(small_blocks.path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    watcher = threading.Timer(0.05, os.close, [descriptor])
    watcher.start()
    with BlockDevice.open(small_blocks.path) as device:
        assert not device.read_only
    watcher.join()


@contextlib.contextmanager
def mounted(loop: Loop, directory: Path) -> Iterator[None]:
    if shutil.which("mke2fs") is None:
        pytest.skip("mke2fs is not installed")
    subprocess.run(["mke2fs", "-q", "-F", loop.path], check=True)
    directory.mkdir()
    if subprocess.run(["mount", loop.path, directory], capture_output=True).returncode != 0:
        pytest.skip("mounting is not allowed")
    try:
        yield
    finally:
        subprocess.run(["umount", directory], check=True)


@either_way
def test_a_mounted_device_is_refused_for_writing_and_says_where_it_is_mounted(
    loop: Loop, tmp_path: Path, direct: bool
) -> None:
    mount_point = tmp_path / "mount point"
    with mounted(loop, mount_point):
        for attempt in (
            lambda: BlockDevice.open(loop.path, direct=direct),
            lambda: Blobstore.open(loop.path, direct=direct),
            lambda: Blobstore.create(loop.path, overwrite=True, direct=direct),
        ):
            with pytest.raises(BusyError, match=re.escape(f"mounted at {mount_point}")):
                attempt()
        BlockDevice.open(loop.path, read_only=True).close()


def test_a_device_that_we_have_cannot_be_mounted(small_blocks: Loop, tmp_path: Path) -> None:
    with mounted(small_blocks, tmp_path / "here"):
        pass
    with BlockDevice.open(small_blocks.path):
        command = ["mount", str(small_blocks.path), str(tmp_path / "here")]
        assert subprocess.run(command, capture_output=True).returncode != 0


def test_a_device_with_a_mounted_partition_or_a_holder_says_so(tmp_path: Path) -> None:
    disk = tmp_path / "sys/dev/block/8:0"
    (disk / "sda1/holders").mkdir(parents=True)
    (disk / "sda1/partition").touch()
    (disk / "dev").write_text("8:0\n")
    (disk / "sda1/dev").write_text("8:1\n")
    table = tmp_path / "proc/self/mountinfo"
    table.parent.mkdir(parents=True)

    def use() -> str:
        return describe_use_of(os.makedev(8, 0), proc=tmp_path / "proc", sysfs=tmp_path / "sys")

    assert use() == ""
    (disk / "sda1/holders/dm-0").touch()
    assert use() == "used by dm-0"
    (tmp_path / "proc/swaps").write_text("Filename Type\n/dev/sda1 partition\n")
    assert use() == "used as swap"
    table.write_text("42 27 8:1 / /a\\040b rw - ext4 /dev/sda1 rw\n")
    assert use() == "mounted at /a b"


def test_what_does_not_exist_is_used_by_nobody(tmp_path: Path) -> None:
    assert describe_use(tmp_path / "absent") == ""


# An end that goes away


REQUESTS: dict[str, Callable[[BlockDevice, int], object]] = {
    "read": lambda device, at: device.read(at, 8192),
    "read_into": lambda device, at: device.read_into(at, [memoryview(bytearray(8192))]),
    "read odd bytes": lambda device, at: device.read(at + 7, 9000),
    "write": lambda device, at: device.write(at, [bytes(8192)]),
    "write odd bytes": lambda device, at: device.write(at + 7, [bytes(9000)]),
    "write_zeroes": lambda device, at: device.write_zeroes(at, MIB),
    "unmap": lambda device, at: device.unmap(at, MIB),
}


@either_way
@pytest.mark.parametrize("request_name", REQUESTS)
def test_a_device_whose_end_went_away_answers_with_device_errors(
    loop: Loop, direct: bool, request_name: str
) -> None:
    with BlockDevice.open(loop.path, direct=direct) as device:
        device.write(0, [pattern(MIB)])
        device.flush()
        loop.set_size(SIZE // 2)
        for at in (SIZE // 2, SIZE // 2 - 4096, SIZE - 2 * MIB):
            with pytest.raises(DeviceError) as caught:
                REQUESTS[request_name](device, at)
            assert str(loop.path) in caught.value.message
            assert f"device of {SIZE // 2} bytes found, expected {SIZE}" in caught.value.message
            assert caught.value.errno == errno.EIO
        assert device.read(0, MIB) == pattern(MIB)


@either_way
def test_a_device_that_shrinks_under_load_ends_every_request_with_a_typed_error(
    loop: Loop, direct: bool
) -> None:
    started = threading.Barrier(3)
    errors: list[BaseException] = []

    def work(device: BlockDevice, first: int) -> None:
        try:
            for round_ in range(100_000):
                if round_ == 20:
                    started.wait()
                at = first + round_ % 2000 * 4096
                device.write(at, [bytes(4096)])
                device.read(at + 100, 1000)
        except BaseException as error:
            errors.append(error)

    with BlockDevice.open(loop.path, direct=direct) as device:
        threads = [
            threading.Thread(target=work, args=[device, first]) for first in (8 * MIB, 20 * MIB)
        ]
        for thread in threads:
            thread.start()
        started.wait()
        loop.hide_end(2 * MIB)
        for thread in threads:
            thread.join()
    assert [type(error) for error in errors] == [DeviceError, DeviceError]


@either_way
def test_a_store_on_a_device_that_shrank_is_poisoned_and_recovers_when_it_has_grown_back(
    loop: Loop, direct: bool
) -> None:
    with Blobstore.create(loop.path, cluster_size=64 * KIB, direct=direct) as store:
        kept = store.create_blob(MIB, xattrs={"name": b"kept"})
        kept.write(pattern(MIB))
        kept.flush()
        blob_id = kept.id
    store = Blobstore.open(loop.path, direct=direct)
    kept = store.open_blob(blob_id)
    kept.write(b"not acknowledged", MIB // 2)
    kept.set_xattr("name", b"not durable")
    loop.hide_end(4096)
    with pytest.raises(DeviceError):
        kept.sync_md()
    with pytest.raises(PoisonedError):
        store.create_blob()
    with contextlib.suppress(BlobstoreError):
        store.close()
    with pytest.raises(BlobstoreError):
        Blobstore.open(loop.path, direct=direct)
    loop.hide_end(0)
    with Blobstore.open(loop.path, direct=direct) as store:
        assert not store.errors
        kept = store.open_blob(blob_id)
        assert kept.get_xattr("name") == b"kept"
        assert kept.read(MIB // 2) == pattern(MIB)[: MIB // 2]
        kept.write(b"goes on")
        kept.flush()


# Stores


@either_way
def test_a_store_on_a_block_device_is_written_reopened_and_kept(loop: Loop, direct: bool) -> None:
    with Blobstore.create(loop.path, cluster_size=64 * KIB, direct=direct) as store:
        assert store.info.io_unit_size == device_of(store).block_size
        blob = store.create_blob(4 * MIB, thin=True, xattrs={"name": b"vol0"})
        blob.write(pattern(MIB), offset=12_345)
        blob.unmap(64 * KIB, 128 * KIB)
        blob_id = blob.id
    expected = bytearray(2 * MIB)
    expected[12_345 : 12_345 + MIB] = pattern(MIB)
    expected[64 * KIB : 192 * KIB] = bytes(128 * KIB)
    for other_way in (direct, not direct):
        with Blobstore.open(loop.path, read_only=True, direct=other_way) as store:
            blob = store.open_blob(blob_id)
            assert blob.get_xattr("name") == b"vol0"
            assert blob.read(2 * MIB) == expected


@either_way
def test_a_store_whose_process_was_killed_recovers_on_a_block_device(
    loop: Loop, direct: bool
) -> None:
    script = """
        import itertools, os, signal, sys
        from blobstore.api.blobstore import Blobstore
        direct = sys.argv[2] == "True"
        store = Blobstore.create(sys.argv[1], cluster_size="64KiB", direct=direct)
        blob = store.create_blob("8MiB", thin=True, xattrs={"name": b"kept"})
        for index in range(40):
            blob.write(bytes([index + 1]) * 70_001, index * 131_072)
            if index == 20:
                blob.flush()
        store.create_blob("1MiB")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(python(script, loop.path, direct), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-9, "")
    with Blobstore.open(loop.path, direct=direct) as store:
        assert (store.errors, len(store.blob_ids())) == ({}, 2)
        blob = store.open_blob(store.blob_ids()[0])
        assert blob.get_xattr("name") == b"kept"
        for index in range(21):
            assert blob.read(70_001, index * 131_072) == bytes([index + 1]) * 70_001
        blob.write(b"goes on")
    with Blobstore.open(loop.path, direct=direct) as store:
        assert store.open_blob(store.blob_ids()[0]).read(7) == b"goes on"


# Somebody else's content


_CHEAP_KEY = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]

MAKERS = {
    "ext2, ext3 or ext4": ["mke2fs", "-q", "-F"],
    "swap space": ["mkswap"],
    "partition table": ["sfdisk", "-q"],
    "xfs": ["mkfs.xfs", "-q"],
    "btrfs": ["mkfs.btrfs", "-q"],
    "LVM": ["pvcreate", "-q"],
    "LUKS": ["cryptsetup", "luksFormat", "-q", *_CHEAP_KEY],
}
LARGE = ("xfs", "btrfs")
"""These refuse to be small."""


@pytest.mark.parametrize("kind", MAKERS)
def test_what_other_tools_made_is_refused_by_its_name_and_gone_when_overwritten(
    loop: Loop, kind: str
) -> None:
    command = MAKERS[kind]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    if kind in LARGE:
        loop.set_size(400 * MIB)
    made = subprocess.run(
        [*command, loop.path], input=",,L\n", text=True, capture_output=True, check=False
    )
    assert made.returncode == 0, made.stderr
    before = loop.backing.read_bytes()
    with pytest.raises(ExistsError, match=kind):
        Blobstore.create(loop.path)
    os.sync()
    assert loop.backing.read_bytes() == before
    with Blobstore.create(loop.path, overwrite=True) as store:
        store.create_blob(MIB).write(b"ours")
    with pytest.raises(ExistsError, match="a blobstore"):
        Blobstore.create(loop.path)
