"""`attach` and `detach`: what the kernel sees, how it ends, and what a killed process leaves."""

import contextlib
import errno
import mmap
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from blobstore import Blobstore, DeviceError, VolumeStore
from blobstore.attach.attach_protocol import decode_answer
from blobstore.units import KIB, MIB
from tests.attach.attachments import BY_NBD, Attachments
from tests.cli.runner import run_here, run_process
from tests.device.loops import attached as loop_on
from tests.fuse.test_mount import check_is_clean, fails
from tests.rpc.client import Client
from tests.shared import CHECKOUT

pytestmark = pytest.mark.slow

CLUSTER: Final = 64 * KIB
SIZE: Final = 8 * MIB
DATA: Final = random.Random(1).randbytes(2 * CLUSTER)
PATIENCE_S: Final = 60

GONE: Final = """
import sys
from blobstore import VolumeStore
from blobstore.attach.attach_place import Place
from blobstore.attach.attach_process import AttachProcess
from blobstore.attach.attach_protocol import Wanted

path = sys.argv[1]

def report(_report):
    raise BrokenPipeError

place = Place.of_store(path)
place.make()
process = AttachProcess(place, lambda: VolumeStore.open(path), lambda vms, name: vms[name].id)
process.run(Wanted("db", read_only=False, is_first=False), report)
"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A volume store: `db`, a clone of the snapshot `monday`, and the empty thin `new`."""
    path = tmp_path / "vms.img"
    with VolumeStore.create(path, name="vms", size="64MiB", cluster_size=CLUSTER) as vms:
        db = vms.create_volume("db", SIZE, thin=True)
        db.write(DATA, CLUSTER)
        db.snapshot("monday")
        vms.create_volume("new", SIZE, thin=True)
    return path


@contextlib.contextmanager
def past_the_cache(device: Path) -> Iterator[tuple[int, mmap.mmap]]:
    """Open a device for direct I/O, with a buffer that suits it."""
    descriptor = os.open(device, os.O_RDWR | os.O_DIRECT)
    try:
        with mmap.mmap(-1, CLUSTER) as buffer:
            yield descriptor, buffer
    finally:
        os.close(descriptor)


def all_devices() -> set[Path]:
    """Return what the kernel says of each device that is attached, whoever did it."""
    return set(Path("/sys/block").glob("nbd*/pid" if BY_NBD else "loop*/loop/backing_file"))


def allocated_clusters(image: Path, name: str) -> int:
    with VolumeStore.open(image, read_only=True) as vms:
        return vms[name].info.allocated_clusters


def queue_of(device: Path, name: str) -> int:
    return int(Path("/sys/block", device.name, "queue", name).read_text())


def test_a_volume_is_a_block_device_whose_writes_are_in_the_store_afterwards(
    image: Path, attached: Attachments
) -> None:
    device = attached.attach(image, "db")
    assert device.is_block_device()
    assert queue_of(device, "logical_block_size") == 512
    assert queue_of(device, "discard_granularity") == (512 if BY_NBD else CLUSTER)
    with open(device, "r+b") as file:
        assert file.read(3 * CLUSTER) == bytes(CLUSTER) + DATA
        assert file.seek(0, os.SEEK_END) == SIZE
        file.seek(5 * CLUSTER)
        file.write(DATA)
    attached.detach(device)
    assert attached.is_empty()
    check_is_clean(image)
    with VolumeStore.open(image, read_only=True) as vms:
        assert vms["db"].read(len(DATA), 5 * CLUSTER) == DATA
        assert vms["monday"].read(3 * CLUSTER) == bytes(CLUSTER) + DATA


def test_one_process_serves_all_volumes_of_a_store_and_ends_with_the_last(
    image: Path, attached: Attachments
) -> None:
    devices = [attached.attach(image, name) for name in ("db", "new", "monday")]
    assert len(set(attached.pids)) == 1
    again = attached.run("attach", image, "db")
    assert (again.status, again.text) == (1, "")
    assert again.stderr.rstrip().endswith(f"is attached as {devices[0]}")
    with open(devices[1], "r+b") as file:
        file.write(DATA)
    for device in devices:
        assert not attached.is_empty()
        attached.detach(device)
    assert attached.is_empty()
    check_is_clean(image)
    with VolumeStore.open(image, read_only=True) as vms:
        assert vms["new"].read(len(DATA)) == DATA


def test_a_snapshot_and_what_is_asked_to_be_are_read_only_devices(
    image: Path, attached: Attachments
) -> None:
    for device in (attached.attach(image, "monday"), attached.attach(image, "new", "--read-only")):
        assert Path("/sys/block", device.name, "ro").read_text() == "1\n"
        with open(device, "r+b", buffering=0) as file, fails(errno.EPERM):
            file.write(DATA)
        attached.detach(device)


