"""`list`: a store's blobs."""

from collections.abc import Iterable, Iterator

import click

from blobstore import BlobId, BlobInfo, BlobstoreError, VolumeStore
from blobstore.api.open_store import OpenStore
from blobstore.cli.options import StoreOptions, store_command
from blobstore.cli.output import print_result, printable
from blobstore.cli.rendering import (
    KIND_COLUMN,
    SALVAGED_PARENT,
    STORES_OWN,
    blob_fields,
    failed_fields,
    list_row,
    render_extents,
    render_list,
)
from blobstore.store.salvaged_mark import readers_of


@store_command("list", reads_content=True)
@click.option("--long", is_flag=True, help="Show the clusters, too; with --json also the metadata.")
@click.option("--sha256", is_flag=True, help="Also the hash of the whole content.")
def command(options: StoreOptions, *, long: bool, sha256: bool) -> None:
    """List a store's blobs in the order of their ids; nothing of it changes."""
    with options.open(read_only=True) as store:
        found = _hashed(store) if sha256 else _described(store)
        in_volumes = isinstance(store, VolumeStore)
        if options.as_json:
            fields, text = (
                {"blobs": [_entry(what, long=long, in_volumes=in_volumes) for what in found]},
                "",
            )
        else:
            super_blob = store.info.super_blob if in_volumes else None
            fields, text = {}, _render(found, super_blob, long=long, in_volumes=in_volumes)
    print_result(fields, text, as_json=options.as_json)


_Found = tuple[BlobInfo, str | BlobstoreError | None]
"""A blob, and, if that was asked for, the hash of its content, or why it cannot be read."""


def _described(store: OpenStore) -> Iterator[_Found]:
    for info in store.list_blobs():
        yield info, None


def _hashed(store: OpenStore) -> Iterator[_Found]:
    """Yield every blob, with the hash of its content, or why that cannot be read."""
    from blobstore.cli.content import sha256_of  # a list without hashes starts faster

    failed: list[BlobstoreError] = []
    for blob in store.iter_blobs(on_error=failed.append):
        yield from _taken(store, failed)
        try:
            yield blob.info, sha256_of(blob)
        except BlobstoreError as error:
            yield blob.info, error
    yield from _taken(store, failed)


def _taken(store: OpenStore, failed: list[BlobstoreError]) -> Iterator[_Found]:
    """Yield the blobs that could not be opened since the last one that could."""
    ids = {error.blob for error in failed}
    failed.clear()
    if ids:
        yield from ((info, None) for info in store.list_blobs() if info.blob_id in ids)


def _entry(found: _Found, *, long: bool, in_volumes: bool) -> dict[str, object]:
    info, digest = found
    if info.error is not None:
        return failed_fields(info.blob_id, info.error)
    if isinstance(digest, BlobstoreError):
        fields = blob_fields(info, long=long, in_volumes=in_volumes)
        return {**fields, "sha256": None, **failed_fields(info.blob_id, digest)}
    return blob_fields(info, long=long, sha256=digest, in_volumes=in_volumes)


def _render(
    blobs: Iterable[_Found], super_blob: BlobId | None, *, long: bool, in_volumes: bool
) -> str:
    rows: dict[BlobId, list[str]] = {}
    details: list[str] = []
    parents: dict[BlobId, BlobId] = {}
    salvaged: list[BlobId] = []
    for info, digest in blobs:
        rows[info.blob_id] = list_row(info, in_volumes=in_volumes)
        details += (f"{info.blob_id:#x}  {line}" for line in _details(info, digest, long=long))
        salvaged += [info.blob_id] if info.salvaged else []
        if info.parent is not None:
            parents[info.blob_id] = info.parent
    if super_blob in rows:
        rows[super_blob][KIND_COLUMN] = STORES_OWN
    for blob_id in readers_of(salvaged, parents) if salvaged else ():
        rows[blob_id][KIND_COLUMN] += f" {SALVAGED_PARENT}"
    return "\n".join([render_list([*rows.values()], in_volumes=in_volumes), *details])


def _details(info: BlobInfo, digest: str | BlobstoreError | None, *, long: bool) -> list[str]:
    lines = [] if digest is None else [f"sha256 {digest}"]
    if info.error is not None:
        lines.append(f"error: {printable(info.error.strerror)}")
    if isinstance(digest, BlobstoreError):
        lines = [f"sha256 not known: {printable(digest.strerror)}"]
    if long and info.error is None:
        lines.append(f"extents {render_extents(info.extents)}")
    return lines
