"""The metadata page: one link of a blob's chain, or an extent page (FORMAT 4)."""

import errno
import struct
from dataclasses import dataclass
from typing import Final, Self

from blobstore.errors import CorruptError
from blobstore.format.checksum import crc32c
from blobstore.operations import Buffer
from blobstore.units import BlobId, PageIndex

PAGE_SIZE: Final = 4096
NO_PAGE: Final = PageIndex(0xFFFF_FFFF)

HEAD: Final = struct.Struct("<QII")  # blob id, sequence number, reserved
TAIL: Final = struct.Struct("<II")  # next page, crc of all that precedes it
CRC_OFFSET: Final = PAGE_SIZE - 4
BODY_SIZE: Final = PAGE_SIZE - HEAD.size - TAIL.size
assert BODY_SIZE == 4072

_unpack_head: Final = HEAD.unpack_from
_unpack_tail: Final = TAIL.unpack_from
_TAIL_OFFSET: Final = PAGE_SIZE - TAIL.size


@dataclass(frozen=True, slots=True)
class MetadataPage:
    """One decoded page; `body` still holds its descriptors as bytes."""

    blob_id: BlobId
    sequence: int
    body: bytes
    next_page: PageIndex
    reserved: int = 0

    @classmethod
    def decode(cls, data: Buffer, *, at: PageIndex) -> Self:
        """Decode the page read from index `at`.

        Raises:
            CorruptError: The checksum does not match the content (EINVAL).
        """
        blob_id, sequence, next_page = open_page(data, at=at)
        _blob_id, _sequence, reserved = HEAD.unpack_from(data)
        return cls(blob_id, sequence, bytes(body_of(data)), next_page, reserved)

    def encode(self) -> bytes:
        """Return the page's 4096 bytes; a short body is continued with zeroes."""
        if len(self.body) > BODY_SIZE:
            raise AssertionError(f"{len(self.body)} bytes of descriptors in a page")
        content = b"".join(
            (
                HEAD.pack(self.blob_id, self.sequence, self.reserved),
                self.body.ljust(BODY_SIZE, b"\0"),
                self.next_page.to_bytes(4, "little"),
            )
        )
        return content + crc32c(content).to_bytes(4, "little")


def open_page(data: Buffer, *, at: PageIndex) -> tuple[BlobId, int, PageIndex]:
    """Return the blob id, the sequence number and the next page of the page read from `at`.

    Raises:
        CorruptError: The checksum does not match the content (EINVAL).
    """
    next_page, crc_found = _unpack_tail(data, _TAIL_OFFSET)
    if crc_found != crc32c(data[:CRC_OFFSET]):
        raise wrong_crc(data, at=at)
    blob_id, sequence, _reserved = _unpack_head(data)
    return blob_id, sequence, next_page


def wrong_crc(data: Buffer, *, at: PageIndex) -> CorruptError:
    """Return the error of a page whose checksum does not match its content (EINVAL)."""
    _next_page, found = _unpack_tail(data, _TAIL_OFFSET)
    return CorruptError(
        f"page {at}: crc {found:#010x}, expected {crc32c(data[:CRC_OFFSET]):#010x}",
        errno=errno.EINVAL,
    )


def body_of(data: Buffer) -> memoryview:
    """Return the part of a page that holds descriptors."""
    return memoryview(data)[HEAD.size : _TAIL_OFFSET]


def has_right_crc(page: Buffer) -> bool:
    """Tell whether the checksum of a page's 4096 bytes matches their content."""
    view = memoryview(page)
    return int.from_bytes(view[CRC_OFFSET:], "little") == crc32c(view[:CRC_OFFSET])
