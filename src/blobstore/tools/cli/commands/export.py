"""`export`: copy a blob into a file."""

import os

import click

from blobstore import Blob, ExistsError, InvalidArgumentError
from blobstore.tools.cli.copying import copy_out
from blobstore.tools.cli.files import open_to_write, refuse_link
from blobstore.tools.cli.options import (
    StoreOptions,
    blob_argument,
    confirm,
    size,
    store_command,
    yes_option,
)
from blobstore.tools.cli.output import print_result
from blobstore.tools.cli.progress import progress
from blobstore.tools.cli.qcow2 import to_convert


@store_command("export")
@blob_argument
@click.argument("file", type=click.Path())
@click.option("--length", type=size, help="Only the first bytes; default: the whole blob.")
@click.option("--format", "file_format", type=click.Choice(["raw", "qcow2"]), default="raw")
@yes_option
def command(
    options: StoreOptions,
    *,
    blob_id: int,
    file: str,
    length: int | None,
    file_format: str,
    yes: bool,
) -> None:
    """Copy a blob into FILE, where zeroes become holes; nothing of the store changes.

    A FILE that exists is only overwritten after asking, or with --yes. A
    symbolic link is refused.
    """
    refuse_link(file)
    with options.open(read_only=True) as store, store.open_blob(blob_id) as blob:
        wanted = _checked_length(blob, length)
        if overwrite := os.path.lexists(file):
            refusal = ExistsError(f"{file}: exists; --yes overwrites it")
            confirm(f"{file}: overwrite it", yes=yes, refusal=refusal)
        if file_format == "qcow2":
            with to_convert(file, overwrite=overwrite) as raw:
                _export(blob, raw, wanted, overwrite=False)
        else:
            _export(blob, file, wanted, overwrite=overwrite)
    print_result({"id": blob_id, "length": wanted}, "", as_json=options.as_json)


def _checked_length(blob: Blob, length: int | None) -> int:
    if length is not None and length > blob.size:
        raise InvalidArgumentError(f"blob {blob.id:#x}: {blob.size} bytes, {length} asked for")
    return blob.size if length is None else length


def _export(blob: Blob, path: str, length: int, *, overwrite: bool) -> None:
    with open_to_write(path, overwrite=overwrite) as file, progress("export", length) as advance:
        copy_out(blob, file, length, advance=advance)
