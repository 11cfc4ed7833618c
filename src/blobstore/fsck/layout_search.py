"""The search for a store's layout without a super block: for reading only (FORMAT 2). Pure.

Root pages say where the metadata begins. The masks say how many metadata pages there
are. If there are no masks yet, the number is the default, one for each cluster, as long
as the lowest cluster in use lies after these pages. Each power of two is tried as the
cluster size. A size that alone has the best signs is taken. Otherwise the caller must
give the size.
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
from blobstore.fsck.evidence import Evidence
from blobstore.fsck.layout_signs import (
    Region,
    Signs,
    coarse_signs,
    is_confirmed,
    is_other_layout,
    signs_of,
)
from blobstore.fsck.metadata_start import (
    LayoutHints,
    MetadataStart,
    metadata_starts,
    powers_of_two,
    roots_in_place,
)
from blobstore.fsck.rebuild import cluster_sizes_for
from blobstore.units import ceil_div, exact_size, format_size

_ODD_SIZES_MAX: Final = 4096
_SHOWN_SIZES: Final = 4


@dataclass(frozen=True, slots=True)
class Candidate:
    """A layout that may be the store's, and where it comes from."""

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
            f"cluster size: {exact_size(block.cluster_size)}, {_why_size(self.signs, hints)}",
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
        if not self.candidates or is_confirmed(self.evidence, block, device_size):
            return False
        best = self.candidates[0].super_block
        ours, theirs = (
            coarse_signs(self.evidence, each, device_size=device_size) for each in (best, block)
        )
        if self.found is not None and is_other_layout(best, block):
            return ours < theirs
        is_longer = best.md_len > block.md_len and self._breaks_less(best, block, device_size)
        return is_longer or ours[:2] < theirs[:2]

    def _breaks_less(self, best: SuperBlock, block: SuperBlock, device_size: int) -> bool:
        """Tell whether nothing named lies outside of the best layout, but some of the other."""
        ours, theirs = (
            Region.of(self.evidence, each, device_size).broken(self.evidence, counts_high=True)
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
            return f"{exact_size(sizes[0])} to {exact_size(sizes[-1])}"
        return ", ".join(map(exact_size, sizes))


def search_layout(evidence: Evidence, hints: LayoutHints, *, device_size: int) -> LayoutSearch:
    """Return the layouts that fit best to what was found on the device. Pure."""
    starts = metadata_starts(evidence, hints, device_size)
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
    sizes = list(powers_of_two(start.page_size, device_size))
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
    roots = evidence.roots[roots_in_place(evidence, start)]
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
        signs = signs_of(
            evidence, block, known.cluster_bits, device_size, is_guess=reason is _BEFORE_DATA
        )
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
    is_after &= ~evidence.can_be_root | roots_in_place(evidence, start)
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
