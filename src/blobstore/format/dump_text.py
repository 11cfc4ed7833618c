"""The dump: metadata as the text that the original's dump prints, byte for byte.

A dump is for stores that are broken, so nothing here refuses anything: every
length is cut to the page that holds it, and text may be any bytes. Only bytes
that are no super block at all end a dump after its first line.

The caller reads page 0 and prints `dump_super_block`. If `DumpPlan.of` finds a
super block, the caller reads the two masks that it names and the metadata
pages, and prints `dump_page` for each.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Self

from bitarray import bitarray
from bitarray.util import zeros

from blobstore.format.checksum import crc32c
from blobstore.format.descriptors import (
    EXTENT_PAGE,
    EXTENT_TABLE,
    FLAGS,
    HEADER,
    INTERNAL_XATTR,
    PADDING,
    PAIR_SIZE,
    RUNS,
    XATTR,
)
from blobstore.format.geometry import DEFAULT_PAGE_SIZE, LARGEST_PAGE_SIZE
from blobstore.format.mask import MASK_HEAD_SIZE, mask_pages
from blobstore.format.page import BODY_SIZE, CRC_OFFSET, HEAD, NO_PAGE, PAGE_SIZE, TAIL
from blobstore.format.super_block import NO_BLOB, SIGNATURE, SUPER_BLOCK_FIELDS, MaskRegion
from blobstore.operations import Buffer
from blobstore.units import PageIndex

_U32: Final = struct.Struct("<I")
_MASK_HEAD: Final = struct.Struct("<BI")
_FLAGS: Final = struct.Struct("<QQQ")
_XATTR_HEAD: Final = struct.Struct("<HH")
_TABLE_HEAD: Final = struct.Struct("<Q")
_PAIR: Final = struct.Struct("<II")
assert (_MASK_HEAD.size, _PAIR.size) == (MASK_HEAD_SIZE, PAIR_SIZE)

_AS_TEXT: Final = bytes(byte if 0x20 <= byte < 0x7F else ord(".") for byte in range(256))
_VALUE_TEXT_SIZE: Final = 64
"""How many bytes of a value are shown as text; all of them are shown in hex."""

_BYTES_PER_LINE: Final = 16
_SHORT: Final = 8
_INDENT: Final = " " * 15
_NAME_INDENT: Final = b" " * 7


@dataclass(frozen=True, slots=True)
class _FlagName:
    """A value that some bits of a flag word can have, and what it is called."""

    mask: int
    value: int
    name: str


_INVALID_NAMES: Final = (
    _FlagName(0x1, 0x1, "SPDK_BLOB_THIN_PROV"),
    _FlagName(0x2, 0x2, "SPDK_BLOB_INTERNAL_XATTR"),
    _FlagName(0x4, 0x4, "SPDK_BLOB_EXTENT_TABLE"),
)
"""The original's dump has no name for the external snapshot's bit."""

_DATA_RO_NAMES: Final = (_FlagName(0x1, 0x1, "SPDK_BLOB_READ_ONLY"),)
_MD_RO_NAMES: Final = (
    _FlagName(0x3, 0x0, "BLOB_CLEAR_WITH_DEFAULT"),
    _FlagName(0x3, 0x1, "BLOB_CLEAR_WITH_NONE"),
    _FlagName(0x3, 0x2, "BLOB_CLEAR_WITH_UNMAP"),
    _FlagName(0x3, 0x3, "BLOB_CLEAR_WITH_WRITE_ZEROES"),
)


@dataclass(frozen=True, slots=True)
class DumpPlan:
    """What a dump reads after the super block, taken from one that may be broken."""

    clean: bool
    used_pages: MaskRegion
    used_blob_ids: MaskRegion
    md_start: int
    md_len: int
    page_size: int
    io_unit_size: int

    @classmethod
    def of(cls, page: Buffer) -> Self | None:
        """Take the plan from page 0; None where there is no super block to follow.

        A page size that cannot be (none in old stores) counts as 4096.
        """
        fields = SUPER_BLOCK_FIELDS.unpack_from(page)
        if fields[0] != SIGNATURE:
            return None
        page_size: int = fields[17]
        possible = DEFAULT_PAGE_SIZE <= page_size <= LARGEST_PAGE_SIZE
        if not possible or page_size & (page_size - 1):
            page_size = DEFAULT_PAGE_SIZE
        return cls(
            clean=fields[3] != 0,
            used_pages=MaskRegion(fields[6], fields[7]),
            used_blob_ids=MaskRegion(fields[13], fields[14]),
            md_start=fields[10],
            md_len=fields[11],
            page_size=page_size,
            io_unit_size=fields[16],
        )

    def page_offset(self, index: PageIndex) -> int:
        """Return the byte at which a metadata page lies."""
        return (self.md_start + index) * self.page_size

    def page_count(self, device_size: int) -> int:
        """Return how many of the metadata pages lie on the device."""
        return min(self.md_len, max(0, device_size // self.page_size - self.md_start))

    def mask_range(self, region: MaskRegion, *, device_size: int) -> tuple[int, int]:
        """Return offset and length in bytes of a mask: what is on the device and can be meant.

        No mask of `md_len` metadata pages is longer. The length is 0 if no part of the mask
        is on the device; `dump_mask` accepts that, too.
        """
        pages_needed = mask_pages(self.md_len, self.page_size)
        pages_there = max(0, device_size // self.page_size - region.start)
        pages = min(region.length, pages_needed, pages_there)
        return region.start * self.page_size, pages * self.page_size


def dump_super_block(page: Buffer) -> bytes:
    """Return the first lines of a dump; one line only if there is no super block."""
    fields = SUPER_BLOCK_FIELDS.unpack_from(page)
    signature, version, _length, clean, super_blob, cluster_size = fields[:6]
    if signature != SIGNATURE:
        return b'Signature: "' + _until_nul(signature) + b'" (Mismatch)\n'
    super_blob_text = "(None)" if super_blob == NO_BLOB else f"{super_blob:#x}"
    lines = [
        b'Signature: "' + signature + b'" (OK)',
        f"Version: {version}".encode(),
        _crc_line(page),
        b"Blobstore Type: " + _until_nul(fields[12]),
        f"Cluster Size: {cluster_size}".encode(),
        f"Super Blob ID: {super_blob_text}".encode(),
        f"Clean: {clean}".encode(),
        *_region_lines("Used Metadata Page Mask", fields[6:8]),
        *_region_lines("Used Cluster Mask", fields[8:10]),
        *_region_lines("Used Blob ID Mask", fields[13:15]),
        *_region_lines("Metadata", fields[10:12]),
    ]
    return b"".join(line + b"\n" for line in lines)


def dump_mask(data: Buffer, *, bit_count: int) -> bitarray:
    """Return `bit_count` bits of a mask as far as it can be read, the others clear.

    A mask that was never written, or that lies beyond the device, has none.
    """
    bits = bitarray(endian="little")
    if len(data) >= MASK_HEAD_SIZE:
        _kind, length = _MASK_HEAD.unpack_from(data)
        wanted = min(length, bit_count)
        bits.frombytes(bytes(data[MASK_HEAD_SIZE : MASK_HEAD_SIZE - (-wanted // 8)]))
        del bits[wanted:]
    return bits + zeros(bit_count - len(bits), endian="little")


def dump_page(
    index: PageIndex,
    data: Buffer,
    *,
    plan: DumpPlan,
    block_size: int,
    in_used_pages: bool,
    in_used_ids: bool,
) -> bytes:
    """Return the lines for one metadata page; nothing for one that names no blob.

    `block_size` is what the device counts its addresses in.
    """
    blob_id, sequence, _reserved = HEAD.unpack_from(data)
    if blob_id == 0:
        return b""
    next_page, _crc = TAIL.unpack_from(data, PAGE_SIZE - TAIL.size)

    def lba_of(page: int) -> int:
        return plan.page_offset(PageIndex(page)) // block_size

    used_by = (" md" if in_used_pages else "") + (" blob" if in_used_ids else "")
    doubt = "" if plan.clean else " (not clean: dubious)"
    head = (
        "=========\n"
        f"Metadata Page Index: {index} ({index:#x})\n"
        f"Start LBA: {lba_of(index)}\n"
        f"Blob ID: {blob_id:#x}\n"
        f"Sequence: {sequence}\n"
        f"Next: {'None' if next_page == NO_PAGE else next_page}\n"
        f"In used bit array{doubt}:{used_by}\n"
    )
    descriptors = [
        _dump_descriptor(kind, body, lba_of) for kind, body in _split_leniently(bytes(data))
    ]
    return b"".join((head.encode(), _crc_line(data), b"\n", *descriptors))


def _split_leniently(page: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and content of the descriptors; the last one is cut where the page ends."""
    body = page[HEAD.size : HEAD.size + BODY_SIZE]
    at = 0
    while at + HEADER.size <= BODY_SIZE:
        kind, length = HEADER.unpack_from(body, at)
        if kind == PADDING and length == 0:
            return
        at += HEADER.size
        yield kind, body[at : at + length]
        at += length


