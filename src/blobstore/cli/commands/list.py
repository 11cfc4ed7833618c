"""`list`: a store's blobs."""

from collections.abc import Iterable, Iterator

import click

from blobstore import BlobInfo, Blobstore, BlobstoreError
from blobstore.cli.content import sha256_of
from blobstore.cli.describe import (
    blob_fields,
    failed_fields,
    failed_row,
    list_row,
    render_extents,
    render_list,
)
from blobstore.cli.options import StoreOptions, store_command
from blobstore.cli.output import print_result


@store_command("list", reads_content=True)
@click.option(
    "--long", is_flag=True, help="Also where the clusters are; with --json the metadata, too."
)
@click.option("--sha256", is_flag=True, help="Also the hash of the whole content.")
def command(options: StoreOptions, *, long: bool, sha256: bool) -> None:
    """List a store's blobs in the order of their ids; nothing of it changes."""
    with options.open(read_only=True) as store:
        found = _hashed(store) if sha256 else _described(store)
        if options.as_json:
            fields, text = {"blobs": [_entry(what, long=long) for what in found]}, ""
        else:
            fields, text = {}, _render(found, long=long)
    print_result(fields, text, as_json=options.as_json)


_Found = tuple[int, BlobInfo | BlobstoreError, str | None]


def _described(store: Blobstore) -> Iterator[_Found]:
    """Yield every blob's description, or why there is none."""
    for found in store.list_blobs():
        if isinstance(found, BlobInfo):
            yield found.blob_id, found, None
        else:
            yield *found, None


def _hashed(store: Blobstore) -> Iterator[_Found]:
    """Yield every blob's description and the hash of its content, or why there is none."""
    for blob_id, blob in store.iter_blobs():
        if isinstance(blob, BlobstoreError):
            yield blob_id, blob, None
            continue
        try:
            yield blob_id, blob.info, sha256_of(blob)
        except BlobstoreError as error:
            yield blob_id, error, None


def _entry(found: _Found, *, long: bool) -> dict[str, object]:
    blob_id, what, digest = found
    if isinstance(what, BlobstoreError):
        return failed_fields(blob_id, what)
    return blob_fields(what, long=long, sha256=digest)


def _render(blobs: Iterable[_Found], *, long: bool) -> str:
    rows: list[list[str]] = []
    details: list[str] = []
    for blob_id, what, digest in blobs:
        if isinstance(what, BlobstoreError):
            rows.append(failed_row(blob_id, what))
        else:
            rows.append(list_row(what))
        details += (f"{blob_id:#x}  {line}" for line in _details(what, digest, long=long))
    return "\n".join([render_list(rows), *details])


def _details(what: BlobInfo | BlobstoreError, digest: str | None, *, long: bool) -> list[str]:
    lines = [] if digest is None else [f"sha256 {digest}"]
    if long and isinstance(what, BlobInfo):
        lines.append(f"extents {render_extents(what.extents)}")
    return lines
