"""Repair of a store (CRASH-SAFETY 5, the end): only leaks, all that is safe, or everything.

The repair runs on a medium that is not the device yet: the caller checks the
result before any change is applied. So the order of writes does not matter here,
and no flush is made for its own sake.
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import Final

from bitarray import bitarray

from blobstore.errors import BlobstoreError
from blobstore.format.geometry import Geometry, blob_id_of
from blobstore.format.mask import MASK_BLOB_IDS, MASK_CLUSTERS, MASK_PAGES
from blobstore.format.super_block import SUPER_BLOCK_SIZE, MaskRegion, SuperBlock
from blobstore.fsck.checksum_solver import solve_super_block
from blobstore.fsck.examine import Examination, examine
from blobstore.fsck.finding import Severity
from blobstore.fsck.lost_identities import drop_identities_above
from blobstore.fsck.rebuild import rebuild_super_block
from blobstore.fsck.region_view import RegionView
from blobstore.fsck.relation_checks import STALE_PARENT
from blobstore.fsck.rewrite import zero_pages
from blobstore.fsck.salvage import salvage
from blobstore.fsck.super_block_checks import CUT_OFF
from blobstore.metadata.load_store import load
from blobstore.metadata.masks import mask_writes
from blobstore.metadata.store_state import DeviceTraits
from blobstore.operations import Read, Write
from blobstore.store.lifecycle import unload
from blobstore.units import BlobId, PageIndex

_ROUNDS_MAX: Final = 5
"""What one round of salvage uncovers the next one mends; parents come before their clones."""

_PASSES_MAX: Final = 3
"""What is solved uncovers what can be rebuilt; what recovery removes may be a blob's parent."""

_SUPER_BLOCK: Final = frozenset({*range(1, 8), CUT_OFF})
_BLOBS: Final = frozenset({*range(16, 42), 44})
_MARKS: Final = 1
_MARKERS: Final = frozenset({45})
_CRC: Final = 2
_SIZE: Final = 5


class RepairMode(StrEnum):
    """How far a repair goes.

    ``leaks`` frees what has no owner. ``safe`` also does what can be proved
    right: masks, unfinished snapshots, a super block whose checksum tells what
    it was. ``all`` decides what cannot be proved, and salvages bad blobs.
    """

    LEAKS = "leaks"
    SAFE = "safe"
    ALL = "all"


async def repair_store(traits: DeviceTraits, mode: RepairMode) -> tuple[str, ...]:
    """Repair what the mode allows; return what was done, in words.

    Raises:
        DeviceError: The device failed while something was repaired.
    """
    seen = await examine(traits)
    if mode is RepairMode.LEAKS:
        return tuple(await _free_leaks(seen))
    actions: list[str] = []
    for _pass in range(_PASSES_MAX):
        done = await _repair_once(traits, seen, mode)
        actions += done
        if mode is not RepairMode.ALL or not done:
            break
        seen = await examine(traits)
        if not _has_errors(seen, _SUPER_BLOCK | _BLOBS):
            break
    return tuple(actions)


async def _repair_once(traits: DeviceTraits, seen: Examination, mode: RepairMode) -> list[str]:
    actions: list[str] = []
    seen = await _mend_super_block(traits, seen, mode, actions)
    if mode is RepairMode.ALL and not _has_errors(seen, _SUPER_BLOCK):
        seen = await _salvage_blobs(traits, seen, actions)
    actions += await _finish(traits, seen, is_changed=bool(actions))
    return actions + await _drop_stale_parents(traits, seen)


async def _drop_stale_parents(traits: DeviceTraits, seen: Examination) -> list[str]:
    """Remove names of old parents from clones of external snapshots, which do not use them.

    Nothing but these attributes changes, as no blob is bad.
    """
    if seen.view is None or STALE_PARENT not in {each.invariant for each in seen.view.problems}:
        return []
    seen = await examine(traits)  # as recovery has left it
    if seen.view is None or seen.view.newer or _has_errors(seen, _SUPER_BLOCK | _BLOBS):
        return []
    actions, _salvaged = await salvage(seen.view, traits.layout)
    await _believe_no_masks(seen)
    return actions + await _finish(traits, await examine(traits), is_changed=bool(actions))


