"""Forging stores page by page, sound or not, with the codecs of `format` and no care at all."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from bitarray import bitarray

from blobstore.format.checksum import crc32c
from blobstore.format.descriptors import (
    HAS_EXTENT_TABLE,
    HAS_INTERNAL_XATTRS,
    THIN_PROV,
    ExtentPage,
    ExtentTable,
    Flags,
    Runs,
    Xattr,
)
from blobstore.format.geometry import Geometry, blob_id_of
from blobstore.format.mask import MASK_BLOB_IDS, MASK_CLUSTERS, MASK_PAGES, encode_mask, mask_pages
from blobstore.format.page import CRC_OFFSET, HEAD, NO_PAGE, PAGE_SIZE, TAIL
from blobstore.format.super_block import NO_BLOB, SuperBlock
from blobstore.units import PageIndex
from tests.descriptors import Unknown
from tests.proof.image_device import SparseDevice

CLUSTER: Final = 16384
THIN_TABLE: Final = THIN_PROV | HAS_EXTENT_TABLE


def flags(invalid: int = THIN_TABLE, data_ro: int = 0, md_ro: int = 0) -> bytes:
    """Return a flags descriptor; a thin blob's with an extent table unless told otherwise."""
    return Flags(invalid, data_ro, md_ro).encode()


def table(cluster_count: int, *entries: tuple[int, int]) -> bytes:
    """Return an extent table."""
    return ExtentTable(cluster_count, entries).encode()


def runs(*pairs: tuple[int, int]) -> bytes:
    """Return run-length extents."""
    return Runs(pairs).encode()


def xattr(name: str, value: bytes, *, internal: bool = False) -> bytes:
    """Return an attribute."""
    return Xattr(name, value, internal).encode()


def raw(kind: int, body: bytes = b"", *, length: int | None = None) -> bytes:
    """Return any descriptor; `length` is what it says of itself."""
    data = Unknown(kind, body).encode()
    return data if length is None else data[:1] + length.to_bytes(4, "little") + body


def clone_of(
    parent: int, *, name: str = "SNAP", invalid: int = THIN_TABLE, data_ro: int = 0
) -> bytes:
    """Return flags and the internal attribute that name the blob with that root page."""
    value = blob_id_of(PageIndex(parent)).to_bytes(8, "little")
    return flags(invalid | HAS_INTERNAL_XATTRS, data_ro) + xattr(name, value, internal=True)


def extents(first: int, clusters: Sequence[int]) -> bytes:
    """Return an extent page's only descriptor."""
    return ExtentPage(first, b"".join(c.to_bytes(4, "little") for c in clusters)).encode()


class PackedPages(Mapping[int, bytes]):
    """Pages of 4096 bytes, kept without the zeroes in their middle."""

    def __init__(self) -> None:
        self._packed: dict[int, bytes] = {}

    def put(self, number: int, page: bytes) -> None:
        """Keep a page."""
        self._packed[number] = page[: -TAIL.size].rstrip(b"\0") + page[-TAIL.size :]

    def __getitem__(self, number: int) -> bytes:
        packed = self._packed[number]
        return packed[: -TAIL.size].ljust(PAGE_SIZE - TAIL.size, b"\0") + packed[-TAIL.size :]

    def __iter__(self) -> Iterator[int]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


