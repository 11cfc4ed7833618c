"""Hostile super blocks and masks, and stores that are sound but larger than anybody expects."""

import random
from collections.abc import Callable
from typing import Any, Final

from blobstore.format.descriptors import THIN_PROV
from blobstore.format.super_block import MaskRegion
from blobstore.units import BlobId
from tests.proof.forge import (
    CLUSTER,
    THIN_TABLE,
    Forge,
    clone_of,
    extents,
    flags,
    runs,
    table,
    xattr,
)

Build = Callable[[Forge], None]

_U32_MAX: Final = 0xFFFF_FFFF
_HUGE: Final = 1 << 62
MANY: Final = 100_000


def _changed(**changes: Any) -> Build:
    """Forge a store with one blob, whose super block lies."""

    def build(forge: Forge) -> None:
        forge.root(0, flags(THIN_TABLE), table(4, (0, 1)))
        forge.changes = changes

    return build


def _on_a_huge_device(**changes: Any) -> Build:
    def build(forge: Forge) -> None:
        _changed(**changes)(forge)
        forge.device_size = _HUGE

    return build


def _masks(kind: int, length: int) -> Build:
    def build(forge: Forge) -> None:
        _changed()(forge)
        forge.mask_head = (kind, length)

    return build


def _short_device(size: int) -> Build:
    def build(forge: Forge) -> None:
        _changed(size_bytes=0)(forge)
        forge.device_size = size

    return build


def _garbage_in_every_page(forge: Forge) -> None:
    rng = random.Random(5)
    for number in range(forge.md_len):
        forge.put(number, number, rng.randbytes(4000), following=rng.randrange(80))
    forge.roots = set(range(forge.md_len))


def _large_pages(page_size: int, *, md_len: int = 2) -> Build:
    """Forge a store with huge metadata pages, in every other way sound."""

    def build(forge: Forge) -> None:
        forge.page_size = forge.cluster_size = page_size
        forge.md_len, forge.cluster_count = md_len, md_len + 8
        forge.every_cluster = False
        forge.root(0, flags(0), runs((md_len + 4, 1)))

    return build


def snapshots(count: int) -> Build:
    """Forge a sound chain of snapshots, each a clone of the one before it."""

    def build(forge: Forge) -> None:
        _size_for(forge, count)
        forge.root(0, flags(THIN_TABLE, 1), table(2, (0, 1)))
        for number in range(1, count):
            forge.root(number, clone_of(number - 1, data_ro=1), table(2, (0, 1)))

    return build


def clones(count: int) -> Build:
    """Forge a snapshot with so many clones, all sound."""

    def build(forge: Forge) -> None:
        _size_for(forge, count)
        forge.root(0, flags(THIN_TABLE, 1), table(2, (0, 1)))
        for number in range(1, count):
            forge.root(number, clone_of(0), table(2, (0, 1)))

    return build


def circle(count: int) -> Build:
    """Forge blobs that are all each other's ancestors."""

    def build(forge: Forge) -> None:
        _size_for(forge, count)
        for number in range(count):
            forge.root(number, clone_of((number + 1) % count), table(2, (0, 1)))

    return build


def half_made(count: int) -> Build:
    """Forge so many snapshots that stand and are marked as half-made, and a clone of each."""

    def build(forge: Forge) -> None:
        _size_for(forge, 2 * count)
        for number in range(0, 2 * count, 2):
            forge.root(number, clone_of(number + 1, name="SNAPTMP"), table(2, (0, 1)))
            forge.root(number + 1, clone_of(number), table(2, (0, 1)))

    return build


def _half_deleted(forge: Forge) -> None:
    """Forge a snapshot that is half merged into its clone: both own the same long run."""
    forge.cluster_size, forge.cluster_count = 4096, (1 << 20) + (1 << 12)
    run = runs((1 << 12, 1 << 20))
    forge.root(0, clone_of(1, name="SNAPRM", invalid=THIN_PROV, data_ro=1) + run)
    forge.root(1, clone_of(0, invalid=THIN_PROV) + run)


def snapshots_with_runs(count: int) -> Build:
    """Forge a sound chain of snapshots, each with a cluster of its own."""

    def build(forge: Forge) -> None:
        first = _size_for(forge, count, cluster_count=count)
        forge.root(0, flags(0, 1), runs((first, 1)))
        for number in range(1, count):
            parent = clone_of(number - 1, invalid=THIN_PROV, data_ro=1)
            forge.root(number, parent, runs((first + number, 1), (0, 1)))

    return build


def snapshots_with_pages(count: int) -> Build:
    """Forge a sound chain of snapshots, each with a cluster of its own in an extent page."""

    def build(forge: Forge) -> None:
        first = _size_for(forge, 2 * count, cluster_count=count)
        for number in range(count):
            head = clone_of(number - 1, data_ro=1) if number else flags(THIN_TABLE, 1)
            forge.root(number, head, table(2, (count + number, 1)))
            forge.put(count + number, number, extents(0, [first + number, 0]))

    return build


def snapshots_with_attributes(count: int) -> Build:
    """Forge a sound chain of snapshots, each with as many small attributes as fit."""

    def build(forge: Forge) -> None:
        _size_for(forge, count)
        attributes = b"".join(xattr(f"{n:02x}", b"") for n in range(256))
        for number in range(count):
            head = clone_of(number - 1, data_ro=1) if number else flags(THIN_TABLE, 1)
            forge.root(number, head + attributes, table(2, (0, 1)))

    return build


