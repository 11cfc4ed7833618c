"""A chain of images becomes a chain of snapshots: each image below the top one is a snapshot.

The blob is filled with the base, then a snapshot keeps that, then the next image is written
over it. Of an image above the base only what it holds itself is read, and only what differs
from what is below it takes clusters.
"""

from collections.abc import Sequence

from blobstore import Blob, BlobId
from blobstore.backup.any_store import ancestors, check_new_name
from blobstore.cli import store_kinds
from blobstore.cli.content import cut_in_parts, is_zero
from blobstore.cli.files import read_exactly, size_of
from blobstore.cli.images.backing_chain import Level
from blobstore.cli.images.qemu_img import Extent, extents_of, open_disk
from blobstore.cli.images.verifying import verify
from blobstore.cli.importing import BlobImport, describe_source
from blobstore.cli.progress import progress
from blobstore.errors import ExistsError


def import_chain(
    store: store_kinds.AnyStore,
    levels: Sequence[Level],
    *,
    name: str | None,
    prefix: str,
    verifying: bool,
    resume: bool,
) -> tuple[Blob, list[Blob]]:
    """Import images, base first; return the blob and its snapshots, base first, all closed.

    The names of the snapshots begin with `prefix`.
    With `resume` the import that was interrupted goes on, after the snapshots that are there.

    Raises:
        ExistsError: A blob or volume has the name of one of them.
        InvalidArgumentError: One of the images has changed since the interruption.
        As `as_raw` and `Blob.write`.
    """
    state = describe_source([(level.path, level.image_format) for level in levels])
    this = BlobImport.go_on(store, state, thin=True) if resume else None
    done = [] if this is None else [each.blob_id for each in ancestors(store, this.blob.id)][::-1]
    names = _names_of(store, levels, name, prefix, done=len(done))
    this = this or BlobImport.begin(store, state, 0, thin=True)
    with this.filling():
        snapshots = [
            _verified(store, blob_id, level, is_base=level is levels[0], verifying=verifying)
            for blob_id, level in zip(done, levels, strict=False)
        ]
        for number in range(len(done), len(levels)):
            if number > len(done):
                this.blob.flush()
                with store_kinds.snapshot(store, this.blob, names[number - 1]) as snapshot:
                    snapshots.append(snapshot)
            _add_level(this, levels[number], is_base=number == 0, verifying=verifying)
        this.finish(names[-1])
    return this.blob, snapshots


def _verified(
    store: store_kinds.AnyStore, blob_id: BlobId, level: Level, *, is_base: bool, verifying: bool
) -> Blob:
    """Return a snapshot that an earlier import made, closed, after comparing it if asked."""
    with store.open_blob(blob_id) as snapshot:
        if verifying:
            with open_disk(level.path, level.image_format) as source:
                _verify(snapshot, level, source, _extents(level, source, is_base=is_base))
    return snapshot


def _names_of(
    store: store_kinds.AnyStore,
    levels: Sequence[Level],
    name: str | None,
    prefix: str,
    *,
    done: int,
) -> list[str]:
    """Return a name for each image: its file's, with a number if another image has that name.

    The first `done` images are snapshots already.

    Raises:
        ExistsError: A blob or volume has it.
        InvalidArgumentError: No volume can have it.
    """
    top = name or levels[-1].name
    names: list[str] = []
    for level in levels[:-1]:
        number, free = 1, f"{prefix}{level.name}"
        while free in (top, *names):
            number += 1
            free = f"{prefix}{level.name}-{number}"
        names.append(free)
    for each in (*names[done:], top):
        try:
            check_new_name(store, each)
        except ExistsError as error:
            way = "--name gives the blob another" if each == top else "--prefix gives it another"
            raise ExistsError(f"{error.message}; an image of the chain has this name: {way}").at(
                store=store.device_name
            ) from error
    return [*names, top]


def _add_level(this: BlobImport, level: Level, *, is_base: bool, verifying: bool) -> None:
    """Write what an image itself holds over what is below it."""
    with open_disk(level.path, level.image_format) as source:
        extents = _extents(level, source, is_base=is_base)
        if is_base:
            _fill(this, level, source)
        else:
            _write_over(this.blob, level, source, extents)
        if verifying:
            _verify(this.blob, level, source, extents)


def _extents(level: Level, source: int, *, is_base: bool) -> list[Extent]:
    """Return what an image itself holds; a base holds all of its disk."""
    if is_base:
        return [Extent(0, size_of(source), is_zero=False)]
    return extents_of(level.path, level.image_format)


def _verify(blob: Blob, level: Level, source: int, extents: Sequence[Extent]) -> None:
    verify(blob, source, [(each.start, each.end) for each in extents], path=level.path)


def _fill(this: BlobImport, level: Level, source: int) -> None:
    length = size_of(source)
    this.blob.resize(length)
    this.fill(source, length, path=level.path, label=f"import {level.name}")


def _write_over(blob: Blob, level: Level, source: int, extents: Sequence[Extent]) -> None:
    assert level.size is not None
    total = sum(extent.end - extent.start for extent in extents)
    blob.resize(level.size)
    _make_equal(blob, Extent(level.size, blob.size, is_zero=True), None, level.path)
    with progress(f"import {level.name}", total) as advance:
        for extent in extents:
            _make_equal(blob, extent, source, level.path)
            advance(extent.end - extent.start)


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
