"""Volume stores that the server has loaded, and the block devices of their volumes.

A store is loaded when a block device that carries one appears: no request is needed.
Every volume is kept open. Each complete volume gets a block device. A volume whose external
snapshot is missing is *degraded*: the volume is listed, can be deleted, and gets its device
when the external snapshot appears. A volume's device is examined like any other, so stores
inside volumes work.

Nothing here locks: the caller holds the lock of the server's tables.
"""

import errno
import logging
from collections.abc import Callable, Iterator
from typing import Final
from uuid import UUID

from blobstore import BlobId
from blobstore.api.volumes import Volume, VolumeStore
from blobstore.device.base import Device
from blobstore.errors import BlobstoreError
from blobstore.rpc.bdevs import WRITE_NONE, WRITE_ONE, Bdev, BdevTable, VolumeDevice
from blobstore.rpc.counting import CountingDevice
from blobstore.rpc.failures import refused

_LOG: Final = logging.getLogger("blobstore.rpc")
_UUID_SIZE: Final = 37
_WRITABLE: Final = frozenset(
    {"read", "write", "unmap", "reset", "write_zeroes", "seek_hole", "seek_data"}
)
_READ_ONLY: Final = frozenset({"read", "reset", "seek_hole", "seek_data"})


class VolumeBdev(Bdev):
    """The block device of a volume."""

    product_name = "Logical Volume"

    def __init__(self, store: "LoadedStore", volume: Volume) -> None:
        super().__init__(volume.unique_id, volume.uuid)
        self.aliases.append(volume.alias)
        self.store = store
        self.volume = volume
        self.numa_id = store.base.numa_id
        self.io_types = _READ_ONLY if volume.info.read_only else _WRITABLE

    @property
    def block_size(self) -> int:
        return self.store.block_size

    @property
    def size_bytes(self) -> int:
        return self.volume.size

    def specific(self) -> dict[str, object]:
        if self.store.is_going:
            return {"lvol": {}}
        info = self.volume.info
        members: dict[str, object] = {
            "lvol_store_uuid": str(self.store.volumes.uuid),
            "base_bdev": self.store.base.name,
            "thin_provision": info.thin,
            "num_allocated_clusters": info.allocated_clusters,
            "snapshot": info.snapshot,
            "clone": info.parent is not None,
        }
        if info.parent is not None:
            members["base_snapshot"] = self.store.name_of(info.parent)
        if info.clones:
            members["clones"] = [self.store.name_of(clone) for clone in info.clones]
        members["esnap_clone"] = info.external_snapshot is not None
        if info.external_snapshot is not None:
            members["external_snapshot_name"] = external_text(info.external_snapshot)
        return {"lvol": members}

    def open_device(self) -> Device:
        below = VolumeDevice(
            self.volume,
            name=self.volume.alias,
            block_size=self.block_size,
            read_only=self.volume.info.read_only,
        )
        return CountingDevice(below, self.statistics)


class LoadedStore:
    """One loaded store: its base device, and its volumes, open."""

    def __init__(self, volumes: VolumeStore, base: Bdev) -> None:
        self.volumes = volumes
        self.base = base
        self.block_size = volumes.info.io_unit_size
        self.is_going = False
        self.open: dict[BlobId, Volume] = {}
        self.bdevs: dict[BlobId, VolumeBdev] = {}
        self.served: dict[bytes, Bdev] = {}

    @property
    def is_used(self) -> bool:
        """Whether a volume is open for writing elsewhere, such as an export."""
        return any(bdev.writers for bdev in self.bdevs.values())

    def name_of(self, blob_id: BlobId) -> str:
        """Return the name of a volume of this store, without the store's."""
        return self.open[blob_id].name if blob_id in self.open else f"{blob_id:#x}"


