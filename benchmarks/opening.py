"""Opening a store: rows after a dirty stop and a clean one, and how it grows."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.curve import Axis, Curve, Series, transposed
from benchmarks.data_path import aligned
from benchmarks.images import ManyBlobs, root_offsets, write_dirty_image
from benchmarks.measure import (
    Clock,
    Goal,
    Row,
    Taken,
    format_seconds,
    interleaved,
    missing_row,
    speed_row,
)
from benchmarks.scale import Scale
from blobstore import Blobstore, UnsupportedError
from blobstore.format.geometry import Geometry
from blobstore.testing.internals import core_of
from blobstore.units import GIB, KIB, MIB, PageIndex

_PAGE: Final = 4 * KIB
_READ: Final = 1 * MIB
_FEW_BLOBS: Final = 100
_FEW_PAGES: Final = 10_000


def cached_rows(directory: Path, scale: Scale) -> Iterator[Row]:
    """Recovery of a store that was not unloaded, then the clean open of the same."""
    path = directory / "many.img"
    wanted = ManyBlobs(scale.blobs, scale.metadata_pages)
    geometry = write_dirty_image(path, wanted)
    recovery, region = interleaved(
        scale.rounds, [lambda: _open_once(path, wanted), lambda: _read_region(path, geometry)]
    )
    yield speed_row(
        f"recovery, {wanted.page_count} metadata pages, {wanted.blob_count} blobs, cached",
        "reading the region, 1 MiB at a time",
        ours=recovery,
        yardstick=region,
        goal=Goal(0.4, 0.7),
        per="in all",
    )

    Blobstore.open(path).close()
    offsets = root_offsets(wanted)
    clean, roots = interleaved(
        scale.rounds, [lambda: _open_once(path, wanted), lambda: _read_pages(path, offsets)]
    )
    yield speed_row(
        f"clean open, {wanted.blob_count} blobs, cached",
        "reading their root pages, one at a time",
        ours=clean,
        yardstick=roots,
        goal=Goal(0.3, 1.0),
        per="in all",
    )
    yield _blobs_row(path, wanted, scale)
    path.unlink()


def _blobs_row(path: Path, wanted: ManyBlobs, scale: Scale) -> Row:
    """Opening and closing every blob of a store; the ratio is microseconds beyond its pages."""
    offsets = [at + page for at in root_offsets(wanted) for page in (0, _PAGE)]
    with Blobstore.open(path, read_only=True) as store:
        ids = store.blob_ids()

        def ours() -> Taken:
            clock = Clock()
            for blob_id in ids:
                store.open_blob(blob_id).close()
            return clock.per(len(ids))

        opened, pages = interleaved(scale.rounds, [ours, lambda: _read_pages(path, offsets)])
    page_s = pages.seconds / len(ids)
    return Row(
        f"open and close of each of {len(ids)} blobs, cached, in us beyond its two pages",
        "reading the pages, one at a time",
        f"{format_seconds(opened.seconds)} each",
        f"{format_seconds(page_s)} each",
        (opened.seconds - page_s) * 1e6,
        Goal(25, 15, at_most=True),
    )


def uncached_rows(directory: Path, scale: Scale) -> Iterator[Row]:
    """Recovery past the page cache: few large reads instead of many small ones."""
    path = directory / "uncached.img"
    wanted = ManyBlobs(scale.blobs, scale.uncached_pages)
    geometry = write_dirty_image(path, wanted)
    _drop_cache(path)
    what = f"opening after a dirty stop, {wanted.blob_count} blobs, uncached, direct"
    beside = f"its {wanted.page_count} metadata pages in 4 KiB direct reads, one at a time"
    begin, end = geometry.page_offset(PageIndex(0)), geometry.metadata_end
    pages = range(begin, end, _PAGE)
    try:
        ours, yardstick = interleaved(
            scale.rounds,
            [
                lambda: _open_once(path, wanted, direct=True),
                lambda: _read_pages(path, pages, direct=True),
            ],
        )
    except UnsupportedError as error:
        yield missing_row(what, beside, why=error.message)
    else:
        yield speed_row(
            what, beside, ours=ours, yardstick=yardstick, goal=Goal(4, 10), per="in all"
        )
    path.unlink()


def curves(directory: Path, scale: Scale) -> Iterator[Curve]:
    yield _by_metadata(directory / "curve.img", scale)
    yield _by_size(directory / "curve.img", scale)


def _by_metadata(path: Path, scale: Scale) -> Curve:
    points: list[tuple[float, ...]] = []
    for page_count in scale.page_counts:
        wanted = ManyBlobs(page_count // 10, page_count)
        points.append(_opening_times(path, wanted, scale.rounds))
        path.unlink()
    dirty, clean, region = transposed(points)
    return Curve(
        name="opening-by-metadata",
        title="Opening a store, by its metadata",
        says="A tenth of the pages are roots, a tenth extent pages, the rest empty; page cache.",
        x=Axis("metadata pages (4 KiB)", is_log=True),
        y=Axis("milliseconds", is_log=True),
        sizes=scale.page_counts,
        series=(
            Series("after a dirty stop", dirty),
            Series("clean", clean),
            Series("only reading the pages", region, is_reference=True),
        ),
    )


def _opening_times(path: Path, wanted: ManyBlobs, rounds: int) -> tuple[float, ...]:
    """Return the milliseconds of recovery, of a clean open, and of reading the region."""
    geometry = write_dirty_image(path, wanted)
    dirty, region = interleaved(
        rounds, [lambda: _open_once(path, wanted), lambda: _read_region(path, geometry)]
    )
    Blobstore.open(path).close()
    (clean,) = interleaved(rounds, [lambda: _open_once(path, wanted)])
    return tuple(taken.seconds * 1e3 for taken in (dirty, clean, region))


def _by_size(path: Path, scale: Scale) -> Curve:
    points: list[tuple[float, ...]] = []
    for gib in scale.store_sizes_gib:
        with Blobstore.create(path, size=gib * GIB, md_pages=_FEW_PAGES) as store:
            for _ in range(_FEW_BLOBS):
                store.create_blob("16MiB", thin=True).close()
        taken = interleaved(
            2 * scale.rounds, [lambda: _reopen(path, recover=True), lambda: _reopen(path)]
        )
        points.append(tuple(each.seconds * 1e3 for each in taken))
        path.unlink()
    dirty, clean = transposed(points)
    return Curve(
        name="opening-by-size",
        title="Opening a store, by its size",
        says=f"{_FEW_BLOBS} blobs and {_FEW_PAGES} metadata pages at every size; 1 MiB clusters.",
        x=Axis("size of the store in GiB", is_log=True),
        y=Axis("milliseconds"),
        sizes=scale.store_sizes_gib,
        series=(Series("after a dirty stop", dirty), Series("clean", clean)),
    )


def _open_once(path: Path, wanted: ManyBlobs, *, direct: bool = False) -> Taken:
    clock = Clock()
    store = Blobstore.open(path, read_only=True, direct=direct)
    taken = clock.per()
    found = core_of(store).used_ids.count()
    store.close()
    if found != wanted.blob_count or store.errors:
        raise AssertionError(f"{found} blobs, expected {wanted.blob_count}")
    return taken


def _reopen(path: Path, *, recover: bool = False) -> Taken:
    clock = Clock()
    store = Blobstore.open(path, read_only=True, force_recovery=recover)
    taken = clock.per()
    store.close()
    return taken


def _read_region(path: Path, geometry: Geometry) -> Taken:
    begin, end = geometry.page_offset(PageIndex(0)), geometry.metadata_end
    buffer = memoryview(bytearray(_READ))
    with path.open("rb", buffering=0) as image:
        descriptor = image.fileno()
        clock = Clock()
        for offset in range(begin, end, _READ):
            os.preadv(descriptor, [buffer[: end - offset]], offset)
        return clock.per()


def _read_pages(path: Path, offsets: range | list[int], *, direct: bool = False) -> Taken:
    buffers = [aligned(_PAGE)]
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (os.O_DIRECT if direct else 0))
    try:
        clock = Clock()
        for offset in offsets:
            os.preadv(descriptor, buffers, offset)
        return clock.per()
    finally:
        os.close(descriptor)


def _drop_cache(path: Path) -> None:
    with path.open("rb") as image:
        os.posix_fadvise(image.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
