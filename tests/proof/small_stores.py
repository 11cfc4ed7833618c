"""Small stores that have some of everything, for those who damage them byte by byte.

Each is a few dozen pages of metadata and clusters of 4 or 16 KiB, so that it
is read as a whole in well under a millisecond. No two clusters hold the same
bytes: whoever reads the wrong one notices.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Final

from blobstore.api.blob import Blob
from blobstore.api.blobstore import Blobstore
from blobstore.format.descriptors import FLAGS, FLAGS_SIZE, HEADER, RUNS
from blobstore.format.geometry import Geometry
from blobstore.format.page import PAGE_SIZE, MetadataPage
from blobstore.format.super_block import SUPER_BLOCK_SIZE, MaskRegion, SuperBlock
from blobstore.units import PageIndex
from tests.proof.image_device import ImageDevice

EXTERNAL_ID: Final = b"golden master"
_UUID: Final = "6b1e2ad0-98f5-4dd6-a0c6-6a9f0e7d54{:02x}\0"


@dataclass(frozen=True, slots=True)
class SmallStore:
    """A store's whole image, and what must be known beside it to read all of it."""

    name: str
    image: bytes
    atomic_write_size: int
    externals: dict[bytes, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Plan:
    """How one store is made; those that are not `clean` are flushed and left."""

    name: str
    fill: Callable[[Blobstore], None]
    cluster_size: int
    md_pages: int
    cluster_count: int
    atomic: int = 512
    clean: bool = True
    bstype: bytes = b""
    md_page_size: int | None = None


@cache
def small_stores() -> tuple[SmallStore, ...]:
    """Return all of them, the same in every process."""
    plans = [
        _Plan("chains", _fill_chains, 4096, 14, 70),
        _Plan("runs", _fill_runs, 16384, 12, 24, atomic=4096, clean=False),
        _Plan("tables", _fill_tables, 4096, 12, 60, clean=False),
        _Plan("snapshots", _fill_snapshots, 4096, 20, 80),
        _Plan("volumes", _fill_volumes, 16384, 12, 24, atomic=4096, bstype=b"LVOLSTORE"),
        _Plan("large pages", _fill_large_pages, 16384, 10, 40, clean=False, md_page_size=16384),
        _Plan("clones", _fill_clones, 4096, 16, 60, atomic=4096, clean=False),
    ]
    return (*map(_make, plans), _make_old())


def open_small(
    store: SmallStore, image: bytearray | None = None, *, read_only: bool = True
) -> Blobstore:
    """Open the store, or what has become of its image.

    Raises:
        BlobstoreError: The image is no store any more.
    """
    device = ImageDevice(
        bytearray(store.image) if image is None else image,
        atomic_write_size=store.atomic_write_size,
        read_only=read_only,
    )
    opened = Blobstore.open(device, read_only=read_only)
    _register(opened, store.externals)
    return opened


def _register(store: Blobstore, externals: dict[bytes, bytes]) -> None:
    for external_id, content in externals.items():
        store.register_external(external_id, ImageDevice(bytearray(content), read_only=True))


def _make(plan: _Plan) -> SmallStore:
    image = bytearray(plan.cluster_count * plan.cluster_size)
    store = Blobstore.create(
        ImageDevice(image, atomic_write_size=plan.atomic),
        cluster_size=plan.cluster_size,
        md_pages=plan.md_pages,
        md_page_size=plan.md_page_size,
        bstype=plan.bstype,
    )
    externals = {EXTERNAL_ID: random.Random(3).randbytes(4 * PAGE_SIZE)}
    _register(store, externals)
    plan.fill(store)
    if plan.clean:
        store.close()
    else:
        store.flush()
    return SmallStore(plan.name, bytes(image), plan.atomic, externals)


def _write(blob: Blob, *indices: int, seed: int) -> None:
    """Write whole clusters, no two alike."""
    size = blob.info.size // blob.info.cluster_count
    for index in indices:
        blob.write(random.Random(f"{seed} {index}").randbytes(size), index * size)
    blob.flush()


def _fill_chains(store: Blobstore) -> None:
    """Attributes and runs, each enough for several pages, among them small ones."""
    size = store.cluster_size
    notes = {f"note {n}": bytes([n]) * (700 + 300 * n) for n in range(1, 6)}
    with store.create_blob(5 * size, thin=True, xattrs=notes) as blob:
        _write(blob, 0, 3, seed=1)
    with store.create_blob(70 * size, thin=True, extent_table=False, xattrs={"k": b"v"}) as blob:
        _write(blob, *range(0, 66, 2), seed=2)
    with store.create_blob(2 * size) as blob:
        _write(blob, 0, 1, seed=3)
    store.set_super_blob(blob.id)


def _fill_runs(store: Blobstore) -> None:
    """Run-length extents, thick and thin, with holes and out of order."""
    size = store.cluster_size
    with store.create_blob(6 * size, thin=True, extent_table=False, xattrs={"n": b"thin"}) as thin:
        _write(thin, 4, 0, 2, seed=1)
        with store.create_blob(3 * size, extent_table=False, xattrs={"n": b"thick"}) as thick:
            _write(thick, 0, 1, 2, seed=2)
            thick.resize(5 * size)
            _write(thick, 3, 4, seed=2)
        _write(thin, 5, seed=1)
    store.create_blob(0, extent_table=False).close()


def _fill_tables(store: Blobstore) -> None:
    """Extent tables with several pages, and with absent ones between them."""
    size = store.cluster_size
    with store.create_blob(1300 * size, thin=True, xattrs={"n": b"far"}) as blob:
        _write(blob, 0, 1, 511, 512, 900, 1299, seed=1)
    with store.create_blob(2000 * size, thin=True) as blob:
        _write(blob, 1100, seed=2)
    store.create_blob(0).close()


def _fill_snapshots(store: Blobstore) -> None:
    """A chain of two snapshots with three clones, and a clone of something outside."""
    size = store.cluster_size
    with store.create_blob(6 * size, thin=True, xattrs={"n": b"origin"}) as blob:
        _write(blob, 0, 1, 2, seed=1)
        blob.snapshot().close()
        _write(blob, 1, seed=2)
        second = blob.snapshot(xattrs={"n": b"second"})
        _write(blob, 2, 5, seed=3)
        with second, second.clone(xattrs={"n": b"clone"}) as clone:
            _write(clone, 0, seed=4)
            second.clone().close()
    with store.create_blob(4 * size, external_snapshot=EXTERNAL_ID) as blob:
        _write(blob, 2, seed=5)


def _fill_clones(store: Blobstore) -> None:
    """Run-length snapshots and clones, one larger than its snapshot, and a read-only blob."""
    size = store.cluster_size
    with store.create_blob(4 * size, thin=True, extent_table=False) as blob:
        _write(blob, 0, 1, 3, seed=1)
        with blob.snapshot() as snapshot, snapshot.clone() as clone:
            clone.resize(6 * size)
            _write(clone, 5, seed=2)
        _write(blob, 0, seed=3)
    with store.create_blob(2 * size, external_snapshot=EXTERNAL_ID, extent_table=False) as blob:
        blob.set_xattr("k", b"value")
    with store.create_blob(2 * size, clear_method=3) as blob:
        _write(blob, 0, 1, seed=4)
        blob.set_read_only()


def _fill_volumes(store: Blobstore) -> None:
    """A volume store as FORMAT 7 has it, with a snapshot."""
    size = store.cluster_size

    def names(name: bytes, number: int) -> dict[str, bytes]:
        return {"name": name + b"\0", "uuid": _UUID.format(number).encode()}

    with store.create_blob(0, xattrs=names(b"the store", 0)) as blob:
        store.set_super_blob(blob.id)
    with store.create_blob(4 * size, thin=True, xattrs=names(b"disk".ljust(63, b"\0"), 1)) as blob:
        _write(blob, 0, 2, seed=1)
        blob.snapshot(xattrs=names(b"disk-before", 2)).close()
        _write(blob, 2, 3, seed=2)
    with store.create_blob(2 * size, xattrs=names(b"boot", 3)) as blob:
        _write(blob, 0, 1, seed=3)


def _fill_large_pages(store: Blobstore) -> None:
    """Metadata pages of 16 KiB: a chain, a table, and runs."""
    size = store.cluster_size
    with store.create_blob(3 * size, xattrs={"long": b"L" * 1200, "n": b"1"}) as blob:
        _write(blob, 0, 1, 2, seed=1)
    with store.create_blob(4 * size, thin=True, extent_table=False) as blob:
        _write(blob, 1, 3, seed=2)


def _make_old() -> SmallStore:
    """Return a store of version 1: no flags, no types, no mask of blob ids, thick runs only."""
    plan = _Plan("version 1", _fill_old, 16384, 10, 24, atomic=4096)
    made = _make(plan)
    image = bytearray(made.image)
    found = SuperBlock.decode(image)
    old = replace(
        found, version=1, used_blob_ids=MaskRegion(0, 0), size_bytes=0, io_unit_size=0,
        md_page_size=0,
    )  # fmt: skip
    image[:SUPER_BLOCK_SIZE] = old.encode()
    geometry = Geometry.of(old, device_size=len(image))
    ids = found.used_blob_ids.start * PAGE_SIZE
    image[ids : ids + found.used_blob_ids.length * PAGE_SIZE] = bytes(PAGE_SIZE)
    for number in range(geometry.md_len):
        at = geometry.page_offset(PageIndex(number))
        if any(image[at : at + PAGE_SIZE]):
            image[at : at + PAGE_SIZE] = _without_flags(image[at : at + PAGE_SIZE])
    return replace(made, image=bytes(image))


def _fill_old(store: Blobstore) -> None:
    size = store.cluster_size
    with store.create_blob(3 * size, extent_table=False, xattrs={"name": b"old"}) as blob:
        _write(blob, 0, 1, 2, seed=1)
        with store.create_blob(size, extent_table=False) as other:
            other.set_xattr("long", b"l" * 3900)
            other.set_xattr("longer", b"m" * 500)
            _write(other, 0, seed=2)
        blob.resize(5 * size)
        _write(blob, 3, 4, seed=1)


def _without_flags(data: bytearray) -> bytes:
    """Return the page without the flags descriptor that it begins with, if it does."""
    page = MetadataPage.decode(data, at=PageIndex(0))
    kind, _length = HEADER.unpack_from(page.body)
    assert kind in (FLAGS, RUNS) or page.sequence
    body = page.body[FLAGS_SIZE:] if kind == FLAGS else page.body
    return replace(page, body=body).encode()
