"""The methods of volume stores: `bdev_lvol_..._lvstore`."""

import errno
from typing import Final

from blobstore import Clear
from blobstore.api.volumes import VolumeStore
from blobstore.rpc import parameters as p
from blobstore.rpc.bdevs import WRITE_ONE, Bdev
from blobstore.rpc.failures import failed, refused
from blobstore.rpc.lvol_lookup import NAME_MAX, answering, is_name, store_of
from blobstore.rpc.methods import method
from blobstore.rpc.parameters import text_or_none
from blobstore.rpc.stores import LoadedStore
from blobstore.rpc.target import Target

_CLUSTER_UNIT: Final = 4096
_DEFAULT_CLUSTER_SIZE: Final = 4 << 20
_PAGE_SIZES: Final = frozenset(1 << bits for bits in range(12, 17))
_CLEAR: Final = {"unmap": Clear.UNMAP, "write_zeroes": Clear.ZEROES, "none": Clear.NONE}


@method("bdev_lvol_create_lvstore", p.CreateStore)
def create_store(target: Target, given: p.CreateStore) -> str:
    """Make a store on a block device."""
    if not is_name(given.lvs_name) or (
        given.md_page_size and given.md_page_size not in _PAGE_SIZES
    ):
        raise refused(errno.EINVAL)
    with target.lock:
        bdev = target.table.find(given.bdev_name)
        if bdev is None or bdev.is_going:
            raise refused(errno.ENODEV)
        if bdev.claim is not None:
            raise refused(errno.EPERM)
        cluster_size = given.cluster_sz or _DEFAULT_CLUSTER_SIZE
        if cluster_size % bdev.block_size or cluster_size < bdev.block_size:
            raise refused(errno.EINVAL)
        if target.stores.named(given.lvs_name) is not None:
            raise refused(errno.EEXIST)
        if cluster_size % _CLUSTER_UNIT or cluster_size < given.md_page_size:
            raise failed(errno.EINVAL)
        bdev.claim_for(WRITE_ONE)
        try:
            with answering():
                volumes = _made_store(bdev, given, cluster_size)
        except BaseException:
            bdev.release()
            raise
        return str(target.stores.adopt(volumes, bdev).volumes.uuid)


def _made_store(bdev: Bdev, given: p.CreateStore, cluster_size: int) -> VolumeStore:
    return VolumeStore.create(
        bdev.open_device(),
        name=given.lvs_name,
        cluster_size=cluster_size,
        md_pages_per_cluster_ratio=given.num_md_pages_per_cluster_ratio or 100,
        md_page_size=given.md_page_size or None,
        clear=_CLEAR[given.clear_method],
        overwrite=True,
    )


@method("bdev_lvol_delete_lvstore", p.StoreByUuidOrName)
def delete_store(target: Target, given: p.StoreByUuidOrName) -> bool:
    """Delete a store with all of its volumes."""
    uuid, name = text_or_none(given.uuid), text_or_none(given.lvs_name)

    def going() -> set[Bdev]:
        return target.stores.removable(*store_of(target, uuid, name).bdevs.values())

    with answering(), target.removing(going):
        target.stores.destroy(store_of(target, uuid, name))
    return True


@method("bdev_lvol_get_lvstores", p.StoreByUuidOrName, optional=True)
def get_stores(target: Target, given: p.StoreByUuidOrName | None) -> list[object]:
    """Return one store, or all in the order of loading."""
    with target.lock:
        if given is None:
            return [_described_store(store) for store in target.stores]
        store = store_of(target, text_or_none(given.uuid), text_or_none(given.lvs_name))
        return [_described_store(store)]


def _described_store(store: LoadedStore) -> dict[str, object]:
    info = store.volumes.info
    return {
        "uuid": str(store.volumes.uuid),
        "name": store.volumes.name,
        "base_bdev": store.base.name,
        "total_data_clusters": info.data_clusters,
        "free_clusters": info.free_clusters,
        "block_size": info.io_unit_size,
        "cluster_size": info.cluster_size,
        "max_growable_size": info.max_growable_size,
    }


@method("bdev_lvol_rename_lvstore", p.Rename)
def rename_store(target: Target, given: p.Rename) -> bool:
    """Give a store another name, and its volumes other aliases."""
    with target.lock:
        store = target.stores.named(given.old_name)
        if store is None:
            raise refused(errno.ENOENT, f"Lvol store {given.old_name} not found")
        name = given.new_name.encode()[:NAME_MAX].decode(errors="ignore")
        if name == given.old_name:
            return True
        if not name or target.stores.named(name) is not None:
            raise failed(errno.EEXIST)
        before = {bdev: bdev.volume.alias for bdev in store.bdevs.values()}
        if any(target.table.find(f"{name}/{bdev.volume.name}") for bdev in before):
            raise failed(errno.EEXIST)
        with answering():
            store.volumes.rename(name)
        for bdev, alias in before.items():
            target.table.replace_alias(bdev, alias, bdev.volume.alias)
    return True


@method("bdev_lvol_grow_lvstore", p.StoreByUuidOrName)
def grow_store(target: Target, given: p.StoreByUuidOrName) -> bool:
    """Use all of a device that has grown."""
    with target.lock, answering():
        store = store_of(target, text_or_none(given.uuid), text_or_none(given.lvs_name))
        store.volumes.grow()
    return True
