"""What speaks for a layout, and what against it (FORMAT 2). Pure.

The cluster size is written down in the super block only. A layout is judged by
these signs, the most telling first:

1. No metadata page names a cluster that would lie within the metadata.
2. All that is written after the metadata lies in clusters that blobs own.
3. All clusters that are named lie on the device.
4. The lowest cluster in use follows the metadata: clusters are taken lowest first.
   Where the metadata takes one cluster, that says nothing.
5. The mask of used clusters has as many bits as there are clusters on the device.

A super block whose checksum is right is judged by coarser ones: damaged pages
must not speak against it.
"""

from typing import Final, NamedTuple

import numpy as np

from blobstore.format.geometry import DEFAULT_PAGE_SIZE, Geometry
from blobstore.format.mask import MASK_BLOB_IDS, MASK_CLUSTERS, MASK_PAGES
from blobstore.format.page import PAGE_SIZE
from blobstore.format.super_block import SuperBlock
from blobstore.fsck.evidence import Evidence
from blobstore.fsck.metadata_start import MetadataStart, roots_in_place
from blobstore.metadata.page_arrays import Flagged

_ALL_MASKS: Final = 3


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


class Region(NamedTuple):
    """What pages in a metadata region name."""

    layout: Geometry
    start: MetadataStart
    is_inside: Flagged
    strays: int
    """Roots that name their places outside of the region."""

    @classmethod
    def of(cls, evidence: Evidence, block: SuperBlock, device_size: int) -> "Region":
        """Look at the pages in the region of a layout."""
        layout = Geometry.claimed_by(block, device_size=device_size)
        start = MetadataStart(layout.page_size, layout.md_start, 0)
        first, end = start.md_start * start.unit, (layout.md_start + layout.md_len) * start.unit
        is_inside = (evidence.places >= first) & (evidence.places < end)
        in_place = roots_in_place(evidence, start)
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


def signs_of(
    evidence: Evidence, block: SuperBlock, cluster_bits: int, device_size: int, *, is_guess: bool
) -> Signs:
    """Judge a candidate; `is_guess` tells that its metadata ends where the clusters begin."""
    region = Region.of(evidence, block, device_size)
    on_device = device_size // block.cluster_size
    lowest = evidence.lowest_cluster[region.is_inside].min(initial=1 << 62)
    highest = evidence.highest_cluster[region.is_inside].max(initial=-1)
    return Signs(
        contradictions=region.broken(evidence),
        is_not_covered=not _is_covered(evidence, region.layout),
        is_beyond_device=bool(max(highest, cluster_bits - 1) >= on_device),
        is_not_first_free=is_guess or not _is_first(int(lowest), region.layout),
        is_not_filled=cluster_bits != on_device,
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


def coarse_signs(
    evidence: Evidence, block: SuperBlock, *, device_size: int
) -> tuple[bool, bool, bool, bool, bool]:
    """Judge a layout by what no single damaged page or mask can change; smaller is better."""
    region = Region.of(evidence, block, device_size)
    layout, lowest = region.layout, evidence.lowest_cluster[region.is_inside]
    broken = region.broken(evidence, counts_high=True)
    naming = int((evidence.highest_cluster[region.is_inside] > 0).sum()) + region.strays
    return (
        not (roots_in_place(evidence, region.start) & region.is_inside).any(),
        broken * 2 > naming,
        _count_masks(evidence, layout, are_right=False) > 1,
        not _is_covered(evidence, layout),
        layout.size_bytes > device_size and not _is_first(int(lowest.min(initial=0)), layout),
    )


def is_other_layout(one: SuperBlock, other: SuperBlock) -> bool:
    """Tell whether pages and clusters lie elsewhere."""
    return (one.cluster_size, one.md_start, one.md_page_size or DEFAULT_PAGE_SIZE) != (
        other.cluster_size,
        other.md_start,
        other.md_page_size or DEFAULT_PAGE_SIZE,
    )


def is_confirmed(evidence: Evidence, block: SuperBlock, device_size: int) -> bool:
    """Tell whether all three masks lie where a super block has them, as long as it says."""
    layout = Geometry.claimed_by(block, device_size=device_size)
    is_on_device = layout.size_bytes <= device_size
    return is_on_device and _count_masks(evidence, layout, are_right=True) == _ALL_MASKS


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
