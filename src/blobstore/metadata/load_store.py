"""Loading: from the super block to a store in memory (FORMAT 2, 3, 6; CRASH-SAFETY 4).

Loading writes nothing. What it decided is written before the first change, or
at unload.
"""

import errno
from collections.abc import Sequence

from blobstore.errors import BlobstoreError, CorruptError, WrongTypeError
from blobstore.format.geometry import Geometry, blob_id_of
from blobstore.format.mask import MASK_BLOB_IDS, MASK_CLUSTERS, MASK_PAGES
from blobstore.format.super_block import SUPER_BLOCK_SIZE, SuperBlock
from blobstore.metadata.blob_reader import read_content
from blobstore.metadata.clones import Clones
from blobstore.metadata.markers import resolve_markers
from blobstore.metadata.masks import read_mask
from blobstore.metadata.missing_parents import missing_parents
from blobstore.metadata.page_reader import PageReader
from blobstore.metadata.recovered import Recovered, quarantine
from blobstore.metadata.relation_scan import scan_relations
from blobstore.metadata.root_relations import add_relations_of_chain
from blobstore.metadata.store_state import DeviceTraits, StoreState
from blobstore.operations import Read
from blobstore.units import BlobId, PageIndex


async def load(
    traits: DeviceTraits,
    *,
    bstype: bytes | None = None,
    read_only: bool = False,
    force_recovery: bool = False,
    forced: bool = False,
    write_through: bool = False,
) -> StoreState:
    """Load the store on the device.

    `bstype` is compared with the store's; None fits every type. `forced` keeps
    the store writable although a blob is in quarantine. With `write_through` each
    write is durable when it returns.

    Raises:
        CorruptError: There is no store, or one that makes no sense (EILSEQ).
        WrongTypeError: It is of another type (ENXIO).
    """
    super_block = await read_super_block(traits)
    if bstype is not None and any(bstype) and bstype != super_block.bstype:
        raise WrongTypeError(f"store: type {super_block.bstype!r}, expected {bstype!r}")
    geometry = Geometry.of(super_block, device_size=traits.size_bytes)
    is_clean = super_block.clean and bool(super_block.used_blob_ids.length) and not force_recovery
    found = await (_believe_masks(geometry) if is_clean else _recovered(geometry))
    fetch = PageReader(geometry, found.plan.restored).fetch
    await resolve_markers(geometry, found, fetch, are_masks_clean=is_clean)
    missing = missing_parents(geometry, found.parents.values(), found.used_ids)
    if not is_clean:
        _quarantine_parents(found, missing)
    store = StoreState(
        traits=traits,
        super_block=super_block,
        geometry=geometry,
        used_pages=found.used_pages,
        used_clusters=found.used_clusters,
        used_ids=found.used_ids,
        read_only=read_only,
        write_through=write_through,
    )
    store.forced = forced
    store.was_recovered = not is_clean
    store.withheld_roots = frozenset(missing)
    _adopt(store, found)
    if is_clean:
        _compare_masks(store)
    return store


def _quarantine_parents(found: Recovered, missing: Sequence[PageIndex]) -> None:
    """Take parents that are missing after a crash for lost roots: their clusters are not known."""
    for root in missing:
        error = CorruptError(
            f"page {root}: a blob names {blob_id_of(root):#x} as its parent, but the page holds no "
            "sound root",
            errno=errno.EINVAL,
        )
        quarantine(found, blob_id_of(root), error)
    found.plan.deleted = [root for root in found.plan.deleted if root not in missing]


def _compare_masks(store: StoreState) -> None:
    """Refuse changes where a root page is marked free: the next blob would take its place."""
    lost = store.used_ids & ~store.pages.used
    for root in lost.search(True, 0, len(lost)):
        blob_id = blob_id_of(PageIndex(root))
        store.refuse_changes(f"blob {blob_id:#x}: its root page {root} is marked free")
        break


async def read_super_block(traits: DeviceTraits) -> SuperBlock:
    """Read and decode page 0.

    Raises:
        CorruptError: The device is too small for one, or it is not valid (EILSEQ).
    """
    if traits.size_bytes < SUPER_BLOCK_SIZE:
        raise CorruptError(
            f"no blobstore: {traits.size_bytes} bytes, a super block takes {SUPER_BLOCK_SIZE}"
        )
    return SuperBlock.decode(await Read(0, SUPER_BLOCK_SIZE))


def _adopt(store: StoreState, found: Recovered) -> None:
    """Take over relations, errors and the plan."""
    store.clones = Clones(found.parents)
    store.errors = found.errors
    store.unrelated = found.unrelated
    store.recovery_plan = found.plan
    for blob_id, error in found.errors.items():
        store.refuse_changes(f"blob {blob_id:#x} is in quarantine: {error.message}")


async def _recovered(geometry: Geometry) -> Recovered:
    from blobstore.metadata.recovery import recover  # NumPy, which a small clean store never needs

    return await recover(geometry)


async def _believe_masks(geometry: Geometry) -> Recovered:
    """Take the masks of a clean store, and look into the roots for relations.

    Where a root alone does not tell them, its chain is read, but no extent page: chains have no
    pages in common, so this takes no longer than reading the region.
    """
    found = Recovered(
        used_pages=await read_mask(
            geometry, geometry.used_pages, kind=MASK_PAGES, bit_count=geometry.md_len
        ),
        used_clusters=await read_mask(
            geometry, geometry.used_clusters, kind=MASK_CLUSTERS, bit_count=geometry.total_clusters
        ),
        used_ids=await read_mask(
            geometry, geometry.used_blob_ids, kind=MASK_BLOB_IDS, bit_count=geometry.md_len
        ),
    )
    relations = await scan_relations(geometry, found.used_ids)
    fetch = PageReader(geometry).fetch
    for blob_id in relations.unclear:
        try:
            content = await read_content(geometry, blob_id, fetch)
        except BlobstoreError as error:
            found.unrelated[blob_id] = error.without_traceback()
        else:
            add_relations_of_chain(relations, content, blob_id)
    found.parents, found.marked = relations.parents, relations.marked
    return found


def known_ids(store: StoreState) -> list[BlobId]:
    """Return the ids of all blobs, ascending, those included that cannot be opened."""
    return [blob_id_of(PageIndex(root)) for root in store.used_ids.search(True)]
