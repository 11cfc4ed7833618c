"""The metadata region as a check sees it, and which of its pages are roots (CRASH-SAFETY 4, 5)."""

from dataclasses import dataclass, field

from blobstore.format.geometry import Geometry, blob_id_of
from blobstore.format.page import NO_PAGE, PAGE_SIZE, TAIL, has_right_crc
from blobstore.format.root import is_tombstone, is_uncommitted
from blobstore.format.super_block import SuperBlock
from blobstore.fsck.finding import Findings, Severity
from blobstore.fsck.mask_checks import Masks, read_masks
from blobstore.fsck.ownership_checks import Ownership
from blobstore.fsck.parsed_blob import ParsedBlob
from blobstore.fsck.reading import TolerantReader
from blobstore.fsck.relation_checks import Problem
from blobstore.fsck.relation_info import RelationInfo
from blobstore.fsck.walk import walk_blob
from blobstore.metadata.batch_decoding import SinglePageBlobs
from blobstore.metadata.blob_reader import Revisits
from blobstore.metadata.recovery import restore_torn_roots
from blobstore.metadata.region_scan import Scan, scan_region
from blobstore.metadata.store_state import DeviceTraits, RecoveryPlan
from blobstore.units import BlobId, PageIndex


@dataclass(slots=True)
class RegionView:
    """The metadata region as it was seen.

    `relations` are of all blobs but single-page ones without relations; `broken` are those
    of which something is wrong, without their content; `newer` those that a newer version wrote;
    `orphans` are sound pages that nothing leads to, with the blob they name; `rootless` are blobs
    that have such pages, or had a root at the last unload, and have none now;
    `misplaced` are extent pages that hold a copy of another one; `strange` keeps pages that only
    following a blob led to.
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
    rootless: set[BlobId] = field(default_factory=set)
    misplaced: dict[PageIndex, PageIndex] = field(default_factory=dict)
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
            misplaced=self.misplaced,
            revisits=revisits,
            earlier=earlier,
        )

    @property
    def is_whole(self) -> bool:
        """Tell whether every blob could be read, so that what has no owner is free.

        Where two blobs own one place, the metadata of one of them is not what it was.
        """
        return not (self.broken or self.newer or self.ownership.is_contested)


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
