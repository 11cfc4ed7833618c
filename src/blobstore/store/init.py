"""Making a new store on a device (FORMAT 2, CRASH-SAFETY 3)."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from bitarray import bitarray

from blobstore.errors import InvalidArgumentError
from blobstore.format.geometry import DEFAULT_PAGE_SIZE, Geometry
from blobstore.format.super_block import (
    NEWEST_VERSION,
    NO_BLOB,
    SUPER_BLOCK_SIZE,
    TYPE_SIZE,
    SuperBlock,
)
from blobstore.metadata.dirty_flag import poisoning
from blobstore.metadata.host_space import give_space
from blobstore.metadata.store_state import DeviceTraits, StoreState
from blobstore.operations import Batch, Flush, Operation, Unmap, Write, WriteZeroes
from blobstore.units import MIB, BlobId, PageIndex

DEFAULT_CLUSTER_SIZE: Final = 1 * MIB

_ZEROES: Final = bytes(MIB)


class Clear(Enum):
    """What happens to a new store's data area."""

    UNMAP = "unmap"
    ZEROES = "zeroes"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class InitOptions:
    """How to lay out a new store; sizes in bytes, None for the original's default.

    `max_size` is what the store can be grown to. Without `md_pages` there are `md_ratio`
    metadata pages for each hundred clusters that it can ever have.
    """

    cluster_size: int = DEFAULT_CLUSTER_SIZE
    md_pages: int | None = None
    md_ratio: int = 100
    md_page_size: int | None = None
    max_size: int | None = None
    bstype: bytes = bytes(TYPE_SIZE)
    clear: Clear = Clear.UNMAP


def plan_store(traits: DeviceTraits, options: InitOptions) -> Geometry:
    """Lay out the store without touching the device.

    Raises:
        InvalidArgumentError: Sizes that do not fit each other (EINVAL).
        NoSpaceError: The device is too small (ENOSPC), or for the metadata (ENOMEM).
    """
    if traits.physical_block_size % traits.block_size or DEFAULT_PAGE_SIZE % traits.block_size:
        raise InvalidArgumentError(
            f"device: blocks of {traits.block_size} and {traits.physical_block_size} bytes, "
            f"expected divisors of {DEFAULT_PAGE_SIZE} and multiples of each other"
        )
    wish = options.md_page_size or DEFAULT_PAGE_SIZE
    return Geometry.compute(
        size_bytes=traits.size_bytes,
        cluster_size=options.cluster_size,
        page_size=max(wish, traits.physical_block_size, DEFAULT_PAGE_SIZE),
        io_unit_size=traits.block_size,
        md_pages=_md_pages(traits, options),
        max_size=options.max_size,
    )


def _md_pages(traits: DeviceTraits, options: InitOptions) -> int | None:
    if options.md_pages is not None or options.md_ratio == 100:
        return options.md_pages
    largest = max(traits.size_bytes, options.max_size or 0)
    return largest // options.cluster_size * options.md_ratio // 100


def padded_type(bstype: bytes) -> bytes:
    """Return a store type as it stands in the super block.

    Raises:
        InvalidArgumentError: It is longer than 16 bytes.
    """
    if len(bstype) > TYPE_SIZE:
        raise InvalidArgumentError(f"bstype: expected at most {TYPE_SIZE} bytes, got {bstype!r}")
    return bytes(bstype).ljust(TYPE_SIZE, b"\0")


async def init_store(
    traits: DeviceTraits, options: InitOptions, *, write_through: bool = False
) -> StoreState:
    """Make an empty store; whatever was on the device is lost.

    With `write_through` each write to the store that is returned is durable when it returns.

    Durability: on return. A crash leaves no store, or an empty one.

    Raises:
        InvalidArgumentError, NoSpaceError: As `plan_store`; nothing was written.
        DeviceError: The device failed.
    """
    store = plan_empty(traits, options, write_through=write_through)
    await take_space(store)
    await write_empty(store, options.clear)
    return store