def _size_for(forge: Forge, page_count: int, *, cluster_count: int = 0) -> int:
    """Make room for so many pages and clusters; return the first cluster that is free."""
    forge.md_len = page_count + 8
    metadata = (page_count + 1000) * 4096 // CLUSTER + 64
    forge.cluster_count = metadata + cluster_count
    forge.every_cluster = cluster_count > 0
    return metadata


LIES: Final[dict[str, Build]] = {
    **{f"cluster size {n}": _changed(cluster_size=n) for n in (0, 1, 4096, 4097, _U32_MAX)},
    **{f"page size {n}": _changed(md_page_size=n) for n in (1, 512, 6000, 1 << 30, 1 << 31)},
    **{f"io unit size {n}": _changed(io_unit_size=n) for n in (1, 3, 8192, 1 << 31)},
    **{f"version {n}": _changed(version=n) for n in (0, 1, 2, 4, _U32_MAX)},
    **{f"region of {n} pages": _changed(md_len=n) for n in (0, 1, 1 << 20, _U32_MAX)},
    **{f"region at page {n}": _changed(md_start=n) for n in (0, 1, 1 << 20, _U32_MAX)},
    **{f"size {n}": _changed(size_bytes=n) for n in (1, 4096, 1 << 40, (1 << 64) - 1)},
    "size 2^64-1 on a huge device": _on_a_huge_device(size_bytes=(1 << 64) - 1),
    "size 2^62 on a huge device": _on_a_huge_device(size_bytes=_HUGE),
    "2^32 clusters on a huge device": _on_a_huge_device(size_bytes=CLUSTER << 32),
    "no size on a huge device": _on_a_huge_device(size_bytes=0),
    "empty page mask": _changed(used_pages=MaskRegion(1, 0)),
    "page mask over the super block": _changed(used_pages=MaskRegion(0, 1)),
    "page mask of 2^32-1 pages": _changed(used_pages=MaskRegion(1, _U32_MAX)),
    "cluster mask of 2^32-1 pages": _changed(used_clusters=MaskRegion(2, _U32_MAX)),
    "blob id mask of 2^32-1 pages": _changed(used_blob_ids=MaskRegion(3, _U32_MAX)),
    "blob id mask at page 2^32-1": _changed(used_blob_ids=MaskRegion(_U32_MAX, 1)),
    "blob id mask over the region": _changed(used_blob_ids=MaskRegion(5, 1)),
    "masks over each other": _changed(used_clusters=MaskRegion(1, 1)),
    "super blob outside": _changed(super_blob=BlobId(1 << 32 | 5000)),
    "super blob is no id": _changed(super_blob=BlobId(7)),
    "type of garbage": _changed(bstype=b"\xff\x00\x1b[31m\n\xfe\x00A;%s"),
    **{f"masks of type {kind}": _masks(kind, 64) for kind in (0, 1, 2, 255)},
    **{f"masks of {bits} bits": _masks(1, bits) for bits in (0, 1, 1 << 20, _U32_MAX)},
    **{f"device of {size} bytes": _short_device(size) for size in (0, 511, 4096, 20480, 1 << 18)},
    "garbage in every page": _garbage_in_every_page,
    "blob id mask names free pages": lambda forge: forge.roots.update(range(64)),
    "5000 half-made snapshots": half_made(5000),
    "half-deleted snapshot of a run of 2^20": _half_deleted,
    "2000 snapshots full of attributes": snapshots_with_attributes(2000),
    "pages of 1 MiB": _large_pages(1 << 20, md_len=40),
    "pages of 16 MiB": _large_pages(1 << 24),
}

LARGE: Final[dict[str, Build]] = {
    "100000 snapshots in a chain": snapshots(MANY),
    "100000 clones of one snapshot": clones(MANY),
    "100000 blobs in a circle": circle(MANY),
    "100000 snapshots with runs": snapshots_with_runs(MANY),
    "100000 snapshots with extent pages": snapshots_with_pages(MANY),
}
"""Stores of many blobs. Most are sound: all of them opens, and nothing is an error."""

COSTLY: Final = frozenset({
    "600 clones share 450 extent pages", "600 marked blobs share 450 extent pages",
    "half-deleted snapshot of a run of 2^20", "many flags", "marked absent bomb in every root",
    "pages of 1 MiB", "pages of 16 MiB", "run of 2^24 clusters", "thousands of attributes",
    "1000 extent pages alike", "1000 marked roots with lying attributes",
    "1000 roots full of attributes of no bytes", "1000 roots full of flags of no bytes",
    "1000 roots full of the same attribute", "1000 roots full of unknown kinds",
    "1000 roots with lying attributes and one cluster",
    "1000 roots with overlapping runs", "1000 roots with the same 490 runs",
    "1000 snapshots of runs far apart", "2000 snapshots full of attributes",
    "5000 half-made snapshots", "64 blobs share 450 extent pages",
    "a page in every huge table", "many empty tables", "many empty unknown descriptors",
    "many tiny paddings", "many tiny runs", "reversed runs in 500 pages",
    "runs far apart in 500 pages", *LARGE,
})  # fmt: skip
"""What takes the longest, up to seconds each; all others together take as many."""

HOSTILE_STORES: Final = LIES | LARGE
