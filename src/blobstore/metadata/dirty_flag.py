"""The dirty flag in the super block: it is set, durably, before anything else changes.

The masks of a clean store are believed. A change makes them wrong at once, and they are written
again only when the store is unloaded. So no other write may reach the medium before the flag.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from blobstore.format.checksum import SECTOR_SIZE
from blobstore.format.root import Layout
from blobstore.format.super_block import SuperBlock
from blobstore.metadata.host_space import give_space
from blobstore.metadata.store_state import StoreState
from blobstore.operations import Write


async def place_super_block(layout: Layout, *, found: SuperBlock, wanted: SuperBlock) -> SuperBlock:
    """Replace the super block on the device in one atomic write; return what stands there now.

    In the sector layout only the first sector is written; reserved bytes of
    it keep the checksum at the page's end right. The caller flushes.
    """
    if layout is Layout.SECTOR:
        wanted = wanted.balanced_against(found)
        await Write(0, wanted.encode()[:SECTOR_SIZE])
    else:
        await Write(0, wanted.encode())
    return wanted


async def write_super_block(store: StoreState, wanted: SuperBlock) -> None:
    """Replace the store's super block, and flush."""
    wanted = wanted.with_changes(bstype=store.bstype)
    placed = await place_super_block(store.layout, found=store.super_block, wanted=wanted)
    store.super_block = placed
    await store.flush_device()


async def mark_dirty(store: StoreState) -> None:
    """Say on the device that the masks are not to be believed; the caller holds the mutex.

    Raises:
        ReadOnlyError: The store may not be changed.
        NoSpaceError: The host has no space for super block and masks; nothing changed.
        DeviceError: Nothing more can be changed until the store is loaded again.
    """
    store.check_writable()
    await give_space(store, store.reservations.total)
    store.is_changed = True
    store.page_reader = None  # the pages that it keeps may change from now on
    if store.is_marked_dirty:
        return
    size = store.super_block.size_bytes or store.geometry.size_bytes
    with poisoning(store):
        await write_super_block(store, store.super_block.with_changes(clean=False, size_bytes=size))
    store.is_marked_dirty = True


@contextmanager
def poisoning(store: StoreState) -> Iterator[None]:
    """Make a failure inside the block poison the store: afterwards only reads go on.

    Such a failure leaves the state of the device unknown. So the block must not be interrupted:
    it has no checkpoints.
    """
    store.change_depth += 1
    try:
        yield
    except BaseException as error:
        store.mark_unusable(error)
        raise
    finally:
        store.change_depth -= 1
