"""Small images as short inputs of a fuzzer, and changes to them that know the format.

An input is a byte of options, then the image's pieces of 4096 bytes, each
without the zeroes in its middle. Any bytes are an input: what does not fit is
left out. A change picks a field that means something, gives it a value that
has a meaning somewhere else, and makes the checksums right again.
"""

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from blobstore.format.checksum import crc32c
from blobstore.format.descriptors import (
    EXTENT_PAGE,
    EXTENT_TABLE,
    FLAGS,
    HEADER,
    INTERNAL_XATTR,
    RUNS,
    XATTR,
)
from blobstore.format.geometry import blob_id_of
from blobstore.format.page import CRC_OFFSET, HEAD, NO_PAGE, PAGE_SIZE, TAIL
from blobstore.format.root import TAIL_OFFSET, layout_of
from blobstore.format.root import Layout as RootLayout
from blobstore.units import PageIndex
from tests.proof.image_device import SparseDevice

DEVICE_SIZE: Final = 1 << 20
LARGEST_INPUT: Final = 1 << 16

_PIECES: Final = 64
_RECORD: Final = struct.Struct("<BHH")  # number, bytes at the start, bytes at the end
_COMPACT: Final = 0x01
_SUPER_FIELDS: Final = (
    (8, 4), (12, 4), (16, 4), (20, 8), (28, 4), (32, 4), (36, 4), (40, 4), (44, 4), (48, 4),
    (52, 4), (56, 8), (72, 4), (76, 4), (80, 8), (88, 4), (92, 4),
)  # fmt: skip
"""(offset, length) of all fields of the super block that mean something."""

_VALUES: Final = (
    *range(8), 12, 16, 24, 48, 63, 64, 127, 128, 255, 256, 504, 511, 512, 513, 3563, 4072, 4095,
    4096, 8192, 16384, 65535, 65536, 1 << 20, 1 << 22, (1 << 31) - 1, 1 << 31, NO_PAGE - 1, NO_PAGE,
    1 << 32, 1 << 32 | 5, (1 << 63) - 1, (1 << 64) - 2, (1 << 64) - 1,
)  # fmt: skip
_KINDS: Final = (0, RUNS, XATTR, FLAGS, INTERNAL_XATTR, EXTENT_TABLE, EXTENT_PAGE, 7, 255)


