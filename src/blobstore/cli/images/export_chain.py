"""A blob and the snapshots that it reads become a chain of qcow2 images; a tree becomes a tree.

Each image holds what its blob holds itself, and names the image of the blob's parent as its
backing file. The names are those of files in one directory, so that the directory can be moved.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from blobstore import Blob, BlobId
from blobstore.cli.content import cut_in_parts
from blobstore.cli.files import open_to_read, open_to_write
from blobstore.cli.images.qcow2_writer import CLUSTER_SIZE, Qcow2Writer
from blobstore.cli.images.qemu_img import as_raw
from blobstore.cli.images.verifying import verify
from blobstore.cli.interruption import Left, uninterrupted
from blobstore.cli.progress import Advance, progress
from blobstore.cli.store_kinds import AnyStore
from blobstore.units import ceil_div

_UNSAFE: Final = re.compile(r"[/:\0\udc80-\udcff]|^\.")
"""A colon would make it the name of a protocol, and what is no UTF-8 cannot be said to qemu-img."""
_NAME_BYTES_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class ImageFile:
    """The image to make of a blob; `backing` is the path of its parent's image."""

    blob: Blob
    path: str
    backing: str | None


def open_chain(store: AnyStore, blob_id: BlobId, stack: ExitStack) -> list[Blob]:
    """Open a blob and all that it reads from, base first; `stack` closes them.

    Raises:
        As `Blobstore.open_blob`.
    """
    chain: list[Blob] = []
    at: BlobId | None = blob_id
    while at is not None:
        chain.insert(0, stack.enter_context(store.open_blob(at)))
        at = chain[0].info.parent
    return chain


def open_clones(store: AnyStore, blob: Blob, stack: ExitStack) -> list[Blob]:
    """Open all clones of a blob, and theirs, each after its parent; `stack` closes them.

    Raises:
        As `Blobstore.open_blob`.
    """
    found: list[Blob] = []
    waiting = list(blob.info.clones)
    while waiting:
        found.append(stack.enter_context(store.open_blob(waiting.pop(0))))
        waiting += found[-1].info.clones
    return found


def plan_files(blobs: Sequence[Blob], which: Blob, path: str) -> list[ImageFile]:
    """Say which file each blob becomes: `which` the file `path`, the others one beside it, by name.

    A parent comes before its clones.
    """
    directory, last = os.path.split(path)
    taken, paths = {last}, {which.id: path}
    files: list[ImageFile] = []
    for blob in blobs:
        if blob is not which:
            name = _file_name(blob)
            if name in taken:
                name = f"{blob.id:x}-{name}"
            taken.add(name)
            paths[blob.id] = os.path.join(directory, name)
        parent = blob.info.parent
        files.append(ImageFile(blob, paths[blob.id], None if parent is None else paths[parent]))
    return files


def _file_name(blob: Blob) -> str:
    name = _UNSAFE.sub("_", blob.name or f"{blob.id:#x}")
    return f"{os.fsencode(name)[:_NAME_BYTES_MAX].decode('utf-8', 'ignore')}.qcow2"


def export_chain(
    files: Sequence[ImageFile], *, overwrite: bool, verifying: bool, left: Left
) -> None:
    """Write the images; they get their names, the base first, when all are complete.

    `left` then says so.

    Raises:
        ExistsError: A file exists, and `overwrite` was not given.
        As `Blob.read` and `open_to_write`.
    """
    parts = [list(_ranges(file.blob)) for file in files]
    total = sum(end - start for ranges in parts for start, end in ranges)
    with ExitStack() as stack, progress("export", total) as advance:
        for file, ranges in reversed(list(zip(files, parts, strict=True))):
            is_there = overwrite and os.path.lexists(file.path)
            descriptor = stack.enter_context(open_to_write(file.path, overwrite=is_there))
            _write_image(descriptor, file, ranges, advance=advance)
        with uninterrupted():  # an image without those below it would be of no use
            stack.close()
            left.what = f"{len(files)} images are complete"
    for file, ranges in zip(files, parts, strict=True) if verifying else ():
        with as_raw(file.path, "qcow2") as raw, open_to_read(raw) as image:
            verify(file.blob, image, ranges, path=file.path)


def _ranges(blob: Blob) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of what a blob's image holds, in whole clusters of the image.

    A base holds all that it reads: what is in an external snapshot is in no other image.
    """
    if blob.info.external_snapshot is not None:
        yield 0, blob.size
        return
    done = 0
    for offset, length, allocated in blob.extents():
        start = max(done, offset - offset % CLUSTER_SIZE)
        end = min(ceil_div(offset + length, CLUSTER_SIZE) * CLUSTER_SIZE, blob.size)
        if allocated and start < end:
            yield start, end
            done = end


def _write_image(
    descriptor: int, file: ImageFile, ranges: Sequence[tuple[int, int]], *, advance: Advance
) -> None:
    name = None if file.backing is None else os.path.basename(file.backing)
    writer = Qcow2Writer(descriptor, file.blob.size, backing=name)
    for first, last in ranges:
        for start, end in cut_in_parts(first, last):
            data = file.blob.read(end - start, start)
            writer.write_part(start, data, zeroes_are_holes=name is None)
            advance(end - start)
    writer.finish()
