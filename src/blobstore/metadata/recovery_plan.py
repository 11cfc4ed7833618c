"""The first change after loading: what loading decided becomes durable before anything else.

Recovery decides in memory, and the device still says what it said. Were a change made first, a
power failure could bring back a half-made snapshot beside what was built on its absence. So the
order is: roots restored from their copies; the copies erased, which a later recovery could take
for those of other roots; deleted roots erased, because a new blob may take their pages; then
blobs rewritten that recovery changed.
"""

from blobstore.format.checksum import SECTOR_SIZE
from blobstore.format.page import PAGE_SIZE
from blobstore.format.root import TAIL_OFFSET
from blobstore.metadata.blob_state import NO_COST
from blobstore.metadata.dirty_flag import mark_dirty, poisoning
from blobstore.metadata.host_space import give_space
from blobstore.metadata.persist import persist
from blobstore.metadata.store_state import RecoveryPlan, StoreState
from blobstore.operations import Batch, Write
from blobstore.units import PageIndex


async def begin_change(store: StoreState) -> None:
    """Get the store ready for a change of metadata; the caller holds the mutex.

    Raises:
        ReadOnlyError: The store may not be changed.
        NoSpaceError: The host has no space for what is to be written; nothing changed.
        DeviceError: A write or a flush failed; the store is poisoned.
    """
    await _give_space_for(store, store.recovery_plan)
    store.change_count += 1
    await mark_dirty(store)
    if not store.recovery_plan:
        return
    plan, store.recovery_plan = store.recovery_plan, RecoveryPlan()
    with poisoning(store):
        await _restore_roots(store, plan)
        await _erase_roots(store, plan.deleted)
        for blob in plan.changed.values():
            await persist(store, blob)


async def _give_space_for(store: StoreState, plan: RecoveryPlan) -> None:
    needs = [blob.need(store.layout, NO_COST) for blob in plan.changed.values()]
    if needs:
        wanted = sum(need.lasting + need.passing for need in needs)
        await give_space(store, store.reservations.total + wanted)


async def _restore_roots(store: StoreState, plan: RecoveryPlan) -> None:
    """Complete torn conversions from their copies; then erase all copies."""
    if plan.restored:
        await Batch([_write(store, page, data) for page, data in plan.restored.items()])
        await store.flush_device()
    if plan.copies:
        await Batch([_write(store, page, bytes(PAGE_SIZE)) for page in plan.copies])
        await store.flush_device()


async def _erase_roots(store: StoreState, roots: list[PageIndex]) -> None:
    """Erase deleted roots, the last sector first: no torn write makes one look lost."""
    if not roots:
        return
    tails = [
        Write(store.geometry.page_offset(root) + TAIL_OFFSET, bytes(SECTOR_SIZE)) for root in roots
    ]
    await Batch(tails)
    await store.flush_device()
    await Batch([_write(store, root, bytes(PAGE_SIZE)) for root in roots])
    await store.flush_device()
    for root in roots:
        store.prepared_pages[root] = True


def _write(store: StoreState, page: PageIndex, data: bytes) -> Write:
    return Write(store.geometry.page_offset(page), data)