def _dump_descriptor(kind: int, body: bytes, lba_of: Callable[[int], int]) -> bytes:
    if kind == PADDING:
        return b""
    if kind == RUNS:
        return _dump_runs(body)
    if kind in (XATTR, INTERNAL_XATTR):
        label = b"XATTR" if kind == XATTR else b"XATTR_INTERNAL"
        return _short_xattr(body, label) if len(body) <= _SHORT else _dump_xattr(body, label)
    if kind == FLAGS:
        return _dump_flags(body)
    if kind == EXTENT_TABLE:
        return _dump_table(body, lba_of)
    if kind == EXTENT_PAGE:
        return _dump_extent_page(body)
    return f"Unknown descriptor type {kind}\n".encode()


def _dump_runs(body: bytes) -> bytes:
    lines = [
        f"Allocated Extent - Start: {cluster} Length: {count}\n"
        if cluster
        else f"Unallocated Extent -  Length: {count}\n"
        for cluster, count in _PAIR.iter_unpack(_whole(body, _PAIR.size))
    ]
    return "".join(lines).encode()


def _dump_table(body: bytes, lba_of: Callable[[int], int]) -> bytes:
    entries = _PAIR.iter_unpack(_whole(body[_TABLE_HEAD.size :], _PAIR.size))
    lines = [
        f"\tExtent page: {page:5} length {count:3} at LBA {lba_of(page)}\n"
        for page, count in entries
        if page
    ]
    return "".join(("Extent table:\n", *lines)).encode()


