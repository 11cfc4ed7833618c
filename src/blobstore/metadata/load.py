"""Loading: from the super block to a store in memory (FORMAT 2, 3, 6; CRASH-SAFETY 4).

Loading writes nothing. What it decided is written before the first change, or
at unload.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from bitarray import bitarray

from blobstore.errors import BlobstoreError, WrongTypeError
from blobstore.format.descriptors import FLAGS, FLAGS_SIZE, HAS_INTERNAL_XATTRS, HEADER
from blobstore.format.geometry import Geometry, blob_id_of
from blobstore.format.mask import MASK_BLOB_IDS, MASK_CLUSTERS, MASK_PAGES
from blobstore.format.page import HEAD
from blobstore.format.root import TAIL_OFFSET
from blobstore.format.super_block import SUPER_BLOCK_SIZE, SuperBlock
from blobstore.metadata.markers import resolve_markers
from blobstore.metadata.masks import read_mask
from blobstore.metadata.read import fetch_from_device, read_blob
from blobstore.metadata.recovery import Recovered, recover
from blobstore.metadata.store_state import DeviceTraits, StoreState
from blobstore.operations import Read, ReadInto
from blobstore.units import BlobId, PageIndex

_WINDOW_BYTES: Final = 1 << 20
_GAP_PAGES: Final = 16


async def load(
    traits: DeviceTraits,
    *,
    bstype: bytes | None = None,
    read_only: bool = False,
    force_recovery: bool = False,
    forced: bool = False,
) -> StoreState:
    """Load the store on the device.

    `bstype` is compared with the store's; None fits every type. `forced` keeps
    the store writable although a blob is in quarantine.

    Raises:
        CorruptError: There is no store, or one that makes no sense (EILSEQ).
        WrongTypeError: It is of another type (ENXIO).
    """
    super_block = await read_super_block(traits)
    if bstype is not None and any(bstype) and bstype != super_block.bstype:
        raise WrongTypeError(f"store: type {super_block.bstype!r}, expected {bstype!r}")
    geometry = Geometry.of(super_block, device_size=traits.size_bytes)
    is_clean = super_block.clean and bool(super_block.used_blob_ids.length) and not force_recovery
    found = await (_believe_masks(geometry) if is_clean else recover(geometry))
    fetch = fetch_from_device(geometry, found.outcome.restored)
    await resolve_markers(geometry, found, fetch, are_masks_clean=is_clean)
    store = StoreState(
        traits=traits,
        super_block=super_block,
        geometry=geometry,
        used_pages=found.used_pages,
        used_clusters=found.used_clusters,
        used_ids=found.used_ids,
        read_only=read_only,
    )
    store.forced = forced
    store.was_recovered = not is_clean
    _adopt(store, found)
    return store


async def read_super_block(traits: DeviceTraits) -> SuperBlock:
    """Read and decode page 0.

    Raises:
        CorruptError: The device is too small for one, or it is not valid (EILSEQ).
    """
    if traits.size_bytes < SUPER_BLOCK_SIZE:
        return SuperBlock.decode(bytes(SUPER_BLOCK_SIZE))
    return SuperBlock.decode(await Read(0, SUPER_BLOCK_SIZE))


def _adopt(store: StoreState, found: Recovered) -> None:
    """Take over relations, errors and the outcome."""
    for child, parent in sorted(found.parents.items()):
        store.children[parent].append(child)
    store.errors = found.errors
    store.outcome = found.outcome
    for blob_id, error in found.errors.items():
        store.refuse_changes(f"blob {blob_id:#x} is in quarantine: {error.message}")


async def _believe_masks(geometry: Geometry) -> Recovered:
    """Take the masks of a clean store, and look into the roots for relations."""
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
    fetch = fetch_from_device(geometry)
    for root in await _roots_with_relations(geometry, found.used_ids):
        blob_id = blob_id_of(root)
        try:
            state = await read_blob(geometry, blob_id, fetch)
        except BlobstoreError:
            continue  # it says so when it is opened
        if state.parent_id is not None:
            found.parents[blob_id] = state.parent_id
        if state.marker is not None:
            found.marked.add(blob_id)
    return found


async def _roots_with_relations(geometry: Geometry, used_ids: bitarray) -> list[PageIndex]:
    """Return the roots whose flags announce internal attributes, or that have no flags in front.

    The pages are read in large pieces and looked at all at once: a store of
    many thousand plain blobs opens as fast as its roots can be read.
    """
    buffer = memoryview(bytearray(max(_WINDOW_BYTES, geometry.page_size)))
    found: list[PageIndex] = []
    for first, count in _windows(geometry, used_ids):
        view = buffer[: count * geometry.page_size]
        await ReadInto(geometry.page_offset(PageIndex(first)), [view])
        pages = np.frombuffer(view, dtype=np.uint8).reshape(count, geometry.page_size)
        related = np.flatnonzero(_may_have_relations(pages)).tolist()
        found += [PageIndex(first + at) for at in related if used_ids[first + at]]
    return found


def _windows(geometry: Geometry, used_ids: bitarray) -> list[tuple[int, int]]:
    """Return (first page, count) of pieces that hold all roots; small gaps are read along."""
    limit = max(1, _WINDOW_BYTES // geometry.page_size)
    windows: list[tuple[int, int]] = []
    for root in used_ids.search(True):
        if windows:
            first, count = windows[-1]
            if root - first < limit and root - (first + count) <= _GAP_PAGES:
                windows[-1] = (first, root - first + 1)
                continue
        windows.append((root, 1))
    return windows


def _may_have_relations(pages: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Look for the flag in either layout of a root; any other beginning is suspect too."""
    compact = pages[:, HEAD.size : HEAD.size + FLAGS_SIZE]
    sector = pages[:, TAIL_OFFSET : TAIL_OFFSET + FLAGS_SIZE]
    is_sector = pages[:, HEAD.size] == 0
    flags = np.where(is_sector[:, None], sector, compact)
    has_flags: npt.NDArray[np.bool_] = flags[:, 0] == FLAGS
    is_marked: npt.NDArray[np.bool_] = flags[:, HEADER.size] & HAS_INTERNAL_XATTRS != 0
    return is_marked | ~has_flags


def known_ids(store: StoreState) -> list[BlobId]:
    """Return the ids of all blobs, ascending, those included that cannot be opened."""
    return [blob_id_of(PageIndex(root)) for root in store.used_ids.search(True)]
