"""Making and loading stores: from a source to a device and the state of the store on it.

This blocks. Nothing else knows of the store yet, so any driver can take it over.
"""

import os
import uuid as uuids
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, NamedTuple

from blobstore.api.arguments import (
    check_flags,
    integer_of,
    member_of,
    optional,
    size_of,
    text_of,
    value_of,
)
from blobstore.api.source import (
    Source,
    check_source,
    device_to_fill,
    erase_signature,
    is_missing_file,
    make_fit,
    open_source,
    traits_of,
)
from blobstore.api.waiting import check_wait, while_busy
from blobstore.device.base import Device
from blobstore.drivers.blocking import BlockingDriver
from blobstore.errors import BlobstoreError, InvalidArgumentError
from blobstore.metadata.load_store import load
from blobstore.metadata.store_state import StoreState
from blobstore.store.init import Clear, InitOptions, padded_type, plan_empty, write_empty
from blobstore.units import MIB, BlobId
from blobstore.volumes.identity import VOLUME_STORE_TYPE, check_name
from blobstore.volumes.load_volumes import create_super_blob

DEFAULT_VOLUME_CLUSTER_SIZE: Final = 4 * MIB
DEFAULT_RATIO: Final = 100
"""Metadata pages for each hundred clusters."""


class LoadedStore(NamedTuple):
    """A store that no driver runs yet."""

    device: Device
    core: StoreState


def new_store_options(
    *,
    cluster_size: int | str,
    max_size: int | str | None,
    md_pages: int | None,
    md_page_size: int | str | None,
    bstype: bytes,
    clear: Clear | str,
) -> InitOptions:
    """Return what a store of blobs is made with, of the arguments of `Blobstore.create`."""
    return InitOptions(
        cluster_size=size_of(cluster_size, "cluster_size"),
        max_size=optional(size_of, max_size, "max_size"),
        md_pages=optional(integer_of, md_pages, "md_pages"),
        md_page_size=optional(size_of, md_page_size, "md_page_size"),
        bstype=padded_type(value_of(bstype, "bstype")),
        clear=member_of(Clear, clear, argument="clear"),
    )


def create_store(
    source: Source,
    options: InitOptions,
    *,
    size: int | str | None,
    block_size: int | None,
    overwrite: bool,
    atomic_write_size: int | None,
    direct: bool,
    write_through: bool,
    make_super_blob: Callable[[StoreState], Awaitable[BlobId]] | None = None,
) -> LoadedStore:
    """Make a store on what a source names, and load it; the arguments are `Blobstore.create`'s."""
    check_source(source)
    check_flags(overwrite=overwrite, direct=direct, write_through=write_through)
    wanted = optional(size_of, size, "size")
    block_size = optional(integer_of, block_size, "block_size")
    atomic_write_size = optional(integer_of, atomic_write_size, "atomic_write_size")
    is_new = size is not None and is_missing_file(source)
    device = device_to_fill(
        source,
        size=wanted,
        block_size=block_size,
        atomic_write_size=atomic_write_size,
        overwrite=overwrite,
        is_new=is_new,
        direct=direct,
    )
    try:
        traits = replace(
            traits_of(device), size_bytes=device.size_bytes if wanted is None else wanted
        )
        core = plan_empty(traits, options, write_through=write_through)
        driver = BlockingDriver(device)
        make_fit(device, driver, core)
        erase_signature(device)
        driver.run(write_empty(core, options.clear, make_super_blob))
    except BaseException as error:
        device.close()
        if is_new:
            os.unlink(device.name)
        if isinstance(error, BlobstoreError):
            error.at(store=device.name)
        raise
    return LoadedStore(device, core)


def create_volume_store(
    source: Source,
    *,
    name: str,
    size: int | str | None,
    cluster_size: int | str,
    max_size: int | str | None,
    md_pages: int | None,
    md_pages_per_cluster_ratio: int,
    block_size: int | None,
    md_page_size: int | str | None,
    clear: Clear | str,
    overwrite: bool,
    atomic_write_size: int | None,
    direct: bool,
    write_through: bool,
) -> LoadedStore:
    """Make a volume store, and load it; the arguments are `VolumeStore.create`'s."""
    wanted, uuid = text_of(name, "name"), uuids.uuid4()
    check_name(wanted)
    options = InitOptions(
        cluster_size=size_of(cluster_size, "cluster_size"),
        max_size=optional(size_of, max_size, "max_size"),
        md_pages=optional(integer_of, md_pages, "md_pages"),
        md_ratio=_ratio_of(md_pages_per_cluster_ratio),
        md_page_size=optional(size_of, md_page_size, "md_page_size"),
        bstype=VOLUME_STORE_TYPE,
        clear=member_of(Clear, clear, argument="clear"),
    )

    async def make_super_blob(core: StoreState) -> BlobId:
        return await create_super_blob(core, name=wanted, uuid=uuid)

    return create_store(
        source,
        options,
        size=size,
        block_size=block_size,
        overwrite=overwrite,
        atomic_write_size=atomic_write_size,
        direct=direct,
        write_through=write_through,
        make_super_blob=make_super_blob,
    )


def _ratio_of(value: int) -> int:
    ratio = integer_of(value, "md_pages_per_cluster_ratio")
    if ratio <= 0:
        raise InvalidArgumentError(f"md_pages_per_cluster_ratio: expected more than 0, got {ratio}")
    return ratio


def load_store(
    source: Source,
    *,
    bstype: bytes | None,
    read_only: bool,
    force_recovery: bool,
    force: bool,
    atomic_write_size: int | None,
    direct: bool,
    write_through: bool,
    mapped: bool = False,
    wait: float = 0.0,
) -> LoadedStore:
    """Load the store on what a source names; the arguments are `Blobstore.open`'s."""
    check_wait(wait)
    check_flags(
        read_only=read_only,
        force_recovery=force_recovery,
        force=force,
        write_through=write_through,
        mapped=mapped,
    )
    if mapped and not read_only:
        raise InvalidArgumentError("mapped: expected read_only=True as well")
    device = while_busy(
        lambda: open_source(
            source, read_only=read_only, atomic_write_size=atomic_write_size, direct=direct
        ),
        wait=wait,
    )
    try:
        if mapped:
            device.map()
        core = BlockingDriver(device).run(
            load(
                traits_of(device),
                bstype=None if bstype is None else padded_type(bstype),
                read_only=read_only or device.read_only,
                force_recovery=force_recovery,
                forced=force,
                write_through=write_through,
            )
        )
    except BaseException:
        device.close()
        raise
    return LoadedStore(device, core)
