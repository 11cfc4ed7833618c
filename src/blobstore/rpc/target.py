"""The state of a server, which its methods share: devices, stores, jobs, options.

One lock guards the tables. A method holds the lock from the lookup of a name to the end of the
method. A long operation, such as inflating a volume, releases the lock while the operation runs.
So does a method that waits.
"""

import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Final

from blobstore.errors import BlobstoreError, BusyError
from blobstore.nbd.nbd_server import NbdServer
from blobstore.rpc.background_copies import ShallowCopies
from blobstore.rpc.bdevs import BaseBdev, Bdev, BdevTable
from blobstore.rpc.stores import Stores

_LOG: Final = logging.getLogger("blobstore.rpc")
_NOTIFICATIONS_KEPT: Final = 1024


@dataclass(slots=True)
class Options:
    """What `bdev_set_options` says, with the original's defaults."""

    bdev_io_pool_size: int = 65535
    bdev_io_cache_size: int = 256
    bdev_auto_examine: bool = True
    iobuf_small_cache_size: int = 128
    iobuf_large_cache_size: int = 16


@dataclass(slots=True)
class Notification:
    """Something that happened to a block device."""

    id: int
    type: str
    ctx: str


@dataclass(frozen=True, slots=True)
class CephAccess:
    """How a cluster is reached: what `bdev_rbd_register_cluster` or `bdev_rbd_create` was given."""

    user_id: str | None = None
    config_param: Mapping[str, str] | None = None
    config_file: str | None = None
    key_file: str | None = None
    core_mask: str | None = None

    def members(self) -> dict[str, object]:
        """Return what was given, by its names."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class NbdDisk:
    """A block device that is exported at a socket of its own."""

    bdev: Bdev
    server: NbdServer


def _check_unused(bdevs: Iterable[Bdev]) -> None:
    for bdev in bdevs:
        if bdev.writers:
            raise BusyError(f"{bdev.name}: open for writing elsewhere")


@dataclass(eq=False)
class Target:
    """What the methods of a server work on."""

    options: Options = field(default_factory=Options)
    is_initialized: bool = True
    socket_directory: str = "/tmp"

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self.initialized = threading.Event()
        self.stopping = threading.Event()
        if self.is_initialized:
            self.initialized.set()
        self.table = BdevTable()
        self.stores = Stores(self.table, self.notify)
        self.copies = ShallowCopies()
        self.nbd_disks: dict[str, NbdDisk] = {}
        self.nbd_servers: list[NbdServer] = []
        self.ceph_clusters: dict[str, CephAccess] = {}
        self.counters = {"Malloc": 0, "Ceph": 0}
        self.notifications: deque[Notification] = deque(maxlen=_NOTIFICATIONS_KEPT)
        self._notification_count = 0

    def notify(self, kind: str, context: str) -> None:
        """Note something that happened to a block device."""
        self.notifications.append(Notification(self._notification_count, kind, context))
        self._notification_count += 1

    def start(self) -> None:
        """Leave the state in which only start-up methods may be called."""
        self.is_initialized = True
        self.initialized.set()

    def send_signal(self, number: signal.Signals) -> None:
        """Send this process a signal."""
        os.kill(os.getpid(), number)

    def close(self) -> None:
        """End everything, top down: every store is unloaded clean, then devices are closed.

        A store that cannot be unloaded is logged; the others are unloaded all the same.
        """
        self.stopping.set()
        self.copies.close()
        self._end_disks([disk.bdev for disk in self.nbd_disks.values()])
        with self.lock:
            for store in reversed(list(self.stores)):
                if store in list(self.stores):
                    try:
                        self.stores.unload(store)
                    except BlobstoreError as error:
                        _LOG.error("store %r: not unloaded clean: %s", store.volumes.name, error)
            for bdev in reversed(list(self.table)):
                if isinstance(bdev, BaseBdev):
                    bdev.device.close()
                self.table.remove(bdev)

    @contextmanager
    def removing(self, find: Callable[[], Collection[Bdev]]) -> Iterator[None]:
        """Hold the lock while devices that `find` returns are removed, when their exports ended.

        Exports end without the lock, so `find` is called again afterwards: what is removed can
        have changed. It raises what forbids the removal.

        Raises:
            BusyError: Something else than an export of `nbd_start_disk` writes to a device.
        """
        while True:
            with self.lock:
                bdevs = find()
                if all(disk.bdev not in bdevs for disk in self.nbd_disks.values()):
                    _check_unused(bdevs)
                    yield
                    return
            self._end_disks(bdevs)

    def _end_disks(self, bdevs: Collection[Bdev]) -> None:
        """End the NBD exports of devices. Requests that were received are finished first."""
        with self.lock:
            found = {path: disk for path, disk in self.nbd_disks.items() if disk.bdev in bdevs}
            for path in found:
                del self.nbd_disks[path]
        for disk in found.values():
            disk.server.close()
            with self.lock:
                disk.bdev.writers -= 1
