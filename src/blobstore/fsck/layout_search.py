"""Searching for a store's layout where no super block tells it: for reading only (FORMAT 1, 2).

A root page says where it lies: with the id ``0x1_0000_0000 | M`` at page P the
metadata begins at page P - M. All roots of a store agree on that place and on the
size of a page; pages of other stores, which a blob may hold, agree on another.
A place is likely if an empty store of some cluster size would have its metadata there.

The number of metadata pages stands in the masks. Where there are none yet, it is
one for each cluster, the default, as long as the lowest cluster in use lies behind.

The cluster size is written down in the super block only. Each power of two is
tried, and judged by these signs, the most telling first:

1. No metadata page names a cluster that would lie within the metadata.
2. All that is written after the metadata lies in clusters that blobs own.
3. All clusters that are named lie on the device.
4. The lowest cluster in use follows the metadata: clusters are taken lowest first.
   Where the metadata takes one cluster, that says nothing.
5. The mask of used clusters has as many bits as there are clusters on the device.

One that alone has the best signs is taken. Otherwise whoever asks must say it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from blobstore.errors import BlobstoreError
from blobstore.format.geometry import DEFAULT_PAGE_SIZE, Geometry
from blobstore.format.mask import MASK_BLOB_IDS, MASK_CLUSTERS, MASK_PAGES, mask_pages
from blobstore.format.page import PAGE_SIZE
from blobstore.format.super_block import NEWEST_VERSION, NO_BLOB, TYPE_SIZE, MaskRegion, SuperBlock
from blobstore.fsck.evidence import Evidence, Flags, Numbers
from blobstore.fsck.rebuild import cluster_sizes_for
from blobstore.units import ceil_div, format_size

_UNITS: Final = tuple(1 << power for power in range(9))
"""Sizes of metadata pages, in 4096 bytes."""

_FIRST_START: Final = 3  # after the super block and two masks
_LARGEST_CLUSTER: Final = 1 << 31
_ODD_SIZES_MAX: Final = 4096
_SHOWN_SIZES: Final = 4


@dataclass(frozen=True, slots=True)
class LayoutHints:
    """What the caller knows of a layout: bytes, and pages of the store's own size."""

    cluster_size: int | None = None
    md_start: int | None = None
    md_pages: int | None = None

    def __bool__(self) -> bool:
        return (self.cluster_size, self.md_start, self.md_pages) != (None, None, None)

    def agree_with(self, block: SuperBlock) -> bool:
        """Tell whether a super block says the same."""
        wanted = (self.cluster_size, self.md_start, self.md_pages)
        found = (block.cluster_size, block.md_start, block.md_len)
        return all(want is None or want == have for want, have in zip(wanted, found, strict=True))


NO_HINTS: Final = LayoutHints()


@dataclass(frozen=True, slots=True)
class MetadataStart:
    """Where root pages say that the metadata begins, in pages of so many bytes."""

    page_size: int
    md_start: int
    root_count: int

    @property
    def unit(self) -> int:
        """The size of a page in places of 4096 bytes."""
        return self.page_size // PAGE_SIZE


