"""What a store lives on: from a path or an address to an open device, or to one to be filled."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

from blobstore.api.arguments import check_flags, integer_of, optional, path_of
from blobstore.device.address import is_address, open_device
from blobstore.device.base import SECTOR_SIZE, Device
from blobstore.device.file import FileDevice
from blobstore.drivers.blocking import BlockingDriver
from blobstore.errors import (
    ExistsError,
    NoSpaceError,
    ReadOnlyError,
    UnsupportedError,
    naming,
)
from blobstore.format.super_block import SUPER_BLOCK_SIZE
from blobstore.metadata.store_state import DeviceTraits, StoreState
from blobstore.store.init import erase_super_block, take_space

Source: TypeAlias = str | os.PathLike[str] | Device
"""A path, a device's address such as ``memory:64MiB``, or a device."""


def traits_of(device: Device) -> DeviceTraits:
    """Return what the core must know of a device."""
    return DeviceTraits(
        size_bytes=device.size_bytes,
        block_size=device.block_size,
        physical_block_size=device.physical_block_size,
        atomic_write_size=device.atomic_write_size,
        unmap_zeroes=device.unmap_zeroes,
        is_sparse=device.is_sparse,
    )


def check_source(source: object) -> None:
    """Refuse what names no device.

    Raises:
        TypeError: It is neither a path, an address nor a device.
    """
    if not isinstance(source, Device):
        path_of(source, "source", expected="a path, an address or a Device")


def open_source(
    source: Source, *, read_only: bool, atomic_write_size: int | None, direct: bool = False
) -> Device:
    """Open what a source names; a device stands for itself.

    Raises:
        TypeError: An argument is of a wrong type.
        BlobstoreError: As `open_device`.
    """
    check_source(source)
    check_flags(read_only=read_only, direct=direct)
    atomic_write_size = optional(integer_of, atomic_write_size, "atomic_write_size")
    if isinstance(source, Device):
        return source
    with naming(store=os.fspath(source)):
        return open_device(
            source, read_only=read_only, atomic_write_size=atomic_write_size, direct=direct
        )


@contextmanager
def opened_device(
    source: Source, *, read_only: bool, atomic_write_size: int | None = None, direct: bool = False
) -> Iterator[Device]:
    """Open what a source names for as long as the `with`; a device that was given stays open.

    What fails in the `with` names the device.

    Raises:
        ReadOnlyError: A device is read-only, and is to be written.
        TypeError, BlobstoreError: As `open_source`.
    """
    device = open_source(
        source, read_only=read_only, atomic_write_size=atomic_write_size, direct=direct
    )
    try:
        if device.read_only and not read_only:
            raise ReadOnlyError("opened read-only").at(store=device.name)
        with naming(store=device.name):
            yield device
    finally:
        if device is not source:
            device.close()


def device_to_fill(
    source: Source,
    *,
    size: int | None,
    block_size: int | None,
    atomic_write_size: int | None,
    overwrite: bool,
    is_new: bool,
    direct: bool,
) -> Device:
    """Open or make the device that a new store goes to; only a new file has its size then.

    Raises:
        ExistsError: It holds something, and `overwrite` was not given.
        BlobstoreError: As `open_device`.
    """
    if isinstance(source, Device):
        device = source
    else:
        with naming(store=os.fspath(source)):
            if size is not None and is_new:
                return FileDevice.create(
                    source,
                    size,
                    atomic_write_size=atomic_write_size or SECTOR_SIZE,
                    block_size=block_size or SECTOR_SIZE,
                    direct=direct,
                )
            device = open_device(
                source,
                read_only=False,
                atomic_write_size=atomic_write_size,
                block_size=block_size,
                direct=direct,
            )
    try:
        if not overwrite:
            _refuse_content(device)
    except BaseException:
        device.close()
        raise
    return device


def is_missing_file(source: Source) -> bool:
    """Tell whether a file is named that does not exist yet."""
    if isinstance(source, Device):
        return False
    return not (isinstance(source, str) and is_address(source)) and not os.path.exists(source)


def _refuse_content(device: Device) -> None:
    """Refuse a device that carries a signature, or whose beginning is not all zeroes.

    Raises:
        ExistsError: It holds something.
    """
    from blobstore.device.signature import find_signature  # only where a store is made

    found = find_signature(device.read, device.size_bytes)
    start = device.read(0, min(device.size_bytes, 16 * SUPER_BLOCK_SIZE))
    if found or any(start):
        error = ExistsError(f"holds {found or 'data'}, expected zeroes")
        raise error.at(store=device.name)


def make_fit(device: Device, driver: BlockingDriver, store: StoreState) -> None:
    """Give the device the size and the space of a store that is not on it yet.

    Where the host has no space the device stays as it was. A device that shrinks loses its old
    store first: a crash must not leave one that reaches beyond the end.

    Raises:
        NoSpaceError: The host has no space.
        UnsupportedError: The device has another size, which is fixed.
    """
    before, wanted = device.size_bytes, store.traits.size_bytes
    if before != wanted and device.has_fixed_size:
        raise UnsupportedError(f"a device of fixed size: {before} bytes, expected {wanted}")
    if before < wanted:
        device.resize(wanted)
    try:
        driver.run(take_space(store))
    except NoSpaceError:
        if before < wanted:
            device.resize(before)
        raise
    if before > wanted:
        driver.run(erase_super_block())
        device.resize(wanted)


def erase_signature(device: Device) -> None:
    """Zero both ends of a device that carries a signature: a new store does not reach all of it.

    What is left of an array or a partition table could have the host write to it.
    """
    from blobstore.device.signature import BLOBSTORE, SIGNATURES_SPAN, find_signature

    size = device.size_bytes
    if find_signature(device.read, size) not in (None, BLOBSTORE):
        for at in (0, max(0, size - SIGNATURES_SPAN)):
            device.write_zeroes(at, min(size, SIGNATURES_SPAN))
