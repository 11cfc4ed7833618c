"""The masks of a clean store, compared with what the chains say (CRASH-SAFETY 5: 10 to 15)."""

from dataclasses import dataclass
from typing import Final

from bitarray import bitarray

from blobstore.errors import BlobstoreError, CorruptError
from blobstore.format.geometry import Geometry, blob_id_of
from blobstore.format.mask import (
    MASK_BLOB_IDS,
    MASK_CLUSTERS,
    MASK_HEAD_SIZE,
    MASK_PAGES,
    decode_mask,
)
from blobstore.format.super_block import MaskRegion
from blobstore.fsck.finding import Findings, Severity
from blobstore.fsck.segments import name_run
from blobstore.fsck.spans import spans_of
from blobstore.metadata.masks import bytes_used
from blobstore.operations import Read
from blobstore.units import PageIndex

_NAMES: Final = {
    MASK_PAGES: "mask of used pages",
    MASK_CLUSTERS: "mask of used clusters",
    MASK_BLOB_IDS: "mask of used blob ids",
}
_INVARIANT_OF_KIND: Final = {MASK_PAGES: 12, MASK_CLUSTERS: 13, MASK_BLOB_IDS: 14}
_UNIT_OF_KIND: Final = {MASK_PAGES: "page", MASK_CLUSTERS: "cluster", MASK_BLOB_IDS: "blob id"}


@dataclass(frozen=True, slots=True)
class Masks:
    """The masks as they stand on the device; None where one cannot be used."""

    pages: bitarray | None
    clusters: bitarray | None
    ids: bitarray | None


async def read_masks(geometry: Geometry, findings: Findings) -> Masks:
    """Read the masks; those that cannot be used are recorded with the reason."""
    pages = await _read_mask(geometry, MASK_PAGES, geometry.used_pages, findings)
    clusters = await _read_mask(geometry, MASK_CLUSTERS, geometry.used_clusters, findings)
    ids = await _read_mask(geometry, MASK_BLOB_IDS, geometry.used_blob_ids, findings)
    return Masks(pages, clusters, ids)


async def _read_mask(
    geometry: Geometry, kind: int, region: MaskRegion, findings: Findings
) -> bitarray | None:
    bit_count = geometry.total_clusters if kind == MASK_CLUSTERS else geometry.md_len
    try:
        used = bytes_used(geometry, region, bit_count)
        data = await Read(geometry.region_offset(region), used)
    except BlobstoreError as error:
        findings.add(10, f"{_NAMES[kind]}: cannot be read: {error.message}")
        return None
    if data[0] != kind:
        findings.add(10, f"{_NAMES[kind]}: type {data[0]}, expected {kind}")
        return None
    length = int.from_bytes(data[1:MASK_HEAD_SIZE], "little")
    try:
        size = geometry.region_bytes(region)
        bits = decode_mask(data, kind=kind, bit_count=bit_count, region_bytes=size)
    except CorruptError:
        findings.add(11, f"{_NAMES[kind]}: {length} bits, expected {bit_count}")
        return None
    if length != bit_count:
        message = f"{_NAMES[kind]}: {length} bits, of which {bit_count} count"
        findings.add(11, message, severity=Severity.NOTE)
    return bits


def compare_mask(
    kind: int, mask: bitarray, truth: bitarray, findings: Findings, *, is_truth_whole: bool
) -> None:
    """Record every run of differences.

    Where a blob could not be read, what is marked and has no owner may be its:
    then that is a note, not a leak.
    """
    severity = Severity.LEAK if is_truth_whole else Severity.NOTE
    wrong = "are used but not marked so", "is used but not marked so"
    _report(kind, truth & ~mask, findings, Severity.ERROR, *wrong)
    wrong = "are marked used but have no owner", "is marked used but has no owner"
    _report(kind, mask & ~truth, findings, severity, *wrong)


def _report(
    kind: int, bits: bitarray, findings: Findings, severity: Severity, many: str, one: str
) -> None:
    """Record the runs of these bits; runs that would not be kept are only counted."""
    invariant = _INVARIANT_OF_KIND[kind]
    for firsts, counts in spans_of(bits):
        room = findings.room_for(invariant, severity)
        for first, count in zip(firsts[:room].tolist(), counts[:room].tolist(), strict=True):
            what = name_run(_UNIT_OF_KIND[kind], first, count)
            message = f"{_NAMES[kind]}: {what} {one if count == 1 else many}"
            findings.add(
                invariant,
                message,
                severity=severity,
                page=None if kind == MASK_CLUSTERS else PageIndex(first),
                cluster=first if kind == MASK_CLUSTERS else None,
                blob=blob_id_of(PageIndex(first)) if kind == MASK_BLOB_IDS else None,
            )
        findings.count_more(len(firsts) - room, invariant, severity)


def compare_free_count(
    mask: bitarray, truth: bitarray, findings: Findings, *, is_truth_whole: bool
) -> None:
    """Compare the free clusters by the mask with those by the chains."""
    by_mask, by_chains = mask.count(0), truth.count(0)
    if by_mask == by_chains:
        return
    if by_mask > by_chains:
        severity = Severity.ERROR
    else:
        severity = Severity.LEAK if is_truth_whole else Severity.NOTE
    message = f"free clusters: {by_mask} by the mask, {by_chains} by the chains"
    findings.add(15, message, severity=severity)
