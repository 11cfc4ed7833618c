"""A chain of images becomes a chain of snapshots: each image below the top one is a snapshot.

The blob is filled with the base, then a snapshot keeps that, then the next image is written
over it. Of an image above the base only what it holds itself is read, and only what differs
from what is below it takes clusters.
"""

from collections.abc import Sequence

from blobstore import Blob, VolumeStore
from blobstore.cli import store_kinds
from blobstore.cli.content import cut_in_parts, is_zero
from blobstore.cli.copying import data_size, fill_new
from blobstore.cli.files import read_exactly, size_of
from blobstore.cli.images.backing_chain import Level
from blobstore.cli.images.qemu_img import Extent, extents_of, open_disk
from blobstore.cli.images.verifying import verify
from blobstore.cli.progress import progress
from blobstore.errors import ExistsError


def import_chain(
    store: store_kinds.AnyStore, levels: Sequence[Level], *, name: str | None, verifying: bool
) -> tuple[Blob, list[Blob]]:
    """Import images, base first; return the blob and its snapshots, base first, all closed.

    Raises:
        ExistsError: A volume has the name of one of them.
        As `as_raw` and `Blob.write`.
    """
    names = _names_of(store, levels, name)
    snapshots: list[Blob] = []
    with (
        open_disk(levels[0].path, levels[0].image_format) as base,
        store_kinds.create_blob(store, names[-1], size_of(base), thin=True) as blob,
    ):
        _fill(blob, levels[0], base, verifying=verifying)
        for level, below in zip(levels[1:], names, strict=False):
            with store_kinds.snapshot(blob, below) as snapshot:
                snapshots.append(snapshot)
            _write_over(blob, level, verifying=verifying)
        blob.flush()
    return blob, snapshots


def _names_of(store: store_kinds.AnyStore, levels: Sequence[Level], name: str | None) -> list[str]:
    """Return a name for each image: its file's, with a number if another image has that name.

    Raises:
        ExistsError: A volume has it.
    """
    top = name or levels[-1].name
    names: list[str] = []
    for level in levels[:-1]:
        number, free = 1, level.name
        while free in (top, *names):
            number += 1
            free = f"{level.name}-{number}"
        names.append(free)
    if isinstance(store, VolumeStore):
        for each in (*names, top):
            if each in store:
                raise ExistsError(f"volume {each!r}: exists; an image of the chain has its name")
    return [*names, top]


def _fill(blob: Blob, level: Level, source: int, *, verifying: bool) -> None:
    length = size_of(source)
    with progress(f"import {level.name}", data_size(source, length)) as advance:
        fill_new(blob, source, length, path=level.path, advance=advance)
    if verifying:
        verify(blob, source, [(0, length)], path=level.path)


def _write_over(blob: Blob, level: Level, *, verifying: bool) -> None:
    """Write what an image itself holds over what is below it."""
    assert level.size is not None
    extents = extents_of(level.path, level.image_format)
    total = sum(extent.end - extent.start for extent in extents)
    blob.resize(level.size)
    _make_equal(blob, Extent(level.size, blob.size, is_zero=True), None, level.path)
    with (
        open_disk(level.path, level.image_format) as source,
        progress(f"import {level.name}", total) as advance,
    ):
        for extent in extents:
            _make_equal(blob, extent, source, level.path)
            advance(extent.end - extent.start)
        if verifying:
            ranges = [(extent.start, extent.end) for extent in extents]
            verify(blob, source, ranges, path=level.path)


def _make_equal(blob: Blob, extent: Extent, source: int | None, path: str) -> None:
    """Let a blob hold what an image holds; nothing is written where that is so."""
    for start, end in cut_in_parts(extent.start, extent.end):
        data: bytes | bytearray
        if extent.is_zero or source is None:
            data = bytes(end - start)
        else:
            data = read_exactly(source, end - start, start, path=path)
        if blob.read(end - start, start) == data:
            continue
        if is_zero(data):
            blob.write_zeroes(start, end - start)
        else:
            blob.write(data, start)
