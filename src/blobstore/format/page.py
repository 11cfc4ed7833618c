"""The metadata page: one link of a blob's chain, or an extent page (FORMAT 4)."""

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

_EINVAL: Final = 22


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
        next_page, crc_found = TAIL.unpack_from(data, PAGE_SIZE - TAIL.size)
        view = memoryview(data)
        crc_expected = crc32c(view[:CRC_OFFSET])
        if crc_found != crc_expected:
            raise CorruptError(
                f"page {at}: crc {crc_found:#010x}, expected {crc_expected:#010x}", errno=_EINVAL
            )
        blob_id, sequence, reserved = HEAD.unpack_from(data)
        body = bytes(view[HEAD.size : HEAD.size + BODY_SIZE])
        return cls(BlobId(blob_id), sequence, body, PageIndex(next_page), reserved)

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


def has_right_crc(page: Buffer) -> bool:
    """Tell whether the checksum of a page's 4096 bytes matches their content."""
    view = memoryview(page)
    return int.from_bytes(view[CRC_OFFSET:], "little") == crc32c(view[:CRC_OFFSET])
