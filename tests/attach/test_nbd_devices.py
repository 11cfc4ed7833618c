"""Attached NBD devices, with a file and a test in the place of the kernel's device.

`make vm` has the kernel itself.
"""

import os
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from blobstore import BlobId, DeviceError, MemoryDevice, VolumeStore
from blobstore.attach.nbd_devices import NbdDevices
from blobstore.nbd.constants import REQUEST_MAGIC, Command, ExportFlag, WireError
from blobstore.units import MIB
from tests.nbd.servers import short_directory

REQUEST: Final = struct.Struct(">IHHQQI")
REPLY: Final = struct.Struct(">IIQ")
PATIENCE_S: Final = 60


class FakeKernel:
    """A device whose requests a test sends; programs that have it open are those of a file."""

    directory: Path
    made: "list[FakeKernel]"

    def __init__(self, kernel_end: socket.socket, *, size: int, block_size: int, flags: int):
        self.end = kernel_end.dup()
        self.end.settimeout(PATIENCE_S)
        self.size, self.flags = size, ExportFlag(flags)
        file = self.directory / f"nbd{len(self.made)}"
        file.touch()
        self.path = str(file)
        self.made.append(self)

    def run(self) -> None:
        waiting = select.poll()
        waiting.register(self.end, select.POLLRDHUP)
        waiting.poll()
        self.end.close()

    def has_size(self, size: int) -> bool:
        return size == self.size

    def resize(self, size: int) -> None:
        self.size = size

    def disconnect(self) -> None:
        self.end.sendall(REQUEST.pack(REQUEST_MAGIC, 0, Command.DISCONNECT, 0, 0, 0))

    def ask(self, command: Command, offset: int = 0, length: int = 0, data: bytes = b"") -> int:
        """Send a request; return the error of its answer."""
        size = length or len(data)
        self.end.sendall(REQUEST.pack(REQUEST_MAGIC, 0, command, 1, offset, size) + data)
        error: int = REPLY.unpack(self.end.recv(REPLY.size, socket.MSG_WAITALL))[1]
        return error


class Ended:
    """The blobs whose devices have ended."""

    def __init__(self) -> None:
        self.blobs: list[BlobId] = []
        self._changed = threading.Condition()

    def __call__(self, blob_id: BlobId) -> None:
        with self._changed:
            self.blobs.append(blob_id)
            self._changed.notify_all()

    def wait(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.blobs) == count, PATIENCE_S)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeKernel]]:
    with short_directory() as directory:
        FakeKernel.directory, FakeKernel.made = directory, []
        monkeypatch.setattr("blobstore.attach.nbd_devices.KernelNbd", FakeKernel)
        yield FakeKernel


@pytest.fixture
def vms() -> Iterator[VolumeStore]:
    with VolumeStore.create(MemoryDevice(16 * MIB), name="vms", cluster_size="64KiB") as store:
        store.create_volume("db", MIB, thin=True).close()
        yield store


def test_what_the_kernel_writes_is_in_the_blob_and_detach_closes_it(
    kernel: type[FakeKernel], vms: VolumeStore
) -> None:
    ended = Ended()
    with NbdDevices(vms, ended) as devices:
        path, blob = devices.add(vms["db"].id, read_only=False)
        (device,) = kernel.made
        assert (device.path, device.size) == (path, MIB)
        assert device.ask(Command.WRITE, 4096, data=b"hello") == 0
        assert device.ask(Command.FLUSH) == 0
        assert blob.read(5, 4096) == b"hello"
        devices.resize(path, 2 * MIB)
        assert device.size == 2 * MIB
        devices.detach(path)
        ended.wait(1)
        assert blob.closed
        with pytest.raises(OSError, match="has ended"):
            devices.detach(path)
    assert ended.blobs == [blob.id]


def test_a_read_only_device_says_so_and_refuses_writes(
    kernel: type[FakeKernel], vms: VolumeStore
) -> None:
    with NbdDevices(vms, Ended()) as devices:
        devices.add(vms["db"].id, read_only=True)
        (device,) = kernel.made
        assert ExportFlag.READ_ONLY in device.flags
        assert device.ask(Command.WRITE, data=b"hello") == WireError.PERM


def test_a_device_that_a_program_has_open_ends_when_the_program_closes_it(
    kernel: type[FakeKernel], vms: VolumeStore
) -> None:
    ended = Ended()
    with NbdDevices(vms, ended) as devices:
        path, blob = devices.add(vms["db"].id, read_only=False)
        code = "import sys; file = open(sys.argv[1]); print('open', flush=True); input()"
        command = [sys.executable, "-c", code, path]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as program:
            assert program.stdout is not None
            assert program.stdout.readline() == "open\n"
            devices.detach(path)
            assert kernel.made[0].ask(Command.WRITE, data=b"still there") == 0
            assert not ended.blobs
            program.communicate("\n")
        ended.wait(1)
        assert blob.closed


def test_leaving_ends_all_devices_at_once_and_closes_their_blobs(
    kernel: type[FakeKernel], vms: VolumeStore
) -> None:
    vms.create_volume("data", MIB, thin=True).close()
    ended = Ended()
    with NbdDevices(vms, ended) as devices:
        blobs = [devices.add(vms[name].id, read_only=False)[1] for name in ("db", "data")]
        held = os.open(kernel.made[0].path, os.O_RDONLY)
    os.close(held)
    ended.wait(2)
    assert all(blob.closed for blob in blobs)


class NoKernel(FakeKernel):
    """A kernel that has no free device."""

    def __init__(self, kernel_end: socket.socket, *, size: int, block_size: int, flags: int):
        raise DeviceError("no free NBD device")


def test_a_blob_for_which_there_is_no_device_is_closed(
    vms: VolumeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blobstore.attach.nbd_devices.KernelNbd", NoKernel)
    ended = Ended()
    with NbdDevices(vms, ended) as devices, pytest.raises(DeviceError, match="no free"):
        devices.add(vms["db"].id, read_only=False)
    vms.delete_volume("db")
    assert ended.blobs == []


def test_a_server_that_hangs_up_is_the_end_of_the_device(
    kernel: type[FakeKernel], vms: VolumeStore
) -> None:
    ended = Ended()
    with NbdDevices(vms, ended) as devices:
        _path, blob = devices.add(vms["db"].id, read_only=False)
        kernel.made[0].end.sendall(bytes(REQUEST.size))  # no request of the protocol
        ended.wait(1)
        assert blob.closed
