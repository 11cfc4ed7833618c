"""Geometry: where everything lies on the device, and conversions between its units (FORMAT 1, 2).

Indices, counts and bytes are converted only here; elsewhere they are never mixed.
"""

import errno
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final, Self

from blobstore.errors import CorruptError, InvalidArgumentError, NoSpaceError
from blobstore.format.mask import MASK_HEAD_SIZE, mask_pages
from blobstore.format.super_block import MaskRegion, SuperBlock
from blobstore.units import BlobId, ClusterIndex, PageIndex, ceil_div, exact_size

DEFAULT_PAGE_SIZE: Final = 4096
LARGEST_PAGE_SIZE: Final = 1 << 24
"""More than any device's block; a page's slot is read whole where many are read at once."""
DEFAULT_IO_UNIT_SIZE: Final = 4096
BLOB_ID_BASE: Final = 0x1_0000_0000
MAX_CLUSTERS: Final = 0xFFFF_FFFE
"""A larger number does not fit into 32 bits, and not every cluster could have a metadata page."""

_METADATA_SHARE: Final = 4
"""Unless the original's default is larger, metadata takes at most one part in this many."""
_EXPECTED_PAGE_SIZE: Final = f"expected a power of two from {DEFAULT_PAGE_SIZE} up"


def blob_id_of(root: PageIndex) -> BlobId:
    """Return the id of the blob whose root page is `root`."""
    return BlobId(BLOB_ID_BASE | root)


def root_of(blob_id: BlobId) -> PageIndex:
    """Return the root page that the id names; the caller checks that it lies in the region."""
    return PageIndex(blob_id - BLOB_ID_BASE)


