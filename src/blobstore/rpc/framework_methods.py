"""The methods of the process: `framework_...`, `rpc_get_methods`, `spdk_...`."""

import signal
from typing import Final

from blobstore import __version__
from blobstore.rpc import parameters as p
from blobstore.rpc.bdevs import BaseBdev
from blobstore.rpc.methods import BOTH, METHODS, RUNTIME, STARTUP, method, no_parameters
from blobstore.rpc.protocol import INVALID_PARAMS, RpcError
from blobstore.rpc.target import Target

SUBSYSTEMS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("iobuf", ()),
    ("accel", ("iobuf",)),
    ("keyring", ()),
    ("sock", ()),
    ("bdev", ("accel", "keyring", "sock", "iobuf")),
    ("nbd", ("bdev",)),
)
"""Each after those that it depends on: clients look them up as they go."""

_SPDK_FIELDS: Final = {"major": 26, "minor": 9, "patch": 0, "suffix": "-pre"}
"""The version whose methods these are."""


@method(
    "rpc_get_methods",
    p.GetMethods,
    states=BOTH,
    decode_error=RpcError(INVALID_PARAMS, "Invalid parameters"),
)
def get_methods(target: Target, given: p.GetMethods) -> list[str]:
    """Return the names of all methods, or of those that can be called now."""
    now = RUNTIME if target.is_initialized else STARTUP
    return [
        name
        for name, found in reversed(METHODS.items())
        if not given.current or found.states in (BOTH, now)
    ]


@method(
    "spdk_get_version",
    states=BOTH,
    decode_error=no_parameters("spdk_get_version method requires no parameters"),
)
def get_version(_target: Target, _given: None) -> dict[str, object]:
    """Return the version of the interface, and in its text that of this package."""
    fields = _SPDK_FIELDS
    text = f"SPDK v{fields['major']}.{fields['minor']:02d}{fields['suffix']}"
    return {"version": f"{text} (blobstore {__version__})", "fields": dict(fields)}


@method(
    "framework_start_init",
    states=STARTUP,
    decode_error=no_parameters("framework_start_init requires no parameters"),
)
def start_init(target: Target, _given: None) -> bool:
    """Leave the start-up state."""
    target.start()
    return True


@method("framework_wait_init", states=BOTH, optional=True)
def wait_init(target: Target, _given: None) -> bool:
    """Return when the start-up state has been left."""
    target.initialized.wait()
    return True


@method(
    "framework_get_subsystems",
    decode_error=no_parameters("'framework_get_subsystems' requires no arguments"),
)
def get_subsystems(_target: Target, _given: None) -> list[object]:
    """Return the subsystems, each after those that it depends on."""
    return [{"subsystem": name, "depends_on": list(needed)} for name, needed in SUBSYSTEMS]


@method(
    "framework_get_config",
    p.GetConfig,
    decode_error=RpcError(INVALID_PARAMS, "Invalid arguments"),
)
def get_config(target: Target, given: p.GetConfig) -> list[object] | None:
    """Return the calls that bring a subsystem to what it is now.

    Stores and volumes are not among them: they are on their devices.
    """
    if given.name not in dict(SUBSYSTEMS):
        raise RpcError(INVALID_PARAMS, f"Subsystem '{given.name}' not found")
    with target.lock:
        if given.name == "bdev":
            return _bdev_config(target, in_batches=given.with_batches)
        return _nbd_config(target) if given.name == "nbd" else None


def _bdev_config(target: Target, *, in_batches: bool) -> list[object]:
    options = target.options
    params = {
        "bdev_io_pool_size": options.bdev_io_pool_size,
        "bdev_io_cache_size": options.bdev_io_cache_size,
        "bdev_auto_examine": options.bdev_auto_examine,
        "iobuf_small_cache_size": options.iobuf_small_cache_size,
        "iobuf_large_cache_size": options.iobuf_large_cache_size,
    }
    bases = [bdev for bdev in target.table if isinstance(bdev, BaseBdev)]
    memory = [b.configuration() for b in bases if b.product_name == "Malloc disk"]
    others = [b.configuration() for b in bases if b.product_name != "Malloc disk"]
    calls: list[object] = [{"method": "bdev_set_options", "params": params}]
    calls += [
        {"method": "bdev_examine", "params": {"name": name}} for name in target.stores.examined
    ]
    calls += [
        {"method": "bdev_rbd_register_cluster", "params": {"name": name, **access.members()}}
        for name, access in target.ceph_clusters.items()
    ]
    calls += [memory] if in_batches and memory else memory
    return [*calls, *others, {"method": "bdev_wait_for_examine"}]


def _nbd_config(target: Target) -> list[object]:
    return [
        {
            "method": "nbd_start_disk",
            "params": {"nbd_device": path, "bdev_name": disk.bdev.name},
        }
        for path, disk in target.nbd_disks.items()
    ]


@method(
    "spdk_kill_instance",
    p.KillInstance,
    decode_error=RpcError(INVALID_PARAMS, "Invalid parameters"),
)
def kill_instance(target: Target, given: p.KillInstance) -> bool:
    """Send this process a signal."""
    target.send_signal(signal.Signals[given.sig_name])
    return True
