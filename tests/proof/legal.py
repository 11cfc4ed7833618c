"""A model of what a sound store is: the invariants of CRASH-SAFETY 5, said a second time.

It shares the codecs of `format` with the package and nothing else. Whoever
damages an image asks it whether the damage could be seen at all: an image that
is a sound store of other content is told from the right one by nobody.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from bitarray import bitarray

from blobstore.errors import BlobstoreError, CorruptError
from blobstore.format.chain import ChainContent, decode_chain
from blobstore.format.descriptors import (
    EXTENT_PAGE,
    EXTERNAL_SNAPSHOT,
    HAS_EXTENT_TABLE,
    HAS_INTERNAL_XATTRS,
    KNOWN_DATA_RO,
    KNOWN_INVALID,
    KNOWN_MD_RO,
    READ_ONLY,
    THIN_PROV,
    Flags,
    decode_extent_page,
    split_descriptors,
)
from blobstore.format.geometry import Geometry, blob_id_of
from blobstore.format.mask import MASK_BLOB_IDS, MASK_CLUSTERS, MASK_PAGES
from blobstore.format.page import HEAD, NO_PAGE, PAGE_SIZE, MetadataPage
from blobstore.format.root import is_tombstone, is_uncommitted
from blobstore.format.super_block import MaskRegion, SuperBlock
from blobstore.units import BlobId, PageIndex

_PER_PAGE: Final = 512


def flaw_of(image: bytes | bytearray) -> str | None:
    """Return what is wrong with the store, or None where every invariant holds."""
    try:
        super_block = SuperBlock.decode(image)
        geometry = Geometry.of(super_block, device_size=len(image))
        _Model(image, super_block, geometry).judge()
    except BlobstoreError as error:
        return error.message
    return None


@dataclass(frozen=True, slots=True)
class _Blob:
    """What the model knows of one blob."""

    flags: Flags
    content: ChainContent
    clusters: list[int]


class _Model:
    """One image on its way through the invariants; the first that fails ends it."""

    def __init__(self, image: bytes | bytearray, super_block: SuperBlock, geometry: Geometry):
        self.image = image
        self.geometry = geometry
        self.super_block = super_block
        self.believes_masks = super_block.clean and super_block.used_blob_ids.length > 0
        self.pages: set[int] = set()
        self.clusters: set[int] = set(range(geometry.md_clusters))

    def judge(self) -> None:
        roots = self._roots()
        blobs = {blob_id_of(root): self._blob(root) for root in roots}
        for blob_id, blob in blobs.items():
            self._check_relations(blob_id, blob, blobs)
        if self.believes_masks:
            self._compare(self.geometry.used_pages, MASK_PAGES, self.geometry.md_len, self.pages)
            total = self.geometry.total_clusters
            self._compare(self.geometry.used_clusters, MASK_CLUSTERS, total, self.clusters)

    def _page(self, number: int) -> bytes:
        _expect(number < self.geometry.md_len, f"page {number}: outside of the region")
        at = self.geometry.page_offset(PageIndex(number))
        return bytes(self.image[at : at + PAGE_SIZE])

    def _roots(self) -> list[PageIndex]:
        """Return the roots that the mask names, or else those that say so themselves."""
        found = set(self._roots_in_region())
        if self.believes_masks:
            region = self.geometry.used_blob_ids
            self._compare(region, MASK_BLOB_IDS, self.geometry.md_len, found)
        return [PageIndex(root) for root in sorted(found)]

    def _roots_in_region(self) -> Iterator[int]:
        for number in range(self.geometry.md_len):
            data = self._page(number)
            if data[:12] != HEAD.pack(blob_id_of(PageIndex(number)), 0, 0)[:12]:
                continue
            try:
                MetadataPage.decode(data, at=PageIndex(number))
            except CorruptError:
                left_by_crash = is_uncommitted(data) or is_tombstone(data)
                _expect(left_by_crash, f"page {number}: a lost root")
                continue
            yield number

    def _compare(self, region: MaskRegion, kind: int, count: int, expected: set[int]) -> None:
        at = self.geometry.region_offset(region)
        data = bytes(self.image[at : at + self.geometry.region_bytes(region)])
        head = (data[0], int.from_bytes(data[1:5], "little"))
        _expect(head == (kind, count), f"mask {kind}: type and length {head}")
        bits = bitarray(endian="little")
        bits.frombytes(data[5 : 5 + -(-count // 8)])
        _expect(set(bits[:count].search(True)) == expected, f"mask {kind}: wrong bits")

    def _take(self, owned: set[int], number: int, what: str) -> None:
        _expect(number not in owned, f"{what} {number}: owned twice")
        owned.add(number)

    def _blob(self, root: PageIndex) -> _Blob:
        content = decode_chain(self._bodies(root), place=f"root {root}")
        _expect(not content.unknown_kinds, f"root {root}: unknown descriptors")
        flags = content.flags or Flags()
        clusters = self._clusters(root, content, flags)
        for cluster in filter(None, clusters):
            inside = cluster < self.geometry.total_clusters
            _expect(inside, f"root {root}: cluster {cluster} outside of the store")
            self._take(self.clusters, cluster, "cluster")
        holes_allowed = bool(flags.invalid & THIN_PROV)
        _expect(holes_allowed or 0 not in clusters, f"root {root}: holes in a thick blob")
        return _Blob(flags, content, clusters)

    def _bodies(self, root: PageIndex) -> list[bytes]:
        bodies: list[bytes] = []
        at = root
        while at != NO_PAGE:
            page = MetadataPage.decode(self._page(at), at=at)
            named = (page.blob_id, page.sequence) == (blob_id_of(root), len(bodies))
            _expect(named, f"page {at}: not of the chain of {root}")
            self._take(self.pages, at, "page")
            bodies.append(page.body)
            at = page.next_page
        return bodies

    def _clusters(self, root: PageIndex, content: ChainContent, flags: Flags) -> list[int]:
        """Return the blob's clusters in order; a run of holes, however long, is one 0."""
        has_table = bool(flags.invalid & HAS_EXTENT_TABLE)
        _expect(not (has_table and content.runs), f"root {root}: runs behind a table's flag")
        _expect(has_table or content.table is None, f"root {root}: a table without its flag")
        clusters: list[int] = []
        for first, count in content.runs or []:
            _expect(count > 0, f"root {root}: an empty run")
            inside = first + count <= self.geometry.total_clusters or not first
            _expect(inside, f"root {root}: clusters from {first} on outside of the store")
            clusters += range(first, first + count) if first else [0]
        at = 0
        for page, count in content.table or []:
            _expect(
                count == 1 or (count > 1 and not page), f"root {root}: table run {page} {count}"
            )
            _expect(at % _PER_PAGE == 0, f"root {root}: a short page inside")
            found = self._extents(page, at) if page else [0]
            clusters += found
            at += len(found) if page else _PER_PAGE * count
        return clusters

    def _extents(self, number: int, first: int) -> list[int]:
        place = f"extent page {number}"
        self._take(self.pages, number, "page")
        page = MetadataPage.decode(self._page(number), at=PageIndex(number))
        parts = list(split_descriptors(page.body, place=place))
        alone = len(parts) == 1 and parts[0][0] == EXTENT_PAGE
        _expect(alone and page.sequence == 0 and page.next_page == NO_PAGE, f"{place}: is none")
        extents = decode_extent_page(parts[0][1], place=place)
        _expect(extents.first == first and bool(extents.clusters), f"{place}: wrong range")
        return list(memoryview(extents.clusters).cast("I"))

    def _check_relations(self, blob_id: BlobId, blob: _Blob, blobs: Mapping[BlobId, _Blob]) -> None:
        place = f"blob {blob_id:#x}"
        internal, flags = blob.content.internal_xattrs, blob.flags
        _expect(not flags.invalid & ~KNOWN_INVALID, f"{place}: unknown flags")
        unknown_ro = flags.data_ro & ~KNOWN_DATA_RO or flags.md_ro & ~KNOWN_MD_RO
        _expect(not unknown_ro, f"{place}: unknown read-only flags")
        announced = bool(flags.invalid & HAS_INTERNAL_XATTRS)
        _expect(announced or not internal, f"{place}: internal xattrs without their flag")
        _expect("SNAPTMP" not in internal and "SNAPRM" not in internal, f"{place}: a marker")
        external = bool(flags.invalid & EXTERNAL_SNAPSHOT)
        _expect(external == ("EXTSNAP" in internal), f"{place}: EXTSNAP without its flag")
        if "SNAP" in internal:
            _expect(len(internal["SNAP"]) == 8 and not external, f"{place}: SNAP of a wrong kind")
            _expect(bool(flags.invalid & THIN_PROV), f"{place}: a thick clone")
            self._check_ancestors(blob_id, blobs)

    def _check_ancestors(self, blob_id: BlobId, blobs: Mapping[BlobId, _Blob]) -> None:
        seen = {blob_id}
        blob = blobs[blob_id]
        while "SNAP" in blob.content.internal_xattrs:
            parent = BlobId(int.from_bytes(blob.content.internal_xattrs["SNAP"], "little"))
            _expect(parent in blobs, f"blob {blob_id:#x}: no parent {parent:#x}")
            _expect(parent not in seen, f"blob {blob_id:#x}: its own ancestor")
            seen.add(parent)
            blob = blobs[parent]
            _expect(bool(blob.flags.data_ro & READ_ONLY), f"blob {parent:#x}: a writable parent")


def _expect(holds: bool, message: str) -> None:
    if not holds:
        raise CorruptError(message)
