"""`list`: a store's blobs."""

import click

from blobstore import Blob, BlobInfo, BlobstoreError
from blobstore.tools.cli.content import sha256_of
from blobstore.tools.cli.describe import (
    blob_fields,
    failed_fields,
    failed_row,
    list_row,
    render_extents,
    render_list,
)
from blobstore.tools.cli.options import StoreOptions, store_command
from blobstore.tools.cli.output import print_result


@store_command("list")
@click.option(
    "--long", is_flag=True, help="Also where the clusters are; with --json the metadata, too."
)
@click.option("--sha256", is_flag=True, help="Also the hash of the whole content.")
def command(options: StoreOptions, *, long: bool, sha256: bool) -> None:
    """List a store's blobs in the order of their ids; nothing of it changes."""
    with options.open(read_only=True) as store:
        found = [_look_at(blob_id, blob, sha256=sha256) for blob_id, blob in store.iter_blobs()]
    entries = [
        failed_fields(blob_id, what)
        if isinstance(what, BlobstoreError)
        else blob_fields(what, long=long, sha256=digest)
        for blob_id, what, digest in found
    ]
    text = _render(found, long=long)
    print_result({"blobs": entries}, text, as_json=options.as_json)


_Found = tuple[int, BlobInfo | BlobstoreError, str | None]


def _look_at(blob_id: int, blob: Blob | BlobstoreError, *, sha256: bool) -> _Found:
    """Return a blob's description or why there is none, and the hash of its content."""
    if isinstance(blob, BlobstoreError):
        return blob_id, blob, None
    try:
        return blob_id, blob.info(), sha256_of(blob) if sha256 else None
    except BlobstoreError as error:
        return blob_id, error, None


def _render(found: list[_Found], *, long: bool) -> str:
    rows = [
        failed_row(blob_id, what) if isinstance(what, BlobstoreError) else list_row(what)
        for blob_id, what, _digest in found
    ]
    details = [
        f"{blob_id:#x}  {line}"
        for blob_id, what, digest in found
        for line in _details(what, digest, long=long)
    ]
    return "\n".join([render_list(rows), *details])


def _details(what: BlobInfo | BlobstoreError, digest: str | None, *, long: bool) -> list[str]:
    lines = [] if digest is None else [f"sha256 {digest}"]
    if long and isinstance(what, BlobInfo):
        lines.append(f"extents {render_extents(what.extents)}")
    return lines
