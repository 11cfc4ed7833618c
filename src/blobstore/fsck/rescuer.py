"""Rescue: the search for every blob that can be read, whatever else is broken (CRASH-SAFETY 5).

Rescue decides nothing and repairs nothing. Unknown content is reported as
unreadable. Content that is only likely is named in a blob's findings.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final

import numpy as np

from blobstore.errors import CorruptError, NotFoundError
from blobstore.format.descriptors import HAS_INTERNAL_XATTRS
from blobstore.format.geometry import blob_id_of
from blobstore.format.page import NO_PAGE, PAGE_SIZE, TAIL
from blobstore.format.super_block import SUPER_BLOCK_SIZE, SuperBlock
from blobstore.fsck.checksum_solver import solve_super_block
from blobstore.fsck.evidence import Evidence, gather_evidence
from blobstore.fsck.examine import Examination, examine, examine_with
from blobstore.fsck.extent_index import ZEROES, Backing, ExtentIndex, lay_over
from blobstore.fsck.finding import Finding, Severity
from blobstore.fsck.inherited_pages import inherited_pages
from blobstore.fsck.layout_search import LayoutSearch, search_layout
from blobstore.fsck.metadata_start import NO_HINTS, LayoutHints
from blobstore.fsck.orphan_pages import adopt_orphan_pages
from blobstore.fsck.parsed_blob import ParsedBlob
from blobstore.fsck.rebuild import rebuild_from
from blobstore.fsck.region_view import RegionView
from blobstore.fsck.super_block_checks import CUT_OFF
from blobstore.metadata.blob_state import SNAP
from blobstore.metadata.store_state import DeviceTraits
from blobstore.units import BlobId, PageIndex

_SUPER_BLOCK: Final = frozenset({*range(1, 10), CUT_OFF})
_NOT_DOUBTFUL: Final = (5, CUT_OFF)
"""A device that was cut short, or a repair, leave the super block's fields as they were."""
_LOST: Final = 22
_CYCLE: Final = 40
_SHARED: Final = (35, 36)
_CUTTING: Final = frozenset({21, 28, 29, 30, 38})
"""What breaks one of these may have said that the blob is larger."""

_KEPT_MAPS: Final = 1 << 14  # small ones, in a long chain whose blobs are listed
_KEPT_SPANS: Final = 1 << 20

# Opening


async def open_rescue(traits: DeviceTraits, hints: LayoutHints = NO_HINTS) -> "Rescuer":
    """Look at the store on the device, whatever its super block holds. Nothing is written.

    What the hints say is taken for granted. A super block whose checksum is right is
    believed, unless most of what lies on the device speaks against it.

    Raises:
        CorruptError: No layout was found, or several that fit equally well.
    """
    seen = await examine(traits)
    evidence = await gather_evidence(traits)
    search = search_layout(evidence, hints, device_size=traits.size_bytes)
    block, notes = _choose(traits, seen, search)
    if block is None:
        reasons = [*_wrong_with_super_block(seen), "it can neither be solved nor rebuilt"]
        raise CorruptError("; ".join([*reasons, search.question()]))
    if block is seen.super_block and seen.view is not None and _is_sound(seen):
        return Rescuer(seen.view, tuple(seen.findings), notes)
    again = await examine_with(traits, block.with_changes(clean=False))
    assert again.view is not None
    of_super_block = (found for found in seen.findings if found.invariant in _SUPER_BLOCK)
    others = (found for found in again.findings if found.invariant not in _SUPER_BLOCK)
    return Rescuer(again.view, (*of_super_block, *others), notes)


def _is_sound(seen: Examination) -> bool:
    """Tell whether the super block says what it said, as far as its checksum can tell."""
    return seen.view is not None and not any(
        found.invariant in _SUPER_BLOCK
        and found.severity is Severity.ERROR
        and found.invariant not in _NOT_DOUBTFUL
        for found in seen.findings
    )


def _wrong_with_super_block(seen: Examination) -> list[str]:
    return [found.message for found in seen.findings if found.invariant in _SUPER_BLOCK]