def test_a_store_that_is_attached_read_only_is_read_by_other_commands_and_not_written_to(
    image: Path, attached: Attachments
) -> None:
    device = attached.attach(image, "new", "--read-only")
    assert run_here("show", image, "db").status == 0
    refused = attached.run("attach", image, "db")
    assert (refused.status, "is attached read-only" in refused.stderr) == (1, True)
    attached.detach(device)
    assert attached.is_empty()


def test_a_second_attach_takes_the_store_as_it_is_open_and_finds_it_in_its_runtime_directory_alone(
    image: Path, attached: Attachments, tmp_path: Path
) -> None:
    first = attached.attach(image, "new")
    second = attached.attach(image, "db", "--external", "none=/nowhere")
    assert len(set(attached.pids)) == 1
    elsewhere = {"XDG_RUNTIME_DIR": str(tmp_path)}
    refused = run_process("attach", image, "monday", environment=elsewhere)
    assert (refused.status, "in use by process" in refused.stderr) == (1, True)
    for device in (first, second):
        attached.detach(device)
    assert attached.is_empty()


def test_two_attaches_at_once_start_one_process(image: Path, attached: Attachments) -> None:
    with ThreadPoolExecutor(3) as threads:
        devices = list(threads.map(lambda name: attached.attach(image, name), ["db", "new"]))
    assert len(set(attached.pids)) == 1
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(attached.detach, devices))
    assert attached.is_empty()
    check_is_clean(image)


def test_a_store_of_blobs_is_attached_by_name_and_id(tmp_path: Path, attached: Attachments) -> None:
    path = tmp_path / "disk.img"
    with Blobstore.create(path, size="16MiB", cluster_size=CLUSTER, block_size=4096) as store:
        first = store.create_blob(MIB, name="first").id
        second = store.create_blob(MIB, thin=True).id
    for device in [attached.attach(path, "first"), attached.attach(path, f"{second:#x}")]:
        assert queue_of(device, "logical_block_size") == 4096
        attached.detach(device)
    device = attached.attach(path, str(first))
    refused = attached.run("attach", path, "first", "--rpc", str(attached.runtime / "rpc"))
    assert "attached already" in refused.stderr
    attached.detach(device)
    refused = attached.run("attach", path, "first", "--rpc", str(attached.runtime / "rpc"))
    assert "a store of blobs, expected a volume store" in refused.stderr
    assert attached.is_empty()


def test_discards_free_clusters_and_zeroes_are_zeroes(image: Path, attached: Attachments) -> None:
    device = attached.attach(image, "new")
    with open(device, "r+b") as file:
        file.write(DATA * 4)
    command = ["blkdiscard", "-o", str(CLUSTER), "-l", str(2 * CLUSTER)]
    subprocess.run([*command, device], check=True)
    subprocess.run(["blkdiscard", "-z", "-o", str(4 * CLUSTER), "-l", "4096", device], check=True)
    attached.detach(device)
    assert allocated_clusters(image, "new") == 6
    expected = bytearray(DATA * 4)
    expected[CLUSTER : 3 * CLUSTER] = bytes(2 * CLUSTER)
    expected[4 * CLUSTER : 4 * CLUSTER + 4096] = bytes(4096)
    with VolumeStore.open(image, read_only=True) as vms:
        assert vms["new"].read(8 * CLUSTER) == expected


def test_zeroes_on_a_clone_do_not_show_its_parent_and_discards_take_no_space(
    image: Path, attached: Attachments
) -> None:
    device = attached.attach(image, "db")
    place = ["-o", str(CLUSTER), "-l", str(CLUSTER)]
    subprocess.run(["blkdiscard", *place, device], check=True)
    with open(device, "rb") as file:
        assert file.read(3 * CLUSTER) == bytes(CLUSTER) + DATA
    subprocess.run(["blkdiscard", "-z", *place, device], check=True)
    with open(device, "rb") as file:
        assert file.read(3 * CLUSTER) == bytes(2 * CLUSTER) + DATA[CLUSTER:]
    attached.detach(device)
    assert allocated_clusters(image, "db") == 1


def test_a_killed_process_leaves_errors_and_nothing_that_hangs(
    image: Path, attached: Attachments
) -> None:
    device = attached.attach(image, "new")
    with past_the_cache(device) as (file, buffer):
        buffer.write(DATA[:CLUSTER])
        os.pwritev(file, [buffer], CLUSTER)
        os.fsync(file)
        attached.end(signal.SIGKILL)
        with fails(errno.EIO):
            os.preadv(file, [buffer], CLUSTER)
        with fails(errno.EIO):
            os.pwritev(file, [buffer], CLUSTER)
    orphan, device = device, attached.attach(image, "new")  # recovers the store
    with open(device, "rb") as again:
        again.seek(CLUSTER)
        assert again.read(CLUSTER) == DATA[:CLUSTER]
    if not BY_NBD:  # where the kernel has let go of it already
        attached.clear_killed(orphan)
    attached.detach(device)
    assert attached.is_empty()
    check_is_clean(image)


