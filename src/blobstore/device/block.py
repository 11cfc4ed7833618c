"""The block device: a disk, partition or volume, as the kernel describes it.

Its measures are the kernel's. A writer claims it (`O_EXCL`), so one that is
mounted, used as swap, or part of an array or a volume group is refused, and so
is mounting it afterwards; a `flock` keeps readers out besides. Zeroes and
unmapping are asked for in logical blocks; the edges of other ranges are written.
"""

import errno
import fcntl
import mmap
import os
import stat
import struct
from typing import ClassVar, Final

from blobstore.device.base import SECTOR_SIZE
from blobstore.device.descriptor import DescriptorDevice
from blobstore.device.direct import DirectRequests
from blobstore.device.forking import fork_lock
from blobstore.device.opening import Path, failure, open_locked
from blobstore.errors import BusyError, DeviceError, InvalidArgumentError

# linux/fs.h
_BLKSSZGET: Final = 0x1268
_BLKPBSZGET: Final = 0x127B
_BLKGETSIZE64: Final = 0x8008_1272
_BLKDISCARD: Final = 0x1277
_BLKZEROOUT: Final = 0x127F

_U32: Final = struct.Struct("I")
_U64: Final = struct.Struct("Q")
_RANGE: Final = struct.Struct("QQ")

_COMPACT: Final = 4096

# udev holds a shared lock while it looks at a device that a writer has closed.
_LOCK_PATIENCE_S: Final = 0.5

_NOT_SUPPORTED: Final = frozenset((errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL))


class BlockDevice(DescriptorDevice):
    """A block device, through the page cache unless direct I/O is asked for.

    An unmapped range may read as anything: the kernel no longer tells which
    devices promise zeroes.
    """

    needs_undo_path: ClassVar[bool] = True
    _KIND: ClassVar[str] = "device"

    def __init__(
        self,
        descriptor: int,
        *,
        name: str,
        read_only: bool = False,
        atomic_write_size: int | None = None,
        block_size: int | None = None,
    ) -> None:
        """Take over an open and locked descriptor; `open` is the way to get here."""
        logical = ask_u32(descriptor, _BLKSSZGET, name)
        block = logical if block_size is None else _checked_block(block_size, logical, name)
        atomic = _known_atomic(logical) if atomic_write_size is None else atomic_write_size
        super().__init__(
            descriptor,
            name=name,
            block_size=block,
            physical_block_size=max(block, ask_u32(descriptor, _BLKPBSZGET, name)),
            atomic_write_size=atomic,
            read_only=read_only,
            unmap_zeroes=False,
            zeroing_unit=max(logical, mmap.PAGESIZE),  # never a part of a cached page
        )

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        read_only: bool = False,
        atomic_write_size: int | None = None,
        block_size: int | None = None,
        direct: bool = False,
    ) -> "BlockDevice":
        """Open and lock it, and for writing claim it; with `direct` past the page cache.

        Sizes that are not given are the kernel's. A write of 4096 bytes counts
        as atomic where the logical block is as large; else one of 512.

        Raises:
            NotFoundError: No such device.
            BusyError: The device is mounted, part of something else, or open
                elsewhere, and one of both for writing.
            InvalidArgumentError: Not a block device, or a bad block size.
            UnsupportedError: It has no direct I/O.
            DeviceError: The host refused.
        """
        with fork_lock:
            descriptor = _open_claimed(path, os.O_RDONLY if read_only else os.O_RDWR | os.O_EXCL)
            kind = DirectBlockDevice if direct else BlockDevice
            try:
                return kind(
                    descriptor,
                    name=os.fspath(path),
                    read_only=read_only,
                    atomic_write_size=atomic_write_size,
                    block_size=block_size,
                )
            except BaseException:
                os.close(descriptor)
                raise

    # The measures

    @staticmethod
    def _ask_size(descriptor: int, name: str) -> int:
        size: int = _U64.unpack(ask(descriptor, _BLKGETSIZE64, bytes(_U64.size), name))[0]
        return size

    def _request_failure(self, what: str, offset: int, length: int, error: OSError) -> DeviceError:
        """A device whose end went away answers ENOSPC, as if it could be made room on."""
        found = self._ask_size(self._descriptor, self.name)
        if found < offset + length:
            return self._ended_early(what, offset, length)
        return super()._request_failure(what, offset, length, error)

    # Zeroes

    def _ask_zeroes(self, offset: int, length: int) -> bool:
        return self._try_range(_BLKZEROOUT, "zeroing", offset, length)

    def _ask_unmap(self, offset: int, length: int) -> bool:
        return self._try_range(_BLKDISCARD, "unmap", offset, length)

    def _try_range(self, request: int, what: str, offset: int, length: int) -> bool:
        """Do it the device's way, or say that it has none."""
        try:
            fcntl.ioctl(self._descriptor, request, _RANGE.pack(offset, length))
        except OSError as error:
            if error.errno in _NOT_SUPPORTED and self._ask_size(self._descriptor, self.name) >= (
                offset + length
            ):
                return False
            raise self._request_failure(what, offset, length, error) from error
        return True


class DirectBlockDevice(DirectRequests, BlockDevice):
    """A block device past the page cache."""

    def __init__(
        self,
        descriptor: int,
        *,
        name: str,
        read_only: bool = False,
        atomic_write_size: int | None = None,
        block_size: int | None = None,
    ) -> None:
        self._start_direct(descriptor, name)
        super().__init__(
            descriptor,
            name=name,
            read_only=read_only,
            atomic_write_size=atomic_write_size,
            block_size=block_size,
        )


def is_block_device(path: Path) -> bool:
    """Tell whether there is a block device of this name."""
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _open_claimed(path: Path, flags: int) -> int:
    """Open as `open_locked`, and name the users of a device that cannot be claimed."""
    try:
        return open_locked(path, flags, _check_is_block_device, patience_s=_LOCK_PATIENCE_S)
    except BusyError as error:
        from blobstore.device.usage import describe_use  # what it imports costs every start 5 ms

        use = describe_use(path)
        if not use:
            raise
        raise BusyError(f"{os.fspath(path)}: {use}") from error


def _check_is_block_device(descriptor: int, path: Path) -> None:
    if not stat.S_ISBLK(os.fstat(descriptor).st_mode):
        raise InvalidArgumentError(f"{os.fspath(path)}: not a block device")


def _checked_block(size: int, logical: int, name: str) -> int:
    if size % logical:
        raise InvalidArgumentError(
            f"{name}: block size {size}: expected a multiple of the device's own {logical}"
        )
    return size


def _known_atomic(logical: int) -> int:
    return _COMPACT if logical >= _COMPACT else SECTOR_SIZE


def ask_u32(descriptor: int, request: int, name: str) -> int:
    """Ask the kernel for a number."""
    number: int = _U32.unpack(ask(descriptor, request, bytes(_U32.size), name))[0]
    return number


def ask(descriptor: int, request: int, space: bytes, name: str) -> bytes:
    """Ask the kernel about a device.

    Raises:
        DeviceError: The host failed.
    """
    try:
        return fcntl.ioctl(descriptor, request, space)
    except OSError as error:
        raise failure(f"{name}: ask for its measures", error) from error