def _choose(
    traits: DeviceTraits, seen: Examination, search: LayoutSearch
) -> tuple[SuperBlock | None, tuple[str, ...]]:
    """Return the super block to go by, and what must be said of it; None if it is not known."""
    for block, notes in _told_by_page_0(traits, seen, search.evidence):
        agrees = search.hints.agree_with(block)
        if agrees and not search.beats(block, device_size=traits.size_bytes):
            return block, notes
    if search.found is None:
        return _from_masks_alone(traits, seen, search)
    notes = search.found.reasons(search.evidence, search.hints)
    if _is_sound(seen) and not search.hints:
        notes = ("super block: its checksum is right, but it is not this store's", *notes)
    return search.found.super_block, notes


def _from_masks_alone(
    traits: DeviceTraits, seen: Examination, search: LayoutSearch
) -> tuple[SuperBlock | None, tuple[str, ...]]:
    """Return the super block of an empty store, where page 0 holds zeroes."""
    if search.hints or search.candidates or any(seen.first_page):
        return None, ()
    rebuilt = rebuild_from(search.evidence, traits, seen.first_page)
    return (None, ()) if rebuilt is None else (rebuilt.super_block, rebuilt.reasons)


def _told_by_page_0(
    traits: DeviceTraits, seen: Examination, evidence: Evidence
) -> Iterator[tuple[SuperBlock, tuple[str, ...]]]:
    """Yield the super blocks that page 0 stands for: as it is, torn, or damaged."""
    found, data = seen.super_block, seen.first_page
    if found is not None and _is_sound(seen):
        yield found, ()
        return
    if len(data) < SUPER_BLOCK_SIZE:
        return
    roots = [blob_id_of(root) for root in seen.view.roots] if seen.view is not None else []
    solved = solve_super_block(data, device_size=traits.size_bytes, roots=roots)
    if solved is not None:
        yield solved, ("super block: torn, and solved by its checksum",)
    rebuilt = rebuild_from(evidence, traits, data) if any(data) else None
    if rebuilt is not None:
        yield rebuilt.super_block, rebuilt.reasons


# Blobs