def test_what_a_killed_process_has_left_is_removed_by_detach(
    image: Path, attached: Attachments
) -> None:
    device = attached.attach(image, "new")
    attached.end(signal.SIGKILL)
    attached.clear_killed(device)
    assert attached.devices() == []
    assert "nothing is attached" in attached.run("detach", device).stderr
    assert run_here("recover", image).status == 0
    check_is_clean(image)


@pytest.mark.skipif(BY_NBD, reason="devices are the kernel's NBD devices")
def test_losetup_detaches_the_device_of_a_killed_process(
    image: Path, attached: Attachments
) -> None:
    device = attached.attach(image, "new")
    attached.end(signal.SIGKILL)
    subprocess.run(["losetup", "-d", device], check=True)
    assert attached.devices() == []


def wait_until(is_so: Callable[[], bool]) -> None:
    """Look until something is so; it must be within a minute."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("end", ["SIGTERM"] if BY_NBD else ["losetup", "SIGTERM"])
def test_without_detach_the_process_ends_and_unloads_the_store_as_well(
    image: Path, attached: Attachments, end: str
) -> None:
    device = attached.attach(image, "new")
    with open(device, "r+b") as file:
        file.write(DATA)
    if end == "losetup":
        subprocess.run(["losetup", "-d", device], check=True)
        wait_until(attached.is_empty)
    else:
        attached.end(signal.SIGTERM)
    assert attached.is_empty()
    check_is_clean(image)
    with VolumeStore.open(image, read_only=True) as vms:
        assert vms["new"].read(len(DATA)) == DATA


def test_what_fails_in_the_background_is_said_by_the_command_and_leaves_nothing(
    image: Path, tmp_path: Path, attached: Attachments
) -> None:
    cases = {
        (image, "none"): "no volume 'none'",
        (tmp_path / "none.img", "db"): "No such file",
        (CHECKOUT / "CHANGELOG.md", "db"): "expected b'SPDKBLOB'",
    }
    for (store, blob), message in cases.items():
        done = attached.run("attach", store, blob, "--json")
        assert (done.status, done.stdout) == (1, b"")
        assert message.lower() in done.error["message"].lower()
    with VolumeStore.open(image):
        busy = attached.run("attach", image, "db", "--json")
        assert busy.error["errno"] == "EBUSY"
        assert "in use by process" in busy.error["message"]
        assert busy.error["message"].endswith("; --wait SECONDS waits until it has ended")
    assert attached.is_empty()
    check_is_clean(image)


def test_only_what_was_attached_is_detached(tmp_path: Path, attached: Attachments) -> None:
    file = tmp_path / "file"
    file.touch()
    assert "is no loop device and no NBD device" in attached.run("detach", file).stderr
    assert "No such file" in attached.run("detach", tmp_path / "none").stderr
    if not BY_NBD:
        with loop_on(tmp_path / "backing", block_size=512) as loop:
            assert "was not attached by blobstore" in attached.run("detach", loop.path).stderr


def test_a_device_follows_the_size_of_its_volume(image: Path, attached: Attachments) -> None:
    socket = str(attached.runtime / "rpc")
    device = attached.attach(image, "new", "--rpc", socket)
    client = Client(socket)
    assert client("bdev_lvol_resize", name="vms/new", size_in_mib=16) is True
    client.close()
    size = Path("/sys/block", device.name, "size")
    wait_until(lambda: int(size.read_text()) * 512 == 16 * MIB)
    attached.detach(device)
    assert attached.is_empty()


def test_nothing_stays_attached_when_the_command_is_gone_before_the_device_is_there(
    image: Path, attached: Attachments
) -> None:
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(attached.runtime)}
    before = all_devices()
    subprocess.run([sys.executable, "-c", GONE, image], env=environment, check=True)
    own = str(attached.runtime)
    left = all_devices() - before
    assert not [each for each in left if BY_NBD or own in each.read_text()]
    assert attached.is_empty()
    check_is_clean(image)


def test_a_process_that_ends_without_a_word_is_an_error_of_the_command() -> None:
    code = (
        "import os; from blobstore.attach.background import start_in_background as start; "
        "print(start(lambda report: os._exit(3)), start(lambda report: report(b'done')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout == "b'' b'done'\n"
    with pytest.raises(DeviceError, match="ended before it answered"):
        decode_answer(b"")
