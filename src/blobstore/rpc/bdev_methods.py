"""The methods of block devices: `bdev_...`, and notifications."""

import errno
import os
import stat
import sys
import time
from contextlib import closing
from typing import Final, TypeVar
from uuid import UUID

from blobstore.device.address import open_device
from blobstore.device.base import Device
from blobstore.device.memory import MemoryDevice
from blobstore.rpc import parameters as p
from blobstore.rpc.bdevs import AioBdev, BaseBdev, Bdev, MallocBdev
from blobstore.rpc.counting import TICK_RATE
from blobstore.rpc.failures import number_of, refused, refusing, undecodable
from blobstore.rpc.methods import STARTUP, method, no_parameters
from blobstore.rpc.parameters import text_or_none
from blobstore.rpc.protocol import INVALID_PARAMS, RpcError
from blobstore.rpc.target import Options, Target

_MD_SIZES: Final = frozenset({0, 8, 16, 32, 64, 128})
_LOOK_AGAIN_S: Final = 0.1
_SECTOR: Final = 512

B = TypeVar("B", bound=BaseBdev)


def found_bdev(target: Target, name: str) -> Bdev:
    """Return a device by a name or an alias.

    Raises:
        RpcError: There is none (ENODEV).
    """
    bdev = target.table.find(name)
    if bdev is None or bdev.is_going:
        raise refused(errno.ENODEV)
    return bdev


@method("bdev_get_bdevs", p.GetDevices)
def get_bdevs(target: Target, given: p.GetDevices) -> list[object]:
    """Return one device, waiting for it if asked to, or all."""
    name = text_or_none(given.name)
    if name is None:
        with target.lock:
            return [bdev.describe() for bdev in target.table if not bdev.is_going]
    deadline = time.monotonic() + given.timeout / 1000
    while True:
        with target.lock:
            bdev = target.table.find(name)
            if bdev is not None and not bdev.is_going:
                return [bdev.describe()]
        if not given.timeout:
            raise refused(errno.ENODEV)
        left = deadline - time.monotonic()
        if left <= 0:
            raise refused(errno.ETIMEDOUT)
        if target.stopping.wait(min(left, _LOOK_AGAIN_S)):
            raise refused(errno.ESHUTDOWN)


# Files


@method("bdev_aio_create", p.CreateAio)
def create_aio(target: Target, given: p.CreateAio) -> str:
    """Make a block device of a file or a device of the host."""
    with target.lock:
        device, block_size = _opened_file(given)
        try:
            bdev = AioBdev(
                given.name,
                uuid_of(given.uuid),
                device,
                filename=given.filename,
                block_size=block_size,
                given_block_size=given.block_size,
                fallocate=given.fallocate,
                nowait=given.nowait,
            )
            target.stores.register(bdev)
        except RpcError:
            device.close()
            raise
        return bdev.name


def _opened_file(given: p.CreateAio) -> tuple[Device, int]:
    """Open the file, and tell the size of its blocks.

    Raises:
        RpcError: It cannot be opened, or its size or blocks do not fit.
    """
    try:
        mode = os.stat(given.filename).st_mode
    except OSError as error:
        raise refused(number_of(error)) from error
    is_block_device = stat.S_ISBLK(mode)
    if stat.S_ISDIR(mode):
        raise refused(errno.EISDIR)
    if given.nowait and not is_block_device:
        raise refused(errno.ENOTSUP)
    wanted = given.block_size
    if not given.name or (not wanted and not is_block_device) or (wanted and not _fits(wanted)):
        raise refused(errno.EINVAL)
    try:
        device = open_device(
            os.path.abspath(given.filename), read_only=given.readonly, block_size=wanted or None
        )
    except OSError as error:
        raise refused(number_of(error)) from error
    if wanted and (wanted < device.block_size or device.size_bytes % wanted):
        device.close()
        raise refused(errno.EINVAL)
    return device, wanted or device.block_size


def _fits(block_size: int) -> bool:
    return block_size >= _SECTOR and not block_size & (block_size - 1)


def uuid_of(value: object) -> UUID | None:
    """Return a uuid that was given, None if none was."""
    return UUID(value) if isinstance(value, str) else None


@method("bdev_aio_rescan", p.Named)
def rescan_aio(target: Target, given: p.Named) -> bool:
    """Look at the size of a file again."""
    with target.lock:
        bdev = _found_of_kind(target, given.name, AioBdev)
        before = bdev.size_bytes
        with refusing():
            now = bdev.device.refresh_size()
        if 0 < now < before:
            raise refused(errno.EBUSY)
        if now > before:
            target.notify("bdev_resize", bdev.name)
    return now > 0 or remove_bdev(target, given.name, AioBdev)


@method("bdev_aio_delete", p.Named)
def delete_aio(target: Target, given: p.Named) -> bool:
    """Remove the block device of a file; a store on it is unloaded first."""
    return remove_bdev(target, given.name, AioBdev)


def remove_bdev(target: Target, name: str, kind: type[BaseBdev]) -> bool:
    """Remove a device of one kind; exports of all that is on it end, and its store is unloaded.

    Raises:
        RpcError: There is none (ENODEV), clones outside of it read it (EBUSY), or the device
            failed: then it is removed all the same.
    """

    def going() -> set[Bdev]:
        return target.stores.removable(_found_of_kind(target, name, kind))

    with refusing(), target.removing(going):
        bdev = _found_of_kind(target, name, kind)
        with closing(bdev.device):
            target.stores.remove_bdev(bdev)
    return True