@dataclass(slots=True)
class Rescuer:
    """What is known of a store, and where each of its blobs lies.

    `findings` are the whole store's; `notes` say where the layout comes from
    if the super block is not as it must be.
    """

    view: RegionView
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    ids: list[BlobId] = field(default_factory=list)
    _cyclic: set[BlobId] = field(default_factory=set)
    _unsure: set[BlobId] = field(default_factory=set)
    _orphans: dict[BlobId, list[PageIndex]] = field(default_factory=dict)
    _findings_of: dict[BlobId, list[Finding]] = field(default_factory=dict)
    _shared: "Shared" = field(init=False)
    _maps: "OrderedDict[BlobId, ExtentIndex]" = field(default_factory=OrderedDict)
    _spans: int = 0

    def __post_init__(self) -> None:
        view = self.view
        for page, owner in view.orphans.items():
            self._orphans.setdefault(owner, []).append(page)
        ids = {blob_id_of(root) for root in view.roots}
        self.ids = sorted(ids | view.rootless)
        self._cyclic = {found.blob_id for found in view.problems if found.invariant == _CYCLE}
        self._unsure = {info.blob_id for info in view.relations.values() if not info.is_sure}
        self._shared = Shared(self.findings)
        for finding in self.findings:
            if finding.blob is not None and finding.invariant not in _SHARED:
                self._findings_of.setdefault(finding.blob, []).append(finding)

    def has(self, blob_id: int) -> bool:
        """Tell whether there is such a blob, in whatever state."""
        at = bisect_left(self.ids, blob_id)
        return at < len(self.ids) and self.ids[at] == blob_id

    async def look(self, blob_id: BlobId) -> "KnownBlob":
        """Read all that is known of a blob.

        Raises:
            NotFoundError: There is no such blob.
        """
        if not self.has(blob_id):
            raise NotFoundError(f"blob {blob_id:#x}: no such blob")
        blob = await self.view.walk(blob_id)
        is_broken_off = await self._is_broken_off(blob)
        if blob.cluster_count or not (is_broken_off or not blob.is_root_sound):
            return KnownBlob(blob, is_cut_off=is_broken_off or _may_be_larger(blob))
        await self._adopt_orphans(blob)
        return KnownBlob(blob, is_cut_off=True, is_from_orphans=True)

    async def _is_broken_off(self, blob: ParsedBlob) -> bool:
        """Tell whether there are pages after the last one that was read."""
        if blob.table is not None:  # it tells how many clusters there are
            return False
        data = await self.view.fetch(blob.chain[-1] if blob.chain else blob.root)
        if data is None or blob.is_root_foreign:
            return True
        (following, _crc) = TAIL.unpack_from(data, PAGE_SIZE - TAIL.size)
        return PageIndex(following) != NO_PAGE

    async def _adopt_orphans(self, blob: ParsedBlob) -> None:
        """Take what other pages with the blob's id say, where its chain says nothing."""
        pages = self._orphans.get(blob.blob_id, ())
        contents = [await self.view.fetch(page) for page in pages]
        adopt_orphan_pages(
            self.view.geometry, blob, [data for data in contents if data is not None]
        )
        if blob.segments:
            blob.add(_LOST, "its content was found by its id: likely to be right, but not proved")
        elif not blob.is_root_sound:
            await self._adopt_inherited(blob)

    async def _adopt_inherited(self, blob: ParsedBlob) -> None:
        """Take the extent pages that a lost snapshot had from its origin."""
        inherited = await inherited_pages(self.view, blob.blob_id)
        adopt_orphan_pages(self.view.geometry, blob, inherited.values())
        if blob.segments:
            what = "its content was found in extent pages with the id of a clone"
            blob.add(_LOST, f"{what}: likely to be right, but not proved")

    def findings_of(self, blob: ParsedBlob) -> tuple[Finding, ...]:
        """Return all that is wrong with a blob, also what it shares, and whose content it reads."""
        found = dict.fromkeys(blob.findings)
        found.update(dict.fromkeys(self._findings_of.get(blob.blob_id, ())))
        found.update(dict.fromkeys(self._shared.by(blob)))
        ancestors = self._path_from(blob.blob_id) if self._unsure else ()
        for ancestor in ancestors:
            if ancestor in self._unsure and ancestor != blob.blob_id:
                found[_doubt(blob, ancestor)] = None
        return tuple(found)

    # Where it lies

    async def map_of(self, blob_id: BlobId) -> ExtentIndex:
        """Return where all of a blob lies; maps of ancestors are made first, and some are kept.

        Raises:
            NotFoundError: There is no such blob.
        """
        places: ExtentIndex | None = None
        missing: list[BlobId] = []
        for ancestor in self._path_from(blob_id):
            places = self._maps.get(ancestor)
            if places is not None:
                self._maps.move_to_end(ancestor)
                break
            missing.append(ancestor)
        for ancestor in reversed(missing):
            places = await self._lay(ancestor, places)
            self._keep(ancestor, places)
        assert places is not None
        return places

    def _keep(self, blob_id: BlobId, places: ExtentIndex) -> None:
        """Remember a map, and forget old ones when there are too many."""
        self._maps[blob_id] = places
        self._spans += len(places.firsts)
        while len(self._maps) > 1 and (len(self._maps) > _KEPT_MAPS or self._spans > _KEPT_SPANS):
            _oldest, forgotten = self._maps.popitem(last=False)
            self._spans -= len(forgotten.firsts)

    def _path_from(self, blob_id: BlobId) -> Iterator[BlobId]:
        """Yield the blob and its ancestors, as far as there are maps to lay over each other."""
        passed: set[BlobId] = set()
        at: BlobId | None = blob_id
        while at is not None and at not in passed:
            passed.add(at)
            yield at
            at = self._parent_to_follow(at)

    def _parent_to_follow(self, blob_id: BlobId) -> BlobId | None:
        info = self.view.relations.get(blob_id)
        if info is None or blob_id in self._cyclic:  # no clone
            return None
        parent_id = info.parent_id
        return parent_id if parent_id is not None and self.has(parent_id) else None

    async def _lay(self, blob_id: BlobId, parent: ExtentIndex | None) -> ExtentIndex:
        """Return where a blob lies, given where its parent does."""
        known = await self.look(blob_id)
        blob = known.blob
        if known.is_from_orphans:
            result = lay_over(blob, None, Backing.unreadable(f"blob {blob_id:#x} is lost"))
        else:
            result = lay_over(blob, parent, self._backing_of(blob, parent))
        result.is_cut_off = known.is_cut_off
        return result

    def _backing_of(self, blob: ParsedBlob, parent: ExtentIndex | None) -> Backing:
        """Return what a blob reads where neither itself nor its parent has a place."""
        this, parent_id, external_id = blob.blob_id, blob.parent_id, blob.external_id
        if parent is not None:
            if parent.is_cut_off:
                return Backing.unreadable(f"the end of blob {parent_id:#x}, its parent, is lost")
            return ZEROES
        if this in self._cyclic:
            return Backing.unreadable(f"blob {this:#x} is its own ancestor")
        if external_id is not None and (blob.has_external_flag or parent_id is None):
            return Backing.external(external_id)
        if parent_id is not None:
            return Backing.unreadable(f"the parent {parent_id:#x} of blob {this:#x} is missing")
        if _may_have_parent(blob):
            return Backing.unreadable(f"the parent of blob {this:#x} is not known")
        if not blob.is_thin:
            return Backing.unreadable(f"blob {this:#x} is thick, and has no cluster there")
        return ZEROES


