"""The bytes of a store, and how to change what they say without breaking a checksum."""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from bitarray import bitarray

from blobstore.errors import CorruptError
from blobstore.format.checksum import crc32c
from blobstore.format.descriptors import (
    CLUSTERS_PER_EXTENT_PAGE,
    HAS_INTERNAL_XATTRS,
    ExtentPage,
    ExtentTable,
    Flags,
    Runs,
    Xattr,
)
from blobstore.format.geometry import Geometry, root_of
from blobstore.format.mask import (
    MASK_BLOB_IDS,
    MASK_CLUSTERS,
    MASK_HEAD_SIZE,
    MASK_PAGES,
    decode_mask,
)
from blobstore.format.page import CRC_OFFSET, HEAD, NO_PAGE, PAGE_SIZE, MetadataPage
from blobstore.format.root import TAIL_OFFSET, Layout, layout_of
from blobstore.format.super_block import SUPER_BLOCK_SIZE, MaskRegion, SuperBlock
from blobstore.metadata.blob_state import SNAP
from blobstore.units import BlobId, PageIndex
from tests.descriptors import Descriptor, decode_descriptors, encode_descriptors

Edit = Callable[[list[Descriptor]], Sequence[Descriptor]]

_U32: Final = struct.Struct("<I")


@dataclass(slots=True)
class StoreImage:
    """A store's bytes with its layout as it is decoded, and its blobs by name.

    `free_pages` and `free_clusters` are those of the sound store, highest
    first: the store itself would use them last.
    """

    data: bytearray
    geometry: Geometry
    names: Mapping[str, BlobId]
    free_pages: list[PageIndex]
    free_clusters: list[int]

    @classmethod
    def of(cls, clean: bytes, content: bytes, names: Mapping[str, BlobId]) -> "StoreImage":
        """Take `content` apart; the masks of the same store when `clean` say what is free."""
        super_block = SuperBlock.decode(clean[:SUPER_BLOCK_SIZE])
        geometry = Geometry.of(super_block, device_size=len(clean))
        pages = _mask(clean, geometry, MASK_PAGES) | _mask(clean, geometry, MASK_BLOB_IDS)
        clusters = _mask(clean, geometry, MASK_CLUSTERS)
        return cls(
            data=bytearray(content),
            geometry=geometry,
            names=names,
            free_pages=[PageIndex(at) for at in reversed(list(pages.search(False)))],
            free_clusters=list(reversed(list(clusters.search(False)))),
        )

    # The super block

    def patch_super_block(self, offset: int, value: bytes) -> None:
        """Change bytes of the super block, and make its checksum right again."""
        self.data[offset : offset + len(value)] = value
        self._fix_crc(0)

    def _fix_crc(self, offset: int) -> None:
        crc = crc32c(self.data[offset : offset + CRC_OFFSET])
        _U32.pack_into(self.data, offset + CRC_OFFSET, crc)

    # Masks

    def mask_offset(self, kind: int) -> int:
        """Return the byte at which a mask starts."""
        return self.geometry.region_offset(_region(self.geometry, kind))

    def mark(self, kind: int, index: int, used: bool) -> None:
        """Set or clear one bit of a mask."""
        at = self.mask_offset(kind) + MASK_HEAD_SIZE + index // 8
        bit = 1 << index % 8
        self.data[at] = self.data[at] | bit if used else self.data[at] & ~bit

    # Pages

    def page_bytes(self, page: PageIndex) -> bytes:
        """Return a metadata page as it stands there."""
        offset = self.geometry.page_offset(page)
        return bytes(self.data[offset : offset + PAGE_SIZE])

    def put_bytes(self, page: PageIndex, content: bytes) -> None:
        """Replace a metadata page, checksum and all."""
        offset = self.geometry.page_offset(page)
        self.data[offset : offset + PAGE_SIZE] = content

    def flip(self, page: PageIndex, at: int = HEAD.size) -> None:
        """Change one byte of a page, and leave its checksum wrong."""
        self.data[self.geometry.page_offset(page) + at] ^= 0x55

    def decoded(self, page: PageIndex) -> MetadataPage:
        """Return a sound metadata page."""
        return MetadataPage.decode(self.page_bytes(page), at=page)

    def rewrite(
        self,
        page: PageIndex,
        *,
        blob_id: BlobId | None = None,
        sequence: int | None = None,
        next_page: int | None = None,
        body: bytes | None = None,
    ) -> None:
        """Change the fields of a page that are given; its layout stays."""
        old = self.decoded(page)
        new = replace(
            old,
            blob_id=old.blob_id if blob_id is None else blob_id,
            sequence=old.sequence if sequence is None else sequence,
            next_page=old.next_page if next_page is None else PageIndex(next_page),
            body=old.body if body is None else body,
        )
        self.put_bytes(page, new.encode())

    def edit(self, page: PageIndex, change: Edit) -> None:
        """Replace the descriptors of a page; a root in the sector layout stays in it."""
        body = self.decoded(page).body
        start = self.descriptors_offset(page) - HEAD.size
        encoded = encode_descriptors(change(self.descriptors(page)))
        if len(encoded) > len(body) - start:
            raise AssertionError(f"page {page}: {len(encoded)} bytes of descriptors")
        self.rewrite(page, body=body[:start] + encoded.ljust(len(body) - start, b"\0"))

    def descriptors_offset(self, page: PageIndex) -> int:
        """Return the byte of the page at which its first descriptor stands."""
        is_sector = layout_of(self.page_bytes(page)) is Layout.SECTOR
        return TAIL_OFFSET if is_sector else HEAD.size

    def patch_page(self, page: PageIndex, at: int, value: bytes) -> None:
        """Change bytes of a page, and make its checksum right again."""
        offset = self.geometry.page_offset(page)
        self.data[offset + at : offset + at + len(value)] = value
        self._fix_crc(offset)

    def descriptors(self, page: PageIndex) -> list[Descriptor]:
        """Return what a page says, the padding of the sector layout left out."""
        found = decode_descriptors(self.decoded(page).body, place=f"page {page}")
        return found if self.descriptors_offset(page) == HEAD.size else found[1:]

    # Blobs

    def root(self, name: str) -> PageIndex:
        """Return the root page of a blob."""
        return root_of(self.names[name])

    def edit_root(self, name: str, change: Edit) -> None:
        """Replace the descriptors in a blob's root page."""
        self.edit(self.root(name), change)

    def chain(self, name: str) -> list[PageIndex]:
        """Return all pages of a blob's chain, its root first."""
        pages = [self.root(name)]
        while (following := self.decoded(pages[-1]).next_page) != NO_PAGE:
            if following in pages or following >= self.geometry.md_len:
                raise CorruptError(f"blob {name}: its chain is broken already")
            pages.append(following)
        return pages

    def extents_page(self, name: str) -> PageIndex:
        """Return the page of the chain that has the blob's extents."""
        for page in self.chain(name):
            if any(isinstance(found, (Runs, ExtentTable)) for found in self.descriptors(page)):
                return page
        raise CorruptError(f"blob {name}: no extents")

    def table(self, name: str) -> ExtentTable:
        """Return a blob's extent table."""
        for found in self.descriptors(self.extents_page(name)):
            if isinstance(found, ExtentTable):
                return found
        raise CorruptError(f"blob {name}: no extent table")

    def extent_pages(self, name: str) -> list[PageIndex]:
        """Return the extent pages that a blob has."""
        return [PageIndex(page) for page, _count in self.table(name).entries if page]

    def clusters(self, name: str) -> list[int]:
        """Return the clusters that a blob owns, in order."""
        first = self.descriptors(self.extents_page(name))
        for found in first:
            if isinstance(found, Runs):
                return [at + n for at, count in found.runs if at for n in range(count)]
        pages = [extents_of(self.descriptors(page)) for page in self.extent_pages(name)]
        return [cluster for page in pages for cluster in entries_of(page) if cluster]

    def put_table(self, name: str, *tables: ExtentTable) -> None:
        """Replace a blob's extent table, by several if need be."""
        self.replace_extents(name, *tables)

    def replace_extents(self, name: str, *extents: Descriptor) -> None:
        """Replace what says where a blob's clusters are."""

        def change(found: list[Descriptor]) -> list[Descriptor]:
            return [item for item in found if not isinstance(item, (Runs, ExtentTable))] + [
                *extents
            ]

        self.edit(self.extents_page(name), change)

    def put_cluster(self, name: str, cluster: int, *, instead_of: int) -> None:
        """Exchange one cluster of a blob for another."""
        if any(isinstance(d, Runs) for d in self.descriptors(self.extents_page(name))):
            swapped = [cluster if c == instead_of else c for c in self.clusters(name)]
            self.replace_extents(name, Runs(tuple((at, 1) for at in swapped)))
            return
        for page in self.extent_pages(name):
            extents = extents_of(self.descriptors(page))
            entries = entries_of(extents)
            if instead_of in entries:
                entries[entries.index(instead_of)] = cluster
                self.put_extent_page(page, extents.first, entries)

    def put_extent_page(self, page: PageIndex, first: int, entries: Sequence[int]) -> None:
        """Replace the content of an extent page."""
        content = struct.pack(f"<{len(entries)}I", *entries)
        self.edit(page, lambda _found: [ExtentPage(first, content)])

    def set_flags(
        self, name: str, *, add: int = 0, drop: int = 0, data_ro: int | None = None
    ) -> None:
        """Change flags of a blob: `add` and `drop` are of those that a reader must know."""

        def change(found: list[Descriptor]) -> list[Descriptor]:
            return [_with_flags(item, add, drop, data_ro) for item in found]

        self.edit_root(name, change)

    def set_internal(self, name: str, attribute: str, value: bytes) -> None:
        """Give a blob an internal attribute, in front of its extents, with the flag for it."""

        def change(found: list[Descriptor]) -> list[Descriptor]:
            kept = [d for d in found if not (isinstance(d, Xattr) and d.name == attribute)]
            at = max(n + 1 for n, d in enumerate(kept) if isinstance(d, (Flags, Xattr)))
            return [*kept[:at], Xattr(attribute, value, internal=True), *kept[at:]]

        self.edit_root(name, change)
        self.set_flags(name, add=HAS_INTERNAL_XATTRS)

    def set_parent(self, name: str, parent: int) -> None:
        """Make a blob say that it is a clone."""
        self.set_internal(name, SNAP, parent.to_bytes(8, "little"))


