"""The kernel's loop devices: a file as a block device (linux/loop.h).

The kernel keeps 64 bytes of text with each device. Here that is the directory of the process that
serves the file, so a device tells by itself whose it is.
"""

import errno
import fcntl
import os
import struct
from typing import Final

from blobstore.attach.claiming import claimed
from blobstore.errors import BusyError, DeviceError, NotFoundError

MAJOR: Final = 7

_CONTROL: Final = "/dev/loop-control"
_GET_FREE: Final = 0x4C82
_CONFIGURE: Final = 0x4C0A
_CLEAR: Final = 0x4C01
_GET_STATUS: Final = 0x4C05
_SET_CAPACITY: Final = 0x4C07

_READ_ONLY: Final = 1
_SCAN_PARTITIONS: Final = 8
_DIRECT_IO: Final = 16

_TEXT_SIZE: Final = 64
# struct loop_info64: five measures, number, type, key size, flags, the text; what follows is unused
_INFO: Final = struct.Struct(f"=5QIIII{_TEXT_SIZE}s112x")
# struct loop_config: file, block size, the info, eight reserved words
_CONFIG: Final = struct.Struct(f"=II{_INFO.size}s64x")
assert (_INFO.size, _CONFIG.size) == (232, 304)

_PROCESS_IS_GONE: Final = (errno.ENOTCONN, errno.ECONNABORTED)
_TRIES: Final = 64  # each lost to another process that took the free device first


def attach_file(descriptor: int, *, block_size: int, read_only: bool, owner: str) -> str:
    """Make an open file a block device with partitions, past the page cache; return its path.

    Raises:
        DeviceError: There are no loop devices, or this process may not have one.
    """
    text = os.fsencode(owner)
    if len(text) >= _TEXT_SIZE:
        raise DeviceError(f"{owner}: longer than {_TEXT_SIZE - 1} bytes", errno=errno.ENAMETOOLONG)
    flags = _SCAN_PARTITIONS | _DIRECT_IO | (_READ_ONLY if read_only else 0)
    info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, text)
    config = _CONFIG.pack(descriptor, block_size, info)
    try:
        for _try in range(_TRIES):
            path = f"/dev/loop{_free_number()}"
            if _configure(path, config):
                return path
    except OSError as error:
        raise DeviceError(f"no loop device: {error}", errno=error.errno) from error
    raise BusyError("no loop device: others took every free one first")


def _free_number() -> int:
    control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(control, _GET_FREE)
    finally:
        os.close(control)


def _configure(path: str, config: bytes) -> bool:
    """Configure a device; return False if another process was faster."""
    device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(device, _CONFIGURE, config)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise
    finally:
        os.close(device)
    return True


def owner_of(path: str) -> str | None:
    """Return the text that was kept with a loop device; None if its file's process is gone.

    Raises:
        NotFoundError: No file is attached to it.
    """
    device = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = fcntl.ioctl(device, _GET_STATUS, bytes(_INFO.size))
    except OSError as error:
        if error.errno in _PROCESS_IS_GONE:  # the kernel asks for the size of the file
            return None
        if error.errno == errno.ENXIO:
            raise NotFoundError(f"{path}: nothing is attached") from error
        raise
    finally:
        os.close(device)
    text: bytes = _INFO.unpack(status)[-1]
    return os.fsdecode(text.rstrip(b"\0"))


def detach_file(path: str) -> None:
    """Flush a device, and let go of its file as soon as all programs have closed the device.

    Raises:
        BusyError: It is mounted, or is part of something else.
        DeviceError: It could not be flushed; it stays attached.
    """
    with claimed(path, flush=True) as device:
        fcntl.ioctl(device, _CLEAR)


def detach_orphan(path: str) -> None:
    """Let go of the file of a killed process; what the kernel has not written is lost.

    Raises:
        BusyError: It is mounted, or is part of something else.
    """
    with claimed(path, flush=False) as device:
        fcntl.ioctl(device, _CLEAR)


def detach_when_closed(path: str) -> None:
    """Let the kernel detach a device when all that use it have ended.

    Raises:
        OSError: It is detached already.
    """
    device = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(device, _CLEAR)
    finally:
        os.close(device)


def follow_size(path: str) -> None:
    """Let a device have the size that its file has now.

    Raises:
        OSError: The kernel refuses.
    """
    device = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(device, _SET_CAPACITY)
    finally:
        os.close(device)
