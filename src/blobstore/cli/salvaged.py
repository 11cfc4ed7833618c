"""Warnings of salvaged blobs: parts are zeroes or may be wrong, in their clones as well."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from blobstore.cli.output import printable
from blobstore.store.salvaged_mark import SALVAGED
from blobstore.units import BlobId

if TYPE_CHECKING:
    from blobstore import RescuedBlob


def nearest_salvaged(
    look: "Callable[[BlobId], RescuedBlob | None]", blob_id: BlobId
) -> BlobId | None:
    """Return what `Blob.nearest_salvaged` does, of a blob that is read by rescue.

    Its ancestors need not be sound.
    """
    seen: set[BlobId] = set()
    at: BlobId | None = blob_id
    while at is not None and at not in seen:
        blob = look(at)
        if blob is None:
            return None
        if SALVAGED in blob.xattrs:
            return at
        seen.add(at)
        at = blob.parent
    return None


def warning_of(blob_id: BlobId, salvaged: BlobId) -> str:
    """Say that what is read may be zeroes instead of data, or data that was only likely."""
    who = "was" if salvaged == blob_id else f"reads blob {salvaged:#x}, which was"
    what = "parts may be wrong, and what was lost reads as zeroes"
    return f"blob {blob_id:#x}: {who} salvaged by a repair; {what}"


def warn(blob_id: BlobId, salvaged: BlobId | None) -> None:
    """Say it on standard error, if there is anything to say."""
    if salvaged is not None:
        click.echo(printable(warning_of(blob_id, salvaged)), err=True)


def salvaged_fields(salvaged: BlobId | None) -> dict[str, object]:
    """Return what a result in JSON says more of content that depends on a salvaged blob."""
    return {} if salvaged is None else {"salvaged": salvaged}