class Signs(NamedTuple):
    """What speaks for a layout: smaller is better, in every field and in this order."""

    contradictions: int
    is_not_covered: bool
    is_beyond_device: bool
    is_not_first_free: bool
    is_not_filled: bool
    is_odd: bool

    @property
    def is_supported(self) -> bool:
        """Tell whether anything speaks for it that a random layout would not have."""
        return not (self.is_not_covered and self.is_not_first_free and self.is_not_filled)

    def is_as_free_of(self, best: "Signs") -> bool:
        """Tell whether as little speaks against it as against the best."""
        return (self.contradictions, self.is_beyond_device) <= (
            best.contradictions,
            best.is_beyond_device,
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A layout that may be the store's, and how it was come by."""

    super_block: SuperBlock
    signs: Signs
    start: MetadataStart
    md_reason: str

    def reasons(self, evidence: Evidence, hints: LayoutHints) -> tuple[str, ...]:
        """Say how each part of the layout was determined."""
        block = self.super_block
        return (
            f"metadata: begins at page {block.md_start} of {self.start.page_size} bytes, "
            + _why_start(self.start, hints),
            f"metadata: {block.md_len} pages, {self.md_reason}",
            f"cluster size: {format_size(block.cluster_size)}, {_why_size(self.signs, hints)}",
            f"search: the first {format_size(evidence.looked_at)} of the device were looked at",
        )


def _why_start(start: MetadataStart, hints: LayoutHints) -> str:
    if start.root_count == 0 or hints.md_start is not None:
        return "as given"
    return f"as {start.root_count} root page{'s say' if start.root_count > 1 else ' says'}"


def _why_size(signs: Signs, hints: LayoutHints) -> str:
    if hints.cluster_size is not None:
        return "as given"
    if not signs.is_not_covered:
        return "as all that is written on the device then lies in clusters of blobs"
    if not signs.is_not_first_free:
        return "as the lowest cluster in use then follows the metadata"
    return "as the mask of used clusters then has a bit for each cluster of the device"


@dataclass(frozen=True, slots=True)
class LayoutSearch:
    """What a search has found: the best candidates, of which several are one too many."""

    evidence: Evidence
    hints: LayoutHints
    candidates: tuple[Candidate, ...]
    possible_sizes: tuple[int, ...] = ()

    @property
    def found(self) -> Candidate | None:
        """The layout, if only one is the best and there is something that speaks for it."""
        if len(self.candidates) != 1:
            return None
        (best,) = self.candidates
        return best if best.signs.is_supported or self.hints.cluster_size is not None else None

    def beats(self, block: SuperBlock, *, device_size: int) -> bool:
        """Tell whether what lies on the device speaks against a super block, and for a candidate.

        Single pages may be damaged, and one mask, without the super block being wrong.
        """
        if not self.candidates or _is_confirmed(self.evidence, block, device_size):
            return False
        best = self.candidates[0].super_block
        ours, theirs = (
            _coarse_signs(self.evidence, each, device_size=device_size) for each in (best, block)
        )
        if self.found is not None and _is_other_layout(best, block):
            return ours < theirs
        is_longer = best.md_len > block.md_len and self._breaks_less(best, block, device_size)
        return is_longer or ours[:2] < theirs[:2]

    def _breaks_less(self, best: SuperBlock, block: SuperBlock, device_size: int) -> bool:
        """Tell whether nothing named lies outside of the best layout, but some of the other."""
        ours, theirs = (
            _Region.of(self.evidence, each, device_size).broken(self.evidence, counts_high=True)
            for each in (best, block)
        )
        return ours == 0 < theirs

    def question(self) -> str:
        """Say what the search could not find, and which option says it."""
        if not self.candidates:
            fitting = " fits what was given" if self.hints else ""
            return f"no root page in the first {format_size(self.evidence.looked_at)}{fitting}"
        starts = sorted({each.super_block.md_start for each in self.candidates})
        count = max(each.start.root_count for each in self.candidates)
        found = f"{count} root page{'s' if count > 1 else ''} found"
        if len(starts) > 1:
            places = " or ".join(map(str, starts[:_SHOWN_SIZES]))
            return (
                f"{found}, but metadata may begin at page {places}: md_start (--md-start) says it"
            )
        return (
            f"{found}, metadata begins at page {starts[0]}, but the cluster size is not known "
            f"(possible: {self._sizes()}): cluster_size (--cluster-size) says it"
        )

    def _sizes(self) -> str:
        sizes = sorted(self.possible_sizes)
        if len(sizes) > _SHOWN_SIZES:
            return f"{format_size(sizes[0])} to {format_size(sizes[-1])}"
        return ", ".join(map(format_size, sizes))


def search_layout(evidence: Evidence, hints: LayoutHints, *, device_size: int) -> LayoutSearch:
    """Return the layouts that fit best to what was found on the device. Pure."""
    starts = _starts(evidence, hints, device_size)
    pool = [each for start in starts for each in _candidates(evidence, start, hints, device_size)]
    if not any(each.signs.is_supported for each in pool) and hints.cluster_size is None:
        odd = [each for start in starts for each in _odd(evidence, start, hints, device_size)]
        pool += [each for each in odd if each.signs.is_supported]
    if not pool:
        return LayoutSearch(evidence, hints, ())
    best = min(each.signs for each in pool)
    return LayoutSearch(
        evidence,
        hints,
        tuple(each for each in pool if each.signs == best),
        tuple({each.super_block.cluster_size for each in pool if each.signs.is_as_free_of(best)}),
    )


# Where the metadata begins


def _starts(evidence: Evidence, hints: LayoutHints, device_size: int) -> list[MetadataStart]:
    """Return the places that most roots agree on; several only if as many agree on each."""
    votes = [
        vote
        for unit in _UNITS
        if unit * PAGE_SIZE <= device_size and not (hints.cluster_size or 0) % (unit * PAGE_SIZE)
        for vote in _votes(evidence, hints, unit, device_size)
    ]
    best = max((rank for rank, _start in votes), default=None)
    found = [start for rank, start in votes if rank == best]
    if not found and hints.md_start is not None:
        return [MetadataStart(DEFAULT_PAGE_SIZE, hints.md_start, 0)]
    return found


_Rank = tuple[bool, int, int, int]


def _votes(
    evidence: Evidence, hints: LayoutHints, unit: int, device_size: int
) -> Iterator[tuple[_Rank, MetadataStart]]:
    """Yield each place that roots speak for, with its rank; of pages of this size only the best."""
    is_root = evidence.can_be_root & (evidence.places % unit == 0)
    sound = evidence.places[is_root] // unit - evidence.roots[is_root]
    is_torn = evidence.torn_places % unit == 0
    torn = evidence.torn_places[is_torn] // unit - evidence.torn_roots[is_torn]
    starts, counts = np.unique(np.concatenate((sound, torn)), return_counts=True)
    sound_counts = np.searchsorted(np.sort(sound), starts, side="right")
    sound_counts -= np.searchsorted(np.sort(sound), starts, side="left")
    is_possible = starts >= _FIRST_START if hints.md_start is None else starts == hints.md_start
    grades = _grades(starts, unit * PAGE_SIZE, device_size)
    order = np.lexsort((counts, grades, sound_counts, grades > 0, is_possible))[::-1]
    best: _Rank | None = None
    for at in order.tolist():
        rank = bool(grades[at] > 0), int(sound_counts[at]), int(grades[at]), int(counts[at])
        best = best or rank
        if not is_possible[at] or rank != best:
            return
        yield rank, MetadataStart(unit * PAGE_SIZE, int(starts[at]), int(counts[at]))


def _grades(starts: Numbers, page_size: int, device_size: int) -> Numbers:
    """Return how likely metadata begins there: 2 by default, 1 if asked for, 0 never.

    Masks of as many pages as some power of two as a cluster size needs come before it.
    """
    grades = np.zeros(len(starts), dtype=np.int64)
    if not len(starts):
        return grades
    for cluster_size in _powers(page_size, device_size):
        clusters = mask_pages(device_size // cluster_size, page_size)
        rest = starts - 1 - clusters
        is_longer = (rest > 0) & (rest % 2 == 0) & (rest // 2 <= clusters)
        pages = (starts - 1) // 3
        is_equal = (pages * 3 == starts - 1) & (pages >= clusters)
        is_equal &= (pages - 1) * page_size * 8 * page_size <= device_size
        grades[is_longer | is_equal] = np.maximum(grades[is_longer | is_equal], 1)
        grades[starts == 1 + 3 * clusters] = 2
        grades[starts == 1 + 2 * clusters] = np.maximum(grades[starts == 1 + 2 * clusters], 1)
    return grades


def _powers(page_size: int, device_size: int) -> Iterator[int]:
    cluster_size = page_size
    while cluster_size <= min(device_size, _LARGEST_CLUSTER):
        yield cluster_size
        cluster_size *= 2


# How many pages, and how large clusters are


class _Known(NamedTuple):
    """What hints and masks say, 0 where they say nothing."""

    md_pages: int
    md_reason: str
    cluster_bits: int


def _known(evidence: Evidence, start: MetadataStart, hints: LayoutHints) -> _Known:
    """Take what masks say that lie where they must."""
    size = start.page_size
    md_pages = 0
    for bits in evidence.mask_bits(size, MASK_PAGES):
        id_mask = (start.md_start - mask_pages(bits, size)) * size
        if bits in evidence.mask_bits(id_mask, MASK_BLOB_IDS) or not evidence.mask_at(id_mask):
            md_pages = bits
    cluster_mask = (1 + mask_pages(hints.md_pages or md_pages, size)) * size
    cluster_bits = max(evidence.mask_bits(cluster_mask, MASK_CLUSTERS), default=0)
    if hints.md_pages is not None:
        return _Known(hints.md_pages, "as given", cluster_bits)
    return _Known(md_pages, "as the masks say", cluster_bits)


def _candidates(
    evidence: Evidence, start: MetadataStart, hints: LayoutHints, device_size: int
) -> Iterator[Candidate]:
    """Yield a candidate for each size that clusters usually have."""
    known = _known(evidence, start, hints)
    sizes = list(_powers(start.page_size, device_size))
    if known.cluster_bits:
        sizes += cluster_sizes_for(device_size, known.cluster_bits, start.page_size)
    if hints.cluster_size is not None:
        sizes = [hints.cluster_size]
    for cluster_size in dict.fromkeys(sizes):
        yield _best_of(_with_md_lens(evidence, start, known, cluster_size, device_size))


def _odd(
    evidence: Evidence, start: MetadataStart, hints: LayoutHints, device_size: int
) -> Iterator[Candidate]:
    """Yield a candidate for each size that is no power of two, if they are not too many."""
    known = _known(evidence, start, hints)
    page_size = start.page_size
    roots = evidence.roots[_roots_in_place(evidence, start)]
    names_some = evidence.highest_cluster > 0
    lowest, highest = evidence.lowest_cluster[names_some], evidence.highest_cluster[names_some]
    if not len(roots) or not len(highest):
        return
    metadata_end = (start.md_start + int(roots.max()) + 1) * page_size
    first = ceil_div(ceil_div(metadata_end, int(lowest.min())), page_size)
    last = device_size // (int(highest.max()) + 1) // page_size
    if last - first >= _ODD_SIZES_MAX:
        return
    for pages in range(max(1, first), last + 1):
        if pages & (pages - 1):
            size = pages * page_size
            yield _best_of(_with_md_lens(evidence, start, known, size, device_size))


def _best_of(candidates: Iterable[Candidate]) -> Candidate:
    return min(candidates, key=lambda each: each.signs)


def _with_md_lens(
    evidence: Evidence, start: MetadataStart, known: _Known, cluster_size: int, device_size: int
) -> Iterator[Candidate]:
    """Yield the layout with each number of metadata pages that is possible."""
    on_device = device_size // start.page_size - start.md_start
    total = known.cluster_bits or device_size // cluster_size
    if known.md_pages:
        md_lens = [(min(known.md_pages, on_device), known.md_reason)]
    else:
        md_lens = [(_md_len_before(evidence, start, cluster_size, device_size), _BEFORE_DATA)]
        if _is_default(start, total, cluster_size, device_size):
            md_lens.insert(0, (total, _DEFAULT))
    for md_len, reason in md_lens:
        block = _super_block(start, max(1, md_len), cluster_size, max(1, total))
        signs = _signs_of(evidence, block, known, device_size, is_guess=reason is _BEFORE_DATA)
        yield Candidate(block, signs, start, reason)


_DEFAULT: Final = "one for each cluster, as by default"
_BEFORE_DATA: Final = "as many as there is room for before the lowest cluster in use"


def _is_default(start: MetadataStart, total: int, cluster_size: int, device_size: int) -> bool:
    """Tell whether a store with a metadata page for each cluster has its metadata there."""
    try:
        layout = Geometry.compute(
            size_bytes=device_size,
            cluster_size=cluster_size,
            page_size=start.page_size,
            io_unit_size=start.page_size,
            md_pages=total,
        )
    except BlobstoreError:
        return False
    # before version 3 there was no mask of blob ids
    return start.md_start in (layout.md_start, layout.used_blob_ids.start)


def _md_len_before(
    evidence: Evidence, start: MetadataStart, cluster_size: int, device_size: int
) -> int:
    """Return how many pages there can be before the lowest cluster that pages before it name."""
    unit = start.unit
    is_after = (evidence.places >= start.md_start * unit) & (evidence.places % unit == 0)
    is_after &= ~evidence.can_be_root | _roots_in_place(evidence, start)
    places, lowest = evidence.places[is_after], evidence.lowest_cluster[is_after]
    limit = device_size // cluster_size
    lows = np.minimum.accumulate(np.minimum(lowest, limit)) * cluster_size // PAGE_SIZE
    beyond = np.flatnonzero(places >= lows)
    count = int(beyond[0]) if len(beyond) else len(places)
    end = int(lows[count - 1]) if count else device_size // PAGE_SIZE
    page_mask_max = (start.md_start - 1) // 2
    return min(end // unit - start.md_start, page_mask_max * start.page_size * 8 - 40)


def _super_block(
    start: MetadataStart, md_len: int, cluster_size: int, total_clusters: int
) -> SuperBlock:
    """Return a super block of that layout; what only a clean store needs is left out."""
    masks = mask_pages(md_len, start.page_size)
    return SuperBlock(
        version=NEWEST_VERSION,
        clean=False,
        super_blob=NO_BLOB,
        cluster_size=cluster_size,
        used_pages=MaskRegion(1, masks),
        used_clusters=MaskRegion(1 + masks, mask_pages(total_clusters, start.page_size)),
        md_start=start.md_start,
        md_len=md_len,
        bstype=bytes(TYPE_SIZE),
        used_blob_ids=MaskRegion(start.md_start - masks, masks),
        size_bytes=total_clusters * cluster_size,
        io_unit_size=DEFAULT_PAGE_SIZE,
        md_page_size=start.page_size,
    )


# Signs


def _roots_in_place(evidence: Evidence, start: MetadataStart) -> Flags:
    """Tell of each page whether it is a root that says that the metadata begins there."""
    in_place: Flags = evidence.places == (start.md_start + evidence.roots) * start.unit
    return in_place & evidence.can_be_root


class _Region(NamedTuple):
    """What pages in a metadata region name."""

    layout: Geometry
    start: MetadataStart
    is_inside: Flags
    strays: int
    """Roots that name their places outside of the region."""

    @classmethod
    def of(cls, evidence: Evidence, block: SuperBlock, device_size: int) -> "_Region":
        """Look at the pages in the region of a layout."""
        layout = Geometry.claimed_by(block, device_size=device_size)
        start = MetadataStart(layout.page_size, layout.md_start, 0)
        first, end = start.md_start * start.unit, (layout.md_start + layout.md_len) * start.unit
        is_inside = (evidence.places >= first) & (evidence.places < end)
        in_place = _roots_in_place(evidence, start)
        is_inside &= (evidence.places % start.unit == 0) & (in_place | ~evidence.can_be_root)
        return cls(layout, start, is_inside, int((in_place & ~is_inside).sum()))

    def broken(self, evidence: Evidence, *, counts_high: bool = False) -> int:
        """Count the pages that name what the layout does not have, or has for metadata.

        Clusters after the store's end are only counted when told: the device may be cut short.
        """
        is_bad = evidence.lowest_cluster < self.layout.md_clusters
        is_bad |= evidence.highest_page >= self.layout.md_len
        if counts_high:
            is_bad |= evidence.highest_cluster >= self.layout.total_clusters
        return int((is_bad & self.is_inside).sum()) + self.strays


def _signs_of(
    evidence: Evidence, block: SuperBlock, known: _Known, device_size: int, *, is_guess: bool
) -> Signs:
    """Judge a candidate; `is_guess` tells that its metadata ends where the clusters begin."""
    region = _Region.of(evidence, block, device_size)
    on_device = device_size // block.cluster_size
    lowest = evidence.lowest_cluster[region.is_inside].min(initial=1 << 62)
    highest = evidence.highest_cluster[region.is_inside].max(initial=-1)
    return Signs(
        contradictions=region.broken(evidence),
        is_not_covered=not _is_covered(evidence, region.layout),
        is_beyond_device=bool(max(highest, known.cluster_bits - 1) >= on_device),
        is_not_first_free=is_guess or not _is_first(int(lowest), region.layout),
        is_not_filled=known.cluster_bits != on_device,
        is_odd=block.cluster_size & (block.cluster_size - 1) > 0,
    )


def _is_first(cluster: int, layout: Geometry) -> bool:
    """Tell whether a cluster follows the metadata, and the metadata takes more than one."""
    return cluster == layout.md_clusters > 1


def _is_covered(evidence: Evidence, layout: Geometry) -> bool:
    """Tell whether something is written after the metadata, and all of it is some blob's.

    The metadata counts up to its last page in use: a new store has zeroes after it. On a
    device that was full of other data before, no layout is covered.
    """
    unit = layout.page_size // PAGE_SIZE
    first, end = layout.md_start * unit, (layout.md_start + layout.md_len) * unit
    pages = np.flatnonzero(evidence.heads[first:end:unit] >> 32 == 1)
    end = first + (int(pages[-1]) + 1) * unit if len(pages) else first
    written = np.flatnonzero(evidence.is_written[end:]) + end
    if not len(written):
        return False
    clusters = written * PAGE_SIZE // layout.cluster_size
    return bool(clusters.max() < len(evidence.owned) and evidence.owned[clusters].all())


def _coarse_signs(
    evidence: Evidence, block: SuperBlock, *, device_size: int
) -> tuple[bool, bool, bool, bool, bool]:
    """Judge a layout by what no single damaged page or mask can change; smaller is better."""
    region = _Region.of(evidence, block, device_size)
    layout, lowest = region.layout, evidence.lowest_cluster[region.is_inside]
    broken = region.broken(evidence, counts_high=True)
    naming = int((evidence.highest_cluster[region.is_inside] > 0).sum()) + region.strays
    return (
        not (_roots_in_place(evidence, region.start) & region.is_inside).any(),
        broken * 2 > naming,
        _count_masks(evidence, layout, are_right=False) > 1,
        not _is_covered(evidence, layout),
        layout.size_bytes > device_size and not _is_first(int(lowest.min(initial=0)), layout),
    )


def _is_other_layout(one: SuperBlock, other: SuperBlock) -> bool:
    """Tell whether pages and clusters lie elsewhere."""
    return (one.cluster_size, one.md_start, one.md_page_size or DEFAULT_PAGE_SIZE) != (
        other.cluster_size,
        other.md_start,
        other.md_page_size or DEFAULT_PAGE_SIZE,
    )


def _is_confirmed(evidence: Evidence, block: SuperBlock, device_size: int) -> bool:
    """Tell whether all three masks lie where a super block has them, as long as it says."""
    layout = Geometry.claimed_by(block, device_size=device_size)
    is_on_device = layout.size_bytes <= device_size
    return is_on_device and _count_masks(evidence, layout, are_right=True) == _ALL_MASKS


_ALL_MASKS: Final = 3


def _count_masks(evidence: Evidence, layout: Geometry, *, are_right: bool) -> int:
    """Count the masks that lie where a layout has them with the length that it has, or another."""
    count = 0
    for region, kind, bits in (
        (layout.used_pages, MASK_PAGES, layout.md_len),
        (layout.used_clusters, MASK_CLUSTERS, layout.total_clusters),
        (layout.used_blob_ids, MASK_BLOB_IDS, layout.md_len),
    ):
        found = evidence.mask_at(layout.region_offset(region)) if region.length else None
        count += found is not None and (found == (kind, bits)) is are_right
    return count