def entries_of(extents: ExtentPage) -> list[int]:
    """Return the clusters of an extent page, holes included."""
    count = len(extents.clusters) // 4
    assert count <= CLUSTERS_PER_EXTENT_PAGE
    return list(struct.unpack(f"<{count}I", extents.clusters))


def extents_of(descriptors: Sequence[Descriptor]) -> ExtentPage:
    """Return the content of an extent page."""
    (found,) = descriptors
    assert isinstance(found, ExtentPage)
    return found


def _with_flags(item: Descriptor, add: int, drop: int, data_ro: int | None) -> Descriptor:
    if not isinstance(item, Flags):
        return item
    read_only = item.data_ro if data_ro is None else data_ro
    return Flags((item.invalid | add) & ~drop, read_only, item.md_ro)


def _region(geometry: Geometry, kind: int) -> MaskRegion:
    return {
        MASK_PAGES: geometry.used_pages,
        MASK_CLUSTERS: geometry.used_clusters,
        MASK_BLOB_IDS: geometry.used_blob_ids,
    }[kind]


def _mask(content: bytes, geometry: Geometry, kind: int) -> bitarray:
    region = _region(geometry, kind)
    start = geometry.region_offset(region)
    data = content[start : start + geometry.region_bytes(region)]
    count = geometry.total_clusters if kind == MASK_CLUSTERS else geometry.md_len
    return decode_mask(data, kind=kind, bit_count=count)
