"""SPDK's Blobstore in Python: blobs in one file or device, safe in any power cut.

The names are imported when they are first used: `blobstore --version` needs none.
"""

from importlib import import_module

TYPE_CHECKING = False  # type checkers take it for typing's, which costs a third of the start
if TYPE_CHECKING:
    from blobstore.api.aio.async_blob import AsyncBlob
    from blobstore.api.aio.async_store import AsyncBlobstore
    from blobstore.api.aio.async_volumes import AsyncVolume, AsyncVolumeStore
    from blobstore.api.blob import Blob
    from blobstore.api.blob_file import BlobFile
    from blobstore.api.blobstore import Blobstore, dump, grow, iter_dump
    from blobstore.api.check import CheckReport, RepairReport, check, repair, undo
    from blobstore.api.rescue import Rescue, RescuedBlob
    from blobstore.api.volume_handles import VolumeInfo
    from blobstore.api.volumes import Volume, VolumeStore
    from blobstore.api.xattrs import Xattrs
    from blobstore.device.base import Device
    from blobstore.device.block import BlockDevice
    from blobstore.device.file import FileDevice
    from blobstore.device.memory import MemoryDevice
    from blobstore.device.zeroes import ZeroesDevice
    from blobstore.errors import (
        AccessError,
        BlobstoreError,
        BusyError,
        ClosedError,
        CorruptError,
        DeviceError,
        DeviceFullError,
        ExistsError,
        InvalidArgumentError,
        IsDirectoryError,
        NoSpaceError,
        NotDirectoryError,
        NotFoundError,
        PathNotFoundError,
        PoisonedError,
        ReadOnlyError,
        UnsupportedError,
        WrongTypeError,
    )
    from blobstore.fsck.extent_index import UnreadableRange
    from blobstore.fsck.finding import Finding, Severity
    from blobstore.fsck.repair import RepairMode
    from blobstore.store.blobs import ClearMethod
    from blobstore.store.describe import BlobInfo, StoreInfo
    from blobstore.store.init import Clear
    from blobstore.units import BlobId

__version__ = "1.0.0"

__all__ = [
    "AccessError",
    "AsyncBlob",
    "AsyncBlobstore",
    "AsyncVolume",
    "AsyncVolumeStore",
    "Blob",
    "BlobFile",
    "BlobId",
    "BlobInfo",
    "Blobstore",
    "BlobstoreError",
    "BlockDevice",
    "BusyError",
    "CheckReport",
    "Clear",
    "ClearMethod",
    "ClosedError",
    "CorruptError",
    "Device",
    "DeviceError",
    "DeviceFullError",
    "ExistsError",
    "FileDevice",
    "Finding",
    "InvalidArgumentError",
    "IsDirectoryError",
    "MemoryDevice",
    "NoSpaceError",
    "NotDirectoryError",
    "NotFoundError",
    "PathNotFoundError",
    "PoisonedError",
    "ReadOnlyError",
    "RepairMode",
    "RepairReport",
    "Rescue",
    "RescuedBlob",
    "Severity",
    "StoreInfo",
    "UnreadableRange",
    "UnsupportedError",
    "Volume",
    "VolumeInfo",
    "VolumeStore",
    "WrongTypeError",
    "Xattrs",
    "ZeroesDevice",
    "check",
    "dump",
    "grow",
    "iter_dump",
    "repair",
    "undo",
]

_HOMES = {
    "api.aio.async_blob": ("AsyncBlob",),
    "api.aio.async_store": ("AsyncBlobstore",),
    "api.aio.async_volumes": ("AsyncVolume", "AsyncVolumeStore"),
    "api.blob": ("Blob",),
    "api.blobstore": ("Blobstore", "dump", "grow", "iter_dump"),
    "api.check": ("CheckReport", "RepairReport", "check", "repair", "undo"),
    "api.blob_file": ("BlobFile",),
    "api.rescue": ("Rescue", "RescuedBlob"),
    "api.volumes": ("Volume", "VolumeStore"),
    "api.volume_handles": ("VolumeInfo",),
    "api.xattrs": ("Xattrs",),
    "device.base": ("Device",),
    "device.block": ("BlockDevice",),
    "device.file": ("FileDevice",),
    "device.memory": ("MemoryDevice",),
    "device.zeroes": ("ZeroesDevice",),
    "fsck.finding": ("Finding", "Severity"),
    "fsck.extent_index": ("UnreadableRange",),
    "fsck.repair": ("RepairMode",),
    "store.blobs": ("ClearMethod",),
    "store.describe": ("BlobInfo", "StoreInfo"),
    "store.init": ("Clear",),
    "units": ("BlobId",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


if not TYPE_CHECKING:  # with this in sight type checkers would believe in every name

    def __getattr__(name: str) -> object:
        """Import a public name; those that `_HOMES` leaves out are errors."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = import_module(f"{__name__}.{_HOME_OF.get(name, 'errors')}")
        found = getattr(home, name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
