"""Examination of all metadata of a store, which no damage stops (CRASH-SAFETY 4, 5).

Nothing is written. The metadata region is read once, in large pieces. Single-page
blobs are checked all at once, as in recovery; every other blob is walked. The
examination of a healthy store takes as long as a recovery, and as much memory.
"""

from dataclasses import dataclass, field

import numpy as np
from bitarray import bitarray

from blobstore.errors import DeviceError
from blobstore.format.geometry import Geometry, blob_id_of, root_of
from blobstore.format.mask import MASK_BLOB_IDS, MASK_CLUSTERS, MASK_PAGES
from blobstore.format.page import HEAD, NO_PAGE, PAGE_SIZE, TAIL, has_right_crc
from blobstore.format.repair_mark import RepairMark
from blobstore.format.root import is_tombstone, is_uncommitted
from blobstore.format.super_block import NO_BLOB, SUPER_BLOCK_SIZE, SuperBlock
from blobstore.fsck.finding import Findings, Severity
from blobstore.fsck.mask_checks import Masks, compare_free_count, compare_mask, read_masks
from blobstore.fsck.ownership_checks import Claims, Ownership
from blobstore.fsck.parsed_blob import ParsedBlob
from blobstore.fsck.reading import TolerantReader
from blobstore.fsck.relation_checks import Problem, relation_problems, snapshot_stands
from blobstore.fsck.relation_info import RelationInfo
from blobstore.fsck.segments import name_run, runs_of, without_shared
from blobstore.fsck.spans import touching
from blobstore.fsck.super_block_checks import examine_super_block
from blobstore.fsck.walk import walk_blob
from blobstore.metadata.batch_decoding import SinglePageBlobs
from blobstore.metadata.blob_reader import Revisits
from blobstore.metadata.recovery import Scan, restore_torn_roots, scan_region
from blobstore.metadata.store_state import DeviceTraits, RecoveryPlan
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
    view: "RegionView | None" = None
    mark: RepairMark | None = None


@dataclass(slots=True)
class RegionView:
    """The metadata region as it was seen.

    `relations` are of all blobs but single-page ones without relations; `broken` are those
    of which something is wrong, without their content; `newer` those that a newer version wrote;
    `orphans` are sound pages that nothing leads to, with the blob they name;
    `strange` keeps pages that only following a blob led to.
    """

    geometry: Geometry
    reader: TolerantReader
    version: int
    is_clean: bool
    scan: Scan
    torn: RecoveryPlan
    ownership: Ownership
    single_page: SinglePageBlobs | None = None
    masks: Masks | None = None
    roots: list[PageIndex] = field(default_factory=list)
    relations: dict[BlobId, RelationInfo] = field(default_factory=dict)
    broken: dict[BlobId, ParsedBlob] = field(default_factory=dict)
    newer: set[BlobId] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    orphans: dict[PageIndex, BlobId] = field(default_factory=dict)
    strange: dict[PageIndex, bytes] = field(default_factory=dict)

    async def fetch(self, page: PageIndex) -> bytes | None:
        """Return a page of the region as it was first seen, whatever a repair wrote there since."""
        data = self.scan.pages.get(page) or self.scan.decoder.extent_pages.content(page)
        data = data or self.strange.get(page)
        if data is None:
            data = await self.reader.fetch(page)
            if data is not None and any(data):
                self.strange[page] = data
        return data

    async def walk(
        self,
        blob_id: BlobId,
        revisits: Revisits | None = None,
        earlier: Findings | None = None,
    ) -> ParsedBlob:
        """Walk the blob whose root the id names; the caller knows that it lies in the region."""
        return await walk_blob(
            self.geometry,
            blob_id,
            self.fetch,
            version=self.version,
            revisits=revisits,
            earlier=earlier,
        )

    @property
    def is_whole(self) -> bool:
        """Tell whether every blob could be read, so that what has no owner is free."""
        return not self.broken and not self.newer


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
    await _resolve_marked(view, findings)
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
    return view


async def view_region(
    traits: DeviceTraits, geometry: Geometry, super_block: SuperBlock, findings: Findings
) -> RegionView:
    """Read the region, and tell which pages are roots."""
    reader = TolerantReader(geometry, traits)
    scan = await scan_region(geometry, reader.read_region)
    torn = RecoveryPlan()
    is_clean = super_block.clean and geometry.used_blob_ids.length > 0
    if not is_clean:
        restore_torn_roots(scan, torn)
    view = RegionView(
        geometry=geometry,
        reader=reader,
        version=super_block.version,
        is_clean=is_clean,
        scan=scan,
        torn=torn,
        ownership=Ownership(geometry),
        single_page=scan.decoder.single_page_blobs(geometry),
    )
    if is_clean:
        view.masks = await read_masks(geometry, findings)
    sound = set(scan.decoder.records["root"].tolist())
    roots = {root for root in scan.roots if root in sound or await _is_root(view, root)}
    await _report_half_deleted(view, roots, findings)
    roots.update(await _lost_roots(view, roots))
    view.roots = sorted(roots)
    return view


