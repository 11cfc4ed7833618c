"""`import`: copy a file into a blob."""

from contextlib import nullcontext, suppress

import click

from blobstore import Blobstore, BlobstoreError
from blobstore.cli.completing import complete_blob
from blobstore.cli.copying import fill_new, replace_content
from blobstore.cli.files import open_to_read, size_of
from blobstore.cli.options import (
    StoreOptions,
    blob_id,
    name_xattrs,
    store_command,
    thin_option,
)
from blobstore.cli.output import print_result
from blobstore.cli.progress import progress
from blobstore.cli.qcow2 import as_raw


@store_command("import")
@click.argument("file", type=click.Path())
@click.argument(
    "into", metavar="[BLOB]", type=blob_id, required=False, shell_complete=complete_blob
)
@click.option("--name", help="The new blob's attribute `name`.")
@thin_option
@click.option("--format", "file_format", type=click.Choice(["raw", "qcow2"]), default="raw")
def command(
    options: StoreOptions,
    *,
    file: str,
    into: int | None,
    name: str | None,
    thin: bool,
    file_format: str,
) -> None:
    """Copy FILE into a new blob, or into BLOB, and print the id.

    Zeroes and holes take no clusters of a thin blob. What BLOB held is
    replaced; behind the end of FILE it holds zeroes.
    """
    if into is not None and (name is not None or thin):
        raise click.UsageError("--name and --thin are for a new blob")
    source = as_raw(file) if file_format == "qcow2" else nullcontext(file)
    with options.open(read_only=False) as store, source as path:
        done = (
            _into_new(store, path, thin=thin, xattrs=name_xattrs(name))
            if into is None
            else _into_existing(store, path, into)
        )
    print_result({"id": done}, f"{done:#x}", as_json=options.as_json)


def _into_new(store: Blobstore, path: str, *, thin: bool, xattrs: dict[str, bytes]) -> int:
    """Import into a new blob, which is deleted again when that fails."""
    with open_to_read(path) as file:
        length = size_of(file)
        blob = store.create_blob(length, thin=thin, xattrs=xattrs)
        try:
            with blob, progress("import", length) as advance:
                fill_new(blob, file, length, path=path, advance=advance)
        except BaseException:
            with suppress(BlobstoreError):
                store.delete_blob(blob.id)
            raise
    return blob.id


def _into_existing(store: Blobstore, path: str, blob_id: int) -> int:
    with open_to_read(path) as file, store.open_blob(blob_id) as blob:
        length = size_of(file)
        with progress("import", length) as advance:
            replace_content(blob, file, length, path=path, advance=advance)
        blob.flush()
    return blob_id
