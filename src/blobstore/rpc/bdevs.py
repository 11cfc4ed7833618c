"""The table of block devices: names, aliases and claims.

All names and aliases lie in one table, case sensitive; a second entry of the same text is
refused. A claim names the user of a device. A store claims its base device exclusively. Clones
share the device that is their external snapshot, and that device is then not written to.
"""

import errno
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Final
from uuid import UUID, uuid4

from blobstore.api.volumes import Volume
from blobstore.device.base import Device
from blobstore.operations import Buffer
from blobstore.rpc.counting import CountingDevice, Statistics
from blobstore.rpc.failures import failed, refused

WRITE_ONE: Final = "read_many_write_one"
WRITE_NONE: Final = "read_many_write_none"

IO_TYPES: Final = (
    "read", "write", "unmap", "flush", "reset", "nvme_admin", "nvme_io", "nvme_io_md",
    "write_zeroes", "zcopy", "get_zone_info", "zone_management", "zone_append", "compare",
    "compare_and_write", "abort", "seek_hole", "seek_data", "copy", "nvme_iov_md", "nvme_nssr",
    "write_uncorrectable",
)  # fmt: skip
_NO_LIMITS: Final = {
    "rw_ios_per_sec": 0, "rw_mbytes_per_sec": 0, "r_mbytes_per_sec": 0, "w_mbytes_per_sec": 0,
}  # fmt: skip


class Bdev(ABC):
    """One block device.

    `claim` is None while no user has claimed the device. `writers` counts the users beside the
    claim that have the device open for writing, such as an export. `readers` counts the clones
    that share the device.
    """

    product_name: str
    io_types: frozenset[str]

    def __init__(self, name: str, uuid: UUID | None) -> None:
        self.name = name
        self.uuid = uuid or uuid4()
        self.aliases = [] if str(self.uuid) == name else [str(self.uuid)]
        self.claim: str | None = None
        self.writers = 0
        self.readers = 0
        self.is_going = False
        self.numa_id: int | None = None
        self.statistics = Statistics()

    @property
    @abstractmethod
    def block_size(self) -> int:
        """The block in bytes."""

    @property
    @abstractmethod
    def size_bytes(self) -> int:
        """The size in bytes."""

    @abstractmethod
    def specific(self) -> dict[str, object]:
        """Return the member `driver_specific`."""

    @abstractmethod
    def open_device(self) -> Device:
        """Return the device as something to read and write, which its user closes."""

    def configuration(self) -> dict[str, object] | None:
        """Return the call that makes this device again, or None if there is none."""
        return None

    @property
    def block_count(self) -> int:
        """The size in blocks."""
        return self.size_bytes // self.block_size

    def claim_for(self, kind: str) -> None:
        """Take the device for a store, or share it as an external snapshot.

        Raises:
            RpcError: The device is in use (EPERM).
        """
        if self.claim is not None and not kind == self.claim == WRITE_NONE:
            raise refused(errno.EPERM)
        if self.writers:
            raise failed(errno.EPERM)
        self.claim = kind
        self.readers += kind == WRITE_NONE

    def release(self) -> None:
        """End a claim; a shared one ends with the last of those that share it."""
        self.readers = max(0, self.readers - 1)
        if not self.readers:
            self.claim = None

    def describe(self) -> dict[str, object]:
        """Return the device as an answer shows it, members in the original's order."""
        members: dict[str, object] = {
            "name": self.name,
            "aliases": list(self.aliases),
            "product_name": self.product_name,
            "block_size": self.block_size,
            "num_blocks": self.block_count,
            "preferred_write_alignment": 0,
            "preferred_write_granularity": 0,
            "optimal_write_size": 0,
            "preferred_unmap_alignment": 0,
            "preferred_unmap_granularity": 0,
            "uuid": str(self.uuid),
        }
        if self.numa_id is not None:
            members["numa_id"] = self.numa_id
        members |= {"assigned_rate_limits": dict(_NO_LIMITS), "claimed": self.claim is not None}
        if self.claim is not None:
            members["claim_type"] = self.claim
        return members | {
            "zoned": False,
            "supported_io_types": {name: name in self.io_types for name in IO_TYPES},
            "driver_specific": self.specific(),
        }


class BaseBdev(Bdev):
    """A block device that is backed by a device of this package."""

    def __init__(self, name: str, uuid: UUID | None, device: Device, block_size: int) -> None:
        super().__init__(name, uuid)
        self.device = device
        self._block_size = block_size
        self._size_bytes = 0

    @property
    def block_size(self) -> int:
        return self._block_size

    @property
    def size_bytes(self) -> int:
        """The size in bytes, which never becomes smaller: a rescan refuses that."""
        self._size_bytes = max(self._size_bytes, self.device.size_bytes)
        return self._size_bytes

    def open_device(self) -> Device:
        return CountingDevice(self.device, self.statistics)