@dataclass(frozen=True, slots=True)
class KnownBlob:
    """A blob that was read; with `is_cut_off` it may be larger than that.

    Of one that `is_from_orphans` the chain says nothing: pages with its id were put together.
    """

    blob: ParsedBlob
    is_cut_off: bool
    is_from_orphans: bool = False


def _may_be_larger(blob: ParsedBlob) -> bool:
    return any(
        invariant in _CUTTING and severity is Severity.ERROR
        for invariant, severity in blob.findings.counts
    )


def _may_have_parent(blob: ParsedBlob) -> bool:
    """Tell whether what names the parent may be what cannot be read."""
    claims_some = bool(blob.flags.invalid & HAS_INTERNAL_XATTRS) and not blob.internal_xattrs
    return SNAP in blob.internal_xattrs or blob.has_external_flag or claims_some


def _doubt(blob: ParsedBlob, ancestor: BlobId) -> Finding:
    message = (
        f"blob {blob.blob_id:#x}: reads the lost blob {ancestor:#x}: what can be read of that "
        "is likely to be right, but not proved"
    )
    return Finding(_LOST, Severity.ERROR, message, blob.blob_id, blob.root)


class Shared:
    """The findings of pages and clusters that have several owners, by place."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self._pages: dict[int, list[Finding]] = {}
        by_cluster: list[tuple[int, Finding]] = []
        for finding in findings:
            if finding.invariant in _SHARED and finding.page is not None:
                self._pages.setdefault(finding.page, []).append(finding)
            elif finding.invariant in _SHARED and finding.cluster is not None:
                by_cluster.append((finding.cluster, finding))
        by_cluster.sort(key=itemgetter(0))
        self._clusters = np.array([cluster for cluster, _finding in by_cluster], dtype=np.uint64)
        self._of_clusters = [finding for _cluster, finding in by_cluster]

    def by(self, blob: ParsedBlob) -> Iterator[Finding]:
        """Yield those that are about what this blob owns."""
        for page in (blob.root, *blob.metadata_pages):
            yield from self._pages.get(page, ())
        firsts = np.frombuffer(blob.segments.clusters, dtype=np.uint64)
        ends = firsts + np.frombuffer(blob.segments.counts, dtype=np.uint64)
        low = np.searchsorted(self._clusters, firsts)
        high = np.searchsorted(self._clusters, ends)
        for at in np.flatnonzero(low < high).tolist():
            yield from self._of_clusters[low[at] : high[at]]