def _dump_extent_page(body: bytes) -> bytes:
    clusters = _U32.iter_unpack(_whole(body[_U32.size :], _U32.size))
    lines = [
        f"Allocated Extent - Start: {cluster}\n" if cluster else "Unallocated Extent\n"
        for (cluster,) in clusters
    ]
    return "".join(lines).encode()


def _dump_xattr(body: bytes, label: bytes) -> bytes:
    name_length, value_length = _XATTR_HEAD.unpack(_padded(body, _XATTR_HEAD.size))
    end_of_name = _XATTR_HEAD.size + name_length
    name = _until_nul(body[_XATTR_HEAD.size : end_of_name])
    value = body[end_of_name : end_of_name + value_length]
    hex_lines = [
        f"{_INDENT}{value[at : at + _BYTES_PER_LINE].hex(' ')} \n".encode()
        for at in range(0, len(value), _BYTES_PER_LINE)
    ]
    return b"".join(
        (
            label + b': name = "' + name + b'"\n',
            _NAME_INDENT + b'value = "' + _printable(value[:_VALUE_TEXT_SIZE]) + b'"\n',
            *hex_lines,
        )
    )


@lru_cache(maxsize=64)
def _short_xattr(body: bytes, label: bytes) -> bytes:
    """Return the text of an attribute that hardly says anything: a page has room for hundreds."""
    return _dump_xattr(body, label)


def _dump_flags(body: bytes) -> bytes:
    return _flags_text(*_FLAGS.unpack(_padded(body, _FLAGS.size)))


@lru_cache(maxsize=64)
def _flags_text(invalid: int, data_ro: int, md_ro: int) -> bytes:
    """Return the text of flags, which few blobs have for themselves."""
    words = (
        ("\tinvalid", invalid, _INVALID_NAMES),
        ("\tdata_ro", data_ro, _DATA_RO_NAMES),
        ("\t  md_ro", md_ro, _MD_RO_NAMES),
    )
    lines = ["Flags:"]
    for label, word, names in words:
        lines += [f"{label}: {word:#018x}", *_flag_lines(word, names)]
    return "".join(line + "\n" for line in lines).encode()


def _flag_lines(word: int, names: tuple[_FlagName, ...]) -> Iterator[str]:
    unknown = word
    for flag in names:
        if word & flag.mask == flag.value:
            unknown &= ~flag.mask
            partial = f" (mask {flag.mask:#x} value {flag.value:#x})"
            yield f"\t\t {flag.value:#018x} {flag.name}" + partial * (flag.mask != flag.value)
    if unknown:
        yield f"\t\t {unknown:#018x} Unknown"


def _region_lines(name: str, region: tuple[int, int]) -> tuple[bytes, bytes]:
    start, length = region
    return f"{name} Start: {start}".encode(), f"{name} Length: {length}".encode()


def _crc_line(page: Buffer) -> bytes:
    (found,) = _U32.unpack_from(page, CRC_OFFSET)
    right = found == crc32c(memoryview(page)[:CRC_OFFSET])
    return f"CRC: {found:#x} ({'OK' if right else 'Mismatch'})".encode()


def _until_nul(text: bytes) -> bytes:
    return text.split(b"\0", 1)[0]


def _printable(value: bytes) -> bytes:
    return value.translate(_AS_TEXT)


def _whole(body: bytes, item_size: int) -> bytes:
    """Return the body without what is left over after its last whole item."""
    return body[: len(body) // item_size * item_size]


def _padded(body: bytes, size: int) -> bytes:
    return body[:size].ljust(size, b"\0")