@dataclass(slots=True)
class Forge:
    """A store in the making. Pages are numbered from the start of the metadata region.

    `changes` replace fields of the super block at the end; `mask_head` what every
    mask says of itself: (type, bits). Masks mark all pages, roots and clusters
    that were put, and with `every_cluster` all clusters.
    """

    md_len: int = 64
    cluster_size: int = CLUSTER
    cluster_count: int = 256
    page_size: int = PAGE_SIZE
    clean: bool = True
    every_cluster: bool = True
    device_size: int | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    mask_head: tuple[int, int] | None = None
    packed: PackedPages = field(default_factory=PackedPages)
    roots: set[int] = field(default_factory=set)

    def put(
        self, number: int, blob: int, body: bytes, *, sequence: int = 0, following: int = NO_PAGE
    ) -> None:
        """Put a page with a right checksum."""
        content = HEAD.pack(blob_id_of(PageIndex(blob)), sequence, 0) + body
        content = content.ljust(CRC_OFFSET - 4, b"\0") + following.to_bytes(4, "little")
        self.packed.put(number, content + crc32c(content).to_bytes(4, "little"))

    def root(self, number: int, *descriptors: bytes, following: int = NO_PAGE) -> None:
        """Put a root page."""
        self.roots.add(number)
        self.put(number, number, b"".join(descriptors), following=following)

    def chain(self, first: int, *bodies: bytes) -> None:
        """Put a root and the pages that follow it, in neighbouring places."""
        self.roots.add(first)
        for number, body in enumerate(bodies):
            last = number == len(bodies) - 1
            following = NO_PAGE if last else first + number + 1
            self.put(first + number, first, body, sequence=number, following=following)

    def device(self, *, atomic_write_size: int = 512, read_only: bool = False) -> SparseDevice:
        """Return a device with the store on it."""
        geometry = self._geometry()
        super_block = self._super_block(geometry)
        pieces = _Layered(self._fixed_pieces(geometry, super_block), self.packed, geometry)
        size = geometry.size_bytes if self.device_size is None else self.device_size
        return SparseDevice(size, pieces, atomic_write_size=atomic_write_size, read_only=read_only)

    def _geometry(self) -> Geometry:
        return Geometry.compute(
            size_bytes=self.cluster_count * self.cluster_size,
            cluster_size=self.cluster_size,
            page_size=self.page_size,
            io_unit_size=512,
            md_pages=self.md_len,
        )

    def _super_block(self, geometry: Geometry) -> SuperBlock:
        sound = SuperBlock(
            version=3,
            clean=self.clean,
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
        return replace(sound, **self.changes)

    def _fixed_pieces(self, geometry: Geometry, super_block: SuperBlock) -> dict[int, bytes]:
        """Return the super block, and the masks of a clean store, piece by piece."""
        pieces = {0: super_block.encode()}
        clusters = range(geometry.total_clusters) if self.every_cluster else ()
        metadata = range(geometry.md_clusters)
        for region, kind, count, numbers in (
            (geometry.used_pages, MASK_PAGES, geometry.md_len, self.packed),
            (geometry.used_clusters, MASK_CLUSTERS, geometry.total_clusters, clusters or metadata),
            (geometry.used_blob_ids, MASK_BLOB_IDS, geometry.md_len, self.roots),
        ):
            if self.clean and count <= _LARGEST_MASK:
                length = mask_pages(count, PAGE_SIZE) * PAGE_SIZE
                data = encode_mask(kind, _bits(count, numbers), length)
                first = geometry.region_offset(region) // PAGE_SIZE
                for at in range(0, len(data), PAGE_SIZE):
                    pieces[first + at // PAGE_SIZE] = self._headed(data[at : at + PAGE_SIZE], at)
        return pieces

    def _headed(self, data: bytes, at: int) -> bytes:
        if self.mask_head is None or at:
            return data
        kind, length = self.mask_head
        return bytes([kind]) + length.to_bytes(4, "little") + data[5:]


_LARGEST_MASK: Final = 1 << 25


def _bits(count: int, numbers: Iterable[int]) -> bitarray:
    bits = bitarray(count, endian="little")
    if isinstance(numbers, range):
        bits[numbers.start : numbers.stop] = True
        return bits
    for number in numbers:
        if number < count:
            bits[number] = True
    return bits


class _Layered(Mapping[int, bytes]):
    """The pieces of a device: some as they are, the others metadata pages in their slots."""

    def __init__(
        self, fixed: Mapping[int, bytes], pages: Mapping[int, bytes], geometry: Geometry
    ) -> None:
        self._fixed = fixed
        self._pages = pages
        self._step = geometry.page_size // PAGE_SIZE
        self._start = geometry.md_start * self._step

    def __getitem__(self, number: int) -> bytes:
        piece = self._fixed.get(number)
        if piece is not None:
            return piece
        page, rest = divmod(number - self._start, self._step)
        if rest or page < 0:
            raise KeyError(number)
        return self._pages[page]

    def __iter__(self) -> Iterator[int]:
        yield from self._fixed
        yield from (self._start + page * self._step for page in self._pages)

    def __len__(self) -> int:
        return len(self._fixed) + len(self._pages)
