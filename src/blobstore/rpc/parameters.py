"""The parameters of every method, typed, and how they decode.

The rules are the original's: a member that is unknown, repeated or missing is an
error, and so is null, also where a member is optional. A number is an integer however
it is written (`10`, `10.0`, `1e1`), but `0.0`, `-0` and `"10"` are errors. An array
instead of an object is an error in every method.
"""

from decimal import Decimal
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from blobstore.rpc.json_stream import Json, Members, Number

T = TypeVar("T")

_UINT64_MAX: Final = (1 << 64) - 1
_NO_INTEGER: Final = 0.5
"""What a number that no parameter accepts becomes: no parameter is a fraction."""

Uint32 = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]
Uint64 = Annotated[int, Meta(ge=0)]
UuidText = Annotated[str, Meta(pattern=r"\A[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")]
Int32 = Annotated[int, Meta(ge=-(1 << 31), le=(1 << 31) - 1)]
ClearMethodName = Literal["default", "none", "unmap", "write_zeroes"]


class ParametersError(Exception):
    """The parameters do not decode; the message says which and why, for the log."""


def decode_parameters(kind: type[T], params: Members | list[Json] | None) -> T:
    """Return the parameters of a call as the struct `kind`.

    Raises:
        ParametersError: They do not fit.
    """
    if isinstance(params, list):
        raise ParametersError("expected an object, got an array")
    try:
        return msgspec.convert(_plain(params or Members()), kind)
    except msgspec.ValidationError as error:
        raise ParametersError(str(error)) from error


def _plain(value: Json) -> object:
    if isinstance(value, Members):
        plain = {name: _plain(part) for name, part in value.pairs}
        if len(plain) != len(value.pairs):
            raise ParametersError("a member is repeated")
        return plain
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, Number):
        return _integer(value.text)
    if isinstance(value, str) and "\0" in value:
        raise ParametersError("a string holds a NUL")
    return value


def _integer(text: str) -> int | float:
    if text.lstrip("-").isdigit():
        number = int(text)
        is_wrong = text == "-0"
    else:
        exact = Decimal(text)
        if not exact or exact.adjusted() > len(str(_UINT64_MAX)) or exact != exact.to_integral():
            return _NO_INTEGER
        number, is_wrong = int(exact), False
    return _NO_INTEGER if is_wrong or number > _UINT64_MAX else number


def text_or_none(value: str | UnsetType) -> str | None:
    """Return an optional string, None where it was not given."""
    return None if isinstance(value, UnsetType) else value


class _Parameters(Struct, forbid_unknown_fields=True):
    pass


# Stores of volumes


class CreateStore(_Parameters):
    """Parameters of bdev_lvol_create_lvstore."""

    bdev_name: str
    lvs_name: str
    cluster_sz: Uint32 = 0
    clear_method: Literal["unmap", "write_zeroes", "none"] = "unmap"
    num_md_pages_per_cluster_ratio: Uint32 = 0
    md_page_size: Uint32 = 0


class StoreByUuidOrName(_Parameters):
    """Parameters of the methods that take one store, or of bdev_lvol_get_lvstores all."""

    uuid: str | UnsetType = UNSET
    lvs_name: str | UnsetType = UNSET


class Rename(_Parameters):
    """Parameters of bdev_lvol_rename_lvstore, bdev_lvol_rename."""

    old_name: str
    new_name: str


# Volumes


class CreateVolume(_Parameters):
    """Parameters of bdev_lvol_create."""

    lvol_name: str
    size_in_mib: Uint64
    thin_provision: bool = False
    uuid: str | UnsetType = UNSET
    lvs_name: str | UnsetType = UNSET
    clear_method: ClearMethodName = "default"


class Snapshot(_Parameters):
    """Parameters of bdev_lvol_snapshot."""

    lvol_name: str
    snapshot_name: str


class Clone(_Parameters):
    """Parameters of bdev_lvol_clone."""

    snapshot_name: str
    clone_name: str


class CloneDevice(_Parameters):
    """Parameters of bdev_lvol_clone_bdev."""

    bdev: str
    lvs_name: str
    clone_name: str


class Resize(_Parameters):
    """Parameters of bdev_lvol_resize."""

    name: str
    size_in_mib: Uint64


class Named(_Parameters):
    """Methods that take the name of one thing."""

    name: str


