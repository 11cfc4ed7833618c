"""Rebuilding a super block from what lies on the device, for repair by name only (CRASH-SAFETY 5).

Evidence is metadata that describes itself: masks carry their type and length, root
pages name their own place, and page 0 may still be right in most fields. Super blocks
that the evidence suggests are compared with all evidence. The one that replaces the
fewest fields is taken. If two remain, there is no result, because repair never guesses.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from blobstore.errors import BlobstoreError
from blobstore.format.geometry import BLOB_ID_BASE, DEFAULT_PAGE_SIZE, Geometry
from blobstore.format.mask import MASK_BLOB_IDS, MASK_CLUSTERS, MASK_PAGES, mask_pages
from blobstore.format.super_block import (
    NEWEST_VERSION,
    NO_BLOB,
    SIGNATURE,
    SUPER_BLOCK_SIZE,
    MaskRegion,
    SuperBlock,
)
from blobstore.fsck.checksum_solver import (
    checksum_of,
    solve_one_word,
    solve_super_block,
    stored_checksum,
)
from blobstore.fsck.evidence import Evidence, fits, gather_evidence, is_inside
from blobstore.metadata.store_state import DeviceTraits
from blobstore.units import MIB, BlobId, ceil_div

_PAGE_SIZES: Final = tuple(DEFAULT_PAGE_SIZE << power for power in range(9))
_MARKS_SIZE: Final = 16  # signature, version, length
_DEFAULT_CLUSTER_SIZES: Final = (1 * MIB, 4 * MIB)
_MANY_FIELDS: Final = 4
"""More wrong fields, and no signature, are no damaged super block but something else."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A super block that fits what is on the device, and why each changed field was changed.

    It is not clean: loading the store writes the masks again.
    """

    super_block: SuperBlock
    reasons: tuple[str, ...]


async def rebuild_super_block(traits: DeviceTraits, data: bytes) -> Rebuilt | None:
    """Return the one super block that fits what lies on the device, None if that is not one."""
    return rebuild_from(await gather_evidence(traits), traits, data)


def rebuild_from(evidence: Evidence, traits: DeviceTraits, data: bytes) -> Rebuilt | None:
    """Return the one super block that fits the evidence, None if there is none or are several.

    A field that is consistent with all evidence is kept, right or wrong. Where
    the stored checksum confirms a single changed field, nothing else is asked. Pure.
    """
    if len(data) < SUPER_BLOCK_SIZE:
        return None
    found = SuperBlock.as_it_stands(data)
    confirmed = set(_confirmed(data, evidence, traits.size_bytes))
    fitting = {
        block for block in confirmed if fits(evidence, block, traits.size_bytes, found) is not None
    }
    if found not in confirmed:  # then evidence that speaks against it is damaged as well
        fitting = fitting or confirmed
    if fitting:
        return _only(fitting, data, found, "the checksum confirms it")
    candidates = {
        block
        for block in _candidates(traits, evidence, found)
        if _is_acceptable(traits, evidence, block, found)
    }
    if not candidates and _is_right_but_for_pages(traits, evidence, found):
        candidates = {found}
    fewest = min((len(_changes(found, block)) for block in candidates), default=0)
    if not data.startswith(SIGNATURE) and any(data) and fewest > _MANY_FIELDS:
        return None
    best = {block for block in candidates if len(_changes(found, block)) == fewest}
    for is_likely in (_is_as_made, _starts_with_data, _fills_device):
        if len(best) > 1:
            best = {block for block in best if is_likely(evidence, block, traits)} or best
    return _only(best, data, found, "it fits the masks and pages on the device")


def _only(blocks: set[SuperBlock], data: bytes, found: SuperBlock, why: str) -> Rebuilt | None:
    if len(blocks) != 1:
        return None
    (block,) = blocks
    reasons = [f"{change}: {why}" for change in _changes(found, block)]
    if block.super_blob != found.super_blob:
        reasons.append(
            f"super blob {found.super_blob:#x} becomes {_say_id(block.super_blob)}: {why}"
        )
    if block.encode()[:_MARKS_SIZE] != data[:_MARKS_SIZE]:
        reasons.append(f"signature, version {block.version} and length are written again")
    if checksum_of(block) != stored_checksum(data):
        reasons.append("the checksum is written again")
    return Rebuilt(
        block.with_changes(clean=False), tuple(f"super block: {reason}" for reason in reasons)
    )


# Suggesting


def _say_id(blob_id: BlobId) -> str:
    return "none" if blob_id == NO_BLOB else f"{blob_id:#x}"


def _confirmed(data: bytes, evidence: Evidence, device_size: int) -> Iterator[SuperBlock]:
    """Yield what the stored checksum belongs to: page 0 as it is, or another state of it."""
    roots = [BlobId(BLOB_ID_BASE + root) for root in evidence.roots[evidence.can_be_root].tolist()]
    solved = solve_super_block(data, device_size=device_size, roots=roots)
    if solved is not None:
        yield solved
    yield from solve_one_word(data, device_size=device_size)


def _candidates(
    traits: DeviceTraits, evidence: Evidence, found: SuperBlock
) -> Iterator[SuperBlock]:
    """Yield every super block that the device suggests; many of them make no sense."""
    is_old = 1 <= found.version <= NEWEST_VERSION  # and may therefore say 0 for the default
    for page_size in dict.fromkeys([found.md_page_size, *_PAGE_SIZES]):
        unit = page_size or DEFAULT_PAGE_SIZE
        if unit not in _PAGE_SIZES or not (page_size or is_old):
            continue
        for size in dict.fromkeys([found.size_bytes, traits.size_bytes]):
            if size > traits.size_bytes or not (size or is_old):
                continue
            wanted = replace(found, md_page_size=page_size, size_bytes=size)
            for layout in _laid_out(wanted, evidence, unit, size or traits.size_bytes):
                yield _completed(layout, unit, traits.block_size)


def _laid_out(wanted: SuperBlock, evidence: Evidence, unit: int, size: int) -> Iterator[SuperBlock]:
    """Yield the super block with each number of pages, size of clusters and place of masks."""
    for md_len in dict.fromkeys(_suggested_md_lens(wanted, evidence, unit, size)):
        for cluster_size in dict.fromkeys(
            _suggested_cluster_sizes(wanted, evidence, unit, size, md_len)
        ):
            block = replace(wanted, md_len=md_len, cluster_size=cluster_size)
            for mask_bits in _cluster_mask_bits(block, evidence, unit):
                if size // cluster_size > mask_bits > 0:
                    known_size = mask_bits * cluster_size
                    smaller = replace(block, size_bytes=known_size)
                    yield from _with_regions(smaller, unit, known_size)
            yield from _with_regions(block, unit, size)


def _suggested_md_lens(
    wanted: SuperBlock, evidence: Evidence, unit: int, size: int
) -> Iterator[int]:
    yield wanted.md_len
    yield from evidence.mask_bits(unit, MASK_PAGES)
    yield from evidence.mask_bits(wanted.used_pages.start * unit, MASK_PAGES)
    yield from evidence.mask_bits(wanted.used_blob_ids.start * unit, MASK_BLOB_IDS)
    if wanted.cluster_size:
        yield size // wanted.cluster_size


def _suggested_cluster_sizes(
    wanted: SuperBlock, evidence: Evidence, unit: int, size: int, md_len: int
) -> Iterator[int]:
    """Yield the one that stands there, and those that give as many clusters as known."""
    if wanted.cluster_size:
        yield wanted.cluster_size
    yield from cluster_sizes_for(size, md_len, unit)
    for count in _cluster_mask_bits(replace(wanted, md_len=md_len), evidence, unit):
        yield from cluster_sizes_for(size, count, unit)
        yield from smaller_cluster_sizes_for(size, count, unit)


def cluster_sizes_for(size: int, count: int, page_size: int) -> list[int]:
    """Return the cluster size that divides a device into `count` clusters, if that is certain.

    A power of two is the usual size. Any other multiple of the page size counts
    only if it is the only one.
    """
    if not 0 < count <= size // page_size:
        return []
    power = 1 << (size // count).bit_length() - 1
    if size // power == count:
        return [power]
    sizes = _multiples(size, count, page_size)
    return list(sizes) if len(sizes) == 1 else []


def smaller_cluster_sizes_for(size: int, count: int, page_size: int) -> list[int]:
    """Return the powers of two of which `count` clusters fit into a device that has grown.

    None where the device could be full of clusters of more than one size.
    """
    if not 0 < count <= size // page_size or len(_multiples(size, count, page_size)) > 1:
        return []
    powers = (page_size << shift for shift in range((size // page_size).bit_length()))
    return [power for power in powers if power * count <= size and size // power != count]


def _multiples(size: int, count: int, page_size: int) -> range:
    """Return the cluster sizes that divide a device into exactly `count` clusters."""
    first = ceil_div(size // (count + 1) + 1, page_size) * page_size
    return range(first, size // count + 1, page_size)


def _cluster_mask_bits(block: SuperBlock, evidence: Evidence, unit: int) -> list[int]:
    """Return the lengths of cluster masks where page 0 has it, and where init puts it."""
    usual = 1 + mask_pages(block.md_len, unit)
    starts = dict.fromkeys([block.used_clusters.start, usual])
    return [
        bits for start in starts for bits in evidence.mask_bits(start * unit, MASK_CLUSTERS) if bits
    ]


def _with_regions(block: SuperBlock, unit: int, size: int) -> Iterator[SuperBlock]:
    """Yield it with the regions that it has, and with those that init would make.

    Before version 3 there was no mask of blob ids.
    """
    yield block
    try:
        layout = Geometry.compute(
            size_bytes=size,
            cluster_size=block.cluster_size,
            page_size=unit,
            io_unit_size=unit,
            md_pages=block.md_len,
        )
    except BlobstoreError:
        return
    block = replace(
        block,
        used_pages=layout.used_pages,
        used_clusters=layout.used_clusters,
        md_start=layout.md_start,
    )
    if block.used_blob_ids.length == 0 and 1 <= block.version < NEWEST_VERSION:
        yield block
        yield replace(block, md_start=layout.used_blob_ids.start)
    yield replace(block, used_blob_ids=layout.used_blob_ids)


def _completed(block: SuperBlock, unit: int, block_size: int) -> SuperBlock:
    """Put right the fields that nothing on the device depends on."""
    io_unit, version = block.io_unit_size, block.version
    is_old = 1 <= version <= NEWEST_VERSION
    if not (unit % io_unit == 0 if io_unit else is_old):
        io_unit = block_size
    if not is_old:
        version = NEWEST_VERSION if block.used_blob_ids.length else NEWEST_VERSION - 1
    names_root = BLOB_ID_BASE <= block.super_blob < BLOB_ID_BASE + block.md_len
    super_blob = block.super_blob if names_root else NO_BLOB
    return replace(block, version=version, io_unit_size=io_unit, super_blob=super_blob)


# Judging


def _is_acceptable(
    traits: DeviceTraits, evidence: Evidence, block: SuperBlock, found: SuperBlock
) -> bool:
    """Tell whether a super block may be taken without its checksum to confirm it.

    Nothing may speak against it and something for it; for page 0 as it is, when the
    store is still empty, its own layout does.
    """
    fit = fits(evidence, block, traits.size_bytes, found)
    if fit is None:
        return False
    if block.md_page_size != found.md_page_size and not _is_as_made(evidence, block, traits):
        return False  # one root alone fits page sizes twice as large, half as far away
    if block.cluster_size != found.cluster_size:
        return fit and _is_cluster_size_known(traits, evidence, block)
    return fit or (not _changes(found, block) and _is_as_made(evidence, block, traits))


def _is_right_but_for_pages(traits: DeviceTraits, evidence: Evidence, found: SuperBlock) -> bool:
    """Tell whether page 0 is as init makes it, and only what single pages name is against it."""
    size = traits.size_bytes
    is_likely = _is_as_made(evidence, found, traits) and 1 <= found.version <= NEWEST_VERSION
    return is_likely and bool(fits(evidence, found, size, found, believes_pages=False))


def _is_cluster_size_known(traits: DeviceTraits, evidence: Evidence, block: SuperBlock) -> bool:
    """Tell whether a cluster size follows from more than there being a metadata page for each.

    That is the default, but any number of pages can have been asked for.
    """
    layout = Geometry.claimed_by(block, device_size=traits.size_bytes)
    has_mask = evidence.mask_at(layout.region_offset(block.used_clusters)) is not None
    is_sure = layout.md_clusters > 1 and _starts_with_data(evidence, block, traits)
    return has_mask or is_sure or block.cluster_size in _DEFAULT_CLUSTER_SIZES


# Choosing


def _is_as_made(_evidence: Evidence, block: SuperBlock, traits: DeviceTraits) -> bool:
    """Tell whether the regions lie as init lays them out."""
    unit, size = block.md_page_size or DEFAULT_PAGE_SIZE, block.size_bytes or traits.size_bytes
    return block in list(_with_regions(block, unit, size))[1:]


def _starts_with_data(evidence: Evidence, block: SuperBlock, traits: DeviceTraits) -> bool:
    """Tell whether the first cluster that any blob has follows the metadata, as the first does."""
    layout = Geometry.claimed_by(block, device_size=traits.size_bytes)
    lowest = evidence.lowest_cluster[is_inside(evidence, layout)]
    return len(lowest) > 0 and int(lowest.min()) == layout.md_clusters


def _fills_device(_evidence: Evidence, block: SuperBlock, traits: DeviceTraits) -> bool:
    """Tell whether the store is of the device's size, in clusters of a usual size."""
    has_size = block.size_bytes in (0, traits.size_bytes)
    return has_size and block.cluster_size & (block.cluster_size - 1) == 0


def _changes(found: SuperBlock, block: SuperBlock) -> list[str]:
    """Return in words which fields of the layout differ."""
    pairs = zip(_layout_fields(found), _layout_fields(block), strict=True)
    return [f"{name} {old} becomes {new}" for (name, old), (_, new) in pairs if old != new]


def _layout_fields(block: SuperBlock) -> Sequence[tuple[str, int]]:
    return [
        ("cluster size", block.cluster_size),
        *_region_fields("used page mask", block.used_pages),
        *_region_fields("used cluster mask", block.used_clusters),
        *_region_fields("used blob id mask", block.used_blob_ids),
        *_region_fields("metadata", MaskRegion(block.md_start, block.md_len)),
        ("size", block.size_bytes),
        ("io unit size", block.io_unit_size),
        ("metadata page size", block.md_page_size),
    ]


def _region_fields(name: str, region: MaskRegion) -> Iterable[tuple[str, int]]:
    return [(f"{name} start", region.start), (f"{name} length", region.length)]