async def _lost_roots(view: RegionView, roots: set[PageIndex]) -> list[PageIndex]:
    """Return pages that hold no root though a clean store's masks say that each is one's.

    One of zeroes is lost when both masks know it; a single bit is only a wrong mask.
    """
    if view.masks is None or view.masks.ids is None:
        return []
    lost: list[PageIndex] = []
    for page in map(PageIndex, view.masks.ids.search(True)):
        if page not in roots:
            data = await view.fetch(page)
            pages = view.masks.pages
            if data is None or any(data) or pages is None or pages[page]:
                lost.append(page)
    return lost


async def _is_root(view: RegionView, root: PageIndex) -> bool:
    """Tell whether a page that names its own place is the root of a blob that is there.

    Remains of creations and deletions that a crash cut off are none.
    """
    used_ids = None if view.masks is None else view.masks.ids
    data = await view.fetch(root)
    if data is None:
        return False
    if has_right_crc(data):
        return view.is_clean or not await _is_half_deleted(view, data)
    if used_ids is not None:
        return bool(used_ids[root])
    return view.is_clean or not (is_uncommitted(data) or is_tombstone(data))


async def _report_half_deleted(view: RegionView, roots: set[PageIndex], findings: Findings) -> None:
    """Name the blobs whose delete recovery is going to finish."""
    for root in view.scan.roots:
        data = await view.fetch(root) if root not in roots else None
        if data is not None and has_right_crc(data):
            findings.add(
                23,
                f"blob {blob_id_of(root):#x}: leads to an empty page: a delete that was cut off, "
                "which recovery finishes",
                severity=Severity.NOTE,
                blob=blob_id_of(root),
                page=root,
            )


async def _is_half_deleted(view: RegionView, data: bytes) -> bool:
    """Tell whether the original was interrupted in deleting this blob."""
    (following, _crc) = TAIL.unpack_from(data, PAGE_SIZE - TAIL.size)
    if following == NO_PAGE or following >= view.geometry.md_len:
        return False
    found = await view.fetch(PageIndex(following))
    return found is not None and not any(found)


async def _walk_all(view: RegionView, findings: Findings) -> None:
    """Take the single-page blobs at once, unless something is contested; walk all others."""
    await _take_all(view, findings, view.single_page)
    if view.single_page is not None and view.ownership.is_contested:
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
        if root in taken:
            continue
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
    if blobs is not None:
        named = [info.parent_id or 0 for info in view.relations.values()]
        named += [info.marker[1] for info in view.relations.values() if info.marker]
        for blob_id, found in blobs.related(np.array(named, dtype=np.uint64)):
            view.relations[blob_id] = RelationInfo.of_summary(blob_id, found)


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
    known = view.scan.decoder.extent_pages.numbers().tolist()
    candidates = sorted({*view.scan.pages, *known})
    roots = set(view.scan.roots)
    for number in candidates:
        if view.ownership.pages[number] or number in view.torn.copies:
            continue
        data = view.scan.pages.get(PageIndex(number))
        if data is not None and (not has_right_crc(data) or number in roots):
            continue
        owner = _owner_of(view, PageIndex(number))
        view.orphans[PageIndex(number)] = owner
        is_leak = mask is not None and bool(mask[number]) and view.is_whole
        findings.add(
            24,
            f"page {number}: a sound page of blob {owner:#x} that nothing leads to",
            severity=Severity.LEAK if is_leak else Severity.NOTE,
            page=PageIndex(number),
            blob=owner,
        )


def _owner_of(view: RegionView, page: PageIndex) -> BlobId:
    data = view.scan.pages.get(page) or view.scan.decoder.extent_pages.head(page)
    assert data is not None
    (blob_id, _sequence, _reserved) = HEAD.unpack_from(data)
    return BlobId(blob_id)


def _check_super_blob(super_block: SuperBlock, view: RegionView, findings: Findings) -> None:
    blob_id = super_block.super_blob
    if blob_id == NO_BLOB or root_of(blob_id) in view.roots:
        return
    message = f"super blob {blob_id:#x}: no such blob"
    findings.add(8, message, severity=Severity.NOTE, blob=blob_id)