class VolumesOfStore(_Parameters):
    """Parameters of bdev_lvol_get_lvols."""

    lvs_uuid: str | UnsetType = UNSET
    lvs_name: str | UnsetType = UNSET


class SetParent(_Parameters):
    """Parameters of bdev_lvol_set_parent, bdev_lvol_set_parent_bdev."""

    lvol_name: str
    parent_name: str


class StartShallowCopy(_Parameters):
    """Parameters of bdev_lvol_start_shallow_copy."""

    src_lvol_name: str
    dst_bdev_name: str


class CheckShallowCopy(_Parameters):
    """Parameters of bdev_lvol_check_shallow_copy."""

    operation_id: Uint32


# Block devices


class GetDevices(_Parameters):
    """Parameters of bdev_get_bdevs."""

    name: str | UnsetType = UNSET
    timeout: Uint64 = 0


class CreateAio(_Parameters):
    """Parameters of bdev_aio_create."""

    name: str
    filename: str
    block_size: Uint32 = 0
    readonly: bool = False
    fallocate: bool = False
    uuid: UuidText | UnsetType = UNSET
    nowait: bool = False


class CreateMalloc(_Parameters):
    """Parameters of bdev_malloc_create."""

    block_size: Uint32
    num_blocks: Uint64
    name: str | UnsetType = UNSET
    uuid: UuidText | UnsetType = UNSET
    optimal_io_boundary: Uint32 = 0
    md_size: Uint32 = 0
    md_interleave: bool = False
    dif_type: Int32 = 0
    dif_is_head_of_md: bool = False
    physical_block_size: Uint32 = 0
    dif_pi_format: Uint32 = 0
    numa_id: Int32 = -1


class CreateRbd(_Parameters):
    """Parameters of bdev_rbd_create."""

    pool_name: str
    rbd_name: str
    block_size: Uint32
    name: str | UnsetType = UNSET
    user_id: str | UnsetType = UNSET
    config: dict[str, str] | None = None
    cluster_name: str | UnsetType = UNSET
    uuid: UuidText | UnsetType = UNSET
    read_only: bool = False


class RegisterCluster(_Parameters):
    """Parameters of bdev_rbd_register_cluster."""

    name: str
    user_id: str | None = None
    config_param: dict[str, str] | None = None
    config_file: str | None = None
    key_file: str | None = None
    core_mask: str | None = None


class GetClusters(_Parameters):
    """Parameters of bdev_rbd_get_clusters_info."""

    name: str | UnsetType = UNSET


class ResizeRbd(_Parameters):
    """Parameters of bdev_rbd_resize."""

    name: str
    new_size: Uint64


class GetStatistics(_Parameters):
    """Parameters of bdev_get_iostat."""

    names: Annotated[list[str], Meta(max_length=1024)] | UnsetType = UNSET
    per_channel: bool = False
    reset_mode: Literal["all", "maxmin", "error", "none"] = "none"


class ResetStatistics(_Parameters):
    """Parameters of bdev_reset_iostat."""

    name: str | UnsetType = UNSET
    mode: Literal["all", "maxmin", "error", "none"] = "all"


class SetOptions(_Parameters):
    """Parameters of bdev_set_options."""

    bdev_io_pool_size: Uint32 = 65535
    bdev_io_cache_size: Uint32 = 256
    bdev_auto_examine: bool = True
    iobuf_small_cache_size: Uint32 = 128
    iobuf_large_cache_size: Uint32 = 16


# NBD


class StartNbd(_Parameters):
    """Parameters of nbd_start_disk."""

    bdev_name: str
    nbd_device: str | UnsetType = UNSET


class StopNbd(_Parameters):
    """Parameters of nbd_stop_disk."""

    nbd_device: str


class GetNbd(_Parameters):
    """Parameters of nbd_get_disks."""

    nbd_device: str | UnsetType = UNSET


# The process


class GetMethods(_Parameters):
    """Parameters of rpc_get_methods."""

    current: bool = False
    include_aliases: bool = False


class GetConfig(_Parameters):
    """Parameters of framework_get_config."""

    name: str
    with_batches: bool = False


class KillInstance(_Parameters):
    """Parameters of spdk_kill_instance."""

    sig_name: Literal["SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGKILL", "SIGUSR1"]


class GetNotifications(_Parameters):
    """Parameters of notify_get_notifications."""

    id: Uint64 = 0
    max: Uint64 = _UINT64_MAX
