"""The methods of volumes: `bdev_lvol_...`.

The protocol, not this server, decides whether an error is returned at once or later: scripts
tell the two apart by the code.
"""

import errno
import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from blobstore import ClearMethod
from blobstore.api.volumes import Volume
from blobstore.errors import BlobstoreError
from blobstore.rpc import parameters as p
from blobstore.rpc.bdevs import WRITE_NONE, WRITE_ONE, Bdev
from blobstore.rpc.failures import failed, refused
from blobstore.rpc.lvol_lookup import answering, is_name, store_of, volume_of
from blobstore.rpc.methods import method
from blobstore.rpc.parameters import text_or_none
from blobstore.rpc.protocol import INTERNAL_ERROR, INVALID_PARAMS, RpcError
from blobstore.rpc.stores import LoadedStore, VolumeBdev, external_id_of
from blobstore.rpc.target import Target

_LOG: Final = logging.getLogger("blobstore.rpc")
_XATTR_NAME_MAX: Final = 4058
_MIB: Final = 1 << 20
_NIL: Final = "00000000-0000-0000-0000-000000000000"
_CLEAR_METHODS: Final = {
    "default": ClearMethod.DEFAULT,
    "none": ClearMethod.NONE,
    "unmap": ClearMethod.UNMAP,
    "write_zeroes": ClearMethod.ZEROES,
}


# Volumes come


@method("bdev_lvol_create", p.CreateVolume)
def create_volume(target: Target, given: p.CreateVolume) -> str:
    """Make a volume."""
    with target.lock:
        store = store_of(target, text_or_none(given.uuid), text_or_none(given.lvs_name))
        if not is_name(given.lvol_name):
            raise refused(errno.EINVAL)
        if _has_name(store, given.lvol_name):
            raise refused(errno.EEXIST)
        _check_alias(target, store, given.lvol_name)
        with answering():
            volume = store.volumes.create_volume(
                given.lvol_name,
                given.size_in_mib * _MIB % (1 << 64),
                thin=given.thin_provision,
                clear_method=_CLEAR_METHODS[given.clear_method],
            )
        target.stores.add_volume(store, volume, is_blank=True)
        return volume.unique_id


def _has_name(store: LoadedStore, name: str) -> bool:
    return name in store.volumes and store.volumes.volume_info(name).name == name


def _check_alias(target: Target, store: LoadedStore, name: str) -> None:
    """Refuse a new volume whose alias another device has, before anything is made.

    Raises:
        RpcError: It is taken (EEXIST).
    """
    if target.table.find(f"{store.volumes.name}/{name}") is not None:
        raise failed(errno.EEXIST)


@method("bdev_lvol_snapshot", p.Snapshot)
def snapshot(target: Target, given: p.Snapshot) -> str:
    """Make a snapshot of a volume."""
    return _made_from(target, given.lvol_name, given.snapshot_name, Volume.snapshot)


@method("bdev_lvol_clone", p.Clone)
def clone(target: Target, given: p.Clone) -> str:
    """Make a clone of a snapshot or a read-only volume."""
    return _made_from(target, given.snapshot_name, given.clone_name, Volume.clone)


def _made_from(
    target: Target, source_name: str, name: str, make: Callable[[Volume, str], Volume]
) -> str:
    """Make a volume from another one, and return its unique id."""
    with target.lock:
        source = volume_of(target, source_name)
        if not is_name(name):
            raise failed(errno.EINVAL)
        if _has_name(source.store, name):
            raise failed(errno.EEXIST)
        _check_alias(target, source.store, name)
        with answering():
            made = make(source.volume, name)
        source.store.note_parent(source.volume.info)
        target.stores.add_volume(source.store, made)
        return made.unique_id


@method("bdev_lvol_clone_bdev", p.CloneDevice)
def clone_bdev(target: Target, given: p.CloneDevice) -> str:
    """Make a clone of any block device outside the store."""
    with target.lock:
        store = target.stores.named(given.lvs_name)
        if store is None:
            raise RpcError(INVALID_PARAMS, "lvs does not exist")
        bdev = target.table.find(given.bdev)
        if bdev is None:
            raise RpcError(INVALID_PARAMS, "bdev does not exist")
        if isinstance(bdev, VolumeBdev) and bdev.store is store:
            text = "bdev is an lvol in same lvs as clone; use bdev_lvol_clone instead"
            raise RpcError(INVALID_PARAMS, text)
        _check_external(store, bdev, given.clone_name)
        _check_alias(target, store, given.clone_name)
        with answering():
            volume = store.volumes.create_volume(
                given.clone_name, bdev.size_bytes, external_snapshot=bdev.uuid
            )
        if target.stores.add_volume(store, volume) is None:
            _LOG.warning("%s: degraded: %s is in use elsewhere", volume.alias, bdev.name)
        return volume.unique_id


