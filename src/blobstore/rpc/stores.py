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
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from typing import Final
from uuid import UUID

from blobstore import BlobId, BlobInfo, VolumeInfo
from blobstore.api.volumes import Volume, VolumeStore
from blobstore.device.base import Device
from blobstore.errors import (
    BlobstoreError,
    BusyError,
    CorruptError,
    ExistsError,
    WrongTypeError,
)
from blobstore.format.super_block import SIGNATURE
from blobstore.rpc.bdevs import WRITE_NONE, WRITE_ONE, Bdev, BdevTable, VolumeDevice
from blobstore.rpc.counting import CountingDevice

_LOG: Final = logging.getLogger("blobstore.rpc")
_UUID_SIZE: Final = 37
_WRITABLE: Final = frozenset(
    {"read", "write", "unmap", "reset", "write_zeroes", "seek_hole", "seek_data"}
)
_READ_ONLY: Final = frozenset({"read", "reset", "seek_hole", "seek_data"})


class VolumeBdev(Bdev):
    """The block device of a volume.

    `copying` counts the calls that copy the volume's clusters without the server's lock: the
    volume is not deleted meanwhile.
    """

    product_name = "Logical Volume"

    def __init__(self, store: "LoadedStore", volume: Volume) -> None:
        super().__init__(volume.unique_id, volume.uuid)
        self.aliases.append(volume.alias)
        self.store = store
        self.volume = volume
        self.copying = 0
        self.numa_id = store.base.numa_id
        self.io_types = _READ_ONLY if volume.read_only else _WRITABLE

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
            "snapshot": self.volume.id in self.store.snapshots,
            "clone": info.parent is not None,
        }
        if info.parent is not None:
            members["base_snapshot"] = self.store.name_of(info.parent)
        if info.clones:
            members["clones"] = [self.store.name_of(clone) for clone in info.clones]
        members["esnap_clone"] = info.external_snapshot is not None
        if info.external_snapshot is not None:
            members["external_snapshot_name"] = str(uuid_of_external(info.external_snapshot))
        return {"lvol": members}

    def open_device(self) -> Device:
        below = VolumeDevice(
            self.volume,
            name=self.volume.alias,
            block_size=self.block_size,
            read_only=self.volume.read_only,
        )
        return CountingDevice(below, self.statistics)


class LoadedStore:
    """One loaded store: its base device, and its volumes, open.

    `snapshots` are the volumes that had a clone since the store was loaded: the original calls
    a volume a snapshot until the next load, even when its last clone has gone.
    """

    def __init__(self, volumes: VolumeStore, base: Bdev) -> None:
        self.volumes = volumes
        self.base = base
        self.block_size = volumes.info.io_unit_size
        self.is_going = False
        self.open: dict[BlobId, Volume] = {}
        self.bdevs: dict[BlobId, VolumeBdev] = {}
        self.served: dict[bytes, Bdev] = {}
        self.snapshots: set[BlobId] = set()

    def note_parent(self, info: BlobInfo) -> None:
        """Note the snapshot that a volume is a clone of."""
        if info.parent is not None:
            self.snapshots.add(info.parent)

    def forget(self, blob_id: BlobId) -> None:
        """Forget a volume that is to be deleted."""
        self.open.pop(blob_id, None)
        self.snapshots.discard(blob_id)

    def name_of(self, blob_id: BlobId) -> str:
        """Return the name of a volume of this store, without the store's."""
        return self.open[blob_id].name if blob_id in self.open else f"{blob_id:#x}"