class Stores:
    """All loaded stores, in the order of loading, and how they come and go."""

    def __init__(self, table: BdevTable, notify: Callable[[str, str], None]) -> None:
        self._table = table
        self._notify = notify
        self._loaded: list[LoadedStore] = []

    def __iter__(self) -> Iterator[LoadedStore]:
        return iter(list(self._loaded))

    def named(self, name: str) -> LoadedStore | None:
        """Return the store of this name."""
        return next((store for store in self._loaded if store.volumes.name == name), None)

    def of_uuid(self, text: str) -> LoadedStore | None:
        """Return the store of this uuid, in any case; text that is no uuid is no store's."""
        lowered = text.lower()
        return next((store for store in self._loaded if str(store.volumes.uuid) == lowered), None)

    # Devices come

    def register(self, bdev: Bdev, *, examine: bool = True) -> None:
        """Add a block device: clones that wait for it get it, and a store on it is loaded.

        Raises:
            RpcError: One of its names is taken (EEXIST).
        """
        self._table.add(bdev)
        self._offer(bdev)
        if examine:
            self.examine(bdev)
        self._notify("bdev_register", bdev.name)

    def examine(self, bdev: Bdev) -> None:
        """Load the store that a device carries, if it carries one and the device is not in use."""
        if bdev.claim is not None or bdev.writers:
            return
        device = bdev.open_device()
        try:
            volumes = VolumeStore.open(device, read_only=device.read_only)
        except BlobstoreError as error:
            _LOG.debug("%s: no store: %s", bdev.name, error)
            return
        if self.named(volumes.name) is not None:
            _LOG.error("%s: a store named %r is loaded already", bdev.name, volumes.name)
            volumes.close()
            return
        self.adopt(volumes, bdev)

    def adopt(self, volumes: VolumeStore, base: Bdev) -> LoadedStore:
        """Take a store that was opened on a device: claim that, and register every volume.

        A store that was just made is claimed already.
        """
        if base.claim is None:
            base.claim_for(WRITE_ONE)
        store = LoadedStore(volumes, base)
        self._loaded.append(store)
        for info in list(volumes):
            try:
                store.open[info.id] = volumes.open_volume(info.id)
            except BlobstoreError as error:
                _LOG.error("%s: cannot be opened: %s", info.alias, error)
        for volume in list(store.open.values()):
            self.add_volume(store, volume)
        return store

    def add_volume(self, store: LoadedStore, volume: Volume) -> VolumeBdev | None:
        """Register the device of an open volume; None where it is degraded."""
        store.open[volume.id] = volume
        self._serve_external(store, volume)
        if volume.degraded or volume.id in store.bdevs:
            return store.bdevs.get(volume.id)
        bdev = VolumeBdev(store, volume)
        if any(self._table.find(name) for name in (bdev.name, *bdev.aliases)):
            _LOG.error("%s: a device of that name exists", volume.alias)
            return None
        store.bdevs[volume.id] = bdev
        self.register(bdev)
        return bdev

    def _serve_external(self, store: LoadedStore, volume: Volume) -> None:
        """Let a clone read its external snapshot, if that is there and has no writers."""
        external_id = volume.info.external_snapshot
        if external_id is None or external_id in store.served:
            return
        bdev = self._table.find(external_text(external_id))
        if bdev is None or bdev.is_going or bdev.writers or bdev.claim not in (None, WRITE_NONE):
            return
        try:
            store.volumes.register_external(external_id, bdev.open_device())
        except BlobstoreError as error:
            _LOG.error("%s: cannot use %s: %s", volume.alias, bdev.name, error)
            return
        bdev.claim_for(WRITE_NONE)
        store.served[external_id] = bdev

    def _offer(self, bdev: Bdev) -> None:
        """Give a new device to the clones that miss it, and devices to all that are whole then."""
        external_id = str(bdev.uuid).encode() + b"\0"
        for store in self:
            waiting = [
                volume
                for blob_id, volume in store.open.items()
                if blob_id not in store.bdevs
                and external_id not in store.served
                and volume.info.external_snapshot == external_id
            ]
            for volume in waiting:
                self._serve_external(store, volume)
            if waiting and external_id in store.served:
                for volume in list(store.open.values()):
                    if volume.id not in store.bdevs:
                        self.add_volume(store, volume)

    def release_external(self, store: LoadedStore, external_id: bytes | None) -> None:
        """End the claim on an external snapshot that no volume of the store reads any more."""
        if external_id is None or external_id not in store.served:
            return
        if any(v.info.external_snapshot == external_id for v in store.open.values()):
            return
        store.volumes.register_external(external_id, None)
        store.served.pop(external_id).release()

    # Devices go

    def remove_bdev(self, bdev: Bdev) -> None:
        """Take a device out, with the store on it: that is unloaded cleanly first.

        Raises:
            RpcError: It is going already (ENODEV), or clones read it, or a volume of the
                store on it is in use (EBUSY).
        """
        if bdev.is_going:
            raise refused(errno.ENODEV)
        is_used = any(store.is_used for store in self if store.base is bdev)
        if bdev.claim == WRITE_NONE or is_used:
            raise refused(errno.EBUSY)
        bdev.is_going = True
        for store in self:
            if store.base is bdev:
                self.unload(store)
        self._table.remove(bdev)
        self._notify("bdev_unregister", bdev.name)

    def unload(self, store: LoadedStore) -> None:
        """Take a store out: its volumes' devices, top down, then the store, clean.

        Raises:
            BlobstoreError: The device failed; the store is let go all the same.
        """
        store.is_going = True
        try:
            for bdev in reversed(list(store.bdevs.values())):
                self.remove_volume_bdev(store, bdev)
            store.volumes.close()
        finally:
            self._forget(store)

    def remove_volume_bdev(self, store: LoadedStore, bdev: VolumeBdev) -> None:
        """Take the device of a volume out; the volume stays open."""
        bdev.is_going = True
        for inner in self:
            if inner.base is bdev:
                self.unload(inner)
        self._table.remove(bdev)
        store.bdevs.pop(bdev.volume.id, None)
        self._notify("bdev_unregister", bdev.name)

    def _forget(self, store: LoadedStore) -> None:
        self._loaded.remove(store)
        store.open.clear()
        for served in store.served.values():
            served.release()
        store.served.clear()
        store.base.release()

    def destroy(self, store: LoadedStore) -> None:
        """Delete all volumes of a store, then the store.

        Raises:
            BlobstoreError: The device failed, or a volume cannot be deleted.
        """
        store.is_going = True
        try:
            for bdev in reversed(list(store.bdevs.values())):
                self.remove_volume_bdev(store, bdev)
            for volume in list(store.open.values()):
                volume.close()
            while deletable := self._deletable(store):
                for blob_id in deletable:
                    store.volumes.delete_volume(blob_id)
            store.volumes.destroy()
        finally:
            if not store.volumes.closed:
                store.volumes.close()
            self._forget(store)

    def _deletable(self, store: LoadedStore) -> list[BlobId]:
        """Return the volumes without clones, of those that are left."""
        left = [info.id for info in store.volumes]
        parents: set[BlobId] = set()
        for blob_id in left:
            with store.volumes.open_volume(blob_id) as volume:
                parent = volume.info.parent
                parents |= set() if parent is None else {parent}
        return [blob_id for blob_id in left if blob_id not in parents]


def external_text(external_id: bytes) -> str:
    """Return the uuid of an external snapshot as text; other ids are named in hex."""
    if len(external_id) == _UUID_SIZE and external_id.endswith(b"\0"):
        try:
            return str(UUID(external_id[:-1].decode("latin-1")))
        except ValueError:
            pass
    return external_id.hex()
