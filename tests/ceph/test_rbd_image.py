"""Stores on Ceph: a cluster of one node, which the tests start and end."""

import errno
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobstore.api.blobstore import Blobstore
from blobstore.api.check import check, repair
from blobstore.device.address import open_device
from blobstore.device.base import Device
from blobstore.device.rbd_cluster import RbdAddress
from blobstore.device.rbd_image import RbdDevice
from blobstore.errors import (
    BusyError,
    DeviceError,
    InvalidArgumentError,
    NotFoundError,
    PoisonedError,
    UnsupportedError,
)
from blobstore.testing.device_contract import MINIMUM_SIZE, ReadOnlyContract, pattern
from blobstore.units import GIB, MIB
from tests.ceph.cluster import POOL, CephCluster
from tests.ceph.processes import other_process

_WAIT_S = 60

pytestmark = pytest.mark.slow  # all of them start a cluster, or wait for one


@pytest.fixture(scope="module")
def image(ceph: CephCluster) -> str:
    return ceph.create_image("contract", MINIMUM_SIZE)


class TestRbdDevice(ReadOnlyContract):
    @pytest.fixture
    def device(self, image: str) -> Iterator[Device]:
        with open_device(image, read_only=False) as device:
            yield device

    @pytest.fixture
    def read_only_device(self, image: str) -> Iterator[Device]:
        with open_device(image, read_only=True) as device:
            yield device


# What cannot be opened


def test_what_is_not_there_is_not_found(ceph: CephCluster, address: str) -> None:
    cases = {
        "image absent": ceph.address("absent"),
        "pool absent": ceph.address("disk").replace(f"{POOL}/", "absent/"),
        "connect": f"rbd:{POOL}/disk?conf=/absent/ceph.conf",
    }
    for what, where in cases.items():
        with pytest.raises(NotFoundError, match=f"{what}: No such file") as caught:
            open_device(where, read_only=True)
        assert where in caught.value.message


def test_an_image_without_an_exclusive_lock_is_refused_for_writing(ceph: CephCluster) -> None:
    address = ceph.create_image("unlocked", features=ceph.rbd.RBD_FEATURE_LAYERING)
    with pytest.raises(UnsupportedError, match="no exclusive lock"):
        open_device(address, read_only=False)
    with open_device(address, read_only=True) as device:
        assert device.read(0, 512) == bytes(512)


def test_direct_io_is_refused(address: str) -> None:
    with pytest.raises(UnsupportedError, match="no direct"):
        open_device(address, read_only=True, direct=True)


# One writer


FROZEN = """
import sys
from blobstore import Blobstore, DeviceError

store = Blobstore.create(sys.argv[1])
blob = store.create_blob("1MiB")
print("ready", flush=True)
sys.stdin.readline()
try:
    blob.write(b"late" * 1024)
    blob.flush()
except DeviceError as error:
    print(error.errno, error.strerror)
"""


def test_a_writer_that_was_frozen_and_lost_its_lock_is_shut_out(address: str) -> None:
    with other_process(FROZEN, address) as writer:
        writer.send_signal(signal.SIGSTOP)
        try:
            with Blobstore.open(address) as store:
                (blob_id,) = store.blob_ids()
                with store.open_blob(blob_id) as blob:
                    blob.write(b"mine" * 1024)
                    blob.flush()
                    writer.send_signal(signal.SIGCONT)
                    out, _errors = writer.communicate("go\n", timeout=_WAIT_S)
                    assert blob.read(4096) == b"mine" * 1024
        finally:
            writer.send_signal(signal.SIGCONT)
    assert out.startswith(f"{errno.ESHUTDOWN} "), out
    assert "another client has taken the lock" in out


def test_readers_do_not_exclude_each_other(address: str) -> None:
    Blobstore.create(address).close()
    with (
        Blobstore.open(address, read_only=True) as one,
        Blobstore.open(address, read_only=True) as other,
    ):
        assert one.blob_ids() == other.blob_ids() == []


def test_a_reader_keeps_no_writer_out_and_sees_the_store_as_it_was(address: str) -> None:
    Blobstore.create(address).close()
    with Blobstore.open(address, read_only=True) as reader:
        with Blobstore.open(address) as writer:
            made = writer.create_blob(size=MIB).id
            with pytest.raises(BusyError):
                Blobstore.open(address, read_only=True)
        assert reader.blob_ids() == []
    with Blobstore.open(address, read_only=True) as reader:
        assert reader.blob_ids() == [made]


def test_a_device_that_was_closed_gives_its_lock_away(address: str) -> None:
    for _turn in range(3):
        with open_device(address, read_only=False) as device:
            device.write(0, [b"turn"])
            assert device.read(0, 4) == b"turn"


# Sizes


def test_a_store_grows_after_its_image_grew(ceph: CephCluster, address: str) -> None:
    name = address.partition("?")[0].removeprefix(f"rbd:{POOL}/")
    with Blobstore.create(address) as store:
        before = store.free_clusters
        with ceph.image(name) as image:
            image.resize(128 * MIB)
        store.grow()
        assert store.free_clusters == before + 64


def test_a_device_changes_the_size_of_its_image(address: str) -> None:
    with open_device(address, read_only=False) as device:
        device.resize(96 * MIB)
        device.write(96 * MIB - 512, [b"x" * 512])
        assert (device.size_bytes, device.refresh_size()) == (96 * MIB, 96 * MIB)