class Stores:
    """All loaded stores, in the order of loading, and how they come and go.

    Stores are looked for on every device, or, where `examines_all` is off, on those of the names
    `examined`.
    """

    def __init__(self, table: BdevTable, notify: Callable[[str, str], None]) -> None:
        self._table = table
        self._notify = notify
        self._loaded: list[LoadedStore] = []
        self.examines_all = True
        self.examined: list[str] = []

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

    def register(self, bdev: Bdev, *, is_blank: bool = False, raises: bool = False) -> None:
        """Add a block device: clones that wait for it get it, and a store on it is loaded.

        `is_blank` says that the device was just made and holds nothing: no store is looked for.
        A store that cannot be loaded is logged, or is an error if `raises` is set.

        Raises:
            RpcError: One of its names is taken (EEXIST).
            BlobstoreError: `raises` is set, and the device holds no store, or a damaged one.
        """
        self._table.add(bdev)
        self._offer(bdev)
        if raises:
            self._load_any(bdev)
        elif not is_blank and self._is_examined(bdev):
            self.examine(bdev)
        self._notify("bdev_register", bdev.name)

    def _is_examined(self, bdev: Bdev) -> bool:
        return self.examines_all or not self._names_of(bdev).isdisjoint(self.examined)

    def _names_of(self, bdev: Bdev) -> set[str]:
        return {bdev.name, *bdev.aliases}

    def examine(self, bdev: Bdev) -> None:
        """Load the store that a device carries, if it carries one and the device is not in use."""
        if bdev.claim is not None or bdev.writers:
            return
        try:
            self._load(bdev)
        except (CorruptError, WrongTypeError) as error:
            level = logging.ERROR if _is_damaged(bdev, error) else logging.DEBUG
            _LOG.log(level, "%s: no volume store is loaded from it: %s", bdev.name, error)
        except BlobstoreError as error:
            _LOG.error("%s: the store on it is not loaded: %s", bdev.name, error)

    def _load_any(self, bdev: Bdev) -> None:
        """Load the store that a device carries; of a store of blobs the device alone is served.

        Raises:
            BlobstoreError: As `_load`.
        """
        try:
            self._load(bdev)
        except WrongTypeError:
            _LOG.warning("%s: is no volume store: only the block device is served", bdev.name)

    def _load(self, bdev: Bdev) -> None:
        """Load the store that a device carries.

        Raises:
            ExistsError: A store of that name is loaded.
            BlobstoreError: As `VolumeStore.open`.
        """
        device = bdev.open_device()
        volumes = VolumeStore.open(device, read_only=device.read_only)
        if self.named(volumes.name) is not None:
            error = ExistsError(f"a store named {volumes.name!r} is loaded already")
            volumes.close()
            raise error.at(store=device.name)
        bdev.claim_for(WRITE_ONE)
        self.adopt(volumes, bdev)

    def adopt(self, volumes: VolumeStore, base: Bdev) -> LoadedStore:
        """Take a store that was opened on a claimed device, and register every volume."""
        store = LoadedStore(volumes, base)
        self._loaded.append(store)
        without_memory = self._open(store, volumes)
        for info in self._open(store, without_memory):
            _LOG.error("%s: cannot be opened: no memory", info.alias)
        for volume in list(store.open.values()):
            self.add_volume(store, volume)
        return store

    def _open(self, store: LoadedStore, infos: Iterable[VolumeInfo]) -> list[VolumeInfo]:
        """Open volumes, and return those for which there was no memory: they may be tried again.

        A volume that cannot be opened is no volume of the loaded store, as in the original.
        """
        without_memory: list[VolumeInfo] = []
        for info in infos:
            try:
                volume = store.volumes.open_volume(info.id)
            except BlobstoreError as error:
                if error.errno == errno.ENOMEM:
                    without_memory.append(info)
                else:
                    _LOG.error("%s: cannot be opened: %s", info.alias, error)
                continue
            external_id = volume.info.external_snapshot
            if external_id is None or uuid_of_external(external_id) is not None:
                store.open[info.id] = volume
            else:
                _LOG.error("%s: its external snapshot %r is no uuid", info.alias, external_id)
                volume.close()
        return without_memory

    def add_volume(
        self, store: LoadedStore, volume: Volume, *, is_blank: bool = False
    ) -> VolumeBdev | None:
        """Register the device of an open volume; None where it is degraded."""
        store.open[volume.id] = volume
        info = volume.info
        store.note_parent(info)
        if info.external_snapshot is not None:
            self._serve_external(store, volume, info.external_snapshot)
        if volume.degraded or volume.id in store.bdevs:
            return store.bdevs.get(volume.id)
        bdev = VolumeBdev(store, volume)
        if any(self._table.find(name) for name in (bdev.name, *bdev.aliases)):
            _LOG.error("%s: a device of that name exists", volume.alias)
            return None
        store.bdevs[volume.id] = bdev
        self.register(bdev, is_blank=is_blank)
        return bdev

    def _serve_external(self, store: LoadedStore, volume: Volume, external_id: bytes) -> None:
        """Let a clone read its external snapshot, if that is there and has no writers."""
        if external_id in store.served:
            return
        bdev = self._table.find(str(uuid_of_external(external_id)))
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
        external_id = external_id_of(bdev)
        for store in self:
            if len(store.bdevs) == len(store.open) or external_id in store.served:
                continue
            without_bdev = [each for each in store.open.values() if each.id not in store.bdevs]
            waiting = [
                volume for volume in without_bdev if volume.info.external_snapshot == external_id
            ]
            for volume in waiting:
                self._serve_external(store, volume, external_id)
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

    def removable(self, *bdevs: Bdev) -> set[Bdev]:
        """Return devices and all that are on them, however deep: they are removed together.

        Raises:
            BusyError: Clones in a store that stays read one.
        """
        going = set(bdevs)
        for store in self:  # a store is loaded after the one that it is in
            if store.base in going:
                going.update(store.bdevs.values())
        for store in self:
            for served in store.served.values():
                if served in going and store.base not in going:
                    raise BusyError(f"{served.name}: clones in {store.volumes.name!r} read it")
        return going

    def reads(self, bdev: Bdev, other: Bdev) -> bool:
        """Tell whether what is read from a device can come from another one."""
        seen: set[Bdev] = set()
        left = [bdev]
        while left:
            each = left.pop()
            if each not in seen and isinstance(each, VolumeBdev):
                left += [each.store.base, *each.store.served.values()]
            seen.add(each)
        return other in seen

    def remove_bdev(self, bdev: Bdev) -> None:
        """Take a device out, with the store on it: that is unloaded cleanly first.

        Raises:
            BlobstoreError: The device failed; it is taken out all the same.
        """
        bdev.is_going = True
        with ExitStack() as stack:
            stack.callback(self._take_out, bdev)
            for store in self:
                if store.base is bdev:
                    stack.callback(self.unload, store)

    def unload(self, store: LoadedStore) -> None:
        """Take a store out: its volumes' devices, top down, then the store, clean.

        Raises:
            BlobstoreError: The device failed; the store is let go all the same.
        """
        store.is_going = True
        with ExitStack() as stack:
            stack.callback(self._forget, store)
            stack.callback(store.volumes.close)
            for bdev in list(store.bdevs.values()):
                stack.callback(self.remove_volume_bdev, store, bdev)

    def remove_volume_bdev(self, store: LoadedStore, bdev: VolumeBdev) -> None:
        """Take the device of a volume out; the volume stays open.

        Raises:
            BlobstoreError: A store on the volume failed; the device is taken out all the same.
        """
        del store.bdevs[bdev.volume.id]
        self.remove_bdev(bdev)

    def _take_out(self, bdev: Bdev) -> None:
        self._table.remove(bdev)
        names = self._names_of(bdev)
        self.examined = [name for name in self.examined if name not in names]
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
        """Return the volumes without clones, of those that are left and can be opened."""
        found: list[BlobId] = []
        parents: set[BlobId | None] = set()
        for info in store.volumes:
            try:
                with store.volumes.open_volume(info.id) as volume:
                    parents.add(volume.info.parent)
            except BlobstoreError as error:
                _LOG.error("%s: goes with its store: %s", info.alias, error)
            else:
                found.append(info.id)
        return [blob_id for blob_id in found if blob_id not in parents]


def _is_damaged(bdev: Bdev, error: BlobstoreError) -> bool:
    """Tell whether a device holds a store that cannot be loaded, and not just something else."""
    if not isinstance(error, CorruptError):
        return False
    with suppress(BlobstoreError):
        return bdev.open_device().read(0, len(SIGNATURE)) == SIGNATURE
    return False


def external_id_of(bdev: Bdev) -> bytes:
    """Return the id that clones of a device store."""
    return str(bdev.uuid).encode() + b"\0"


def uuid_of_external(external_id: bytes) -> UUID | None:
    """Return the uuid of the device that an external snapshot is; None for another kind of id."""
    if len(external_id) != _UUID_SIZE or not external_id.endswith(b"\0"):
        return None
    text = external_id[:-1].decode("latin-1")
    try:
        uuid = UUID(text)
    except ValueError:
        return None
    return uuid if str(uuid) == text.lower() else None