@dataclass(frozen=True, slots=True)
class Geometry:
    """The layout of one store; all fields are checked against each other."""

    size_bytes: int
    cluster_size: int
    page_size: int
    io_unit_size: int
    used_pages: MaskRegion
    used_clusters: MaskRegion
    used_blob_ids: MaskRegion
    md_start: int
    md_len: int
    total_clusters: int = field(init=False, repr=False, compare=False)
    md_clusters: int = field(init=False, repr=False, compare=False)
    data_clusters: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Derive the clusters: of the whole device, those that the metadata takes, the others.

        They are asked for again and again. A layout that makes no sense has none.
        """
        total = self.size_bytes // self.cluster_size if self.cluster_size else 0
        per_cluster = self.cluster_size // self.page_size if self.page_size else 0
        metadata = ceil_div(self.md_start + self.md_len, per_cluster) if per_cluster else 0
        object.__setattr__(self, "total_clusters", total)
        object.__setattr__(self, "md_clusters", metadata)
        object.__setattr__(self, "data_clusters", total - metadata)

    @classmethod
    def compute(
        cls,
        *,
        size_bytes: int,
        cluster_size: int,
        page_size: int,
        io_unit_size: int,
        md_pages: int | None,
        max_size: int | None = None,
    ) -> Self:
        """Lay out a new store that can grow to `max_size` bytes.

        By default there is a metadata page for each cluster that the store can ever have, as in
        the original. Where these would take too much of the device, there are fewer.

        Raises:
            InvalidArgumentError: Sizes that do not fit each other (EINVAL).
            NoSpaceError: A cluster larger than the device (ENOSPC), or metadata that
                does not fit (ENOMEM).
        """
        _check_new_sizes(size_bytes, cluster_size, page_size, md_pages, max_size)
        if io_unit_size <= 0 or page_size % io_unit_size:
            raise InvalidArgumentError(
                f"io unit size {io_unit_size}: does not divide the page size {page_size}"
            )
        nothing = MaskRegion(0, 0)
        bare = cls(
            size_bytes, cluster_size, page_size, io_unit_size, nothing, nothing, nothing, 0, 0
        )
        bit_count = 0 if max_size is None else ceil_div(max_size, cluster_size)
        if md_pages is None:
            return bare._with_default_pages(bit_count)._that_fits()
        return bare._with_pages(md_pages, bit_count)._that_fits()

    def _with_pages(self, md_len: int, bit_count: int) -> Self:
        """Lay out `md_len` metadata pages, and masks that have room for `bit_count` clusters."""
        page_mask = mask_pages(max(md_len, bit_count), self.page_size)
        cluster_mask = mask_pages(self.total_clusters, self.page_size)
        cluster_start = 1 + page_mask
        id_start = cluster_start + max(cluster_mask, page_mask)
        return replace(
            self,
            used_pages=MaskRegion(1, page_mask),
            used_clusters=MaskRegion(cluster_start, cluster_mask),
            used_blob_ids=MaskRegion(id_start, page_mask),
            md_start=id_start + page_mask,
            md_len=md_len,
        )

    def _with_default_pages(self, bit_count: int) -> Self:
        """Lay out the default number of metadata pages.

        That is one page for each cluster that the store can ever have, as long as these pages take
        no more than a quarter of the device. Otherwise the number is what fits into a quarter, or
        the original's default, if that is larger and fits.
        """
        original = self._with_pages(self.total_clusters, bit_count)
        wanted = self._with_pages(max(self.total_clusters, bit_count), bit_count)
        budget = self.total_clusters // _METADATA_SHARE * self.pages_per_cluster
        if wanted.metadata_pages <= budget or (wanted == original and original._fits):
            return wanted
        fewer = self._with_pages(max(1, budget), bit_count)
        while fewer.metadata_pages > budget and fewer.md_len > 1:
            excess = fewer.metadata_pages - budget
            fewer = self._with_pages(max(1, fewer.md_len - excess), bit_count)
        return original if original._fits and original.md_len > fewer.md_len else fewer

    @property
    def _fits(self) -> bool:
        return self.md_clusters <= self.total_clusters

    def _that_fits(self) -> Self:
        """Return the layout, if its metadata lies on the device.

        Raises:
            NoSpaceError: It does not (ENOMEM).
        """
        if not self._fits:
            raise NoSpaceError(
                f"metadata: {self.md_clusters} clusters, but the device has {self.total_clusters}; "
                "fewer md_pages or a smaller max_size would take less",
                errno=errno.ENOMEM,
            )
        return self

    @classmethod
    def of(cls, super_block: SuperBlock, *, device_size: int) -> Self:
        """Take the layout from a super block.

        Raises:
            CorruptError: A field that cannot be, naming it.
        """
        layout = cls.claimed_by(super_block, device_size=device_size)
        for _invariant, message in layout.broken_rules(device_size):
            raise CorruptError(f"super block: {message}")
        return layout

    @classmethod
    def claimed_by(cls, super_block: SuperBlock, *, device_size: int) -> Self:
        """Take the layout from a super block as it stands; it need not make sense."""
        return cls(
            size_bytes=super_block.size_bytes or device_size,
            cluster_size=super_block.cluster_size,
            page_size=super_block.md_page_size or DEFAULT_PAGE_SIZE,
            io_unit_size=super_block.io_unit_size or DEFAULT_IO_UNIT_SIZE,
            used_pages=super_block.used_pages,
            used_clusters=super_block.used_clusters,
            used_blob_ids=super_block.used_blob_ids,
            md_start=super_block.md_start,
            md_len=super_block.md_len,
        )

    @property
    def pages_per_cluster(self) -> int:
        return self.cluster_size // self.page_size

    @property
    def metadata_pages(self) -> int:
        """Pages, counted from the device's beginning, that the metadata takes."""
        return self.md_start + self.md_len

    @property
    def metadata_end(self) -> int:
        """The first byte after the metadata region."""
        return self.metadata_pages * self.page_size

    @property
    def max_growable_size(self) -> int:
        """The size in bytes that the store can ever be grown to, as the original counts it."""
        return self._mask_bytes(self.used_pages.length) * 8 * self.cluster_size

    @property
    def growth_limit(self) -> int:
        """The size in bytes that the cluster mask really has room for."""
        return self._mask_bytes(self.cluster_mask_room) * 8 * self.cluster_size

    @property
    def cluster_mask_room(self) -> int:
        """Pages from the cluster mask's start to what follows it."""
        follower = self.used_blob_ids.start if self.used_blob_ids.length else self.md_start
        return follower - self.used_clusters.start

    def page_offset(self, page: PageIndex) -> int:
        """Return the byte at which a metadata page lies."""
        return (self.md_start + page) * self.page_size

    def cluster_offset(self, cluster: ClusterIndex) -> int:
        """Return the byte at which a cluster lies."""
        return cluster * self.cluster_size

    def region_offset(self, region: MaskRegion) -> int:
        return region.start * self.page_size

    def region_bytes(self, region: MaskRegion) -> int:
        return region.length * self.page_size

    def names_root(self, blob_id: int) -> bool:
        """Tell whether the id names a page of the metadata region."""
        return BLOB_ID_BASE <= blob_id < BLOB_ID_BASE + self.md_len

    def grown_to(self, size_bytes: int) -> "Geometry":
        """Return the layout after the device has grown.

        Raises:
            CorruptError: The device is smaller than the store (EILSEQ).
            NoSpaceError: The cluster mask has no room for all clusters (ENOSPC).
        """
        if size_bytes < self.size_bytes:
            raise CorruptError(f"device: {size_bytes} bytes, but the store has {self.size_bytes}")
        length = mask_pages(size_bytes // self.cluster_size, self.page_size)
        if length > self.cluster_mask_room:
            raise NoSpaceError(
                f"device: {size_bytes} bytes, but the store can grow to {self.growth_limit}; "
                "a larger max_size when it was made would have left room for more"
            )
        if size_bytes // self.cluster_size > MAX_CLUSTERS:
            raise NoSpaceError(f"device: {size_bytes} bytes, too many clusters")
        return Geometry(
            size_bytes=size_bytes,
            cluster_size=self.cluster_size,
            page_size=self.page_size,
            io_unit_size=self.io_unit_size,
            used_pages=self.used_pages,
            used_clusters=MaskRegion(self.used_clusters.start, length),
            used_blob_ids=self.used_blob_ids,
            md_start=self.md_start,
            md_len=self.md_len,
        )

    def _mask_bytes(self, pages: int) -> int:
        return pages * self.page_size - MASK_HEAD_SIZE

    def broken_rules(self, device_size: int) -> Iterator[tuple[int, str]]:
        """Yield what cannot be: the number of the invariant (3 to 7), and how it is broken.

        Fields that are counted in a broken unit are not checked.
        """
        is_page_right = _can_be_page_size(self.page_size)
        if not is_page_right:
            yield 4, f"metadata page size {self.page_size}: {_EXPECTED_PAGE_SIZE}"
        elif not 0 < self.io_unit_size <= self.page_size or self.page_size % self.io_unit_size:
            yield 4, f"io unit size {self.io_unit_size} does not divide {self.page_size}"
        unit = self.page_size if is_page_right else DEFAULT_PAGE_SIZE
        is_cluster_right = self.cluster_size > 0 and self.cluster_size % unit == 0
        if not is_cluster_right:
            yield 3, f"cluster size {self.cluster_size}, expected a multiple of {unit}"
        if self.size_bytes > device_size:
            yield 5, f"the store has {self.size_bytes} bytes, the device {device_size}"
        if is_cluster_right and self.total_clusters > MAX_CLUSTERS:
            yield 3, f"{self.total_clusters} clusters"
        yield from self._misplaced_regions()
        if is_page_right:
            yield from self._short_masks(is_cluster_right=is_cluster_right)

    def _misplaced_regions(self) -> Iterator[tuple[int, str]]:
        metadata = MaskRegion(self.md_start, self.md_len)
        regions = [("used page mask", self.used_pages), ("used cluster mask", self.used_clusters)]
        if self.used_blob_ids.length:
            regions.append(("used blob id mask", self.used_blob_ids))
        at = 1
        for name, region in [*regions, ("metadata", metadata)]:
            if region.length == 0:
                yield 6, f"{name} is empty"
            if region.start < at:
                yield 6, f"{name} starts at page {region.start}, before {at}"
            at = max(at, region.start + region.length)
        if _can_be_page_size(self.page_size) and at * self.page_size > self.size_bytes:
            yield 6, f"metadata ends at {at * self.page_size}, the store at {self.size_bytes}"

    def _short_masks(self, *, is_cluster_right: bool) -> Iterator[tuple[int, str]]:
        masks = [
            ("used page mask", self.used_pages, self.md_len),
            ("used blob id mask", self.used_blob_ids, self.md_len),
        ]
        if is_cluster_right:
            masks.insert(1, ("used cluster mask", self.used_clusters, self.total_clusters))
            if self.metadata_end <= self.size_bytes and self.md_clusters > self.total_clusters:
                yield (
                    7,
                    (
                        f"metadata ends at {self.metadata_end}, in cluster {self.md_clusters - 1}, "
                        f"but the store has {self.total_clusters}"
                    ),
                )
        for name, region, bits in masks:
            if region.length and region.length < mask_pages(bits, self.page_size):
                yield 7, f"{name} of {region.length} pages for {bits} bits"


def _check_new_sizes(
    size: int, cluster_size: int, page_size: int, md_pages: int | None, max_size: int | None
) -> None:
    if not _can_be_page_size(page_size):
        raise InvalidArgumentError(f"metadata page size {page_size}: {_EXPECTED_PAGE_SIZE}")
    if cluster_size < page_size or cluster_size % page_size or cluster_size >= 1 << 32:
        raise InvalidArgumentError(
            f"cluster size {exact_size(cluster_size)}: "
            f"expected a multiple of the page size {exact_size(page_size)} below 4 GiB"
        )
    if md_pages is not None and not 0 < md_pages < 0xFFFF_FFFF:
        raise InvalidArgumentError(f"metadata pages {md_pages}: expected at least 1")
    if max_size is not None and max_size < size:
        raise InvalidArgumentError(
            f"max_size {exact_size(max_size)}: expected at least the size, {exact_size(size)}"
        )
    if cluster_size > size:
        raise NoSpaceError(
            f"cluster size {exact_size(cluster_size)}: the device has {exact_size(size)}"
        )
    most = max(size, max_size or 0) // cluster_size
    if most > MAX_CLUSTERS:
        raise InvalidArgumentError(
            f"cluster size {exact_size(cluster_size)}: "
            f"{most} clusters, expected at most {MAX_CLUSTERS}"
        )


def _can_be_page_size(size: int) -> bool:
    return DEFAULT_PAGE_SIZE <= size <= LARGEST_PAGE_SIZE and size & (size - 1) == 0