def _has_errors(seen: Examination, invariants: frozenset[int]) -> bool:
    return any(
        finding.invariant in invariants and finding.severity is Severity.ERROR
        for finding in seen.findings
    )


async def _mend_super_block(
    traits: DeviceTraits, seen: Examination, mode: RepairMode, actions: list[str]
) -> Examination:
    """Solve the super block, or put it together from what else is on the device."""
    if not _has_errors(seen, _SUPER_BLOCK):
        return seen
    if seen.mark is not None:
        return await _remove_mark(traits, seen, mode, actions)
    roots = [blob_id_of(root) for root in seen.view.roots] if seen.view is not None else []
    solved = None
    if len(seen.first_page) == SUPER_BLOCK_SIZE and _has_errors(seen, frozenset({_CRC})):
        solved = solve_super_block(seen.first_page, device_size=traits.size_bytes, roots=roots)
    if solved is not None:
        actions.append("super block: torn, and solved by its checksum")
    elif mode is RepairMode.ALL and _are_marks_alone_wrong(seen):
        solved = seen.super_block
        actions.append("super block: clean and length are rewritten, the rest is confirmed")
    elif mode is RepairMode.ALL and _is_device_alone_short(seen):
        solved = _cut_to_device(traits, seen, actions)
    elif mode is RepairMode.ALL:
        rebuilt = await rebuild_super_block(traits, seen.first_page)
        if rebuilt is not None:
            solved = rebuilt.super_block
            actions += rebuilt.reasons
    if solved is None:
        return seen
    await Write(0, solved.with_changes(clean=False).encode())
    return await examine(traits)


async def _remove_mark(
    traits: DeviceTraits, seen: Examination, mode: RepairMode, actions: list[str]
) -> Examination:
    """Go on from what a repair that was cut off has left; its undo file is not there.

    The super block stays clean if it was: its masks are the only evidence of lost blobs.
    """
    if mode is not RepairMode.ALL:
        return seen
    marked = await Read(0, SUPER_BLOCK_SIZE)
    done = ["super block: what was cut off cannot be undone, its undo file is not there"]
    await Write(0, seen.first_page)
    mended = await _mend_super_block(traits, await examine(traits), mode, done)
    if _has_errors(mended, _SUPER_BLOCK):
        await Write(0, marked)
        return seen
    actions += done
    return mended


def _are_marks_alone_wrong(seen: Examination) -> bool:
    """Tell whether the checksum confirms a layout that makes sense."""
    return seen.view is not None and not _has_errors(seen, _SUPER_BLOCK - {_MARKS})


def _is_device_alone_short(seen: Examination) -> bool:
    """Tell whether the checksum confirms the super block, and only the device does not fit it.

    Then the layout is certain. Another one could fit the short device as well, but would be wrong.
    """
    return seen.super_block is not None and not _has_errors(seen, _SUPER_BLOCK - {_SIZE})


def _cut_to_device(
    traits: DeviceTraits, seen: Examination, actions: list[str]
) -> SuperBlock | None:
    """Let a store on a device that was cut off end where the device does, if metadata fit there."""
    if seen.super_block is None:
        return None
    cut = seen.super_block.with_changes(size_bytes=traits.size_bytes)
    try:
        geometry = Geometry.of(cut, device_size=traits.size_bytes)
    except BlobstoreError:
        return None
    first, end = geometry.total_clusters, seen.super_block.size_bytes // geometry.cluster_size
    lost = f": clusters {first} to {end - 1} are given up" if first < end else ""
    actions.append(f"super block: shortened to the device, {traits.size_bytes} bytes{lost}")
    return cut


async def _salvage_blobs(
    traits: DeviceTraits, seen: Examination, actions: list[str]
) -> Examination:
    """Salvage blobs until none is bad any more; what reads salvaged ones loses its identity."""
    salvaged: set[BlobId] = set()
    for _round in range(_ROUNDS_MAX):
        if seen.view is None or seen.view.newer or not _has_errors(seen, _BLOBS):
            break
        done, changed = await salvage(seen.view, traits.layout)
        salvaged |= changed
        if not done:
            break
        actions += done
        await _believe_no_masks(seen)
        seen = await examine(traits)
    if seen.view is not None and salvaged:
        actions += await drop_identities_above(seen.view, traits.layout, salvaged)
        seen = await examine(traits)
    return seen


