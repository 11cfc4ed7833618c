"""The methods of Ceph's block devices: `bdev_rbd_...`; only where Ceph's modules are installed."""

import errno
from typing import Final
from uuid import UUID

from blobstore.device.rbd_cluster import RbdAddress, connect_cluster
from blobstore.device.rbd_image import RbdDevice
from blobstore.errors import BlobstoreError
from blobstore.rpc import parameters as p
from blobstore.rpc.bdev_methods import found_bdev, remove_bdev, uuid_of
from blobstore.rpc.bdevs import BaseBdev
from blobstore.rpc.failures import number_of, refused
from blobstore.rpc.methods import method
from blobstore.rpc.parameters import text_or_none
from blobstore.rpc.protocol import RpcError
from blobstore.rpc.target import CephAccess, Target
from blobstore.units import MIB

_SECTOR: Final = 512


class RbdBdev(BaseBdev):
    """An image of Ceph; `cluster_name` is empty where the cluster is not a registered one."""

    product_name = "Ceph Rbd Disk"
    io_types = frozenset({"read", "write", "unmap", "flush", "reset", "write_zeroes"})

    def __init__(
        self,
        name: str,
        uuid: UUID | None,
        device: RbdDevice,
        block_size: int,
        *,
        place: tuple[str, str],
        access: CephAccess,
        cluster_name: str,
    ) -> None:
        super().__init__(name, uuid, device, block_size)
        self.cluster_name = cluster_name
        self._place = place
        self._access = access

    def specific(self) -> dict[str, object]:
        pool, image = self._place
        members: dict[str, object] = {"pool_name": pool, "rbd_name": image}
        if self.cluster_name:
            members |= {"cluster_name": self.cluster_name, **self._access.members()}
        else:
            members |= self._own_access()
        return {"rbd": members}

    def configuration(self) -> dict[str, object]:
        pool, image = self._place
        params: dict[str, object] = {
            "name": self.name,
            "pool_name": pool,
            "rbd_name": image,
            "block_size": self.block_size,
        }
        params |= {"cluster_name": self.cluster_name} if self.cluster_name else self._own_access()
        params |= {"uuid": str(self.uuid)}
        if self.device.read_only:
            params["read_only"] = True
        return {"method": "bdev_rbd_create", "params": params}

    def _own_access(self) -> dict[str, object]:
        found = {"user_id": self._access.user_id, "config": self._access.config_param}
        return {name: value for name, value in found.items() if value is not None}


# Clusters


@method("bdev_rbd_register_cluster", p.RegisterCluster)
def register_cluster(target: Target, given: p.RegisterCluster) -> str:
    """Give a way to reach a cluster a name."""
    access = CephAccess(
        given.user_id, given.config_param, given.config_file, given.key_file, given.core_mask
    )
    with target.lock:
        if not given.name:
            raise refused(errno.EINVAL)
        if given.name in target.ceph_clusters:
            raise refused(errno.EEXIST)
        try:
            connect_cluster(_address(access, "", ""), given.name).shutdown()
        except BlobstoreError as error:
            raise refused(errno.EPERM) from error
        target.ceph_clusters[given.name] = access
    return given.name


@method("bdev_rbd_unregister_cluster", p.Named)
def unregister_cluster(target: Target, given: p.Named) -> bool:
    """Forget a name of a cluster, which no device may use."""
    with target.lock:
        if given.name not in target.ceph_clusters:
            raise refused(errno.ENODEV)
        bdevs = [bdev for bdev in target.table if isinstance(bdev, RbdBdev)]
        if any(bdev.cluster_name == given.name for bdev in bdevs):
            raise refused(errno.EBUSY)
        del target.ceph_clusters[given.name]
    return True


@method("bdev_rbd_get_clusters_info", p.GetClusters, optional=True)
def get_clusters_info(target: Target, given: p.GetClusters | None) -> object:
    """Return how one cluster is reached, or all."""
    name = None if given is None else text_or_none(given.name)
    with target.lock:
        if name is not None and name not in target.ceph_clusters:
            raise refused(errno.ENODEV)
        found = [
            {"cluster_name": each, **access.members()}
            for each, access in target.ceph_clusters.items()
            if name in (None, each)
        ]
    return found[0] if name is not None else found


# Devices


@method("bdev_rbd_create", p.CreateRbd)
def create_rbd(target: Target, given: p.CreateRbd) -> str:
    """Make a block device of an image of Ceph."""
    block_size = given.block_size
    if block_size < _SECTOR or block_size & (block_size - 1):
        raise refused(errno.EINVAL)
    with target.lock:
        number = target.counters["Ceph"]
        target.counters["Ceph"] += 1
        name = text_or_none(given.name) or f"Ceph{number}"
        cluster_name = text_or_none(given.cluster_name) or ""
        access = _access(target, given, cluster_name)
        device = _opened_image(access, given)
        try:
            bdev = RbdBdev(
                name,
                uuid_of(given.uuid),
                device,
                block_size,
                place=(given.pool_name, given.rbd_name),
                access=access,
                cluster_name=cluster_name,
            )
            target.stores.register(bdev)
        except RpcError:
            device.close()
            raise
        return bdev.name


def _access(target: Target, given: p.CreateRbd, cluster_name: str) -> CephAccess:
    if not cluster_name:
        return CephAccess(text_or_none(given.user_id), given.config)
    found = target.ceph_clusters.get(cluster_name)
    if found is None:
        raise refused(errno.EPERM)
    return found


def _opened_image(access: CephAccess, given: p.CreateRbd) -> RbdDevice:
    """Open the image; every failure is EPERM, as the original answers it."""
    pool, image = given.pool_name, given.rbd_name
    try:
        return RbdDevice.open(
            _address(access, pool, image),
            name=f"rbd:{pool}/{image}",
            read_only=given.read_only,
            block_size=given.block_size,
        )
    except BlobstoreError as error:
        raise refused(errno.EPERM) from error


def _address(access: CephAccess, pool: str, image: str) -> RbdAddress:
    """Return where an image is; options that are given stand in the place of a file."""
    options = dict(access.config_param or {})
    if access.key_file is not None:
        options["keyring"] = access.key_file
    configuration = access.config_file
    if configuration is None and access.config_param is None:
        configuration = ""  # Ceph's own places
    return RbdAddress(pool, image, "", configuration, access.user_id or "", options)


@method("bdev_rbd_resize", p.ResizeRbd)
def resize_rbd(target: Target, given: p.ResizeRbd) -> bool:
    """Make an image larger; a store on it grows when it is told to."""
    with target.lock:
        bdev = found_bdev(target, given.name)
        if not isinstance(bdev, RbdBdev) or given.new_size * MIB < bdev.size_bytes:
            raise refused(errno.EINVAL)
        try:
            bdev.device.resize(given.new_size * MIB)
        except BlobstoreError as error:
            raise refused(number_of(error)) from error
        target.notify("bdev_resize", bdev.name)
    return True


@method("bdev_rbd_delete", p.Named)
def delete_rbd(target: Target, given: p.Named) -> bool:
    """Close an image; a store on it is unloaded first."""
    return remove_bdev(target, given.name, RbdBdev)
