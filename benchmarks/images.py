"""A store image with many blobs, written page by page: the codecs are called, the store is not.

Ten thousand creates would take longer than everything that is measured with them.
"""

import os
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from blobstore.format.checksum import crc32c
from blobstore.format.descriptors import THIN_PROV, ExtentPage, ExtentTable, Flags
from blobstore.format.geometry import Geometry, blob_id_of
from blobstore.format.page import NO_PAGE, PAGE_SIZE, MetadataPage
from blobstore.format.root import Layout, encode_sector_head, encode_sector_tail
from blobstore.format.super_block import NEWEST_VERSION, NO_BLOB, SuperBlock
from blobstore.units import PageIndex

_CLUSTER_SIZE: Final = 64 * 1024
_WRITE_PAGES: Final = 256


@dataclass(frozen=True, slots=True)
class ManyBlobs:
    """What an image of many blobs holds: each has a root, one extent page and some clusters."""

    blob_count: int
    page_count: int
    clusters_per_blob: int = 8
    layout: Layout = Layout.SECTOR

    @property
    def geometry(self) -> Geometry:
        metadata_bytes = (2 * self.page_count + 4096) * PAGE_SIZE
        clusters = self.blob_count * self.clusters_per_blob
        return Geometry.compute(
            size_bytes=metadata_bytes + clusters * _CLUSTER_SIZE,
            cluster_size=_CLUSTER_SIZE,
            page_size=PAGE_SIZE,
            io_unit_size=512,
            md_pages=self.page_count,
        )

    def root_of(self, number: int) -> PageIndex:
        """Return the root page of a blob; its extent page follows, as if they were made in turn."""
        return PageIndex(2 * number)


def write_dirty_image(path: Path, wanted: ManyBlobs) -> Geometry:
    """Write the image of a store that was not unloaded; empty pages are written too."""
    geometry = wanted.geometry
    with path.open("wb") as image:
        image.truncate(geometry.size_bytes)
        image.write(_super_block(geometry).encode())
        image.seek(geometry.page_offset(PageIndex(0)))
        for number in range(wanted.blob_count):
            image.write(_root(wanted, number))
            image.write(_extent_page(wanted, geometry, number))
        empty = bytes(_WRITE_PAGES * PAGE_SIZE)
        for _ in range(2 * wanted.blob_count, wanted.page_count, _WRITE_PAGES):
            image.write(empty[: geometry.metadata_end - image.tell()])
        image.flush()
        os.fdatasync(image.fileno())
    return geometry


def _super_block(geometry: Geometry) -> SuperBlock:
    return SuperBlock(
        version=NEWEST_VERSION,
        clean=False,
        super_blob=NO_BLOB,
        cluster_size=geometry.cluster_size,
        used_pages=geometry.used_pages,
        used_clusters=geometry.used_clusters,
        md_start=geometry.md_start,
        md_len=geometry.md_len,
        bstype=bytes(16),
        used_blob_ids=geometry.used_blob_ids,
        size_bytes=geometry.size_bytes,
        io_unit_size=geometry.io_unit_size,
        md_page_size=geometry.page_size,
    )


def _root(wanted: ManyBlobs, number: int) -> bytes:
    root = wanted.root_of(number)
    table = ExtentTable(wanted.clusters_per_blob, ((root + 1, 1),))
    body = Flags(THIN_PROV | 1 << 2).encode() + table.encode()
    if wanted.layout is Layout.COMPACT:
        return MetadataPage(blob_id_of(root), 0, body, NO_PAGE).encode()
    head = encode_sector_head(blob_id_of(root))
    return head + encode_sector_tail(body, next_page=NO_PAGE, head_crc=crc32c(head))


def _extent_page(wanted: ManyBlobs, geometry: Geometry, number: int) -> bytes:
    first = geometry.md_clusters + number * wanted.clusters_per_blob
    clusters = array("I", range(first, first + wanted.clusters_per_blob))
    body = ExtentPage(0, clusters.tobytes()).encode()
    return MetadataPage(blob_id_of(wanted.root_of(number)), 0, body, NO_PAGE).encode()


def root_offsets(wanted: ManyBlobs) -> list[int]:
    """Return where the roots lie on the device, in order."""
    numbers = np.arange(wanted.blob_count) * 2 * PAGE_SIZE
    return [int(at) for at in numbers + wanted.geometry.page_offset(PageIndex(0))]
