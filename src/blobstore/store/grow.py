"""Growing a store after its device has grown, while it is open or closed (FORMAT 6)."""

from blobstore.errors import BlobstoreError
from blobstore.format.geometry import Geometry
from blobstore.format.mask import MASK_CLUSTERS
from blobstore.metadata.dirty_flag import place_super_block, poisoning, write_super_block
from blobstore.metadata.load_store import read_super_block
from blobstore.metadata.masks import mask_writes, read_mask
from blobstore.metadata.recovery_plan import begin_change
from blobstore.metadata.store_state import DeviceTraits, StoreState
from blobstore.operations import Flush


async def grow_open(store: StoreState, size_bytes: int) -> None:
    """Use all of a device that has `size_bytes` now.

    Durability: on return.

    Raises:
        CorruptError: The device is smaller than the store (EILSEQ).
        NoSpaceError: The cluster mask has no room for as many clusters.
    """
    async with store.mutex:
        store.check_writable()
        grown = store.geometry.grown_to(size_bytes)
        if grown == store.geometry:
            return
        await begin_change(store)
        with poisoning(store):
            wanted = store.super_block.with_changes(
                size_bytes=size_bytes, used_clusters=grown.used_clusters
            )
            await write_super_block(store, wanted)
        store.geometry = grown
        store.clusters.grow(grown.total_clusters)
        for bits in (store.owned_clusters, store.zeroed_clusters):
            bits.extend([False] * (grown.total_clusters - len(bits)))


async def grow_closed(traits: DeviceTraits) -> Geometry:
    """Grow a store that is not loaded, and return its new layout.

    The mask of the new size is valid under the old super block, too, as long as it lies in the
    old one's pages. A longer one is not: then the store is dirty while both are written, because
    a dirty store's masks are not read.

    Durability: on return. A crash leaves the old size or the new one.

    Raises:
        BlobstoreError: The store is dirty (EIO, as in the original); nothing was written.
        CorruptError, NoSpaceError: As `grow_open`.
    """
    super_block = await read_super_block(traits)
    before = Geometry.of(super_block, device_size=traits.size_bytes)
    if not super_block.clean:
        raise BlobstoreError("store: not clean; recover it before it is grown")
    grown = before.grown_to(traits.size_bytes)
    if grown == before:
        return before
    region = grown.used_clusters
    bits = await read_mask(
        before, before.used_clusters, kind=MASK_CLUSTERS, bit_count=before.total_clusters
    )
    bits.extend([False] * (grown.total_clusters - before.total_clusters))
    if region.length > before.used_clusters.length:
        dirty = super_block.with_changes(clean=False)
        super_block = await place_super_block(traits.layout, found=super_block, wanted=dirty)
        await Flush()
    for write in mask_writes(grown, region, kind=MASK_CLUSTERS, bits=bits):
        await write
    await Flush()
    wanted = super_block.with_changes(
        clean=True, size_bytes=traits.size_bytes, used_clusters=region
    )
    await place_super_block(traits.layout, found=super_block, wanted=wanted)
    await Flush()
    return grown