@dataclass(slots=True)
class SmallImage:
    """An image by its pieces that are not zero; `compact` says how roots are written on it."""

    compact: bool = False
    pieces: dict[int, bytearray] = field(default_factory=dict)

    @classmethod
    def unpack(cls, data: bytes) -> "SmallImage":
        """Make an image of any bytes."""
        image = cls(compact=bool(data[:1] and data[0] & _COMPACT))
        at = 1
        while at + _RECORD.size <= len(data):
            number, head, tail = _RECORD.unpack_from(data, at)
            at += _RECORD.size
            head, tail = min(head, PAGE_SIZE), min(tail, PAGE_SIZE - min(head, PAGE_SIZE))
            piece = bytearray(PAGE_SIZE)
            piece[:head] = data[at : at + head].ljust(head, b"\0")
            piece[PAGE_SIZE - tail :] = data[at + head : at + head + tail].ljust(tail, b"\0")
            at += head + tail
            image.pieces[number % _PIECES] = piece
        return image

    @classmethod
    def of(cls, image: bytes, *, compact: bool) -> "SmallImage":
        """Take the metadata of a whole image, or what of it is not beyond the last piece."""
        found = cls(compact)
        for number in range(min(_PIECES, len(image) // PAGE_SIZE)):
            piece = image[number * PAGE_SIZE : (number + 1) * PAGE_SIZE]
            if any(piece):
                found.pieces[number] = bytearray(piece)
        return found

    def pack(self) -> bytes:
        """Return the input that `unpack` makes this image of."""
        parts = [bytes([_COMPACT if self.compact else 0])]
        for number, piece in sorted(self.pieces.items()):
            head = bytes(piece[:TAIL_OFFSET]).rstrip(b"\0")
            tail = bytes(piece[TAIL_OFFSET:]).lstrip(b"\0")
            parts += [_RECORD.pack(number, len(head), len(tail)), head, tail]
        return b"".join(parts)

    def device(self, *, read_only: bool) -> SparseDevice:
        """Return a device of a MiB that holds the image."""
        pieces = {number: bytes(piece) for number, piece in self.pieces.items()}
        atomic = 4096 if self.compact else 512
        return SparseDevice(DEVICE_SIZE, pieces, atomic_write_size=atomic, read_only=read_only)

    @property
    def md_start(self) -> int:
        """The piece where the metadata region begins, as far as the super block can be believed."""
        head = self.pieces.get(0)
        return 0 if head is None else int.from_bytes(head[48:52], "little") % _PIECES

    def fix_checksums(self) -> None:
        """Make every checksum right; masks have none."""
        for number, piece in self.pieces.items():
            if number == 0 or number >= self.md_start:
                piece[CRC_OFFSET:] = crc32c(bytes(piece[:CRC_OFFSET])).to_bytes(4, "little")


def mutated(data: bytes, seed: int) -> bytes:
    """Return an input with one to four changes, nearly always with right checksums."""
    rng = random.Random(seed)
    image = SmallImage.unpack(data)
    if not image.pieces:
        return data
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(_CHANGES)(image, rng)
    if rng.random() < 0.95:
        image.fix_checksums()
    return image.pack()[:LARGEST_INPUT]


def _set(piece: bytearray, at: int, size: int, rng: random.Random) -> None:
    """Give a field a telling value, one near to what it has, or any."""
    if at + size > len(piece):
        return
    now = int.from_bytes(piece[at : at + size], "little")
    value = rng.choice(
        (rng.choice(_VALUES), now + rng.randint(-2, 2), now ^ 1 << rng.randrange(64))
    )
    piece[at : at + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")


def _any_page(image: SmallImage, rng: random.Random) -> int | None:
    """Choose a piece of the metadata region."""
    numbers = [number for number in image.pieces if number and number >= image.md_start]
    return rng.choice(numbers) if numbers else None


def _change_super_block(image: SmallImage, rng: random.Random) -> None:
    if 0 in image.pieces:
        at, size = rng.choice(_SUPER_FIELDS)
        _set(image.pieces[0], at, size, rng)


def _change_clean(image: SmallImage, rng: random.Random) -> None:
    if 0 in image.pieces:
        image.pieces[0][16] = rng.randrange(2)


def _change_mask(image: SmallImage, rng: random.Random) -> None:
    numbers = [number for number in image.pieces if 0 < number < image.md_start]
    if numbers:
        piece = image.pieces[rng.choice(numbers)]
        at, size = rng.choice(((0, 1), (1, 4), (5, 1), (6, 1), (7, 1)))
        _set(piece, at, size, rng)


def _change_head(image: SmallImage, rng: random.Random) -> None:
    number = _any_page(image, rng)
    if number is None:
        return
    piece = image.pieces[number]
    if rng.random() < 0.5:
        owner = rng.choice([*image.pieces, number]) - image.md_start
        HEAD.pack_into(piece, 0, blob_id_of(PageIndex(max(0, owner))), rng.randrange(3), 0)
    else:
        at, size = rng.choice(((0, 8), (8, 4), (12, 4)))
        _set(piece, at, size, rng)


def _change_next(image: SmallImage, rng: random.Random) -> None:
    number = _any_page(image, rng)
    if number is None:
        return
    piece = image.pieces[number]
    if rng.random() < 0.5:
        following = max(0, rng.choice(list(image.pieces)) - image.md_start)
        TAIL.pack_into(piece, PAGE_SIZE - TAIL.size, following, 0)
    else:
        _set(piece, PAGE_SIZE - TAIL.size, 4, rng)


def _descriptors(piece: bytearray) -> list[tuple[int, int, int]]:
    """Return (offset of the header, kind, length) of a page's descriptors, as far as they go."""
    found: list[tuple[int, int, int]] = []
    at = TAIL_OFFSET if layout_of(piece) is RootLayout.SECTOR else HEAD.size
    while at + HEADER.size <= PAGE_SIZE - TAIL.size and len(found) < 200:
        kind, length = HEADER.unpack_from(piece, at)
        if kind == length == 0:
            break
        found.append((at, kind, length))
        at += HEADER.size + length
    return found


def _change_descriptor(image: SmallImage, rng: random.Random) -> None:
    """Change a descriptor's kind or length, or a field inside it."""
    number = _any_page(image, rng)
    found = [] if number is None else _descriptors(image.pieces[number])
    if number is None or not found:
        return
    piece = image.pieces[number]
    at, kind, length = rng.choice(found)
    body = at + HEADER.size
    what = rng.random()
    if what < 0.1:
        piece[at] = rng.choice(_KINDS)
    elif what < 0.25:
        _set(piece, at + 1, 4, rng)
    elif kind in (XATTR, INTERNAL_XATTR):
        place, size = rng.choice(((0, 2), (2, 2), (4, 1), (max(0, length - 8), 8)))
        _set(piece, body + place, size, rng)
    elif kind == FLAGS:
        _set(piece, body + rng.choice((0, 0, 8, 16)), rng.choice((1, 8)), rng)
    else:
        _set(piece, body + 4 * rng.randrange(max(1, length // 4)), 4, rng)


def _add_descriptor(image: SmallImage, rng: random.Random) -> None:
    """Append a copy of any descriptor behind the last one of a page."""
    target, source = _any_page(image, rng), _any_page(image, rng)
    if target is None or source is None:
        return
    found = _descriptors(image.pieces[source])
    if not found:
        return
    at, _kind, length = rng.choice(found)
    data = bytes(image.pieces[source][at : at + HEADER.size + length])
    last = _descriptors(image.pieces[target])[-1:]
    end = sum((last[0][0], HEADER.size, last[0][2])) if last else HEAD.size
    if end + len(data) <= PAGE_SIZE - TAIL.size:
        image.pieces[target][end : end + len(data)] = data


def _remove_descriptor(image: SmallImage, rng: random.Random) -> None:
    number = _any_page(image, rng)
    found = [] if number is None else _descriptors(image.pieces[number])
    if number is None or not found:
        return
    piece = image.pieces[number]
    at, _kind, length = rng.choice(found)
    end = PAGE_SIZE - TAIL.size
    rest = bytes(piece[at + HEADER.size + length : end])
    piece[at:end] = rest.ljust(end - at, b"\0")[: end - at]


def _move_page(image: SmallImage, rng: random.Random) -> None:
    """Copy a page to another place, or take it away."""
    number = _any_page(image, rng)
    if number is None:
        return
    if rng.random() < 0.3:
        del image.pieces[number]
    else:
        image.pieces[rng.randrange(1, _PIECES)] = bytearray(image.pieces[number])


def _change_any_byte(image: SmallImage, rng: random.Random) -> None:
    piece = image.pieces[rng.choice(list(image.pieces))] if image.pieces else bytearray(PAGE_SIZE)
    piece[rng.randrange(PAGE_SIZE)] = rng.randrange(256)


_CHANGES: Final[tuple[Callable[[SmallImage, random.Random], None], ...]] = (
    _change_super_block,
    _change_clean,
    _change_mask,
    _change_head,
    _change_next,
    *[_change_descriptor] * 6,
    _add_descriptor,
    _add_descriptor,
    _remove_descriptor,
    _move_page,
    _change_any_byte,
)