def _found_of_kind(target: Target, name: str, kind: type[B]) -> B:
    bdev = found_bdev(target, name)
    if not isinstance(bdev, kind):
        raise refused(errno.ENODEV)
    return bdev


# Memory


@method("bdev_malloc_create", p.CreateMalloc)
def create_malloc(target: Target, given: p.CreateMalloc) -> str:
    """Make a block device of memory."""
    physical = given.physical_block_size
    is_wrong = (
        not given.num_blocks
        or not given.block_size
        or given.block_size % _SECTOR
        or physical % _SECTOR
        or given.md_size not in _MD_SIZES
        or given.numa_id not in (-1, 0)
        or text_or_none(given.name) == ""
    )
    if is_wrong:
        raise refused(errno.EINVAL)
    with target.lock:
        name = text_or_none(given.name)
        if name is None:
            name = f"Malloc{target.counters['Malloc']}"
            target.counters["Malloc"] += 1
        device = _memory(given, name)
        kept = {
            "physical_block_size": physical,
            "optimal_io_boundary": given.optimal_io_boundary,
            "md_size": given.md_size,
            "dif_type": given.dif_type,
            "dif_is_head_of_md": given.dif_is_head_of_md,
            "dif_pi_format": given.dif_pi_format,
            "numa_id": given.numa_id,
        }
        bdev = MallocBdev(name, uuid_of(given.uuid), device, given.block_size, kept)
        bdev.numa_id = given.numa_id
        target.stores.register(bdev)
        return bdev.name


def _memory(given: p.CreateMalloc, name: str) -> Device:
    size_bytes = given.num_blocks * given.block_size
    if size_bytes > sys.maxsize:
        raise refused(errno.ENOMEM)
    try:
        with refusing():
            return MemoryDevice(size_bytes, given.block_size, name=name)
    except (MemoryError, OverflowError) as error:
        raise refused(errno.ENOMEM) from error


@method("bdev_malloc_delete", p.Named)
def delete_malloc(target: Target, given: p.Named) -> bool:
    """Remove a block device of memory; a store on it is unloaded first."""
    return remove_bdev(target, given.name, MallocBdev)


# Examination


@method("bdev_examine", p.Named, decode_error=undecodable(INVALID_PARAMS))
def examine(target: Target, given: p.Named) -> bool:
    """Have a device examined, now or when it appears, where that is not done by itself."""
    with target.lock:
        if target.stores.examines_all:
            raise refused(errno.EINVAL)
        if given.name in target.stores.examined:
            raise refused(errno.EEXIST)
        target.stores.examined.append(given.name)
        bdev = target.table.find(given.name)
        if bdev is not None:
            target.stores.examine(bdev)
    return True


@method(
    "bdev_wait_for_examine",
    decode_error=no_parameters("bdev_wait_for_examine requires no parameters"),
)
def wait_for_examine(target: Target, _given: None) -> bool:
    """Return when nothing is being examined."""
    with target.lock:
        return True


@method(
    "bdev_set_options",
    p.SetOptions,
    states=STARTUP,
    decode_error=RpcError(INVALID_PARAMS, "Invalid parameters"),
)
def set_options(target: Target, given: p.SetOptions) -> bool:
    """Set what holds for all devices."""
    pool, cache = given.bdev_io_pool_size, given.bdev_io_cache_size
    if pool < cache:
        text = f"Pool size {pool} too small for cache size {cache}"
        raise RpcError(INVALID_PARAMS, text)
    target.options = Options(
        pool,
        cache,
        given.bdev_auto_examine,
        given.iobuf_small_cache_size,
        given.iobuf_large_cache_size,
    )
    target.stores.examines_all = given.bdev_auto_examine
    return True


# Statistics


@method("bdev_get_iostat", p.GetStatistics)
def get_iostat(target: Target, given: p.GetStatistics) -> dict[str, object]:
    """Return what was done on devices since they were made, or since the last reset."""
    with target.lock:
        if given.per_channel and (not isinstance(given.names, list) or len(given.names) != 1):
            raise refused(errno.EINVAL)
        if isinstance(given.names, list):
            bdevs = [found_bdev(target, name) for name in given.names]
        else:
            bdevs = [bdev for bdev in target.table if not bdev.is_going]
        head = {"tick_rate": TICK_RATE, "ticks": time.monotonic_ns()}
        counted = [(bdev.name, bdev.statistics.members()) for bdev in bdevs]
        for bdev in bdevs:
            bdev.statistics.reset(given.reset_mode)
    if given.per_channel:
        name, members = counted[0]
        return {**head, "name": name, "channels": [{"thread_id": 1, **members}]}
    return {**head, "bdevs": [{"name": name, **members} for name, members in counted]}


@method("bdev_reset_iostat", p.ResetStatistics)
def reset_iostat(target: Target, given: p.ResetStatistics) -> bool:
    """Forget what was done on one device, or on all."""
    with target.lock:
        name = text_or_none(given.name)
        bdevs = list(target.table) if name is None else [found_bdev(target, name)]
        for bdev in bdevs:
            bdev.statistics.reset(given.mode)
    return True


@method("notify_get_notifications", p.GetNotifications)
def get_notifications(target: Target, given: p.GetNotifications) -> list[object]:
    """Return what happened to devices, from a number on."""
    with target.lock:
        found = [note for note in target.notifications if note.id >= given.id][: given.max]
        return [{"type": note.type, "ctx": note.ctx, "id": note.id} for note in found]