async def _believe_no_masks(seen: Examination) -> None:
    """From here on only the chains say what is used."""
    if seen.super_block is not None and seen.super_block.clean:
        await Write(0, seen.super_block.with_changes(clean=False).encode())


async def _finish(traits: DeviceTraits, seen: Examination, *, is_changed: bool) -> list[str]:
    """Let recovery finish what was begun, and leave the store clean with masks that are right.

    While a blob is bad, or the super block, nothing of that can be known. If recovery would find a
    lost root in a page that the masks of a clean store call free, the masks stay, and only leaks
    are freed.
    """
    if seen.view is None or _has_errors(seen, _SUPER_BLOCK | _BLOBS):
        return []
    needs_masks = any(
        finding.severity is not Severity.NOTE or finding.invariant in (43, 45)
        for finding in seen.findings
    )
    if not (needs_masks or is_changed or not _was_unloaded(seen)):
        return []
    if seen.view.newer and seen.view.is_clean:
        return await _mark_owned(seen.view)
    store = await load(traits, force_recovery=True)
    if store.errors:  # such as what a repair that was cut off has begun to write
        return await _free_leaks(seen)
    if not _has_errors(seen, _MARKERS):  # what a marked blob owns, recovery has decided
        await zero_pages(seen.view.geometry, _leaked_pages(seen.view))
    await unload(store)
    return ["the masks were rebuilt from the blobs, and the store was left clean"]


async def _mark_owned(view: RegionView) -> list[str]:
    """Mark what has an owner, and free nothing: what else is marked may be a newer blob's."""
    actions: list[str] = []
    for kind, mask, used, name in _masks_and_truth(view):
        if mask is not None and (used & ~mask).any():
            count = (used & ~mask).count()
            actions.append(f"{count} {name}{'s' * (count != 1)} marked used")
            await _write_mask(view, kind, mask | used)
    return actions


def _was_unloaded(seen: Examination) -> bool:
    return seen.super_block is not None and seen.super_block.clean


async def _free_leaks(seen: Examination) -> list[str]:
    """Clear the bits of what has no owner, and empty pages that nothing leads to."""
    view = seen.view
    if view is None or view.masks is None or not view.is_whole:
        return []
    if _has_errors(seen, _SUPER_BLOCK | _MARKERS):  # what a marked blob owns, recovery decides
        return []
    actions: list[str] = []
    await zero_pages(view.geometry, _leaked_pages(view))
    for kind, mask, used, name in _masks_and_truth(view):
        if mask is not None and (mask & ~used).any():
            count = (mask & ~used).count()
            actions.append(f"{count} {name}{'s' * (count != 1)} freed that had no owner")
            await _write_mask(view, kind, mask & used)
    return actions


def _masks_and_truth(view: RegionView) -> Iterator[tuple[int, bitarray | None, bitarray, str]]:
    """Yield each mask's kind, what it says, what the chains say, and what it is about."""
    masks, truth = view.masks, view.ownership
    ids = bitarray(view.geometry.md_len, endian="little")
    ids[view.roots] = True
    if masks is not None:
        yield MASK_PAGES, masks.pages, truth.pages, "metadata page"
        yield MASK_CLUSTERS, masks.clusters, truth.clusters, "cluster"
        yield MASK_BLOB_IDS, masks.ids, ids, "blob id"


def _leaked_pages(view: RegionView) -> list[PageIndex]:
    """Return the sound pages that are marked used, and that nothing leads to."""
    if view.masks is None or view.masks.pages is None or not view.is_whole:
        return []
    marked = view.masks.pages
    return [page for page in view.orphans if marked[page]]


async def _write_mask(view: RegionView, kind: int, bits: bitarray) -> None:
    geometry = view.geometry
    region: MaskRegion = {
        MASK_PAGES: geometry.used_pages,
        MASK_CLUSTERS: geometry.used_clusters,
        MASK_BLOB_IDS: geometry.used_blob_ids,
    }[kind]
    for write in mask_writes(geometry, region, kind=kind, bits=bits):
        await write
