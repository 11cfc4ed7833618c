"""A file system on an attached thin volume: its snapshot, its checker, its trim."""

import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from blobstore import VolumeStore
from blobstore.units import KIB, MIB
from tests.attach.attachments import Attachments, file_system
from tests.fuse.test_mount import check_is_clean
from tests.rpc.client import Client

pytestmark = pytest.mark.slow

CLUSTER: Final = 64 * KIB
SIZE: Final = 48 * MIB
BEFORE: Final = random.Random(1).randbytes(3 * MIB)
AFTER: Final = random.Random(2).randbytes(2 * MIB)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "vms.img"
    with VolumeStore.create(path, name="vms", size="128MiB", cluster_size=CLUSTER) as vms:
        vms.create_volume("db", SIZE, thin=True)
    return path


@pytest.fixture
def rpc(attached: Attachments) -> str:
    return str(attached.runtime / "rpc.sock")


@pytest.fixture
def device(image: Path, rpc: str, attached: Attachments) -> Path:
    """The volume `db` with an ext4 file system, served by RPC as well."""
    device = attached.attach(image, "db", "--rpc", rpc)
    subprocess.run(["mkfs.ext4", "-q", "-m0", device], check=True)
    return device


@pytest.fixture
def call(device: Path, rpc: str) -> Iterator[Client]:
    client = Client(rpc)
    yield client
    client.close()


def volume(call: Client, name: str) -> dict[str, Any]:
    (found,) = [each for each in call("bdev_lvol_get_lvols") if each["name"] == name]
    return dict(found)


def test_mkfs_on_a_thin_volume_takes_little_and_trim_frees_what_files_had(
    image: Path, device: Path, call: Client, attached: Attachments, tmp_path: Path
) -> None:
    empty = volume(call, "db")["num_allocated_clusters"]
    assert empty * CLUSTER < SIZE // 4
    with file_system(device, tmp_path / "mnt") as directory:
        (directory / "large").write_bytes(BEFORE)
        os.sync()
        filled = volume(call, "db")["num_allocated_clusters"]
        assert filled - empty >= len(BEFORE) // CLUSTER
        (directory / "large").unlink()
        os.sync()
        subprocess.run(["fstrim", directory], check=True)
        trimmed = volume(call, "db")["num_allocated_clusters"]
        assert filled - trimmed >= len(BEFORE) // CLUSTER - 2
    attached.detach(device)
    assert attached.is_empty()
    check_is_clean(image)


def test_a_snapshot_of_a_mounted_file_system_is_checked_and_read_on_a_clone(
    image: Path, device: Path, call: Client, attached: Attachments, tmp_path: Path
) -> None:
    with file_system(device, tmp_path / "mnt") as directory:
        (directory / "kept").write_bytes(BEFORE)
        (directory / "changed").write_bytes(BEFORE)
        subprocess.run(["sync", "-f", directory], check=True)
        assert isinstance(call("bdev_lvol_snapshot", lvol_name="vms/db", snapshot_name="mon"), str)
        (directory / "changed").write_bytes(AFTER)
        (directory / "kept").unlink()
        assert isinstance(call("bdev_lvol_clone", snapshot_name="vms/mon", clone_name="look"), str)
        busy = attached.run("detach", device)
        assert (busy.status, "in use, such as mounted" in busy.stderr) == (1, True)

        clone = attached.attach(image, "look")
        fsck = subprocess.run(["e2fsck", "-fp", clone], capture_output=True, text=True, check=False)
        assert fsck.returncode in (0, 1), fsck.stdout  # 1: the journal was replayed
        with file_system(clone, tmp_path / "clone", "-o", "ro") as restored:
            assert (restored / "kept").read_bytes() == BEFORE
            assert (restored / "changed").read_bytes() == BEFORE
        attached.detach(clone)
        assert (directory / "changed").read_bytes() == AFTER
    subprocess.run(["e2fsck", "-fn", device], check=True, capture_output=True)
    attached.detach(device)
    assert attached.is_empty()
    check_is_clean(image)


def test_a_file_system_whose_process_is_killed_can_be_unmounted_and_loses_nothing_synced(
    image: Path, device: Path, attached: Attachments, tmp_path: Path
) -> None:
    with file_system(device, tmp_path / "mnt") as directory:
        (directory / "kept").write_bytes(BEFORE)
        subprocess.run(["sync", "-f", directory], check=True)
        (directory / "late").write_bytes(AFTER)
        attached.end(signal.SIGKILL)
        with pytest.raises(OSError, match="Errno"):
            write_durably(directory / "lost")
    attached.clear_killed(device)
    device = attached.attach(image, "db")  # recovers the store
    fsck = subprocess.run(["e2fsck", "-fp", device], capture_output=True, text=True, check=False)
    assert fsck.returncode in (0, 1), fsck.stdout
    with file_system(device, tmp_path / "mnt") as directory:
        assert (directory / "kept").read_bytes() == BEFORE
    attached.detach(device)
    assert attached.is_empty()
    check_is_clean(image)


def write_durably(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(AFTER)
        os.fsync(file.fileno())
