"""The super block: what page 0 says of the whole store (FORMAT 2, 8)."""

import struct
from dataclasses import dataclass, replace
from typing import Final, Self

from blobstore.errors import CorruptError
from blobstore.format.checksum import SECTOR_SIZE, balance_sector, crc32c
from blobstore.format.repair_mark import RepairMark
from blobstore.operations import Buffer
from blobstore.units import BlobId

SUPER_BLOCK_SIZE: Final = 4096
SIGNATURE: Final = b"SPDKBLOB"
NEWEST_VERSION: Final = 3
NO_BLOB: Final = BlobId(0xFFFF_FFFF_FFFF_FFFF)
TYPE_SIZE: Final = 16

SUPER_BLOCK_FIELDS: Final = struct.Struct("<8sIIIQIIIIIII16sIIQII")
_HEAD: Final = struct.Struct("<8sIII")  # signature, version, length, clean
_CRC: Final = struct.Struct("<I")
_CRC_OFFSET: Final = SUPER_BLOCK_SIZE - _CRC.size
assert SUPER_BLOCK_FIELDS.size == 96


@dataclass(frozen=True, slots=True)
class MaskRegion:
    """Where a mask lies, in pages from the start of the device."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class SuperBlock:
    """One decoded super block; `reserved` keeps the bytes that belong to no field."""

    version: int
    clean: bool
    super_blob: BlobId
    cluster_size: int
    used_pages: MaskRegion
    used_clusters: MaskRegion
    md_start: int
    md_len: int
    bstype: bytes
    used_blob_ids: MaskRegion
    size_bytes: int
    io_unit_size: int
    md_page_size: int
    reserved: bytes = bytes(_CRC_OFFSET - SUPER_BLOCK_FIELDS.size)

    @classmethod
    def decode(cls, data: Buffer) -> Self:
        """Decode page 0.

        Raises:
            CorruptError: No super block, one of an unknown version, a wrong checksum, or
                the mark of a repair that was cut off.
        """
        mark = RepairMark.decode(bytes(data[:SUPER_BLOCK_SIZE]))
        if mark is not None:
            raise CorruptError(f"super block: {mark.message}")
        signature, version, length, clean = _HEAD.unpack_from(data)
        if signature != SIGNATURE:
            raise CorruptError(
                "no blobstore, or its super block is lost: "
                f"begins with {signature!r}, expected {SIGNATURE!r}"
            )
        if not 1 <= version <= NEWEST_VERSION:
            raise CorruptError(f"super block: version {version}, expected 1 to {NEWEST_VERSION}")
        (crc_found,) = _CRC.unpack_from(data, _CRC_OFFSET)
        crc_expected = crc32c(bytes(data[:_CRC_OFFSET]))
        if crc_found != crc_expected:
            raise CorruptError(f"super block: crc {crc_found:#010x}, expected {crc_expected:#010x}")
        if length != SUPER_BLOCK_SIZE:
            raise CorruptError(f"super block: length {length}, expected {SUPER_BLOCK_SIZE}")
        if clean > 1:
            raise CorruptError(f"super block: clean is {clean}, expected 0 or 1")
        return cls.as_it_stands(data)

    @classmethod
    def as_it_stands(cls, data: Buffer) -> Self:
        """Take the fields of page 0 without judging any of them."""
        (
            _signature, version, _length, clean, super_blob, cluster_size,
            page_start, page_length, cluster_start, cluster_length, md_start, md_len,
            bstype, id_start, id_length, size, io_unit_size, md_page_size,
        ) = SUPER_BLOCK_FIELDS.unpack_from(data)  # fmt: skip
        return cls(
            version=version,
            clean=clean == 1,
            super_blob=BlobId(super_blob),
            cluster_size=cluster_size,
            used_pages=MaskRegion(page_start, page_length),
            used_clusters=MaskRegion(cluster_start, cluster_length),
            md_start=md_start,
            md_len=md_len,
            bstype=bstype,
            used_blob_ids=MaskRegion(id_start, id_length),
            size_bytes=size,
            io_unit_size=io_unit_size,
            md_page_size=md_page_size,
            reserved=bytes(data[SUPER_BLOCK_FIELDS.size : _CRC_OFFSET]),
        )

    def encode(self) -> bytes:
        """Return the 4096 bytes of page 0."""
        body = self._encode_fields() + self.reserved
        return body + _CRC.pack(crc32c(body))

    def _encode_fields(self) -> bytes:
        return SUPER_BLOCK_FIELDS.pack(
            SIGNATURE, self.version, SUPER_BLOCK_SIZE, int(self.clean), self.super_blob,
            self.cluster_size, self.used_pages.start, self.used_pages.length,
            self.used_clusters.start, self.used_clusters.length, self.md_start, self.md_len,
            self.bstype, self.used_blob_ids.start, self.used_blob_ids.length,
            self.size_bytes, self.io_unit_size, self.md_page_size,
        )  # fmt: skip

    def with_changes(
        self,
        *,
        clean: bool | None = None,
        super_blob: BlobId | None = None,
        bstype: bytes | None = None,
        size_bytes: int | None = None,
        used_clusters: MaskRegion | None = None,
    ) -> Self:
        """Return the same with some of the fields that ever change changed."""
        return replace(
            self,
            clean=self.clean if clean is None else clean,
            super_blob=self.super_blob if super_blob is None else super_blob,
            bstype=self.bstype if bstype is None else bstype,
            size_bytes=self.size_bytes if size_bytes is None else size_bytes,
            used_clusters=used_clusters or self.used_clusters,
        )

    def balanced_against(self, found: "SuperBlock") -> Self:
        """Return this super block with reserved bytes that keep `found`'s checksum.

        It then differs from `found` in its first sector only, and one atomic
        write of that sector replaces one by the other.
        """
        old = found.encode()
        reserved_in_sector = self.reserved[: SECTOR_SIZE - SUPER_BLOCK_FIELDS.size - 4]
        sector = balance_sector(old[:SECTOR_SIZE], self._encode_fields() + reserved_in_sector)
        return replace(self, reserved=sector[SUPER_BLOCK_FIELDS.size :] + found.reserved[416:])


assert SECTOR_SIZE - SUPER_BLOCK_FIELDS.size == 416
