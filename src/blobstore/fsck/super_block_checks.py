"""Looking at a super block: invariants 1 to 7 and 9 of CRASH-SAFETY 5, and 46.

Whether the super blob exists (8) can only be said when the roots are known. 46
is that no repair or undo was cut off: under its mark the fields of the super
block are looked at as ever.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from blobstore.format.checksum import crc32c
from blobstore.format.geometry import Geometry
from blobstore.format.repair_mark import RepairMark
from blobstore.format.super_block import (
    NEWEST_VERSION,
    SIGNATURE,
    SUPER_BLOCK_FIELDS,
    SUPER_BLOCK_SIZE,
    SuperBlock,
)
from blobstore.fsck.finding import Finding, Severity

CUT_OFF: Final = 46
_SIZE_RULE: Final = 5
_CRC_OFFSET: Final = SUPER_BLOCK_SIZE - 4


@dataclass(frozen=True, slots=True)
class SuperBlockExamined:
    """What page 0 says, what is wrong with it, and the layout a check can go on with.

    `page` is page 0, without the `mark` of a repair that was cut off. There is a
    `super_block` as soon as page 0 looks like one, and a `geometry` when its fields
    make sense together: a wrong checksum alone, or a device that is too short,
    leaves the rest of the store to be looked at.
    """

    page: bytes
    super_block: SuperBlock | None
    geometry: Geometry | None
    findings: tuple[Finding, ...]
    mark: RepairMark | None = None


def examine_super_block(data: bytes, *, device_size: int) -> SuperBlockExamined:
    """Name everything that is wrong with the bytes of page 0, whatever they are."""
    mark = RepairMark.decode(data)
    if mark is None:
        return _examine_unmarked(data, device_size=device_size)
    seen = _examine_unmarked(mark.without(data), device_size=device_size)
    cut_off = _error(CUT_OFF, f"super block: {mark.message}")
    return replace(seen, findings=(cut_off, *seen.findings), mark=mark)


def _examine_unmarked(data: bytes, *, device_size: int) -> SuperBlockExamined:
    if len(data) < SUPER_BLOCK_SIZE:
        message = f"super block: {len(data)} bytes, expected {SUPER_BLOCK_SIZE}"
        return SuperBlockExamined(data, None, None, (_error(1, message),))
    if not bytes(data).startswith(SIGNATURE):
        message = f"super block: signature {bytes(data[:8])!r}, expected {SIGNATURE!r}"
        return SuperBlockExamined(data, None, None, (_error(1, message),))
    super_block = SuperBlock.as_it_stands(data)
    layout = Geometry.claimed_by(super_block, device_size=device_size)
    broken = list(layout.broken_rules(device_size))
    is_known = is_recognisable(data)
    is_sound = is_known and all(invariant == _SIZE_RULE for invariant, _message in broken)
    findings = (
        *(_error(1, f"super block: {message}") for message in _wrong_marks(data)),
        *_wrong_checksum(data),
        *(_error(invariant, f"super block: {message}") for invariant, message in broken),
        *_odd_type(super_block.bstype),
    )
    return SuperBlockExamined(
        data, super_block if is_known else None, layout if is_sound else None, findings
    )


def is_recognisable(data: bytes) -> bool:
    """Tell whether page 0 begins as a super block of a known version does."""
    signature, version, *_rest = SUPER_BLOCK_FIELDS.unpack_from(data)
    return bool(signature == SIGNATURE and 1 <= version <= NEWEST_VERSION)


def _wrong_marks(data: bytes) -> Iterator[str]:
    """Yield which of the fields that can only have a few values has another."""
    _signature, version, length, clean, *_rest = SUPER_BLOCK_FIELDS.unpack_from(data)
    if not 1 <= version <= NEWEST_VERSION:
        yield f"version {version}, expected 1 to {NEWEST_VERSION}"
    if length != SUPER_BLOCK_SIZE:
        yield f"length {length}, expected {SUPER_BLOCK_SIZE}"
    if clean > 1:
        yield f"clean is {clean}, expected 0 or 1"


def _wrong_checksum(data: bytes) -> Iterator[Finding]:
    found = int.from_bytes(data[_CRC_OFFSET:SUPER_BLOCK_SIZE], "little")
    expected = crc32c(memoryview(data)[:_CRC_OFFSET])
    if found != expected:
        yield _error(2, f"super block: crc {found:#010x}, expected {expected:#010x}")


def _odd_type(bstype: bytes) -> Iterator[Finding]:
    """Yield a note when something follows the type's end: two such types look the same."""
    _name, _end, rest = bstype.partition(b"\0")
    if rest.strip(b"\0"):
        yield Finding(9, Severity.NOTE, f"super block: bytes after the end of type {bstype!r}")


def _error(invariant: int, message: str) -> Finding:
    return Finding(invariant, Severity.ERROR, message)