def plan_empty(
    traits: DeviceTraits, options: InitOptions, *, write_through: bool = False
) -> StoreState:
    """Return an empty store that is not on the device yet.

    Raises:
        InvalidArgumentError, NoSpaceError: As `plan_store`.
    """
    geometry = plan_store(traits, options)
    super_block = _new_super_block(geometry, padded_type(options.bstype))
    used_clusters = bitarray(geometry.total_clusters, endian="little")
    used_clusters[: geometry.md_clusters] = True
    return StoreState(
        traits=traits,
        super_block=super_block,
        geometry=geometry,
        used_pages=bitarray(geometry.md_len, endian="little"),
        used_clusters=used_clusters,
        used_ids=bitarray(geometry.md_len, endian="little"),
        write_through=write_through,
    )


async def take_space(store: StoreState) -> None:
    """Have the host give space to what every store has; the device holds what it held.

    Raises:
        NoSpaceError: The host has no space.
    """
    await give_space(store, 1)


async def erase_super_block() -> None:
    """Make the device hold no store: before anything else of the old one goes.

    Durability: on return.
    """
    await Write(0, bytes(SUPER_BLOCK_SIZE))
    await Flush()


async def write_empty(
    store: StoreState,
    clear: Clear,
    make_super_blob: Callable[[StoreState], Awaitable[BlobId]] | None = None,
) -> None:
    """Write an empty store to the device; the super block comes last.

    What `make_super_blob` creates is durable before the super block names it: so a
    crash leaves no store, or one with its super blob.

    Durability: on return.
    """
    with poisoning(store):
        await erase_super_block()
        await _clear_device(store, clear)
        await Flush()
        store.prepared_pages.setall(True)
        store.zeroed_clusters.setall(_is_zeroed(store.traits, clear))
        if make_super_blob is not None:
            super_blob = await make_super_blob(store)
            store.super_block = store.super_block.with_changes(super_blob=super_blob)
        await Write(0, store.super_block.encode())
        await Flush()


def _new_super_block(geometry: Geometry, bstype: bytes) -> SuperBlock:
    return SuperBlock(
        version=NEWEST_VERSION,
        clean=False,
        super_blob=NO_BLOB,
        cluster_size=geometry.cluster_size,
        used_pages=geometry.used_pages,
        used_clusters=geometry.used_clusters,
        md_start=geometry.md_start,
        md_len=geometry.md_len,
        bstype=bstype,
        used_blob_ids=geometry.used_blob_ids,
        size_bytes=geometry.size_bytes,
        io_unit_size=geometry.io_unit_size,
        md_page_size=geometry.page_size,
    )


async def _clear_device(store: StoreState, clear: Clear) -> None:
    """Zero the metadata, and clear the rest up to the device's very end."""
    end = store.geometry.metadata_end
    rest = store.geometry.size_bytes - end
    parts = _zero_metadata(store)
    if rest and clear is Clear.ZEROES:
        parts.append(WriteZeroes(end, rest))
    elif rest and clear is Clear.UNMAP:
        parts.append(Unmap(end, rest))
    await Batch(parts)


def _zero_metadata(store: StoreState) -> list[Operation[Any]]:
    """Return what zeroes the metadata: what has its space on the host keeps it, the rest gets none.

    Zeroes are written for that: other ways to make them could take the space or give it back.
    """
    end = store.geometry.metadata_end
    if not store.traits.is_sparse or not store.traits.unmap_zeroes:
        return [WriteZeroes(0, end)]
    backed = store.geometry.page_offset(PageIndex(store.backed_pages or 0))
    written = [
        Write(at, memoryview(_ZEROES)[: backed - at]) for at in range(0, backed, len(_ZEROES))
    ]
    return [*written, Unmap(backed, end - backed)] if backed < end else [*written]


def _is_zeroed(traits: DeviceTraits, clear: Clear) -> bool:
    return clear is Clear.ZEROES or (clear is Clear.UNMAP and traits.unmap_zeroes)