def _check_external(store: LoadedStore, bdev: Bdev, clone_name: str) -> None:
    is_wrong = (
        not is_name(clone_name)
        or bdev.size_bytes % store.volumes.cluster_size
        or store.block_size % bdev.block_size
    )
    if is_wrong:
        raise failed(errno.EINVAL)
    if _has_name(store, clone_name):
        raise failed(errno.EEXIST)
    if bdev.is_going:
        raise failed(errno.ENODEV)


# Volumes change


@method("bdev_lvol_rename", p.Rename)
def rename(target: Target, given: p.Rename) -> bool:
    """Give a volume another name; its alias changes with it, or neither does."""
    with target.lock:
        bdev = volume_of(target, given.old_name)
        volume, before = bdev.volume, bdev.volume.alias
        if len(given.new_name.encode()) > _XATTR_NAME_MAX:
            raise failed(errno.ENOMEM)
        if target.table.find(f"{bdev.store.volumes.name}/{given.new_name}") is not None:
            raise failed(errno.EEXIST)
        if volume.uuid is None:
            raise failed(errno.EINVAL)
        if volume.read_only:
            raise failed(errno.EPERM)
        with answering():
            volume.rename(given.new_name)
        target.table.replace_alias(bdev, before, volume.alias)
    return True


@method("bdev_lvol_resize", p.Resize)
def resize(target: Target, given: p.Resize) -> bool:
    """Give a volume another size."""
    with target.lock:
        bdev = volume_of(target, given.name)
        size = given.size_in_mib * _MIB % (1 << 64)
        if bdev.volume.read_only:
            raise failed(errno.EPERM)
        is_used = bdev.writers or bdev.claim is not None
        is_cut = bdev.volume.size - size >= bdev.store.volumes.cluster_size
        if is_used and is_cut:
            raise failed(errno.EBUSY)
        with answering():
            bdev.volume.resize(size)
            bdev.volume.sync_md()
        target.notify("bdev_resize", bdev.name)
    return True


@method("bdev_lvol_set_read_only", p.Named)
def set_read_only(target: Target, given: p.Named) -> bool:
    """Make a volume read-only for good."""
    with target.lock, answering():
        volume = volume_of(target, given.name).volume
        if not volume.read_only:
            volume.set_read_only()
            volume.sync_md()
    return True


@method("bdev_lvol_inflate", p.Named)
def inflate(target: Target, given: p.Named) -> bool:
    """Give a volume every cluster of its own."""
    return _copied_from_parents(target, given.name, Volume.inflate)


@method("bdev_lvol_decouple_parent", p.Named)
def decouple(target: Target, given: p.Named) -> bool:
    """Copy what a volume reads from its parent."""
    return _copied_from_parents(target, given.name, Volume.decouple)


def _copied_from_parents(target: Target, name: str, copy: Callable[[Volume], None]) -> bool:
    """Let a volume copy what it reads from others, without the lock: that can take long."""
    with target.lock:
        bdev = volume_of(target, name)
        external = bdev.volume.info.external_snapshot
        bdev.copying += 1
    try:
        with answering():
            copy(bdev.volume)
    finally:
        with target.lock:
            bdev.copying -= 1
            target.stores.release_external(bdev.store, external)
    return True


@method("bdev_lvol_set_parent", p.SetParent)
def set_parent(target: Target, given: p.SetParent) -> bool:
    """Make a volume a clone of a snapshot of its store."""
    with target.lock:
        bdev = volume_of(target, given.lvol_name)
        parent = volume_of(target, given.parent_name)
        if parent.store is not bdev.store:
            raise failed(errno.EINVAL)
        external = bdev.volume.info.external_snapshot
        with answering():
            bdev.volume.set_parent(parent.volume.id)
        bdev.store.note_parent(bdev.volume.info)
        target.stores.release_external(bdev.store, external)
    return True


@method("bdev_lvol_set_parent_bdev", p.SetParent)
def set_parent_bdev(target: Target, given: p.SetParent) -> bool:
    """Make a volume a clone of any block device outside its store."""
    with target.lock:
        bdev = volume_of(target, given.lvol_name)
        parent = target.table.find(given.parent_name)
        if parent is None or parent.is_going:
            raise failed(errno.ENODEV)
        store, volume = bdev.store, bdev.volume
        external_id = external_id_of(parent)
        before = volume.info.external_snapshot
        if before == external_id:
            raise failed(errno.EEXIST)
        is_wrong = (
            target.stores.reads(parent, bdev)
            or parent.writers
            or parent.claim not in (None, WRITE_NONE)
            or parent.size_bytes % store.volumes.cluster_size
            or not volume.info.thin
        )
        if is_wrong:
            raise failed(errno.EINVAL)
        is_new = external_id not in store.served
        with answering():
            if is_new:
                store.volumes.register_external(external_id, parent.open_device())
            try:
                volume.set_external_parent(external_id)
            except BlobstoreError:
                if is_new:
                    store.volumes.register_external(external_id, None)
                raise
        if is_new:
            parent.claim_for(WRITE_NONE)
            store.served[external_id] = parent
        target.stores.release_external(store, before)
    return True


