"""The kernel's NBD devices, whose server is this process (linux/nbd.h).

A device gets one end of a pair of sockets; requests arrive at the other. There is no handshake:
what it would settle, such as the size, is told to the kernel directly.

**By ioctl, not by netlink.** `NBD_DO_IT` stays in the kernel until the device is gone. When the
process is killed, the kernel interrupts that call, and fails all requests in flight. A device
that was connected by netlink belongs to no process. Its kernel would wait for a new connection,
and so would every program with a request in flight. For the same reason `nbd-client`, a second
process, would have to be killed too.

**One connection.** If there are several, the kernel takes one that has not answered for 30 s for
dead. A slow disk would so lose one connection after the other. One connection may take its time.

The kernel tells the thread that runs a device, in `/sys/block/nbdN/pid`. The current directory of
that thread's process is the place of the store, so a device tells by itself whose it is.
"""

import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import threading
from typing import Final

from blobstore.attach.claiming import claimed
from blobstore.errors import DeviceError, NotFoundError

MAJOR: Final = 43

_SET_SOCKET: Final = 0xAB00
_SET_BLOCK_SIZE: Final = 0xAB01
_DO_IT: Final = 0xAB03
_CLEAR_SOCKET: Final = 0xAB04
_SET_SIZE_BLOCKS: Final = 0xAB07
_DISCONNECT: Final = 0xAB08
_SET_FLAGS: Final = 0xAB0A

_IS_DEVICE: Final = re.compile(r"nbd\d+")
_REQUEST_MAX_KIB: Final = 1024
"""The server reads so much at once: a longer read that fails in the middle ends the connection."""

_libc: Final = ctypes.CDLL(None, use_errno=True)


def is_available() -> bool:
    """Return whether the kernel has NBD devices; have its module loaded, where there is one."""
    if not _devices():
        with contextlib.suppress(FileNotFoundError):
            subprocess.run(["modprobe", "-q", "nbd"], check=False)
    return bool(_devices())


def _devices() -> list[str]:
    names = filter(_IS_DEVICE.fullmatch, os.listdir("/dev"))
    return [f"/dev/{name}" for name in sorted(names, key=lambda name: int(name[3:]))]


def owner_of(path: str) -> str | None:
    """Return the current directory of the process that serves a device; None if it is gone.

    Raises:
        NotFoundError: Nothing is attached.
    """
    try:
        with open(_of_device(path, "pid"), encoding="ascii") as file:
            pid = int(file.read())
    except OSError as error:
        raise NotFoundError(f"{path}: nothing is attached") from error
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except FileNotFoundError:
        return None


def detach_orphan(path: str) -> None:
    """Make sure that a device without a process is in use by none: then the kernel lets go of it.

    Raises:
        BusyError: It is mounted, or is part of something else.
    """
    with claimed(path, flush=False):
        pass


def is_open_elsewhere(path: str) -> bool:
    """Return whether another process has a device, or a partition of it, open."""
    own = str(os.getpid())
    return any(_has_open(pid, path) for pid in os.listdir("/proc") if pid.isdigit() and pid != own)


def _has_open(pid: str, path: str) -> bool:
    try:
        files = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False  # it has ended
    for number in files:
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/{pid}/fd/{number}")
            if target == path or target.startswith(f"{path}p"):
                return True
    return False


class KernelNbd:
    """An NBD device of the kernel that asks this process for its blocks.

    The constructor takes the first free device. `run` lives as long as the device does.
    """

    def __init__(self, kernel_end: socket.socket, *, size: int, block_size: int, flags: int):
        """Configure a device for `size` bytes; `flags` are the NBD protocol's.

        Raises:
            DeviceError: No device is free, or this process may not have one.
        """
        self.path, self._device = _claim_free(kernel_end)
        self._guard = threading.Lock()  # the number of a closed file may be another device's
        self._block_size = block_size
        try:
            _ioctl(self._device, _SET_BLOCK_SIZE, block_size)
            self.resize(size)
            _ioctl(self._device, _SET_FLAGS, flags)
            with open(_of_device(self.path, "queue/max_sectors_kb"), "w", encoding="ascii") as file:
                file.write(str(_REQUEST_MAX_KIB))
        except OSError as error:
            self._let_go()
            raise DeviceError(f"{self.path}: {error.strerror}", errno=error.errno) from error

    def run(self) -> None:
        """Have the kernel send requests until the device is disconnected or its server is gone."""
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # one would end the call
        try:
            with contextlib.suppress(OSError):  # the server has hung up
                _ioctl(self._device, _DO_IT, 0)
        finally:
            self._let_go()

    def has_size(self, size: int) -> bool:
        """Return whether programs see a device of `size` bytes: `run` has begun."""
        with open(_of_device(self.path, "size"), encoding="ascii") as file:
            return int(file.read()) * 512 == size

    def resize(self, size: int) -> None:
        """Give the device another size.

        Raises:
            OSError: The kernel refuses.
        """
        with self._guard:
            _ioctl(self._device, _SET_SIZE_BLOCKS, size // self._block_size)

    def disconnect(self) -> None:
        """Have the kernel send what it has to send, and then end the device.

        Raises:
            OSError: It has ended already.
        """
        with self._guard:
            _ioctl(self._device, _DISCONNECT, 0)

    def _let_go(self) -> None:
        with contextlib.suppress(OSError):
            _ioctl(self._device, _CLEAR_SOCKET, 0)  # fails requests in flight
        with self._guard:
            device, self._device = self._device, -1
            os.close(device)


def _claim_free(kernel_end: socket.socket) -> tuple[str, int]:
    for path in _devices():
        if os.path.exists(_of_device(path, "pid")):
            continue
        try:
            device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise DeviceError(f"{path}: {error.strerror}", errno=error.errno) from error
        try:
            _ioctl(device, _SET_SOCKET, kernel_end.fileno())
        except OSError:
            os.close(device)  # another process was faster
            continue
        return path, device
    raise DeviceError("no free NBD device: the parameter nbds_max of the module nbd makes more")


def _of_device(path: str, name: str) -> str:
    return f"/sys/block/{os.path.basename(path)}/{name}"


def _ioctl(device: int, request: int, argument: int) -> None:
    """Call ioctl with an argument of 64 bits, which `fcntl.ioctl` does not take.

    Raises:
        OSError: The kernel refuses, or the device is closed.
    """
    if _libc.ioctl(device, ctypes.c_ulong(request), ctypes.c_ulong(argument)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