class MallocBdev(BaseBdev):
    """Memory as a block device."""

    product_name = "Malloc disk"
    io_types = frozenset(
        {"read", "write", "unmap", "flush", "reset", "write_zeroes", "zcopy", "compare", "abort",
         "copy"}
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        uuid: UUID | None,
        device: Device,
        block_size: int,
        given: Mapping[str, object],
    ) -> None:
        super().__init__(name, uuid, device, block_size)
        self._given = given

    def specific(self) -> dict[str, object]:
        return {}

    def configuration(self) -> dict[str, object]:
        given = self._given
        params = {
            "name": self.name,
            "num_blocks": self.block_count,
            "block_size": self.block_size,
            "physical_block_size": given["physical_block_size"] or self.block_size,
            "uuid": str(self.uuid),
            "optimal_io_boundary": given["optimal_io_boundary"],
            "md_size": given["md_size"],
            "dif_type": given["dif_type"],
            "dif_is_head_of_md": given["dif_is_head_of_md"],
            "dif_pi_format": given["dif_pi_format"],
            "numa_id": given["numa_id"],
        }
        return {"method": "bdev_malloc_create", "params": params}


class AioBdev(BaseBdev):
    """A file or block device of the host."""

    product_name = "AIO disk"

    def __init__(
        self,
        name: str,
        uuid: UUID | None,
        device: Device,
        *,
        filename: str,
        block_size: int,
        given_block_size: int,
        fallocate: bool,
        nowait: bool,
    ) -> None:
        super().__init__(name, uuid, device, block_size)
        self._filename = filename
        self._given_block_size = given_block_size
        self._fallocate = fallocate
        self._nowait = nowait
        always = {"read", "write", "flush", "reset", "write_zeroes"}
        self.io_types = frozenset(always | ({"unmap"} if fallocate else set()))

    def specific(self) -> dict[str, object]:
        members = {
            "filename": self._filename,
            "block_size_override": bool(self._given_block_size),
            "readonly": self.device.read_only,
            "fallocate": self._fallocate,
            "nowait": self._nowait,
        }
        return {"aio": members}

    def configuration(self) -> dict[str, object]:
        params: dict[str, object] = {"name": self.name}
        if self._given_block_size:
            params["block_size"] = self._given_block_size
        params |= {
            "filename": self._filename,
            "readonly": self.device.read_only,
            "fallocate": self._fallocate,
            "uuid": str(self.uuid),
            "nowait": self._nowait,
        }
        return {"method": "bdev_aio_create", "params": params}


class BdevTable:
    """All block devices, in the order of their registration."""

    def __init__(self) -> None:
        self._bdevs: dict[Bdev, None] = {}
        self._by_name: dict[str, Bdev] = {}

    def __iter__(self) -> Iterator[Bdev]:
        return iter(list(self._bdevs))

    def find(self, name: str) -> Bdev | None:
        """Return the device of a name or alias."""
        return self._by_name.get(name)

    def add(self, bdev: Bdev) -> None:
        """Register a device.

        Raises:
            RpcError: One of its names is taken (EEXIST).
        """
        names = [bdev.name, *bdev.aliases]
        if any(name in self._by_name for name in names):
            raise refused(errno.EEXIST)
        self._bdevs[bdev] = None
        self._by_name |= dict.fromkeys(names, bdev)

    def remove(self, bdev: Bdev) -> None:
        """Take a device and all of its names out."""
        del self._bdevs[bdev]
        for name in (bdev.name, *bdev.aliases):
            del self._by_name[name]

    def replace_alias(self, bdev: Bdev, old: str, new: str) -> None:
        """Give a device another alias in the place of one.

        Raises:
            RpcError: The new one is taken (EEXIST).
        """
        if new in self._by_name:
            raise failed(errno.EEXIST)
        del self._by_name[old]
        self._by_name[new] = bdev
        bdev.aliases[bdev.aliases.index(old)] = new


class VolumeDevice(Device):
    """A volume as a device, for a store inside it or a copy onto it."""

    def __init__(self, volume: Volume, *, name: str, block_size: int, read_only: bool) -> None:
        super().__init__(
            name=name, size_bytes=volume.size, block_size=block_size, read_only=read_only
        )
        self._volume = volume

    def refresh_size(self) -> int:
        self._set_size(self._volume.size)
        return self.size_bytes

    def read(self, offset: int, length: int) -> bytes:
        self.check_read(offset, length)
        return self._volume.read(length, offset)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        self.check_read(offset, sum(map(len, buffers)))
        self._volume.readv(buffers, offset)

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        self.check_write(offset, sum(map(len, buffers)))
        self._volume.writev(buffers, offset)

    def write_zeroes(self, offset: int, length: int) -> None:
        self.check_write(offset, length)
        self._volume.write_zeroes(offset, length)

    def unmap(self, offset: int, length: int) -> None:
        self.check_write(offset, length)
        self._volume.unmap(offset, length)

    def flush(self) -> None:
        self.check_open()
        self._volume.flush()