# Volumes go


@method("bdev_lvol_delete", p.Named)
def delete(target: Target, given: p.Named) -> bool:
    """Delete a volume, degraded ones too."""

    def going() -> set[Bdev]:
        store, volume = _deleted_of(target, given.name)
        if len(volume.info.clones) > 1:
            raise failed(errno.EPERM, code=INTERNAL_ERROR)
        bdev = store.bdevs.get(volume.id)
        if bdev is None:
            return set()
        if bdev.copying:
            raise failed(errno.EBUSY, code=INTERNAL_ERROR)
        return target.stores.removable(bdev)

    with answering(INTERNAL_ERROR), target.removing(going):
        store, volume = _deleted_of(target, given.name)
        bdev = store.bdevs.get(volume.id)
        if bdev is not None:
            target.stores.remove_volume_bdev(store, bdev)
        _delete_volume(target, store, volume)
    return True


def _delete_volume(target: Target, store: LoadedStore, volume: Volume) -> None:
    """Close and delete a volume; one that cannot be deleted gets its device back."""
    blob_id, external = volume.id, volume.info.external_snapshot
    was_snapshot = blob_id in store.snapshots
    store.forget(blob_id)
    try:
        volume.close()
        store.volumes.delete_volume(blob_id)
    except BlobstoreError:
        if was_snapshot:
            store.snapshots.add(blob_id)
        target.stores.add_volume(store, store.volumes.open_volume(blob_id))
        raise
    target.stores.release_external(store, external)


def _deleted_of(target: Target, name: str) -> tuple[LoadedStore, Volume]:
    """Return the volume that a name, a uuid in any case, or `store/volume` stands for.

    Raises:
        RpcError: There is none (ENODEV).
    """
    bdev = target.table.find(name)
    if isinstance(bdev, VolumeBdev):
        return bdev.store, bdev.volume
    for store in target.stores:
        for volume in store.open.values():
            if name.lower() == volume.unique_id or name == volume.alias:
                return store, volume
    raise refused(errno.ENODEV)


# What there is


@method("bdev_lvol_get_lvols", p.VolumesOfStore, optional=True)
def get_volumes(target: Target, given: p.VolumesOfStore | None) -> list[object]:
    """Return the volumes of one store, or of all."""
    with target.lock:
        stores = list(target.stores)
        if given is not None:
            uuid, name = text_or_none(given.lvs_uuid), text_or_none(given.lvs_name)
            stores = [store_of(target, uuid, name)]
        return [_described(store, volume) for store in stores for volume in store.open.values()]


def _described(store: LoadedStore, volume: Volume) -> dict[str, object]:
    info = volume.info
    return {
        "alias": volume.alias,
        "uuid": _NIL if volume.uuid is None else str(volume.uuid),
        "name": volume.name,
        "is_thin_provisioned": info.thin,
        "is_snapshot": volume.id in store.snapshots,
        "is_clone": info.parent is not None,
        "is_esnap_clone": info.external_snapshot is not None,
        "is_degraded": volume.degraded,
        "num_allocated_clusters": info.allocated_clusters,
        "lvs": {"name": store.volumes.name, "uuid": str(store.volumes.uuid)},
    }


# Shallow copies


@method("bdev_lvol_start_shallow_copy", p.StartShallowCopy)
def start_shallow_copy(target: Target, given: p.StartShallowCopy) -> dict[str, int]:
    """Begin to copy a volume's own clusters to another device."""
    with target.lock:
        source = volume_of(target, given.src_lvol_name)
        number = target.copies.take_number()
        bdev = target.table.find(given.dst_bdev_name)
        if bdev is None or bdev.is_going:
            raise failed(errno.ENODEV)
        if bdev.claim is not None or bdev.writers:
            raise failed(errno.EPERM)
        bdev.claim_for(WRITE_ONE)
        source.copying += 1
        at_end = partial(_end_copy, target, source, bdev)
        target.copies.start(number, source.volume, bdev.open_device(), at_end)
        return {"operation_id": number}


def _end_copy(target: Target, source: VolumeBdev, bdev: Bdev) -> None:
    with target.lock:
        source.copying -= 1
        bdev.release()


@method("bdev_lvol_check_shallow_copy", p.CheckShallowCopy)
def check_shallow_copy(target: Target, given: p.CheckShallowCopy) -> dict[str, object]:
    """Tell how far a copy is; its end is told once."""
    found = target.copies.check(given.operation_id)
    if found is None:
        raise refused(errno.ENODEV)
    return found
