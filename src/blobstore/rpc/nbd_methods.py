"""The methods `nbd_...`: block devices as NBD exports, each at a socket of its own.

The original hands a device to the kernel as `/dev/nbdN`. Here a path of a Unix socket stands in
its place, which every NBD client can open; no kernel module and no root is needed.
"""

import errno
import os
from typing import Final

from blobstore.nbd.activity import Activity
from blobstore.nbd.nbd_server import NbdServer
from blobstore.rpc import parameters as p
from blobstore.rpc.failures import number_of, refused
from blobstore.rpc.methods import BOTH, method
from blobstore.rpc.nbd_exports import BdevExports
from blobstore.rpc.parameters import text_or_none
from blobstore.rpc.target import NbdDisk, Target

_PATH_MAX: Final = 107
"""The longest path of a Unix socket in bytes."""
_KERNEL: Final = "/dev/nbd"
_NUMBERS_MAX: Final = 1 << 16


@method("nbd_start_disk", p.StartNbd)
def start_disk(target: Target, given: p.StartNbd) -> str:
    """Export a block device at a socket, and return the socket's path."""
    with target.lock:
        wanted = text_or_none(given.nbd_device)
        path = _free_path(target) if wanted is None else wanted
        if path in target.nbd_disks:
            raise refused(errno.EBUSY)
        if not _is_path(path):
            raise refused(errno.ENODEV, f"illegal nbd device {path}")
        bdev = target.table.find(given.bdev_name)
        if bdev is None or bdev.is_going:
            raise refused(errno.ENODEV)
        if bdev.claim is not None:
            raise refused(errno.EPERM)
        try:
            server = NbdServer(BdevExports(bdev), f"unix:{path}")
        except OSError as error:
            raise refused(number_of(error)) from error
        bdev.writers += 1
        target.nbd_disks[path] = NbdDisk(bdev, server)
        return path


def _is_path(path: str) -> bool:
    is_kernels = path.removeprefix(_KERNEL).isdecimal()
    return path.startswith("/") and not is_kernels and len(os.fsencode(path)) <= _PATH_MAX


def _free_path(target: Target) -> str:
    """Return the path of a socket that is not there yet, beside that of the server."""
    for number in range(_NUMBERS_MAX):
        path = os.path.join(target.socket_directory, f"nbd{number}.sock")
        if path not in target.nbd_disks and not os.path.lexists(path):
            return path
    raise refused(errno.ENODEV, "nbd device not found")


@method("nbd_stop_disk", p.StopNbd)
def stop_disk(target: Target, given: p.StopNbd) -> bool:
    """End an export: requests that were received are finished, and everything is flushed."""
    with target.lock:
        disk = target.nbd_disks.pop(given.nbd_device, None)
    if disk is None:
        raise refused(errno.ENODEV)
    disk.server.close()
    with target.lock:
        disk.bdev.writers -= 1
    return True


@method("nbd_get_disks", p.GetNbd)
def get_disks(target: Target, given: p.GetNbd) -> list[object]:
    """Return one export, or all."""
    wanted = text_or_none(given.nbd_device)
    with target.lock:
        if wanted is not None and wanted not in target.nbd_disks:
            raise refused(errno.ENODEV)
        return [
            {"nbd_device": path, "bdev_name": disk.bdev.name}
            for path, disk in target.nbd_disks.items()
            if wanted in (None, path)
        ]


@method("nbd_get_statistics", states=BOTH, optional=True)
def get_statistics(target: Target, _given: None) -> dict[str, object]:
    """Return what clients of all NBD servers have done; this method is no original's.

    `exports` are sums that never become smaller. `connections` are those that are open now.
    Latencies are lists of [upper bound in nanoseconds, requests below it].
    """
    with target.lock:
        servers = [*target.nbd_servers, *(disk.server for disk in target.nbd_disks.values())]
    exports: list[object] = []
    connections: list[object] = []
    for server in servers:
        address = str(server.address)
        exports += [
            {"address": address, "export": name, **_members(activity)}
            for name, activity in server.totals()
        ]
        connections += [
            {
                "address": address,
                "export": each.export,
                "peer": each.peer,
                **_members(each.activity),
            }
            for each in server.connections()
        ]
    return {"exports": exports, "connections": connections}


def _members(activity: Activity) -> dict[str, object]:
    return {
        kind: {
            "requests": meter.requests,
            "bytes": meter.bytes,
            "errors": meter.errors,
            "nanoseconds": meter.nanoseconds,
            "latencies": meter.latencies(),
        }
        for kind, meter in activity.meters.items()
    }