def test_an_image_that_shrank_is_an_error_of_the_device_and_never_zeroes(
    ceph: CephCluster, address: str
) -> None:
    name = address.partition("?")[0].removeprefix(f"rbd:{POOL}/")
    with open_device(address, read_only=False) as device:
        with ceph.image(name) as image:
            image.resize(32 * MIB)
        with pytest.raises(DeviceError):
            device.read(40 * MIB, 4096)
        with pytest.raises(DeviceError):
            device.read(32 * MIB - 512, 1024)
        assert device.refresh_size() == 32 * MIB


def test_a_reader_sees_another_size_when_it_asks(ceph: CephCluster, address: str) -> None:
    name = address.partition("?")[0].removeprefix(f"rbd:{POOL}/")
    with open_device(address, read_only=True) as device:
        with ceph.image(name) as image:
            image.resize(96 * MIB)
        assert device.refresh_size() == 96 * MIB


# Space, threads, children


def test_a_discard_frees_space_in_the_cluster(ceph: CephCluster, address: str) -> None:
    name = address.partition("?")[0].removeprefix(f"rbd:{POOL}/")

    def used() -> int:
        found: list[int] = []
        with ceph.image(name) as image:
            image.diff_iterate(0, image.size(), None, lambda _at, size, _there: found.append(size))
        return sum(found)

    with open_device(address, read_only=False) as device:
        device.write(0, [pattern(16 * MIB)])
        device.flush()
        device.unmap(0, 16 * MIB)
        device.flush()
    assert used() == 0


def test_more_than_two_gibibytes_are_zeroed_and_unmapped_at_once(ceph: CephCluster) -> None:
    with open_device(ceph.create_image("large", 5 * GIB), read_only=False) as device:
        device.write(4 * GIB, [b"x"])
        device.write_zeroes(1, 5 * GIB - 2)
        assert device.read(4 * GIB, 1) == b"\0"
        device.unmap(0, 5 * GIB)


def test_threads_share_an_image(address: str) -> None:
    wrong: list[int] = []

    def work(number: int) -> None:
        for turn in range(10):
            content = pattern(MIB, seed=8 * turn + number)
            device.write(number * MIB, [content])
            if device.read(number * MIB, MIB) != content:
                wrong.append(number)

    with open_device(address, read_only=False) as device:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_requests_of_several_threads_are_in_flight_at_once(ceph: CephCluster) -> None:
    """The OSD stands still until the client's own list of open requests has all of them."""
    ceph.create_image("flight")
    options = {"admin_socket": "/tmp/ceph-flight-$pid.asok"}
    address = RbdAddress(POOL, "flight", configuration=str(ceph.configuration), options=options)
    with RbdDevice.open(address, name="flight") as device:
        device.write(0, [pattern(32 * MIB)])
        device.flush()
        found: list[bool] = []

        def work(number: int) -> None:
            at = number * 8 * MIB  # each in an object of its own
            found.append(device.read(at, 4096) == pattern(32 * MIB)[at : at + 4096])

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        with ceph.frozen():
            for thread in threads:
                thread.start()
            deadline = time.monotonic() + _WAIT_S
            while _reads_in_flight(f"/tmp/ceph-flight-{os.getpid()}.asok") < 4:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert found == []
        for thread in threads:
            thread.join(_WAIT_S)
    assert found == [True] * 4


def _reads_in_flight(socket_path: str) -> int:
    command = ["ceph", "--admin-daemon", socket_path, "objecter_requests"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_WAIT_S)
    return sum("read" in str(request["osd_ops"]) for request in json.loads(done.stdout)["ops"])


FORKING = """
import os, sys, warnings
from blobstore.device.address import open_device

warnings.simplefilter("ignore", DeprecationWarning)
device = open_device(sys.argv[1], read_only=False)
device.write(0, [b"parent"])
print("ready", flush=True)
child = os.fork()
if child == 0:
    closed = device.closed
    del device
    sys.exit(0 if closed else 1)
print(os.waitpid(child, 0)[1], device.read(0, 6))
device.close()
"""


def test_a_forked_child_forgets_its_image_and_ends_and_its_parent_goes_on(address: str) -> None:
    with other_process(FORKING, address) as parent:
        out, _errors = parent.communicate(timeout=_WAIT_S)
    assert out == "0 b'parent'\n"


def test_a_repair_must_be_told_where_its_undo_file_goes(address: str, tmp_path: Path) -> None:
    Blobstore.create(address).close()
    with open_device(address, read_only=False) as device:
        device.write(2 * 4096 + 6, [b"\xff"])  # clusters that the mask says are used
    with pytest.raises(InvalidArgumentError, match="in no directory"):
        repair(address)
    assert repair(address, undo=tmp_path / "undo").after.clean
    assert check(address).clean


def test_a_cluster_that_does_not_know_this_client_any_more_poisons_the_store(
    ceph: CephCluster, address: str
) -> None:
    name = address.partition("?")[0].removeprefix(f"rbd:{POOL}/")
    store = Blobstore.create(address)
    with ceph.image(name) as image:
        (owner,) = (found["owner"] for found in image.lock_get_owners())
    given = {"prefix": "osd blacklist", "blacklistop": "add", "addr": owner}
    assert ceph.rados.mon_command(json.dumps(given), b"")[0] == 0
    with pytest.raises(DeviceError, match="shut out"):
        _create_until_refused(store)
    with pytest.raises(PoisonedError):
        store.create_blob(size=MIB)
    with pytest.raises(DeviceError):
        store.close()


def _create_until_refused(store: Blobstore) -> None:
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        store.create_blob(size=0).close()
