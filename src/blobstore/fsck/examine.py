"""Examination of all metadata of a store, which no damage stops (CRASH-SAFETY 4, 5).

Nothing is written. The metadata region is read once, in large pieces. Single-page
blobs are checked all at once, as in recovery; every other blob is walked. The
examination of a healthy store takes as long as a recovery, and as much memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from bitarray import bitarray

from blobstore.errors import DeviceError
from blobstore.format.geometry import Geometry, blob_id_of, root_of
from blobstore.format.mask import MASK_BLOB_IDS, MASK_CLUSTERS, MASK_PAGES
from blobstore.format.page import PAGE_SIZE
from blobstore.format.repair_mark import RepairMark
from blobstore.format.root import is_tombstone
from blobstore.format.super_block import NO_BLOB, SUPER_BLOCK_SIZE, SuperBlock
from blobstore.fsck.finding import Findings, Severity
from blobstore.fsck.mask_checks import Masks, compare_free_count, compare_mask
from blobstore.fsck.misplaced_pages import misplaced_pages
from blobstore.fsck.ownership_checks import Claims, Ownership
from blobstore.fsck.parsed_blob import ParsedBlob
from blobstore.fsck.region_view import RegionView, view_region
from blobstore.fsck.relation_checks import relation_problems, snapshot_stands
from blobstore.fsck.relation_info import RelationInfo
from blobstore.fsck.segments import name_run, runs_of, without_shared
from blobstore.fsck.spans import touching
from blobstore.fsck.super_block_checks import examine_super_block
from blobstore.metadata.batch_decoding import SinglePageBlobs
from blobstore.metadata.blob_reader import Revisits
from blobstore.metadata.lost_roots import ids_at_last_unload, lost_roots
from blobstore.metadata.missing_parents import missing_parents
from blobstore.metadata.region_scan import orphan_pages
from blobstore.metadata.store_state import DeviceTraits
from blobstore.operations import Read
from blobstore.units import BlobId, PageIndex


@dataclass(slots=True)
class Examination:
    """All that a look at the store has shown.

    `geometry` and `view` are None when nothing after the super block could be
    looked at; `is_clean` tells that the masks were to be believed. `first_page` is without
    the `mark` of a repair that was cut off.
    """

    first_page: bytes
    findings: Findings = field(default_factory=Findings)
    super_block: SuperBlock | None = None
    geometry: Geometry | None = None
    is_clean: bool = False
    view: RegionView | None = None
    mark: RepairMark | None = None


async def examine(traits: DeviceTraits) -> Examination:
    """Check the invariants of the store on the device; `DeviceError` is not raised."""
    first_page = await read_first_page(traits)
    seen = examine_super_block(first_page, device_size=traits.size_bytes)
    result = Examination(
        seen.page, super_block=seen.super_block, geometry=seen.geometry, mark=seen.mark
    )
    result.findings.take_all(seen.findings)
    if seen.super_block is not None and seen.geometry is not None:
        await _examine_rest(traits, result, seen.super_block, seen.geometry)
    return result


async def examine_with(traits: DeviceTraits, super_block: SuperBlock) -> Examination:
    """Check the store as if this were its super block, whatever page 0 holds."""
    layout = Geometry.claimed_by(super_block, device_size=traits.size_bytes)
    result = Examination(await read_first_page(traits), super_block=super_block, geometry=layout)
    await _examine_rest(traits, result, super_block, layout)
    return result


async def _examine_rest(
    traits: DeviceTraits, result: Examination, super_block: SuperBlock, geometry: Geometry
) -> None:
    """Look at all that the super block leads to."""
    result.view = await _examine_region(traits, geometry, super_block, result.findings)
    result.is_clean = result.view.is_clean
    _check_super_blob(super_block, result.view, result.findings)


async def read_first_page(traits: DeviceTraits) -> bytes:
    """Return page 0 of the device, or as much of it as there is."""
    try:
        return await Read(0, min(SUPER_BLOCK_SIZE, traits.size_bytes))
    except DeviceError:
        return b""


async def _examine_region(
    traits: DeviceTraits, geometry: Geometry, super_block: SuperBlock, findings: Findings
) -> RegionView:
    view = await view_region(traits, geometry, super_block, findings)
    await _walk_all(view, findings)
    await _take_overwritten(view, findings)
    await _resolve_marked(view, findings)
    await _take_missing_parents(view, findings)
    if view.ownership.is_contested:
        await _name_owners(view, findings)
    _report_unsure_claims(view, findings)
    _report_unreadable(view, findings)
    for problem in relation_problems(view.relations, is_clean=view.is_clean):
        view.problems.append(problem)
        findings.take(problem.finding)
    if view.masks is not None:
        _compare_masks(view, view.masks, findings)
    _find_orphans(view, findings)
    await _find_rootless(view, findings)
    return view


async def _walk_all(view: RegionView, findings: Findings) -> None:
    """Take the single-page blobs at once, unless something is contested; walk all others."""
    await _take_all(view, findings, view.single_page)
    if view.single_page is not None and view.ownership.is_contested:
        await _take_again(view, findings)
    if view.ownership.is_contested:
        view.misplaced = await misplaced_pages(view)
    if view.misplaced:
        await _take_again(view, findings)
        for blob in view.broken.values():
            found = blob.findings.kept
            findings.take_all(each for each in found if each.page in view.misplaced)


async def _take_again(view: RegionView, findings: Findings) -> None:
    """Walk all blobs, and find out who owns what; what is wrong with each blob is known."""
    view.single_page = None
    view.ownership = Ownership(view.geometry)
    await _take_all(view, findings, None, is_again=True)


async def _take_all(
    view: RegionView, findings: Findings, blobs: SinglePageBlobs | None, *, is_again: bool = False
) -> None:
    taken: set[int] = set()
    if blobs is not None:
        view.ownership.take_single_page(blobs)
        taken = set(blobs.roots.tolist())
    revisits = Revisits(view.geometry)
    for root in view.roots:
        if root not in taken:
            await _take_root(view, root, findings, revisits, is_again=is_again)
    if blobs is not None:
        named = [info.parent_id or 0 for info in view.relations.values()]
        named += [info.marker[1] for info in view.relations.values() if info.marker]
        for blob_id, found in blobs.related(np.array(named, dtype=np.uint64)):
            view.relations[blob_id] = RelationInfo.of_summary(blob_id, found)


async def _take_root(
    view: RegionView,
    root: PageIndex,
    findings: Findings,
    revisits: Revisits,
    *,
    is_again: bool = False,
) -> None:
    """Walk a blob, and take what it owns."""
    blob = await view.walk(blob_id_of(root), revisits, findings)
    if not is_again:
        findings.take_over(blob.findings)
    view.relations[blob.blob_id] = RelationInfo.of(blob)
    is_broken = blob.is_broken
    if is_broken:
        view.broken[blob.blob_id] = blob
    if blob.is_newer:
        view.newer.add(blob.blob_id)
    view.ownership.take_pages([root])
    if blob.marker is None and blob.is_root_sound:
        _take(view, blob)
    if is_broken and blob.is_root_sound:
        blob.forget_content()


async def _take_overwritten(view: RegionView, findings: Findings) -> None:
    """Take the roots that recovery finds lost although their pages do not name their places."""
    if view.is_clean:
        return
    pages = view.ownership.pages
    lost = await lost_roots(view.geometry, view.scan, pages, view.torn.copies)
    revisits = Revisits(view.geometry)
    for root in lost:
        await _take_root(view, root, findings, revisits)
    view.roots = sorted({*view.roots, *lost})


async def _take_missing_parents(view: RegionView, findings: Findings) -> None:
    """Take parents that are missing after a crash for lost roots, as recovery does."""
    if view.is_clean:
        return
    ids = bitarray(view.geometry.md_len, endian="little")
    ids[view.roots] = True
    clones = {
        info.blob_id: info.parent_id
        for info in view.relations.values()
        if info.parent_id is not None and info.is_sure and not _is_removed(info, view.relations)
    }
    missing = missing_parents(view.geometry, clones.values(), ids)
    lost = {blob_id_of(root): root for root in missing if not view.ownership.pages[root]}
    for clone, parent in clones.items():
        if parent in lost:
            message = f"blob {clone:#x}: its parent {parent:#x} is lost: a snapshot was there"
            findings.add(39, message, blob=clone, page=root_of(clone))
    revisits = Revisits(view.geometry)
    for root in lost.values():
        await _take_root(view, root, findings, revisits)
    view.roots = sorted({*view.roots, *lost.values()})


def _is_removed(info: RelationInfo, relations: Mapping[BlobId, RelationInfo]) -> bool:
    """Tell whether loading removes the blob: a snapshot that was never finished."""
    if info.marker is None or info.marker[1] not in relations:
        return False
    return relations[info.marker[1]].is_sure and not snapshot_stands(info, relations)


def _take(view: RegionView, blob: ParsedBlob) -> None:
    """Take all that a blob owns but its root."""
    view.ownership.take_pages(blob.metadata_pages)
    view.ownership.take_clusters(blob.segments)


async def _resolve_marked(view: RegionView, findings: Findings) -> None:
    """Take what snapshots in the making or in deletion own, as loading will decide.

    One that is going to be removed owns nothing; of one that stands the clone
    may have taken over some clusters already.
    """
    revisits = Revisits(view.geometry)
    for info in list(view.relations.values()):
        if info.marker is None:
            continue
        blob = await view.walk(info.blob_id, revisits, findings)
        partner_id = info.marker[1]
        if partner_id in (info.blob_id, *view.broken) or partner_id not in view.relations:
            _take(view, blob)
        elif snapshot_stands(info, view.relations):
            partner = await view.walk(partner_id, revisits, findings)
            blob.segments = without_shared(blob.segments, partner.segments)
            _take(view, blob)


async def _name_owners(view: RegionView, findings: Findings) -> None:
    """Examine all blobs again, and report which blobs share which places."""
    claims = Claims(view.ownership)
    revisits = Revisits(view.geometry)
    for root in view.roots:
        if claims.is_full:
            break
        blob = await view.walk(blob_id_of(root), revisits, findings)
        if blob.is_root_sound:
            claims.take(blob)
    findings.take_all(claims.findings())


def _report_unsure_claims(view: RegionView, findings: Findings) -> None:
    """Tell what lost blobs say they own, and others own for sure."""
    for blob in view.broken.values():
        if blob.is_root_sound:
            continue
        for page in blob.metadata_pages:
            if view.ownership.pages[page]:
                message = f"says that page {page} is its, which another blob owns"
                findings.add(36, f"{blob.name}: {message}", blob=blob.blob_id, page=page)
        _report_unsure_clusters(view, blob, findings)
        blob.forget_content()


def _report_unsure_clusters(view: RegionView, blob: ParsedBlob, findings: Findings) -> None:
    for firsts, counts in blob.segments.spans():
        at = touching(view.ownership.clusters, firsts, counts)
        room = findings.room_for(35)
        told = firsts[at[:room]].tolist(), counts[at[:room]].tolist()
        for first, count in zip(*told, strict=True):
            owned = view.ownership.clusters[first : first + count]
            shared = name_run("cluster", first + owned.find(1), owned.count())
            message = f"{blob.name}: says that it owns {shared}, as another blob does"
            findings.add(35, message, blob=blob.blob_id, cluster=first)
        findings.count_more(len(at) - room, 35)


def _report_unreadable(view: RegionView, findings: Findings) -> None:
    for first, count in runs_of(iter(sorted(view.reader.unreadable))):
        what = name_run("metadata page", first, count)
        findings.add(17, f"{what}: cannot be read", page=PageIndex(first))


def _compare_masks(view: RegionView, masks: Masks, findings: Findings) -> None:
    ids = bitarray(view.geometry.md_len, endian="little")
    ids[view.roots] = True
    truth = view.ownership
    for kind, mask, found in (
        (MASK_PAGES, masks.pages, truth.pages),
        (MASK_CLUSTERS, masks.clusters, truth.clusters),
        (MASK_BLOB_IDS, masks.ids, ids),
    ):
        if mask is not None:
            compare_mask(kind, mask, found, findings, is_truth_whole=view.is_whole)
    if masks.clusters is not None:
        compare_free_count(masks.clusters, truth.clusters, findings, is_truth_whole=view.is_whole)


def _find_orphans(view: RegionView, findings: Findings) -> None:
    """Record sound pages of blobs that no chain leads to.

    In free pages they do no harm; one that the mask says is used is a leak.
    """
    mask = view.masks.pages if view.masks is not None else None
    view.orphans = orphan_pages(view.scan, view.ownership.pages, view.torn.copies)
    for page, owner in view.orphans.items():
        is_leak = mask is not None and bool(mask[page]) and view.is_whole
        findings.add(
            24,
            f"page {page}: a sound page of blob {owner:#x} that nothing leads to",
            severity=Severity.LEAK if is_leak else Severity.NOTE,
            page=page,
            blob=owner,
        )


async def _find_rootless(view: RegionView, findings: Findings) -> None:
    """Find blobs that have no root any more, unless it is sure that they were deleted.

    A power failure in a delete, and damage, can leave the same. A clean store's masks know.
    """
    roots = set(view.roots)
    missing = {root_of(owner) for owner in view.orphans.values()} - roots
    if not view.is_clean:
        before = await ids_at_last_unload(view.geometry)
        missing.update(PageIndex(root) for root in before.search(True) if root not in roots)
    with_pages = set(view.orphans.values())
    for root in sorted(missing):
        blob_id = blob_id_of(root)
        data = await view.fetch(root) or bytes(PAGE_SIZE)
        if view.ownership.pages[root] or is_tombstone(data):
            continue
        if any(data) or blob_id in with_pages:
            view.rootless.add(blob_id)
            if not view.is_clean:
                _note_rootless(findings, blob_id)


def _note_rootless(findings: Findings, blob_id: BlobId) -> None:
    findings.add(
        22,
        f"blob {blob_id:#x}: deleted, or lost: its root page is gone, and what is left of it is "
        "free. If you miss a blob, run `rescue` and `export` before anything changes the store",
        severity=Severity.NOTE,
        blob=blob_id,
        page=root_of(blob_id),
    )


def _check_super_blob(super_block: SuperBlock, view: RegionView, findings: Findings) -> None:
    blob_id = super_block.super_blob
    if blob_id == NO_BLOB or root_of(blob_id) in view.roots:
        return
    message = f"super blob {blob_id:#x}: no such blob"
    findings.add(8, message, severity=Severity.NOTE, blob=blob_id)
