"""The mark of a repair or an undo under way: the last sector of page 0 (CRASH-SAFETY 5).

From the first write of a repair to its last the store must not open, here or
with the original: it is neither what it was nor what it is to be. One atomic
write of 512 bytes says so. It replaces the last sector of page 0, which holds
nothing but reserved bytes and the page's checksum, by this:

      0   8  "BSREPAIR"
      8   4  version: 1
     12   4  1 a repair is under way, 2 an undo
     16  16  id of the undo file, zero where there is none
     32   4  the checksum that page 0 had
     36   8  2 checksums of bytes 0 to 3583 of page 0 that can be believed
     44   4  length n of the undo file's name
     48   n  name, zero-padded to 504
    504   4  checksum of the 504 bytes before
    508   4  page 0's checksum: the complement of the right one

The fields of the super block, bytes 0 to 95, stay where they are: `check` and
`rescue` go on from them, and what they say of the masks stays the evidence of
lost blobs. They are replaced while the mark stands, and the last write of all
is that of the last sector, as it is to be. The checksums of the first seven
sectors tell whether what stands there was sound before the repair, or is what
the repair wrote: then no checksum of the page is needed to believe it.

The name is for people. A path that an image names is never opened; the id tells
whether a file is the one.
"""

import struct
from dataclasses import dataclass
from typing import Final, Self

from blobstore.format.checksum import SECTOR_SIZE, crc32c
from blobstore.format.page import PAGE_SIZE

MARK_OFFSET: Final = PAGE_SIZE - SECTOR_SIZE
UNDO_ID_SIZE: Final = 16

_MAGIC: Final = b"BSREPAIR"
_VERSION: Final = 1
_REPAIR: Final = 1
_UNDO: Final = 2
_FIELDS: Final = struct.Struct("<8sII16sIIII")
_SUM_OFFSET: Final = SECTOR_SIZE - 8
_NAME_MAX: Final = _SUM_OFFSET - _FIELDS.size
_U32: Final = struct.Struct("<I")
_CUT: Final = b"..."
assert _FIELDS.size == 48
assert _NAME_MAX == 456


@dataclass(frozen=True, slots=True)
class RepairMark:
    """What is under way, and the undo file that takes it back; `undo_name` is empty without one.

    `page_crc` is what stood at the end of page 0; `head_crcs` are those of the
    first seven sectors that can be believed.
    """

    is_undo: bool
    undo_id: bytes
    undo_name: bytes
    page_crc: int
    head_crcs: tuple[int, int]

    @classmethod
    def decode(cls, page: bytes) -> Self | None:
        """Return the mark in page 0, or None where there is none."""
        sector = page[MARK_OFFSET:PAGE_SIZE]
        if len(sector) != SECTOR_SIZE or not sector.startswith(_MAGIC):
            return None
        (found,) = _U32.unpack_from(sector, _SUM_OFFSET)
        if found != crc32c(sector[:_SUM_OFFSET]):
            return None
        _magic, version, kind, undo_id, page_crc, old, new, length = _FIELDS.unpack_from(sector)
        if version != _VERSION or kind not in (_REPAIR, _UNDO) or length > _NAME_MAX:
            return None
        name = sector[_FIELDS.size : _FIELDS.size + length]
        return cls(kind == _UNDO, undo_id, name, page_crc, (old, new))

    def encode(self, head: bytes) -> bytes:
        """Return the last sector of page 0 after `head`, the bytes before it."""
        name = self.undo_name
        if len(name) > _NAME_MAX:
            name = _CUT + name[len(_CUT) - _NAME_MAX :]
        kind = _UNDO if self.is_undo else _REPAIR
        fields = _FIELDS.pack(
            _MAGIC, _VERSION, kind, self.undo_id, self.page_crc, *self.head_crcs, len(name)
        )
        body = (fields + name).ljust(_SUM_OFFSET, b"\0")
        body += _U32.pack(crc32c(body))
        return body + _U32.pack(crc32c(head + body) ^ 0xFFFF_FFFF)

    def is_head_sound(self, page: bytes) -> bool:
        """Tell whether the fields in page 0 are those before the repair, or those after it."""
        return crc32c(page[:MARK_OFFSET]) in self.head_crcs

    def without(self, page: bytes) -> bytes:
        """Return page 0 as it would be without the mark, as far as that is known.

        Its checksum is right where the fields can be believed, otherwise the one that it had.
        Reserved bytes in the last sector are zero: only the undo file knows them.
        """
        body = page[:MARK_OFFSET].ljust(PAGE_SIZE - _U32.size, b"\0")
        return body + _U32.pack(crc32c(body) if self.is_head_sound(page) else self.page_crc)

    @property
    def operation(self) -> str:
        """What was cut off, in a word."""
        return "undo" if self.is_undo else "repair"

    @property
    def message(self) -> str:
        """What was cut off, and what can be done: with the undo file, and without it."""
        what = f"a{'n' * self.is_undo} {self.operation}"
        if not self.undo_name:
            return (
                f"{what} was cut off, and there is no undo file: "
                "`repair all` mends what is there, `rescue` reads it"
            )
        name = self.undo_name.decode(errors="backslashreplace")
        return (
            f"{what} was cut off, its undo file is {name if name.isprintable() else ascii(name)}: "
            "with it `undo` brings everything back, and `repair` begins again; "
            "without it `repair all` mends what is there; `rescue` reads it"
        )
